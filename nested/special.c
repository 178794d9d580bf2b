/*
 * The rare parts of nested entries and exits: guest fields that vmcs12 does not have loaded or saved, PDPTEs without EPT,
 * flushing without VPID. None of it runs for a vmcs12 that uses none of it (slot->flags is 0).
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
    if (v->soft[FIELD_ENTRY_MSR_LOAD_COUNT]) /* entries may */
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

void special_enter(struct cpu *cpu, struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    if (slot->flags & SLOT_KEEP)
        keep_enter(cpu->nested, slot);
    if ((slot->flags & SLOT_LINK) && !shadow_link_known(slot)) {
        struct check_view view = { .values = v->soft, .caps = &nested_caps, .current_vmcs = v->region };
        slot->link_refused = check_guest_soft(&view);
    }
    if (slot->link_refused)
        shadow_refuse();
    else if (slot->flags & (SLOT_LINK | SLOT_LINKED))
        shadow_enter(cpu, slot);
    if (slot->flags & SLOT_NO_EPT)
        load_pdptes();
    if (slot->flags & SLOT_FLUSH)
        hw_invvpid(INVVPID_SINGLE, VPID02_SHARED, 0);
    if (v->soft[FIELD_ENTRY_MSR_LOAD_COUNT])
        area_arm(cpu->nested, slot);
}

bool special_exit(struct cpu *cpu, struct nested_slot *slot, bool failed)
{
    (void)cpu;
    const struct vmcs12 *v = &slot->v;
    if (slot->flags & SLOT_MSR_AREAS)
        area_disarm();
    if (slot->link_refused)
        shadow_refused(slot);
    if (!failed && !area_store_at_exit(v))
        return false;
    if (slot->flags & SLOT_KEEP)
        keep_exit(slot, failed);
    if ((slot->flags & SLOT_FLUSH) &&
        !(v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY && v->soft[FIELD_PROC2_CONTROLS] & PROC2_VPID))
        hw_invvpid(INVVPID_SINGLE, VPID01, 0);
    return true;
}
