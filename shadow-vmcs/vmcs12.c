/*
 * See vmcs12.h. The values in a region_image stand in the order of places: first the rows that vmcs02 holds, exit information last
 * among them, then the others. Each part can be read and written in one run.
 */
#include "shadow-vmcs/vmcs12.h"

#include "core/cpu/vmcs_image.h"
#include "core/lib/counters.h"

#define LINK_POINTER_NONE (~0ull)

static struct vmcs12_config config;

/* The places of an image: rows that vmcs02 holds (stored there, and the processor has them) are those before `held`. */
static struct {
    unsigned shared, held;
    unsigned switched; /* those before it are reached only by making vmcs02 current: all held ones, or none */
    bool info_writable;
    uint8_t row[FIELD_COUNT], of_row[FIELD_COUNT];
    uint16_t encoding[FIELD_COUNT];
} places;
_Static_assert(FIELD_COUNT <= UINT8_MAX, "a place is a byte");

static bool in_vmcs02(enum vmcs_row row) { return places.of_row[row] < places.held; }

/* Gives the next places to all rows that are stored so and not placed yet. */
static unsigned place_rows(unsigned next, enum vmcs_store store, bool (*wanted)(enum vmcs_row row))
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        if (vmcs_fields[row].store != store || !wanted(row))
            continue;
        places.row[next] = (uint8_t)row;
        places.of_row[row] = (uint8_t)next;
        places.encoding[next++] = vmcs_fields[row].encoding;
    }
    return next;
}

static bool exists(enum vmcs_row row) { return config.hw->offered[vmcs_fields[row].cap] && !config.hw->missing[row]; }
static bool is_missing(enum vmcs_row row) { return !exists(row); }
static bool any(enum vmcs_row row) { return row < FIELD_COUNT; }

void vmcs12_configure(const struct vmcs12_config *c)
{
    config = *c;
    places.info_writable = vmx_caps_msr(c->hw, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO;
    places.shared = place_rows(0, STORE_SHARED, exists);
    places.held = place_rows(places.shared, STORE_INFO, exists);
    places.switched = vmcs_image.on ? 0 : places.held;
    unsigned next = place_rows(places.held, STORE_SOFT, any);
    next = place_rows(next, STORE_SHARED, is_missing);
    place_rows(next, STORE_INFO, is_missing);
}

/* Bit of a held row of exit information in made_up. */
static uint64_t info_bit(enum vmcs_row row) { return BIT(places.of_row[row] - places.shared); }

/* Launch state and indicator live in the region that VMCLEAR wrote back. */
static void set_indicator(const struct vmcs12 *v, bool shadow)
{
    uint32_t *word = hpa_ptr(v->vmcs02.region);
    *word = config.revision | (shadow ? (uint32_t)VMCS_SHADOW_INDICATOR : 0);
}

void vmcs12_take(struct cpu *cpu, struct vmcs12 *v)
{
    if (v->lent) {
        if (v->lent == LOAN_ACTIVE)
            hw_vmclear(v->vmcs02.region); /* what was written through the shadow is in memory now */
        set_indicator(v, false);
        v->lent = LOAN_NONE;
    }
    vmcs_load(cpu, &v->vmcs02);
}

static void lend(struct vmcs12 *v, enum vmcs12_loan loan)
{
    v->lent = (uint8_t)loan;
    set_indicator(v, true);
}

static void clear_and_lend(struct vmcs12 *v)
{
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    lend(v, LOAN_ACTIVE);
}

void vmcs12_lend(struct vmcs12 *v)
{
    if (vmcs_image.on)
        lend(v, LOAN_IN_MEMORY);
    else
        clear_and_lend(v);
}

void vmcs12_give_active(struct cpu *cpu, struct vmcs12 *v)
{
    if (config.shadowing)
        clear_and_lend(v);
    vmcs_load(cpu, &cpu->vmcs01);
}

void vmcs12_give_in_memory(struct cpu *cpu, struct vmcs12 *v)
{
    vmcs_load(cpu, &cpu->vmcs01); /* writes vmcs02 to memory, launch state and all */
    if (config.shadowing)
        lend(v, LOAN_IN_MEMORY);
}

void vmcs12_give(struct cpu *cpu, struct vmcs12 *v)
{
    if (vmcs_image.on)
        vmcs12_give_in_memory(cpu, v);
    else
        vmcs12_give_active(cpu, v);
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

/*
 * vmcs02's fields from outside, vmcs01 being current: in memory, or by making vmcs02 current. Without a loan both VMCSs stay active and
 * changing between them is one VMPTRLD each.
 */
static void reach(struct cpu *cpu, struct vmcs12 *v)
{
    if (!vmcs_image.on)
        vmcs12_take(cpu, v);
}

static void leave(struct cpu *cpu, struct vmcs12 *v, uint8_t was_lent)
{
    if (vmcs_image.on)
        return;
    if (was_lent)
        vmcs12_give_active(cpu, v);
    else
        vmcs_load(cpu, &cpu->vmcs01);
}

static uint64_t reached_read(const struct vmcs12 *v, enum vmcs_row row)
{
    return vmcs_image.on ? vmcs_image_read(v->vmcs02.region, row) : hw_vmread(vmcs_fields[row].encoding);
}

static void reached_write(const struct vmcs12 *v, enum vmcs_row row, uint64_t value)
{
    if (vmcs_image.on)
        vmcs_image_write(v->vmcs02.region, row, value);
    else
        hw_vmwrite(vmcs_fields[row].encoding, value);
}

static void set_soft(struct vmcs12 *v, enum vmcs_row row, uint64_t value)
{
    if (v->soft[row] == value)
        return;
    v->soft[row] = value;
    v->soft_changed = true;
}

void vmcs12_set_error(struct vmcs12 *v, enum vmx_error error) { set_soft(v, FIELD_VM_INSTRUCTION_ERROR, error); }

/*
 * "IA-32e mode guest" of vmcs12 changes at VM exits, where the processor stores it in vmcs02. SDM 3, "Saving Control Registers,
 * Debug Registers, and MSRs". vmcs02 is reached.
 */
static void sync_entry_controls(struct vmcs12 *v)
{
    if (!v->host_written)
        return; /* never entered */
    uint64_t ia32e = reached_read(v, FIELD_ENTRY_CONTROLS) & ENTRY_IA32E;
    set_soft(v, FIELD_ENTRY_CONTROLS, (v->soft[FIELD_ENTRY_CONTROLS] & ~ENTRY_IA32E) | ia32e);
}

static bool needs_sync(const struct vmcs12 *v, enum vmcs_row row)
{
    return v->host_written && !(v->unmerged & BIT(GROUP_CONTROLS)) && vmcs_fields[row].group == GROUP_CONTROLS;
}

static bool is_made_up(const struct vmcs12 *v, enum vmcs_row row)
{
    return v->made_up && vmcs_fields[row].store == STORE_INFO && in_vmcs02(row) && (v->made_up & info_bit(row));
}

static OUT_OF_LINE uint64_t read_slowly(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row)
{
    bool shared = in_vmcs02(row);
    if (is_made_up(v, row) || (!shared && !needs_sync(v, row)))
        return v->soft[row];
    uint8_t was_lent = v->lent;
    reach(cpu, v);
    if (!shared)
        sync_entry_controls(v);
    uint64_t value = shared ? reached_read(v, row) : v->soft[row];
    leave(cpu, v, was_lent);
    return value;
}

uint64_t vmcs12_read(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row)
{
    bool usual = places.of_row[row] < places.switched && !v->lent && !v->made_up; /* without hardware shadowing */
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
        uint8_t was_lent = v->lent;
        reach(cpu, v);
        if (shared)
            reached_write(v, row, value);
        else
            sync_entry_controls(v);
        leave(cpu, v, was_lent);
    }
    if (!shared)
        set_soft(v, row, value);
    uint32_t group = vmcs_fields[row].group == GROUP_NONE ? 0 : (uint32_t)BIT(vmcs_fields[row].group);
    v->unchecked |= group;
    v->unmerged |= group;
}

uint64_t vmcs12_info(const struct vmcs12 *v, enum vmcs_row row)
{
    return is_made_up(v, row) ? v->soft[row] : hw_vmread(vmcs_fields[row].encoding);
}

void vmcs12_set_info(struct vmcs12 *v, enum vmcs_row row, uint64_t value)
{
    value = vmcs_field_trim(row, value);
    if (!in_vmcs02(row))
        set_soft(v, row, value);
    if (!in_vmcs02(row) || hw_vmwrite_try(vmcs_fields[row].encoding, value))
        return;
    v->soft[row] = value;
    v->made_up |= info_bit(row);
}

void vmcs12_info_of_exit(struct vmcs12 *v) { v->made_up = 0; }

void vmcs12_info_of_failed_entry(struct vmcs12 *v)
{
    v->made_up &= ~(info_bit(FIELD_EXIT_REASON) | info_bit(FIELD_EXIT_QUALIFICATION));
}

void vmcs12_init(struct vmcs12 *v)
{
    v->region.v = VMCS12_NONE;
    set_indicator(v, false);
    hw_vmclear(v->vmcs02.region);
}

/* What earlier VMCSs left in fields of vmcs02 that are not written here counts only once merging has written those, too. */
void vmcs12_load(struct cpu *cpu, struct vmcs12 *v)
{
    struct vmcs *before = cpu->current;
    v->launched = v->image.launched == 1;
    v->host_written = v->soft_changed = false;
    v->unchecked = v->unmerged = VMCS12_ALL_GROUPS;
    v->made_up = places.info_writable ? 0 : BIT(places.held - places.shared) - 1;
    unsigned in_hardware = places.info_writable ? places.held : places.shared;
    if (vmcs_image.on) {
        for (unsigned place = 0; place < in_hardware; place++)
            vmcs_image_write(v->vmcs02.region, places.row[place], v->image.values[place]);
    } else {
        vmcs_load(cpu, &v->vmcs02);
        hw_vmwrite_run(places.encoding, v->image.values, in_hardware);
        vmcs_load(cpu, before);
    }
    for (unsigned place = in_hardware; place < FIELD_COUNT; place++) {
        enum vmcs_row row = places.row[place];
        v->soft[row] = vmcs_field_trim(row, v->image.values[place]);
        v->soft_changed |= v->soft[row] != v->image.values[place];
    }
    count(cpu, COUNT_VMCS12_LOADED);
}

/* What vmcs02 holds goes into the image; it is cleared where it was active. */
static void save_held(struct cpu *cpu, struct vmcs12 *v)
{
    if (vmcs_image.on) {
        if (!(v->unmerged & BIT(GROUP_CONTROLS)))
            sync_entry_controls(v);
        for (unsigned place = 0; place < places.held; place++)
            v->image.values[place] = vmcs_image_read(v->vmcs02.region, places.row[place]);
        return;
    }
    struct vmcs *before = cpu->current;
    vmcs_load(cpu, &v->vmcs02); /* one that is lent stays what it is: VMREAD does not mind */
    if (!(v->unmerged & BIT(GROUP_CONTROLS)))
        sync_entry_controls(v);
    hw_vmread_run(places.encoding, v->image.values, places.held);
    hw_vmclear(v->vmcs02.region);
    v->vmcs02.launched = false;
    vmcs_load(cpu, before);
}

unsigned vmcs12_save(struct cpu *cpu, struct vmcs12 *v)
{
    v->image.launched = v->launched;
    save_held(cpu, v);
    for (unsigned place = places.shared; v->made_up && place < places.held; place++)
        if (is_made_up(v, places.row[place]))
            v->image.values[place] = v->soft[places.row[place]];
    unsigned changed = v->soft_changed ? FIELD_COUNT : places.held;
    for (unsigned place = places.held; place < changed; place++)
        v->image.values[place] = v->soft[places.row[place]];
    v->soft_changed = false;
    count(cpu, COUNT_VMCS12_STORED);
    return changed;
}

void vmcs12_update(struct cpu *cpu, struct vmcs12 *v, const struct region_image *now)
{
    for (unsigned place = 0; place < FIELD_COUNT; place++)
        if (now->values[place] != v->image.values[place])
            vmcs12_write(cpu, v, places.row[place], now->values[place]);
    v->launched = now->launched == 1;
    v->image = *now;
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
        if (!in_vmcs02(row) || !offered->offered[f->cap])
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
