/*
 * See vmcs12.h. The format of a region in the guest's memory is Strata's own: revision, abort indicator, launch state, and the value
 * of each row of the field table.
 */
#include "shadow-vmcs/vmcs12.h"

#include "core/lib/counters.h"
#include "core/cpu/watch_log.h"

struct region {
    uint32_t revision, abort;
    uint64_t launched;
    uint64_t tag;   /* of the slot that keeps the VMCS, see vmcs12_park; 0: none */
    uint64_t stale; /* the values below are not the VMCS's: the slot has them */
    uint64_t values[FIELD_COUNT];
};
_Static_assert(sizeof(struct region) <= PAGE_SIZE, "a region is one page");

#define LINK_POINTER_NONE (~0ull)

static struct vmcs12_config config;
static bool held[FIELD_COUNT]; /* rows that vmcs02 holds: stored there, and the processor has them */

void vmcs12_configure(const struct vmcs12_config *c)
{
    config = *c;
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
        held[row] = vmcs_fields[row].store != STORE_SOFT && c->hw->offered[vmcs_fields[row].cap] &&
                    !c->hw->missing[row];
}

static bool in_vmcs02(enum vmcs_row row) { return held[row]; }

static struct region *region_of(gpa1_t addr) { return gpa1_ptr(addr); }

/* Launch state and indicator live in the region that VMCLEAR wrote back. */
static void set_indicator(const struct vmcs12 *v, bool shadow)
{
    uint32_t *word = hpa_ptr(v->vmcs02.region);
    *word = config.revision | (shadow ? (uint32_t)VMCS_SHADOW_INDICATOR : 0);
}

void vmcs12_take(struct cpu *cpu, struct vmcs12 *v)
{
    if (v->lent) {
        hw_vmclear(v->vmcs02.region); /* what was written through the shadow is in memory now */
        set_indicator(v, false);
        v->lent = false;
    }
    vmcs_load(cpu, &v->vmcs02);
}

void vmcs12_lend(struct vmcs12 *v)
{
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    set_indicator(v, true);
    v->lent = true;
}

void vmcs12_give(struct cpu *cpu, struct vmcs12 *v)
{
    if (config.shadowing)
        vmcs12_lend(v);
    vmcs_load(cpu, &cpu->vmcs01);
}

void vmcs12_link(struct cpu *cpu, struct vmcs12 *v)
{
    (void)cpu;
    if (!config.shadowing)
        return;
    if (v && !v->lent)
        vmcs12_lend(v);
    vmwrite(VMCS_LINK_POINTER, v ? v->vmcs02.region.v : LINK_POINTER_NONE);
}

/* Without a loan, both VMCSs stay active and changing between them is one VMPTRLD each. */
static void back_to_vmcs01(struct cpu *cpu, struct vmcs12 *v, bool was_lent)
{
    if (was_lent)
        vmcs12_give(cpu, v);
    else
        vmcs_load(cpu, &cpu->vmcs01);
}

/*
 * "IA-32e mode guest" of vmcs12 changes at VM exits, where the processor stores it in vmcs02. SDM 3, "Saving Control Registers,
 * Debug Registers, and MSRs". vmcs02 is current.
 */
static void sync_entry_controls(struct vmcs12 *v)
{
    if (!v->host_written)
        return; /* never entered */
    uint64_t ia32e = vmread(ENTRY_CONTROLS) & ENTRY_IA32E;
    v->soft[FIELD_ENTRY_CONTROLS] = (v->soft[FIELD_ENTRY_CONTROLS] & ~ENTRY_IA32E) | ia32e;
}

static bool needs_sync(const struct vmcs12 *v, enum vmcs_row row)
{
    return v->host_written && !(v->unmerged & BIT(GROUP_CONTROLS)) && vmcs_fields[row].group == GROUP_CONTROLS;
}

static const uint64_t *info_override(const struct vmcs12 *v, enum vmcs_row row)
{
    for (unsigned i = 0; i < v->info_count; i++)
        if (v->info[i].row == row)
            return &v->info[i].value;
    return NULL;
}

static OUT_OF_LINE uint64_t read_slowly(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row)
{
    bool shared = in_vmcs02(row);
    const uint64_t *override = info_override(v, row);
    if (override)
        return *override;
    if (!shared && !needs_sync(v, row))
        return v->soft[row];
    bool was_lent = v->lent;
    vmcs12_take(cpu, v);
    if (!shared)
        sync_entry_controls(v);
    uint64_t value = shared ? hw_vmread(vmcs_fields[row].encoding) : v->soft[row];
    back_to_vmcs01(cpu, v, was_lent);
    return value;
}

uint64_t vmcs12_read(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row)
{
    bool usual = in_vmcs02(row) && !v->lent && !v->info_count; /* without hardware shadowing */
    if (!usual)
        return read_slowly(cpu, v, row);
    hw_vmptrld(v->vmcs02.region);
    uint64_t value = hw_vmread(vmcs_fields[row].encoding);
    vmcs_load(cpu, &cpu->vmcs01);
    return value;
}

void vmcs12_write(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row, uint64_t value)
{
    value = vmcs_field_trim(row, value);
    bool shared = in_vmcs02(row);
    if (!shared && row != FIELD_ENTRY_CONTROLS && v->soft[row] == value)
        return; /* hypervisors rewrite HOST_RSP and the like with what is there */
    if (shared || needs_sync(v, row)) {
        bool was_lent = v->lent;
        vmcs12_take(cpu, v);
        if (shared)
            hw_vmwrite(vmcs_fields[row].encoding, value);
        else
            sync_entry_controls(v);
        back_to_vmcs01(cpu, v, was_lent);
    }
    if (!shared)
        v->soft[row] = value;
    uint32_t group = vmcs_fields[row].group == GROUP_NONE ? 0 : (uint32_t)BIT(vmcs_fields[row].group);
    v->unchecked |= group;
    v->unmerged |= group;
}

uint64_t vmcs12_info(const struct vmcs12 *v, enum vmcs_row row)
{
    const uint64_t *override = v->info_count ? info_override(v, row) : NULL;
    return override ? *override : hw_vmread(vmcs_fields[row].encoding);
}

void vmcs12_set_info(struct vmcs12 *v, enum vmcs_row row, uint64_t value)
{
    if (hw_vmwrite_try(vmcs_fields[row].encoding, value))
        return;
    unsigned i = 0;
    while (i < v->info_count && v->info[i].row != row)
        i++;
    if (i == INFO_OVERRIDES)
        panic("more than %u made-up fields of exit information", INFO_OVERRIDES);
    v->info[i].row = (uint8_t)row;
    v->info[i].value = value;
    if (i == v->info_count)
        v->info_count++;
}

/* Makes the slot the VMCS of region with these values, whatever they are. */
static void fill(struct cpu *cpu, struct vmcs12 *v, gpa1_t region, const uint64_t *values)
{
    struct vmcs *before = cpu->current;
    v->region = region;
    v->tag = 0;
    v->lent = v->linked = v->parked = v->host_written = v->stored = false;
    v->unchecked = v->unmerged = VMCS12_ALL_GROUPS;
    v->info_count = 0;

    memset(hpa_ptr(v->vmcs02.region), 0, PAGE_SIZE);
    set_indicator(v, false);
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    vmcs_load(cpu, &v->vmcs02);
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        uint64_t value = vmcs_field_trim(row, __atomic_load_n(&values[row], __ATOMIC_RELAXED));
        if (!in_vmcs02(row) || !hw_vmwrite_try(vmcs_fields[row].encoding, value))
            v->soft[row] = value;
    }
    vmcs_load(cpu, before);
    count(cpu, COUNT_VMCS12_LOADED);
}

void vmcs12_load(struct cpu *cpu, struct vmcs12 *v, gpa1_t region)
{
    const struct region *r = region_of(region);
    v->launched = r->launched == 1;
    fill(cpu, v, region, r->values);
}

uint64_t vmcs12_tag_in_memory(gpa1_t region)
{
    const struct region *r = region_of(region);
    return r->stale ? r->tag : 0;
}

/* All values. vmcs02 is current, its entry controls are in soft[]. */
static void read_values(const struct vmcs12 *v, uint64_t *values)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        const uint64_t *override = info_override(v, row);
        values[row] = override ? *override : in_vmcs02(row) ? hw_vmread(vmcs_fields[row].encoding) : v->soft[row];
    }
}

void vmcs12_copy(struct cpu *cpu, struct vmcs12 *to, gpa1_t region, struct vmcs12 *from)
{
    struct vmcs *before = cpu->current;
    uint64_t values[FIELD_COUNT];
    vmcs_load(cpu, &from->vmcs02);
    if (!(from->unmerged & BIT(GROUP_CONTROLS)))
        sync_entry_controls(from);
    read_values(from, values);
    hw_vmclear(from->vmcs02.region);
    vmcs_load(cpu, before);
    to->launched = false;
    fill(cpu, to, region, values);
}

void vmcs12_store(struct cpu *cpu, struct vmcs12 *v)
{
    struct region *r = region_of(v->region);
    struct vmcs *before = cpu->current;
    vmcs12_take(cpu, v);
    if (!(v->unmerged & BIT(GROUP_CONTROLS)))
        sync_entry_controls(v);
    read_values(v, r->values);
    r->launched = v->launched;
    r->tag = r->stale = 0;
    v->stored = true;
    watch_note_write(v->region);
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    vmcs_load(cpu, before);
    count(cpu, COUNT_VMCS12_STORED);
}

static uint64_t last_tag;

void vmcs12_park(struct vmcs12 *v)
{
    struct region *r = region_of(v->region);
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    if (v->lent)
        set_indicator(v, false);
    v->lent = v->launched = false;
    v->parked = true;
    if (!v->tag)
        v->tag = __atomic_add_fetch(&last_tag, 1, __ATOMIC_RELAXED);
    r->launched = 0;
    if (r->tag != v->tag || r->stale == v->stored) {
        r->tag = v->tag;
        r->stale = !v->stored;
        watch_note_write(v->region);
    }
}

bool vmcs12_parked_here(const struct vmcs12 *v) { return v->parked && region_of(v->region)->tag == v->tag; }

void vmcs12_adopt(struct cpu *cpu, struct vmcs12 *to, struct vmcs12 *from)
{
    struct vmcs *before = cpu->current;
    hpa_t page = to->vmcs02.region;
    *to = *from;
    from->vmcs02.region = page;
    from->region.v = VMCS12_NONE;
    from->parked = false;
    from->tag = 0;
    if (!(to->unmerged & BIT(GROUP_CONTROLS))) {
        vmcs_load(cpu, &to->vmcs02);
        sync_entry_controls(to);
        vmcs_load(cpu, before);
    }
    to->host_written = false; /* the host state there is the other CPU's */
    to->unchecked = to->unmerged = VMCS12_ALL_GROUPS;
}

void vmcs12_clear_in_memory(gpa1_t region)
{
    region_of(region)->launched = 0;
    watch_note_write(region);
}

/* SDM 3, "VMCS Shadowing Bitmap Addresses": bit n stands for the encoding whose bits 14:0 are n. */
static void bitmap_open(uint8_t *bitmap, uint32_t encoding)
{
    bitmap[encoding >> 3] &= (uint8_t) ~(1u << (encoding & 7));
}

void vmcs12_bitmaps(const struct vmx_caps *offered, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap)
{
    memset(vmread_bitmap, 0xff, PAGE_SIZE);
    memset(vmwrite_bitmap, 0xff, PAGE_SIZE);
    bool write_info = vmx_caps_msr(offered, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO;
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        const struct vmcs_field *f = &vmcs_fields[row];
        if (!held[row] || !offered->offered[f->cap])
            continue;
        bool writable = f->store == STORE_SHARED || write_info;
        uint32_t last = f->width == WIDTH_W64 ? f->encoding + 1u
                                              : f->encoding; /* with the high half, if there is one */
        for (uint32_t encoding = f->encoding; encoding <= last; encoding++) {
            bitmap_open(vmread_bitmap, encoding);
            if (writable)
                bitmap_open(vmwrite_bitmap, encoding);
        }
    }
}
