/*
 * See owner.h. Here are the three arrows of its picture: activate (VMPTRLD, use as a shadow VMCS), write_back (VMCLEAR, eviction, VMXOFF),
 * and release in take(). What must hold between them:
 *  - no two slots of a CPU have one region, since activate looks before it takes one;
 *  - only an active slot is ever written back, and then once: afterwards the page is the guest's;
 *  - a kept slot gives its values to nobody before they have been compared with memory, which may have been used on another CPU,
 *    copied from elsewhere, or edited in the meantime. Launch state is one of those values.
 */
#include "shadow-vmcs/owner.h"

#include "core/cpu/vmcs_image.h"
#include "core/lib/counters.h"

void owner_add(struct vmcs_owner *o, struct vmcs12 *slot)
{
    vmcs12_init(slot);
    o->slots[o->slot_count++] = slot;
}

/* A guess that find() confirms by the region itself: a stale hint costs a search, nothing else. */
static uint8_t *hint_of(struct vmcs_owner *o, gpa1_t region)
{
    return &o->hints[(region.v >> PAGE_SHIFT) % OWNER_HINTS];
}

/* The slot of a region; NULL: none. */
static struct vmcs12 *find(struct vmcs_owner *o, gpa1_t region)
{
    uint8_t *hint = hint_of(o, region);
    if (o->slots[*hint]->region.v == region.v)
        return o->slots[*hint];
    for (unsigned i = 0; i < o->slot_count; i++)
        if (o->slots[i]->region.v == region.v) {
            *hint = (uint8_t)i;
            return o->slots[i];
        }
    return NULL;
}

/* Active -> in memory: by VMCLEAR, eviction, VMXOFF. The one place that writes a VMCS's values into the guest's page. */
static void write_back(struct cpu *cpu, struct vmcs12 *slot)
{
    unsigned changed = vmcs12_save(cpu, slot);
    slot->state = VMCS12_KEPT;
    region_write(slot->region, &slot->image, changed);
}

/* Whether a is the better one to give up: kept ones first, then by age. */
static bool better_victim(const struct vmcs12 *a, const struct vmcs12 *b)
{
    return !b || (a->state != b->state ? a->state != VMCS12_ACTIVE : a->last_use < b->last_use);
}

/* A slot without a VMCS; evicts if there is none, never `current`. */
static struct vmcs12 *take(struct cpu *cpu, struct vmcs_owner *o, const struct vmcs12 *current)
{
    struct vmcs12 *victim = NULL;
    for (unsigned i = 0; i < o->slot_count; i++) {
        struct vmcs12 *slot = o->slots[i];
        if (slot->state == VMCS12_FREE)
            return slot;
        if (slot != current && better_victim(slot, victim))
            victim = slot;
    }
    if (!victim)
        panic("a CPU has no slot but its current VMCS's");
    if (victim->state == VMCS12_ACTIVE) {
        write_back(cpu, victim);
        count(cpu, COUNT_VMCS12_EVICTED);
    }
    victim->state = VMCS12_FREE;
    victim->region.v = VMCS12_NONE;
    return victim;
}

void owner_leave_in_memory(struct cpu *cpu, struct vmcs12 *current) { write_back(cpu, current); }

/*
 * In memory -> active. A kept slot that memory contradicts is loaded again; where fields of vmcs02 are memory, only what has changed, so that
 * what was merged from the rest stays.
 */
static struct vmcs12 *activate(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region, const struct vmcs12 *current)
{
    struct vmcs12 *slot = find(o, region);
    bool contradicted = slot && slot->state == VMCS12_KEPT && !region_equals(region, &slot->image);
    if (contradicted && vmcs_image.on) {
        struct region_image now;
        region_read(region, &now);
        vmcs12_update(cpu, slot, &now);
    } else if (!slot || contradicted) {
        if (!slot)
            slot = take(cpu, o, current);
        /* Memory is read into the image and used from there: what the guest changes meanwhile is not half used. */
        slot->region = region;
        region_read(region, &slot->image);
        vmcs12_load(cpu, slot);
    }
    slot->state = VMCS12_ACTIVE;
    slot->last_use = ++o->clock;
    return slot;
}

struct vmcs12 *owner_activate(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region, const struct vmcs12 *current)
{
    return activate(cpu, o, region, current);
}

struct vmcs12 *owner_shadow(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region, const struct vmcs12 *current)
{
    if (current && current->region.v == region.v)
        return NULL;
    struct vmcs12 *slot = activate(cpu, o, region, current);
    if (!slot->lent)
        vmcs12_lend(slot);
    return slot;
}

void owner_clear(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region)
{
    struct vmcs12 *slot = find(o, region);
    /* Active nowhere here: all of VMCLEAR is the launch state in memory. Active on another CPU: the guest breaks the SDM's rule. */
    if (!slot || slot->state != VMCS12_ACTIVE) {
        region_clear(region);
        return;
    }
    slot->launched = false;
    write_back(cpu, slot);
}

void owner_leave(struct cpu *cpu, struct vmcs_owner *o)
{
    for (unsigned i = 0; i < o->slot_count; i++)
        if (o->slots[i]->state == VMCS12_ACTIVE)
            write_back(cpu, o->slots[i]);
}
