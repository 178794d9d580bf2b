/*
 * The VMCSs of the fake machine: SDM 3, "Virtual-Machine Control Structures" (active, current, clear, launched; shadow
 * VMCSs; software use) and "VM Entries". See fake_hw.h.
 */
#include "tests/host/machine/fake_vmcs.h"

#include "core/guest/guest.h"
#include "core/memory/mem.h"
#include "nested/checks_rules.h"
#include "tests/host/machine/processor_checks.h"
#include "tests/host/support/support.h"

#define MAX_ACTIVE 256
#define CLEAR_MAGIC 0x7261656c43534d56ull /* written by VMCLEAR: the launch state of a region is known */
#define LAUNCHED_MAGIC (CLEAR_MAGIC + 1)  /* only where VMCSs are kept in memory */
#define BITMAP_FIELDS 0x8000u

/* The data of a VMCS region in memory. The first word is the only part whose format is architectural. */
struct region {
    uint32_t header, abort;
    uint64_t clear_magic;
    uint64_t values[FIELD_COUNT];
};
_Static_assert(sizeof(struct region) <= PAGE_SIZE, "a region is a page");

enum launch_state { LAUNCH_UNKNOWN, LAUNCH_CLEAR, LAUNCH_LAUNCHED };

/* An active VMCS: its data is here, and what memory says is out of date. */
struct active {
    uint64_t address;
    int cpu; /* -1: this slot is free */
    enum launch_state launch;
    bool shadow;
    uint64_t values[FIELD_COUNT];
};

bool fake_pml;
enum fake_keeping fake_keeping;
static struct active active[MAX_ACTIVE];
static uint64_t current[FAKE_CPUS], vmxon_region[FAKE_CPUS];

void fake_vmcs_reset(void)
{
    for (int i = 0; i < MAX_ACTIVE; i++)
        active[i].cpu = -1;
    fake_pml = false;
    fake_keeping = FAKE_IN_PROCESSOR;
    for (int cpu = 0; cpu < FAKE_CPUS; cpu++)
        current[cpu] = vmxon_region[cpu] = FAKE_NO_VMCS;
}

static struct region *region_at(uint64_t address)
{
    if (address % PAGE_SIZE || address + PAGE_SIZE > test_memory_size() || address >> fake_caps.maxphyaddr)
        panic("fake: %llxh is no VMCS region", (unsigned long long)address);
    return hpa_ptr(hpa(address));
}

static struct active *active_find(uint64_t address)
{
    for (int i = 0; i < MAX_ACTIVE; i++)
        if (active[i].cpu >= 0 && active[i].address == address)
            return &active[i];
    return NULL;
}

static bool is_shadow(uint64_t address) { return region_at(address)->header & VMCS_SHADOW_INDICATOR; }

/* Makes a VMCS active on the selected processor: its data comes from memory unless it already is. */
static struct active *activate(uint64_t address)
{
    struct active *vmcs = active_find(address);
    if (vmcs && vmcs->cpu != fake_cpu())
        panic("fake: VMCS %llxh is active on processor %d and used on %d", (unsigned long long)address, vmcs->cpu,
              fake_cpu());
    if (vmcs && vmcs->shadow != is_shadow(address))
        panic("fake: shadow-VMCS indicator of %llxh changed while it was active", (unsigned long long)address);
    for (int i = 0; !vmcs && i < MAX_ACTIVE; i++) {
        if (active[i].cpu >= 0)
            continue;
        const struct region *region = region_at(address);
        vmcs = &active[i];
        vmcs->address = address;
        vmcs->cpu = fake_cpu();
        vmcs->shadow = is_shadow(address);
        vmcs->launch = region->clear_magic == CLEAR_MAGIC      ? LAUNCH_CLEAR
                       : region->clear_magic == LAUNCHED_MAGIC ? LAUNCH_LAUNCHED
                                                               : LAUNCH_UNKNOWN;
        for (int row = 0; row < FIELD_COUNT; row++)
            vmcs->values[row] = vmcs_field_trim((enum vmcs_row)row, region->values[row]);
    }
    if (!vmcs)
        panic("fake: more than %d active VMCSs", MAX_ACTIVE);
    return vmcs;
}

/*
 * A machine that keeps VMCSs in memory: what is not current leaves the selected processor. (And the current one, where it is told
 * to.) FAKE_WRITES_ONLY: memory is written, but not read again.
 */
static void write_back(uint64_t stays)
{
    if (fake_keeping == FAKE_IN_PROCESSOR)
        return;
    for (int i = 0; i < MAX_ACTIVE; i++) {
        struct active *vmcs = &active[i];
        if (vmcs->cpu != fake_cpu() || vmcs->address == stays)
            continue;
        struct region *region = region_at(vmcs->address);
        memcpy(region->values, vmcs->values, sizeof(region->values));
        if (vmcs->launch != LAUNCH_UNKNOWN)
            region->clear_magic = vmcs->launch == LAUNCH_CLEAR ? CLEAR_MAGIC : LAUNCHED_MAGIC;
        if (fake_keeping == FAKE_IN_MEMORY)
            vmcs->cpu = -1;
    }
}

static void vmx_needed(const char *instruction)
{
    if (vmxon_region[fake_cpu()] == FAKE_NO_VMCS)
        panic("fake: %s outside VMX operation", instruction);
}

bool hw_vmxon(hpa_t region)
{
    uint32_t revision = (uint32_t)(vmx_caps_msr(&fake_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    if (vmxon_region[fake_cpu()] != FAKE_NO_VMCS || region_at(region.v)->header != revision)
        return false;
    vmxon_region[fake_cpu()] = region.v;
    fake_record(FAKE_VMXON, region.v, 0, 0);
    return true;
}

void hw_vmxoff(void)
{
    vmx_needed("VMXOFF");
    fake_record(FAKE_VMXOFF, 0, 0, 0);
    vmxon_region[fake_cpu()] = current[fake_cpu()] = FAKE_NO_VMCS;
}

void hw_vmclear(hpa_t vmcs)
{
    vmx_needed("VMCLEAR");
    struct region *region = region_at(vmcs.v);
    if (vmcs.v == vmxon_region[fake_cpu()])
        panic("fake: VMCLEAR of the VMXON region");
    struct active *data = active_find(vmcs.v);
    if (data && data->cpu != fake_cpu())
        panic("fake: VMCLEAR of %llxh on processor %d, but it is active on %d", (unsigned long long)vmcs.v, fake_cpu(),
              data->cpu);
    if (data) {
        memcpy(region->values, data->values, sizeof(region->values));
        data->cpu = -1;
    }
    region->clear_magic = CLEAR_MAGIC;
    fake_record(FAKE_VMCLEAR, vmcs.v, 0, 0);
    if (current[fake_cpu()] == vmcs.v)
        current[fake_cpu()] = FAKE_NO_VMCS;
}

void hw_vmptrld(hpa_t vmcs)
{
    uint64_t revision = vmx_caps_msr(&fake_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK;

    vmx_needed("VMPTRLD");
    if ((region_at(vmcs.v)->header & VMX_BASIC_REVISION_MASK) != revision)
        panic("fake: VMPTRLD of %llxh: wrong revision identifier", (unsigned long long)vmcs.v);
    if (is_shadow(vmcs.v) && !fake_caps.offered[CAP_SHADOW])
        panic("fake: VMPTRLD of the shadow VMCS %llxh without VMCS shadowing", (unsigned long long)vmcs.v);
    if (vmcs.v == vmxon_region[fake_cpu()])
        panic("fake: VMPTRLD of the VMXON region");
    write_back(vmcs.v);
    activate(vmcs.v);
    current[fake_cpu()] = vmcs.v;
    fake_record(FAKE_VMPTRLD, vmcs.v, 0, 0);
}

uint64_t fake_current(void) { return current[fake_cpu()]; }

/* Looking in from outside */

static uint64_t *value_of(uint64_t address, enum vmcs_row row)
{
    struct active *vmcs = active_find(address);
    return vmcs ? &vmcs->values[row] : &region_at(address)->values[row];
}

uint64_t fake_vmcs_read(hpa_t region, enum vmcs_row row) { return *value_of(region.v, row); }

void fake_vmcs_write(hpa_t region, enum vmcs_row row, uint64_t value)
{
    *value_of(region.v, row) = vmcs_field_trim(row, value);
}

const uint64_t *fake_vmcs_values(hpa_t region)
{
    struct active *vmcs = active_find(region.v);
    if (!vmcs)
        panic("fake: VMCS %llxh is not active", (unsigned long long)region.v);
    return vmcs->values;
}

bool fake_vmcs_active(hpa_t region) { return active_find(region.v) != NULL; }

bool fake_vmcs_launched(hpa_t region)
{
    struct active *vmcs = active_find(region.v);
    return vmcs && vmcs->launch == LAUNCH_LAUNCHED;
}

/* VMREAD and VMWRITE in VMX root operation */

static struct active *current_vmcs(const char *what)
{
    vmx_needed(what);
    if (fake_current() == FAKE_NO_VMCS)
        panic("fake: %s without a current VMCS", what);
    return active_find(fake_current());
}

/* The row of a field that the processor has, or -1. */
static int field_row(uint32_t field)
{
    int row = vmcs_field_find(field);
    bool pml = fake_pml && (row == FIELD_PML_ADDR || row == FIELD_GUEST_PML_INDEX);
    return row >= 0 && !fake_caps.missing[row] && (pml || fake_caps.offered[vmcs_fields[row].cap]) ? row : -1;
}

static uint64_t value_get(const struct active *vmcs, int row, uint32_t field)
{
    return vmcs_encoding_high(field) ? vmcs->values[row] >> 32 : vmcs->values[row];
}

static void value_set(struct active *vmcs, int row, uint32_t field, uint64_t value)
{
    if (vmcs_encoding_high(field))
        value = value << 32 | (uint32_t)vmcs->values[row];
    vmcs->values[row] = vmcs_field_trim((enum vmcs_row)row, value);
}

static bool field_writable(uint32_t field)
{
    return vmcs_encoding_type(field) != TYPE_INFO || vmx_caps_msr(&fake_caps, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO;
}

uint64_t hw_vmread(uint32_t field)
{
    struct active *vmcs = current_vmcs("VMREAD");
    int row = field_row(field);
    if (row < 0)
        panic("fake: VMREAD of field %04xh, which does not exist", field);
    uint64_t value = value_get(vmcs, row, field);
    fake_record(FAKE_VMREAD, field, value, 0);
    return value;
}

bool hw_vmread_try(uint32_t field, uint64_t *value)
{
    current_vmcs("VMREAD");
    if (field_row(field) < 0)
        return false;
    *value = hw_vmread(field);
    return true;
}

bool hw_vmwrite_try(uint32_t field, uint64_t value)
{
    struct active *vmcs = current_vmcs("VMWRITE");
    int row = field_row(field);
    if (row < 0 || !field_writable(field))
        return false;
    value_set(vmcs, row, field, value);
    fake_record(FAKE_VMWRITE, field, value, 0);
    return true;
}

void hw_vmwrite(uint32_t field, uint64_t value)
{
    if (!hw_vmwrite_try(field, value))
        panic("fake: VMWRITE of field %04xh fails", field);
}

void hw_vmwrite_sure(uint32_t field, uint64_t value) { hw_vmwrite(field, value); }

void hw_vmread_run(const uint16_t *fields, uint64_t *values, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        values[i] = hw_vmread(fields[i]);
}

void hw_vmwrite_run(const uint16_t *fields, const uint64_t *values, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        hw_vmwrite(fields[i], values[i]);
}

/* VMREAD and VMWRITE in VMX non-root operation: SDM 3, "VMREAD-Bitmap and VMWRITE-Bitmap Addresses" */

static enum fake_access shadow_find(enum vmcs_row bitmap_row, uint32_t field, struct active **shadow)
{
    const struct active *vmcs = current_vmcs("an access through the shadow VMCS");
    bool secondary = vmcs->values[FIELD_PROC_CONTROLS] & PROC_SECONDARY;
    uint64_t link = vmcs->values[FIELD_VMCS_LINK_POINTER];

    if (!secondary || !(vmcs->values[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS) || field >= BITMAP_FIELDS)
        return FAKE_EXITS;
    const uint8_t *bitmap = hpa_ptr(hpa(vmcs->values[bitmap_row]));
    if (bitmap[field / 8] >> field % 8 & 1)
        return FAKE_EXITS;
    if (link == FAKE_NO_VMCS)
        return FAKE_FAIL_INVALID;
    *shadow = activate(link);
    if (!(*shadow)->shadow)
        panic("fake: the link pointer %llxh is not that of a shadow VMCS", (unsigned long long)link);
    return FAKE_DONE;
}

enum fake_access fake_guest_vmread(uint32_t field, uint64_t *value)
{
    struct active *shadow = NULL;
    enum fake_access access = shadow_find(FIELD_VMREAD_BITMAP, field, &shadow);

    if (access != FAKE_DONE)
        return access;
    int row = field_row(field);
    if (row < 0)
        return FAKE_FAIL_VALID;
    *value = value_get(shadow, row, field);
    return FAKE_DONE;
}

enum fake_access fake_guest_vmwrite(uint32_t field, uint64_t value)
{
    struct active *shadow = NULL;
    enum fake_access access = shadow_find(FIELD_VMWRITE_BITMAP, field, &shadow);

    if (access != FAKE_DONE)
        return access;
    int row = field_row(field);
    if (row < 0 || !field_writable(field))
        return FAKE_FAIL_VALID;
    value_set(shadow, row, field, value);
    return FAKE_DONE;
}

/* VM entries and exits */

static struct fake_entry vmfail(struct active *vmcs, enum vmx_error error, const struct check_rule *rule)
{
    vmcs->values[FIELD_VM_INSTRUCTION_ERROR] = error;
    fake_record(FAKE_ENTER, 0, error, 0);
    return (struct fake_entry){ .result = FAKE_VMFAIL, .error = error, .rule = rule };
}

/* The link pointer is a physical address: the guest's view of memory, which check_guest_soft has, is not the processor's. */
static const struct check_rule link_rule = { "VMCS link pointer",     CHECK_ALL, ENTRY_FAIL_LINK_POINTER,
                                             FIELD_VMCS_LINK_POINTER, NULL,      NULL };

static bool link_holds(const struct active *vmcs)
{
    uint64_t link = vmcs->values[FIELD_VMCS_LINK_POINTER];
    bool shadowing = vmcs->values[FIELD_PROC_CONTROLS] & PROC_SECONDARY &&
                     vmcs->values[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS;
    uint64_t revision = vmx_caps_msr(&fake_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK;

    if (link == FAKE_NO_VMCS)
        return true;
    if (link % PAGE_SIZE || link + PAGE_SIZE > test_memory_size() || link == vmcs->address)
        return false;
    return (region_at(link)->header & VMX_BASIC_REVISION_MASK) == revision && is_shadow(link) == shadowing;
}

/* SDM 3, "Checks on Guest Page-Directory-Pointer-Table Entries", with EPT: the fields. */
static const struct check_rule pdpte_rule = { "PDPTEs", CHECK_ALL, ENTRY_FAIL_PDPTE, FIELD_GUEST_PDPTE0, NULL, NULL };

static bool pdptes_hold(const struct active *vmcs)
{
    const uint64_t *v = vmcs->values;
    bool ept = v[FIELD_PROC_CONTROLS] & PROC_SECONDARY && v[FIELD_PROC2_CONTROLS] & PROC2_EPT;
    bool pae = v[FIELD_GUEST_CR0] & CR0_PG && v[FIELD_GUEST_CR4] & CR4_PAE && !(v[FIELD_ENTRY_CONTROLS] & ENTRY_IA32E);
    for (int i = 0; ept && pae && i < PDPTES; i++)
        if (!pdpte_valid(v[FIELD_GUEST_PDPTE0 + i], fake_caps.maxphyaddr))
            return false;
    return true;
}

/* The guest state but for link pointer and PDPTEs, and then those. */
static const struct check_rule *guest_check(const struct active *vmcs)
{
    uint64_t values[FIELD_COUNT];
    struct check_view view = { values, &fake_caps, true, { vmcs->address } };

    memcpy(values, vmcs->values, sizeof(values));
    values[FIELD_VMCS_LINK_POINTER] = FAKE_NO_VMCS;
    const struct check_rule *rule = check_guest_state(&view);
    if (rule)
        return rule;
    return !link_holds(vmcs) ? &link_rule : pdptes_hold(vmcs) ? NULL : &pdpte_rule;
}

/* --- the VM-entry MSR-load area: SDM 3, "Loading MSRs" of "VM Entries" --- */

struct area_entry {
    uint32_t msr, reserved;
    uint64_t value;
};

static bool canonical(uint64_t value)
{
    unsigned spare = 64 - vmx_caps_linear_width(&fake_caps);
    return (uint64_t)((int64_t)(value << spare) >> spare) == value;
}

/* MSRs that entries load from the VMCS and exits save there: what they become. False: WRMSR raises #GP. */
static bool register_load(uint64_t *values, const struct area_entry *e)
{
    uint64_t efer = values[FIELD_GUEST_EFER];
    switch (e->msr) {
    case MSR_EFER:
        if ((e->value & ~fake_caps.efer) || (((e->value ^ efer) & EFER_LME) && (values[FIELD_GUEST_CR0] & CR0_PG)))
            return false;
        values[FIELD_GUEST_EFER] = (e->value & ~EFER_LMA) | (efer & EFER_LMA);
        return true;
    case MSR_PAT:
        values[FIELD_GUEST_PAT] = e->value;
        return check_is_pat(e->value);
    case MSR_DEBUGCTL:
        values[FIELD_GUEST_DEBUGCTL] = e->value;
        return !(e->value >> 16);
    case MSR_SYSENTER_CS:
        values[FIELD_GUEST_SYSENTER_CS] = (uint32_t)e->value;
        return true;
    case MSR_SYSENTER_ESP:
        values[FIELD_GUEST_SYSENTER_ESP] = e->value;
        return canonical(e->value);
    case MSR_SYSENTER_EIP:
        values[FIELD_GUEST_SYSENTER_EIP] = e->value;
        return canonical(e->value);
    default:
        return fake_msr_load(e->msr, e->value);
    }
}

/* The number of the entry that fails, or 0. */
static uint64_t area_load(struct active *vmcs)
{
    uint64_t values[FIELD_COUNT];
    memcpy(values, vmcs->values, sizeof(values));
    for (uint64_t i = 0; i < values[FIELD_ENTRY_MSR_LOAD_COUNT]; i++) {
        const struct area_entry *e = hpa_ptr(hpa(values[FIELD_ENTRY_MSR_LOAD_ADDR] + i * sizeof(*e)));
        bool forbidden = e->reserved || e->msr == MSR_FS_BASE || e->msr == MSR_GS_BASE || e->msr >> 8 == 8 ||
                         e->msr == MSR_BIOS_UPDT_TRIG;
        if (forbidden || !register_load(values, e))
            return i + 1;
    }
    memcpy(vmcs->values, values, sizeof(values)); /* as the next exit will save them */
    return 0;
}

struct fake_entry fake_enter(enum fake_instruction instruction)
{
    struct active *vmcs = current_vmcs("a VM entry");
    struct check_view view = { vmcs->values, &fake_caps, true, { vmcs->address } };

    if (vmcs->launch == LAUNCH_UNKNOWN)
        panic("fake: entry with VMCS %llxh, which was never cleared", (unsigned long long)vmcs->address);
    if (vmcs->shadow)
        return (struct fake_entry){ .result = FAKE_VMFAIL, .error = VMX_FAIL_INVALID };
    if (instruction == FAKE_VMLAUNCH && vmcs->launch != LAUNCH_CLEAR)
        return vmfail(vmcs, VMERR_VMLAUNCH_NOT_CLEAR, NULL);
    if (instruction == FAKE_VMRESUME && vmcs->launch != LAUNCH_LAUNCHED)
        return vmfail(vmcs, VMERR_VMRESUME_NOT_LAUNCHED, NULL);

    const struct check_rule *rule = check_controls(&view);
    if (rule)
        return vmfail(vmcs, VMERR_ENTRY_CONTROLS, rule);
    rule = check_host(&view);
    if (rule)
        return vmfail(vmcs, VMERR_ENTRY_HOST_STATE, rule);
    rule = guest_check(vmcs);
    if (rule) {
        uint64_t reason = REASON_entry_guest_state | REASON_ENTRY_FAILURE;
        fake_exit(reason, rule->qualification);
        fake_record(FAKE_ENTER, reason, 0, 0);
        return (struct fake_entry){
            .result = FAKE_EXIT, .reason = reason, .qualification = rule->qualification, .rule = rule
        };
    }
    uint64_t failed = area_load(vmcs);
    if (failed) {
        uint64_t reason = REASON_entry_msr_load | REASON_ENTRY_FAILURE;
        fake_exit(reason, failed);
        fake_record(FAKE_ENTER, reason, 0, 0);
        return (struct fake_entry){ .result = FAKE_EXIT, .reason = reason, .qualification = failed };
    }
    vmcs->launch = LAUNCH_LAUNCHED;
    /* SDM 3, "Event Injection": the valid bit is cleared by an exit, not by the entry. */
    fake_record(FAKE_ENTER, 0, 0, 0);
    return (struct fake_entry){ .result = FAKE_ENTERED };
}

void fake_exit(uint64_t reason, uint64_t qualification)
{
    struct active *vmcs = current_vmcs("a VM exit");

    write_back(vmcs->address); /* the shadow VMCS */
    vmcs->values[FIELD_EXIT_REASON] = reason;
    vmcs->values[FIELD_EXIT_QUALIFICATION] = qualification;
    if (reason & REASON_ENTRY_FAILURE)
        return;
    vmcs->values[FIELD_EXIT_INTR_INFO] &= ~INTR_VALID;
    vmcs->values[FIELD_IDT_VECTORING_INFO] &= ~INTR_VALID;
    vmcs->values[FIELD_ENTRY_INTR_INFO] &= ~INTR_VALID;
}
