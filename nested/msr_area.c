/*
 * The MSR areas of vmcs12. SDM 3, "Loading MSRs" of "VM Entries" and "VM Exits", "Saving MSRs". What an entry loads the processor loads,
 * from a copy of the guest hypervisor's list that is vmcs02's own: so it has checked the guest state before, and stops where it would.
 * What an exit stores and loads is done here.
 */
#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/watch_log.h"
#include "nested/nested.h"

#define DEBUGCTL_DEFINED (DEBUGCTL_LBR | DEBUGCTL_BTF) /* what every processor has */
#define MSR_SMM_MONITOR_CTL 0x9b

/* MSRs that the VMCS switches have their values there while another's are in the processor. The VMCS is current. */
static const struct {
    uint32_t msr, encoding;
} switched[] = {
    { MSR_EFER, VMCS_GUEST_EFER },
    { MSR_PAT, VMCS_GUEST_PAT },
    { MSR_DEBUGCTL, VMCS_GUEST_DEBUGCTL },
    { MSR_SYSENTER_CS, VMCS_GUEST_SYSENTER_CS },
    { MSR_SYSENTER_ESP, VMCS_GUEST_SYSENTER_ESP },
    { MSR_SYSENTER_EIP, VMCS_GUEST_SYSENTER_EIP },
};

static uint32_t switched_encoding(uint32_t msr)
{
    for (size_t i = 0; i < ARRAY_SIZE(switched); i++)
        if (switched[i].msr == msr)
            return switched[i].encoding;
    return 0;
}

static struct msr_entry entry_read(uint64_t area, uint64_t i)
{
    const volatile struct msr_entry *e = gpa1_ptr(gpa1(area + i * sizeof(struct msr_entry)));
    return (struct msr_entry){ e->msr, e->reserved, e->value };
}

static bool forbidden_anywhere(const struct msr_entry *e)
{
    return e->reserved || (e->msr >= MSR_X2APIC_FIRST && e->msr <= MSR_X2APIC_LAST) || e->msr == MSR_SMM_MONITOR_CTL;
}

static bool forbidden_to_load(const struct msr_entry *e)
{
    return forbidden_anywhere(e) || e->msr == MSR_FS_BASE || e->msr == MSR_GS_BASE || e->msr == MSR_BIOS_UPDT_TRIG;
}

/* EFER as WRMSR would take it: no reserved bits; LME does not change under paging, LMA never by this. */
static bool load_efer(uint64_t value)
{
    uint64_t old = vmread(GUEST_EFER);
    if (value & ~machine.hw.efer)
        return false;
    if (((value ^ old) & EFER_LME) && (vmread(GUEST_CR0) & CR0_PG))
        return false;
    vmwrite(GUEST_EFER, (value & ~EFER_LMA) | (old & EFER_LMA));
    return true;
}

static bool pat_valid(uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t type = value >> 8 * i & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

/* What WRMSR would accept: the value must not make a later VM entry fail. */
static bool switched_valid(uint32_t msr, uint64_t value)
{
    unsigned spare = 64 - vmx_caps_linear_width(&machine.hw);
    switch (msr) {
    case MSR_PAT:
        return pat_valid(value);
    case MSR_DEBUGCTL:
        return !(value & ~DEBUGCTL_DEFINED);
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
        return (uint64_t)((int64_t)(value << spare) >> spare) == value;
    default: /* IA32_SYSENTER_CS: any */
        return true;
    }
}

static bool load_one(const struct msr_entry *e)
{
    if (forbidden_to_load(e))
        return false;
    uint32_t encoding = switched_encoding(e->msr);
    if (!encoding)
        return msr_write(e->msr, e->value);
    if (e->msr == MSR_EFER)
        return load_efer(e->value);
    if (!switched_valid(e->msr, e->value))
        return false;
    hw_vmwrite(encoding, e->value);
    return true;
}

static bool store_one(uint64_t area, uint64_t i)
{
    struct msr_entry e = entry_read(area, i);
    if (forbidden_anywhere(&e))
        return false;
    uint32_t encoding = e.msr == MSR_FS_BASE   ? VMCS_GUEST_FS_BASE
                        : e.msr == MSR_GS_BASE ? VMCS_GUEST_GS_BASE
                                               : switched_encoding(e.msr);
    uint64_t value;
    if (encoding)
        value = hw_vmread(encoding);
    else if (e.msr == MSR_TSC)
        value = hw_rdtsc(); /* RDMSR in root mode: without the offset */
    else if (!msr_read(e.msr, &value))
        return false;
    volatile struct msr_entry *out = gpa1_ptr(gpa1(area + i * sizeof(struct msr_entry)));
    out->value = value;
    watch_note_write(gpa1(area + i * sizeof(struct msr_entry)));
    return true;
}

/* Index + 1 of the entry that failed, 0 if none did. */
static uint64_t load_area(uint64_t area, uint64_t count_entries)
{
    for (uint64_t i = 0; i < count_entries; i++) {
        struct msr_entry e = entry_read(area, i);
        if (i >= MSR_AREA_MAX || !load_one(&e))
            return i + 1;
    }
    return 0;
}

/* An entry that fails, as the processor has it; and one that changes nothing. */
static struct msr_entry entry_refused(void) { return (struct msr_entry){ .msr = MSR_FS_BASE }; }
static struct msr_entry entry_nothing(uint64_t sysenter_cs)
{
    return (struct msr_entry){ .msr = MSR_SYSENTER_CS, .value = sysenter_cs };
}

/*
 * The copy, entry by entry, up to one that fails for sure. Only MSRs that the guest hypervisor writes without an exit are left to the
 * processor; a few that Strata emulates (MTRRs, IA32_APIC_BASE) change here, before the entry.
 */
void area_arm(struct nested *n, const struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    uint64_t wanted = v->soft[FIELD_ENTRY_MSR_LOAD_COUNT], sysenter_cs = vmread(GUEST_SYSENTER_CS), used = 0;
    bool fails = false;
    while (used < wanted && !fails) {
        struct msr_entry e = { 0 };
        fails = used >= MSR_AREA_MAX;
        if (!fails) {
            e = entry_read(v->soft[FIELD_ENTRY_MSR_LOAD_ADDR], used);
            fails = forbidden_to_load(&e);
        }
        if (!fails && !msr_is_guests(e.msr)) {
            fails = !msr_write(e.msr, e.value);
            e = entry_nothing(sysenter_cs);
        }
        if (e.msr == MSR_SYSENTER_CS)
            sysenter_cs = e.value;
        n->area[used++] = fails ? entry_refused() : e;
    }
    vmwrite(ENTRY_MSR_LOAD_ADDR, (uint64_t)n->area);
    vmwrite(ENTRY_MSR_LOAD_COUNT, used);
}

void area_disarm(void) { vmwrite(ENTRY_MSR_LOAD_COUNT, 0); }

/* Without the processor: for an entry that is left again before it is made. */
uint64_t area_load_now(struct nested *n)
{
    uint64_t used = vmread(ENTRY_MSR_LOAD_COUNT);
    area_disarm();
    for (uint64_t i = 0; i < used; i++)
        if (!load_one(&n->area[i]))
            return i + 1;
    return 0;
}

/* The processor has its own EFER and PAT again, and the VMCS never had these. */
void area_loaded(const struct nested *n, uint64_t failed, uint64_t *efer, uint64_t *pat)
{
    for (uint64_t i = 0; i + 1 < failed && i < MSR_AREA_MAX; i++) {
        if (n->area[i].msr == MSR_EFER)
            *efer = (n->area[i].value & ~EFER_LMA) | (*efer & EFER_LMA);
        if (n->area[i].msr == MSR_PAT)
            *pat = n->area[i].value;
    }
}

bool area_load_at_exit(const struct vmcs12 *v)
{
    return !load_area(v->soft[FIELD_EXIT_MSR_LOAD_ADDR], v->soft[FIELD_EXIT_MSR_LOAD_COUNT]);
}

bool area_store_at_exit(const struct vmcs12 *v)
{
    uint64_t area = v->soft[FIELD_EXIT_MSR_STORE_ADDR], count_entries = v->soft[FIELD_EXIT_MSR_STORE_COUNT];
    for (uint64_t i = 0; i < count_entries; i++)
        if (i >= MSR_AREA_MAX || !store_one(area, i))
            return false;
    return true;
}
