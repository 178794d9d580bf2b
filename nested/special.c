/*
 * The rare parts of nested entries and exits: guest fields that vmcs12 does not have loaded or saved, MSR areas, PDPTEs without
 * EPT, flushing without VPID. None of it runs for a vmcs12 that uses none of it (slot->flags is 0).
 */
#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/watch_log.h"
#include "nested/checks.h"
#include "nested/invalidate.h"
#include "nested/nested.h"

#define LINK_POINTER_NONE (~0ull)
#define MSR_AREA_MAX 512 /* entries, as IA32_VMX_MISC[27:25] = 0 recommends; longer areas must not hold the CPU */
#define DEBUGCTL_DEFINED (BIT(0) | BIT(1)) /* LBR, BTF: what every processor has */

/*
 * vmcs02 always loads and saves these guest fields, so that they survive exits that the guest hypervisor does not see. Where vmcs12
 * does not load one, L3 starts with L2's value; where it does not save one, vmcs12's value is put back.
 */
static const struct kept_row {
    uint32_t encoding;
    uint8_t row;
    uint32_t load, save; /* entry control, exit control; load 0: always loaded (if it exists at all) */
    uint32_t msr;        /* 0: L3 can change it at any time */
} kept_rows[5] = {
    { VMCS_GUEST_EFER, FIELD_GUEST_EFER, ENTRY_LOAD_EFER, EXIT_SAVE_EFER, 0 },
    { VMCS_GUEST_PAT, FIELD_GUEST_PAT, ENTRY_LOAD_PAT, EXIT_SAVE_PAT, MSR_PAT },
    { VMCS_GUEST_DR7, FIELD_GUEST_DR7, ENTRY_LOAD_DEBUG, EXIT_SAVE_DEBUG, 0 },
    { VMCS_GUEST_DEBUGCTL, FIELD_GUEST_DEBUGCTL, ENTRY_LOAD_DEBUG, EXIT_SAVE_DEBUG, 0 },
    { VMCS_PREEMPTION_TIMER, FIELD_PREEMPTION_TIMER, 0, EXIT_SAVE_PREEMPTION_TIMER, 0 },
};
_Static_assert(ARRAY_SIZE(kept_rows) == ARRAY_SIZE(((struct nested_slot *)0)->kept), "one value a row");

static bool kept_exists(const struct vmcs12 *v, const struct kept_row *k)
{
    return k->load || (v->soft[FIELD_PIN_CONTROLS] & PIN_PREEMPTION_TIMER);
}

static bool loads(const struct vmcs12 *v, const struct kept_row *k)
{
    return !k->load || (v->soft[FIELD_ENTRY_CONTROLS] & k->load);
}

static bool saves(const struct vmcs12 *v, const struct kept_row *k) { return v->soft[FIELD_EXIT_CONTROLS] & k->save; }

/*
 * L3 cannot change the field without an exit that the guest hypervisor asked for, so that there is nothing to put back: writes of the
 * MSR exit. (EFER's LMA follows CR0.PG, so it has no MSR here.) The bitmap is merged.
 */
static bool cannot_change(const struct nested_slot *slot, const struct kept_row *k)
{
    const struct vmcs12 *v = &slot->v;
    if (!k->msr)
        return false;
    if (!(v->soft[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP))
        return true;
    const uint8_t *bitmap = hpa_ptr(slot->msr.page);
    return bitmap[MSR_BITMAP_WRITE_LOW + k->msr / 8] >> (k->msr % 8) & 1;
}

uint32_t special_flags(struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    uint64_t proc2 = v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY ? v->soft[FIELD_PROC2_CONTROLS] : 0;
    uint32_t flags = 0;
    slot->not_loaded = slot->not_saved = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(kept_rows); i++) {
        const struct kept_row *k = &kept_rows[i];
        if (!kept_exists(v, k))
            continue;
        bool loaded = loads(v, k);
        slot->not_loaded |= (uint8_t)(!loaded << i);
        slot->not_saved |= (uint8_t)((!saves(v, k) && !(loaded && cannot_change(slot, k))) << i);
    }
    if (slot->not_loaded | slot->not_saved)
        flags |= SLOT_KEEP;
    if (v->soft[FIELD_ENTRY_MSR_LOAD_COUNT] || v->soft[FIELD_EXIT_MSR_LOAD_COUNT] ||
        v->soft[FIELD_EXIT_MSR_STORE_COUNT])
        flags |= SLOT_MSR_AREAS;
    if (!(proc2 & PROC2_EPT))
        flags |= SLOT_NO_EPT;
    if (slot->vpid02 == VPID02_SHARED)
        flags |= SLOT_FLUSH;
    if (v->soft[FIELD_PIN_CONTROLS] & PIN_VIRTUAL_NMIS)
        flags |= SLOT_VIRTUAL_NMIS;
    if (v->soft[FIELD_VMCS_LINK_POINTER] != LINK_POINTER_NONE)
        flags |= SLOT_LINK;
    if (slot->link)
        flags |= SLOT_LINKED;
    return flags;
}

/* EFER at an entry that does not load it. SDM 3, "Loading Guest Control Registers, Debug Registers, and MSRs". */
static uint64_t efer_not_loaded(uint64_t efer01)
{
    uint64_t ia32e = vmread(ENTRY_CONTROLS) & ENTRY_IA32E; /* exits may have changed it there: vmcs12_read syncs */
    uint64_t efer = ia32e ? efer01 | EFER_LMA : efer01 & ~EFER_LMA;
    if (vmread(GUEST_CR0) & CR0_PG)
        efer = ia32e ? efer | EFER_LME : efer & ~EFER_LME;
    return efer;
}

/* The lowest row of a set, which is not empty. */
static unsigned first_row(unsigned set) { return (unsigned)__builtin_ctz(set); }

void special_read_l2(struct nested *n, unsigned rows)
{
    for (; rows; rows &= rows - 1)
        n->kept01[first_row(rows)] = hw_vmread(kept_rows[first_row(rows)].encoding);
}

static void keep_enter(const struct nested *n, struct nested_slot *slot)
{
    for (unsigned rows = slot->not_saved | slot->not_loaded; rows; rows &= rows - 1)
        slot->kept[first_row(rows)] = hw_vmread(kept_rows[first_row(rows)].encoding);
    for (unsigned rows = slot->not_loaded; rows; rows &= rows - 1) {
        unsigned i = first_row(rows);
        bool efer = kept_rows[i].row == FIELD_GUEST_EFER;
        hw_vmwrite(kept_rows[i].encoding, efer ? efer_not_loaded(n->kept01[i]) : n->kept01[i]);
    }
}

/* A failed entry saves nothing at all. */
static void keep_exit(const struct nested_slot *slot, bool failed)
{
    for (unsigned rows = failed ? slot->not_saved | slot->not_loaded : slot->not_saved; rows; rows &= rows - 1)
        hw_vmwrite(kept_rows[first_row(rows)].encoding, slot->kept[first_row(rows)]);
}

/*
 * PAE paging without EPT: the processor would load the PDPTEs from memory. One with reserved bits fails the entry when the processor,
 * which runs vmcs02 with EPT, comes to it in the order of its checks.
 */
static void load_pdptes(void)
{
    if ((vmread(GUEST_CR0) & CR0_PG) && (vmread(GUEST_CR4) & CR4_PAE) && !(vmread(ENTRY_CONTROLS) & ENTRY_IA32E))
        guest_copy_pdptes(vmread(GUEST_CR3));
}

/* --- MSR areas: SDM 3, "Loading MSRs" of "VM Entries" and "VM Exits", "Saving MSRs" --- */

struct msr_entry {
    uint32_t msr, reserved;
    uint64_t value;
};

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
    return e->reserved || (e->msr >= MSR_X2APIC_FIRST && e->msr <= MSR_X2APIC_LAST) || e->msr == 0x9b /* SMM monitor */;
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

bool special_load_msrs(struct cpu *cpu, struct nested_slot *slot)
{
    (void)cpu;
    return !load_area(slot->v.soft[FIELD_EXIT_MSR_LOAD_ADDR], slot->v.soft[FIELD_EXIT_MSR_LOAD_COUNT]);
}

uint32_t special_enter(struct cpu *cpu, struct nested_slot *slot, uint64_t *qualification)
{
    const struct vmcs12 *v = &slot->v;
    if (slot->flags & SLOT_KEEP)
        keep_enter(cpu->nested, slot);
    if (slot->flags & SLOT_LINK) {
        struct check_view view = { .values = v->soft, .caps = &nested_caps, .current_vmcs = v->region };
        const struct check_rule *broken = check_guest_soft(&view);
        if (broken) {
            *qualification = broken->qualification;
            return REASON_entry_guest_state | (uint32_t)REASON_ENTRY_FAILURE;
        }
    }
    if (slot->flags & (SLOT_LINK | SLOT_LINKED))
        shadow_enter(cpu, slot);
    if (slot->flags & SLOT_NO_EPT)
        load_pdptes();
    if (slot->flags & SLOT_FLUSH)
        hw_invvpid(INVVPID_SINGLE, VPID02_SHARED, 0);
    if (v->soft[FIELD_ENTRY_MSR_LOAD_COUNT]) {
        uint64_t failed = load_area(v->soft[FIELD_ENTRY_MSR_LOAD_ADDR], v->soft[FIELD_ENTRY_MSR_LOAD_COUNT]);
        if (failed) {
            *qualification = failed;
            return REASON_entry_msr_load | (uint32_t)REASON_ENTRY_FAILURE;
        }
    }
    return VMX_OK;
}

/* False: an entry could not be stored. */
static bool store_area(uint64_t area, uint64_t count_entries)
{
    for (uint64_t i = 0; i < count_entries; i++)
        if (i >= MSR_AREA_MAX || !store_one(area, i))
            return false;
    return true;
}

bool special_exit(struct cpu *cpu, struct nested_slot *slot, bool failed)
{
    (void)cpu;
    const struct vmcs12 *v = &slot->v;
    if (!failed && !store_area(v->soft[FIELD_EXIT_MSR_STORE_ADDR], v->soft[FIELD_EXIT_MSR_STORE_COUNT]))
        return false;
    if (slot->flags & SLOT_KEEP)
        keep_exit(slot, failed);
    if ((slot->flags & SLOT_FLUSH) &&
        !(v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY && v->soft[FIELD_PROC2_CONTROLS] & PROC2_VPID))
        hw_invvpid(INVVPID_SINGLE, VPID01, 0);
    return true;
}
