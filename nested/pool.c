/*
 * See pool.h. A slot is free, active (from VMPTRLD to VMCLEAR) or parked (after VMCLEAR, in case the VMCS comes back: a guest hypervisor
 * with shadow VMCSs of its own clears one on every exit). Active slots are evicted to the guest's memory, least recently used first.
 * Parked ones only if nothing else is left and their region is untouched, for the guest may reuse its memory at any time: so there
 * are few of them, and beyond that VMCLEAR writes memory at once.
 */
#include "nested/pool.h"

#define PARKED_MAX (NESTED_SLOTS / 2)
static uint32_t locked; /* parked slots: the only ones that another CPU touches */

static void lock(void)
{
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
        hw_pause();
}

static void unlock(void) { __atomic_store_n(&locked, 0, __ATOMIC_RELEASE); }

static struct nested_slot *find(struct nested *n, gpa1_t region)
{
    for (unsigned i = 0; i < NESTED_SLOTS; i++)
        if (n->slots[i].v.region.v == region.v)
            return &n->slots[i];
    return NULL;
}

static void release(struct nested_slot *slot)
{
    slot->v.region.v = VMCS12_NONE;
    slot->v.parked = slot->v.lent = false;
    bitmap_forget(&slot->msr);
    bitmap_forget(&slot->vmread);
    bitmap_forget(&slot->vmwrite);
    slot->link = NULL;
}

/* Gives up parked slots whose region the guest reused, and that no link pointer names. Locked. True: one more may be parked. */
static bool room_to_park(struct nested *n)
{
    unsigned parked = 0;
    for (unsigned i = 0; i < NESTED_SLOTS; i++)
        parked += n->slots[i].v.parked;
    for (unsigned i = 0; i < NESTED_SLOTS && parked >= PARKED_MAX; i++) {
        struct nested_slot *slot = &n->slots[i];
        if (!slot->v.parked || slot->v.lent || vmcs12_parked_here(&slot->v))
            continue;
        release(slot);
        parked--;
    }
    return parked < PARKED_MAX;
}

/* Whether a is the better one to evict: active ones first, then by age. */
static bool better_victim(const struct nested_slot *a, const struct nested_slot *b)
{
    return !b || (a->v.parked != b->v.parked ? b->v.parked : a->v.last_use < b->v.last_use);
}

/* A free slot; evicts if there is none, never the current VMCS nor the one it links to. */
static struct nested_slot *take(struct cpu *cpu)
{
    struct nested *n = cpu->nested;
    struct nested_slot *oldest = NULL;
    for (unsigned i = 0; i < NESTED_SLOTS; i++) {
        struct nested_slot *slot = &n->slots[i];
        if (slot->v.region.v == VMCS12_NONE)
            return slot;
        bool in_use = slot == n->current || (n->current && slot == n->current->link);
        if (!in_use && better_victim(slot, oldest))
            oldest = slot;
    }
    lock();
    if (!oldest->v.parked || vmcs12_parked_here(&oldest->v))
        vmcs12_store(cpu, &oldest->v);
    release(oldest);
    unlock();
    count(cpu, COUNT_VMCS12_EVICTED);
    return oldest;
}

/* Parked on another CPU, and not a shadow VMCS there. Locked. */
static struct nested_slot *find_elsewhere(const struct cpu *cpu, gpa1_t region)
{
    for (unsigned i = 0; i < cpu_count; i++) {
        struct nested_slot *slot = cpus[i] == cpu ? NULL : find(cpus[i]->nested, region);
        if (slot && !slot->v.lent && vmcs12_parked_here(&slot->v))
            return slot;
    }
    return NULL;
}

/* The parked slot whose tag a region has that is not its own: the guest copied the memory. NULL: none. Locked. */
static struct nested_slot *find_original(gpa1_t copy)
{
    uint64_t tag = vmcs12_tag_in_memory(copy);
    for (unsigned i = 0; tag && i < cpu_count; i++)
        for (unsigned j = 0; j < NESTED_SLOTS; j++) {
            struct nested_slot *slot = &cpus[i]->nested->slots[j];
            if (slot->v.parked && !slot->v.lent && slot->v.tag == tag)
                return slot;
        }
    return NULL;
}

static struct nested_slot *load(struct cpu *cpu, gpa1_t region)
{
    struct nested_slot *slot = take(cpu);
    lock();
    struct nested_slot *elsewhere = find_elsewhere(cpu, region);
    struct nested_slot *original = elsewhere ? NULL : find_original(region);
    if (elsewhere)
        vmcs12_adopt(cpu, &slot->v, &elsewhere->v);
    else if (original)
        vmcs12_copy(cpu, &slot->v, region, &original->v);
    unlock();
    if (!elsewhere && !original)
        vmcs12_load(cpu, &slot->v, region);
    return slot;
}

/* The slot that holds the VMCS, active or parked; loaded if none does. */
static struct nested_slot *hold(struct cpu *cpu, gpa1_t region)
{
    lock();
    struct nested_slot *slot = find(cpu->nested, region);
    if (slot && slot->v.parked && !vmcs12_parked_here(&slot->v)) {
        release(slot);
        slot = NULL;
    }
    unlock();
    return slot ? slot : load(cpu, region);
}

struct nested_slot *pool_activate(struct cpu *cpu, gpa1_t region)
{
    struct nested_slot *slot = hold(cpu, region);
    lock();
    slot->v.parked = slot->v.stored = false;
    unlock();
    slot->v.last_use = ++cpu->nested->clock;
    return slot;
}

void pool_clear(struct cpu *cpu, gpa1_t region)
{
    struct nested_slot *slot = find(cpu->nested, region);
    if (!slot) {
        vmcs12_clear_in_memory(region);
        return;
    }
    /* One that is a shadow VMCS is cleared on every exit: its values stay in the slot. Others software may copy in memory. */
    if (!slot->v.parked && !slot->v.linked) {
        slot->v.launched = false;
        vmcs12_store(cpu, &slot->v);
    }
    lock();
    bool park = slot->v.parked || room_to_park(cpu->nested);
    if (park)
        vmcs12_park(&slot->v);
    unlock();
    if (park)
        return;
    slot->v.launched = false;
    vmcs12_store(cpu, &slot->v);
    release(slot);
}

struct nested_slot *pool_shadow(struct cpu *cpu, gpa1_t region)
{
    struct nested_slot *slot = hold(cpu, region);
    if (slot == cpu->nested->current)
        return NULL;
    lock();
    slot->v.linked = true;
    if (!slot->v.parked)
        vmcs12_park(&slot->v);
    if (!slot->v.lent)
        vmcs12_lend(&slot->v);
    unlock();
    return slot;
}
