/*
 * VMLAUNCH and VMRESUME by the guest hypervisor: checks, then vmcs02 made to match, then the entry itself is exit.S's. Only what
 * changed since the last entry is checked and merged again; a VMRESUME after a plain exit does neither.
 */
#include "core/cpu/barrier.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/guest/start.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/watch_log.h"
#include "nested/checks.h"
#include "nested/invalidate.h"
#include "nested/nested.h"
#include "x2apic/x2apic.h"

#define LINK_POINTER_NONE (~0ull)

/* Controls of vmcs12 that the "activate secondary controls" bit makes valid. */
static uint64_t proc2_of(const struct vmcs12 *v)
{
    return v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY ? v->soft[FIELD_PROC2_CONTROLS] : 0;
}

/* VMX_OK, or the error of the first rule that does not hold. */
static enum vmx_error check(struct cpu *cpu, struct nested_slot *slot)
{
    struct vmcs12 *v = &slot->v;
    struct check_view view = {
        .values = v->soft,
        .caps = &nested_caps,
        .ia32e = cpu->nested->ia32e,
        .current_vmcs = v->region,
    };
    count(cpu, COUNT_ENTRY_CHECKED);
    const struct check_rule *broken = check_controls_soft(&view, v->unchecked);
    enum vmx_error error = VMERR_ENTRY_CONTROLS;
    if (!broken) {
        broken = check_host_soft(&view, v->unchecked);
        error = VMERR_ENTRY_HOST_STATE;
    }
    if (broken) {
        log_debug("nested entry refused: %s", broken->name);
        v->unchecked = VMCS12_ALL_GROUPS;
        return error;
    }
    v->unchecked = 0;
    return VMX_OK;
}

/* Where vmcs02's address fields point: the guest's page, or one that belongs to nobody. */
static uint64_t page_of(uint64_t addr) { return (uint64_t)gpa1_ptr(gpa1(addr)); }

static void merge_controls(struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    slot->link = NULL;
    vmwrite(VMCS_LINK_POINTER, LINK_POINTER_NONE);
    uint64_t proc2 = (proc2_of(v) & ~PROC2_SHADOW_VMCS) | PROC2_EPT | PROC2_VPID; /* shadowing: shadow_enter */
    uint64_t exit = v->soft[FIELD_EXIT_CONTROLS] | EXIT_HOST_64 | EXIT_SAVE_DEBUG | EXIT_SAVE_PAT | EXIT_LOAD_PAT |
                    EXIT_SAVE_EFER | EXIT_LOAD_EFER;
    if (v->soft[FIELD_PIN_CONTROLS] & PIN_PREEMPTION_TIMER) /* it goes on across exits that L2 does not see */
        exit |= EXIT_SAVE_PREEMPTION_TIMER;
    vmwrite(PIN_CONTROLS, v->soft[FIELD_PIN_CONTROLS]);
    if (v->soft[FIELD_PIN_CONTROLS] & PIN_POSTED_INTR)
        vmwrite(POSTED_INTR_VECTOR, v->soft[FIELD_POSTED_INTR_VECTOR]);
    vmwrite(PROC_CONTROLS, v->soft[FIELD_PROC_CONTROLS] | PROC_SECONDARY);
    vmwrite(PROC2_CONTROLS, proc2);
    vmwrite(EXIT_CONTROLS, exit);
    vmwrite(ENTRY_CONTROLS, v->soft[FIELD_ENTRY_CONTROLS] | ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER);
    bool shared = true;
    slot->vpid02 = proc2_of(v) & PROC2_VPID ? vpid02_of((uint16_t)v->soft[FIELD_VPID], &shared) : VPID02_SHARED;
    vmwrite(VPID, slot->vpid02);
    vmwrite(EXIT_MSR_STORE_COUNT, 0);
    vmwrite(EXIT_MSR_LOAD_COUNT, 0);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 0);
}

/* I/O: Strata wants no exits, so the guest hypervisor's own bitmaps serve. */
static void merge_bitmaps(struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    if (v->soft[FIELD_PROC_CONTROLS] & PROC_IO_BITMAPS) {
        vmwrite(IO_BITMAP_A, page_of(v->soft[FIELD_IO_BITMAP_A]));
        vmwrite(IO_BITMAP_B, page_of(v->soft[FIELD_IO_BITMAP_B]));
    }
    vmwrite(MSR_BITMAP, slot->msr.page.v);
    bitmap_forget(&slot->msr);
    bitmap_forget(&slot->vmread);
    bitmap_forget(&slot->vmwrite);
}

static void merge_ept(struct cpu *cpu, struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    if (proc2_of(v) & PROC2_EPT) {
        slot->root = ept02_root_get(&cpu->nested->ept02, v->soft[FIELD_EPTP]);
        slot->root_serial = slot->root->serial;
        vmwrite(EPTP, slot->root->eptp02);
    } else {
        slot->root = NULL;
        vmwrite(EPTP, ept01_eptp(&memory01.ept01));
        watch_unlogged();
    }
}

/* The APIC-access page is virtualized for sure only where 4-KiB pages translate it: SDM 3, "Virtualizing Memory-Mapped APIC Accesses". */
static void apic_access_keep_small(struct cpu *cpu, const struct vmcs12 *v)
{
    gpa1_t page = gpa1(v->soft[FIELD_APIC_ACCESS_ADDR]);
    if (proc2_of(v) & PROC2_EPT) {
        ept02_keep_small(&cpu->nested->ept02, hpa(page.v));
        return;
    }
    memory_lock();
    ept01_leaf(&memory01.ept01, page, PAGE_SIZE);
    memory_unlock();
    hw_invept(INVEPT_SINGLE, ept01_eptp(&memory01.ept01)); /* a larger translation may be cached here */
}

void nested_merge(struct cpu *cpu, struct nested_slot *slot)
{
    struct vmcs12 *v = &slot->v;
    count(cpu, COUNT_ENTRY_MERGED);
    if (!v->host_written) {
        vmcs_write_host_state(cpu);
        v->host_written = true;
    }
    uint32_t stale = v->unmerged;
    if (stale & BIT(GROUP_CONTROLS)) {
        merge_controls(slot);
        stale = VMCS12_ALL_GROUPS; /* controls decide what the other fields mean */
    }
    if (stale & BIT(GROUP_BITMAPS))
        merge_bitmaps(slot);
    if (stale & BIT(GROUP_APIC)) {
        x2apic_merge(v->soft);
        if (proc2_of(v) & PROC2_VIRT_APIC_ACCESS)
            apic_access_keep_small(cpu, v);
    }
    if (stale & BIT(GROUP_EPT))
        merge_ept(cpu, slot);
    __atomic_store_n(&cpu->waits_in_nested, vmread(GUEST_ACTIVITY) == ACTIVITY_WAIT_SIPI, __ATOMIC_RELEASE);
    slot->flags = special_flags(slot);
    v->unmerged = 0;
}

/*
 * Injection type 7 is "other event" with vector 0 only. Any processor refuses the rest by itself, but Bochs 2.7 stops the whole
 * machine: this is the one rule on event injection that is not left to the processor.
 */
static bool event_ok(void)
{
    uint64_t event = vmread(ENTRY_INTR_INFO);
    if (!(event & INTR_VALID) || (event & INTR_TYPE_MASK) != INTR_TYPE_OTHER)
        return true;
    return !(event & INTR_VECTOR_MASK) && (vmx_caps_allowed1(&nested_caps, MSR_VMX_PROC) & PROC_MONITOR_TRAP);
}

/* An entry that fails is none: the next one looks at ept12 again. SDM 3, "VM-Entry Failures During or After Loading Guest State". */
void nested_entry_undone(struct cpu *cpu)
{
    const struct nested_slot *slot = cpu->nested->current;
    if (slot->root && ept02_root_valid(slot->root, slot->root_serial))
        ept02_entry_failed(slot->root);
}

/* VMfailValid(7) for L2 although vmcs02 is current already. Nothing of L3 was loaded. */
static void refuse_controls(struct cpu *cpu)
{
    if (cpu->nmi_virtual)
        event_close_window(cpu);
    vmcs12_give(cpu, &cpu->nested->current->v);
    cpu->in_nested = cpu->waits_in_nested = false;
    nested_entry_undone(cpu);
    count(cpu, COUNT_ENTRY_REFUSED);
    insn_fail(cpu, VMERR_ENTRY_CONTROLS);
}

/* What is looked at on every entry. vmcs02 is current. */
static void enter_ept(struct cpu *cpu, struct nested_slot *slot)
{
    if (!slot->root)
        return;
    if (slot->root->serial != slot->root_serial) { /* its tables were given to another EPTP meanwhile */
        slot->root = ept02_root_get(&cpu->nested->ept02, slot->v.soft[FIELD_EPTP]);
        slot->root_serial = slot->root->serial;
        vmwrite(EPTP, slot->root->eptp02);
    }
    ept02_enter(&cpu->nested->ept02, slot->root);
    if (slot->prefill) {
        slot->prefill = false;
        ept02_prefill(&cpu->nested->ept02, slot->root, slot->prefill_addr);
    }
}

void nested_launch(struct cpu *cpu, uint32_t reason)
{
    struct nested *n = cpu->nested;
    struct nested_slot *slot = n->current;
    if (!slot || slot->shadow) {
        insn_fail_invalid(cpu);
        return;
    }
    struct vmcs12 *v = &slot->v;
    n->blocking = (uint32_t)vmread(GUEST_INTERRUPTIBILITY);
    if (n->blocking & BLOCKING_MOV_SS) {
        insn_fail(cpu, VMERR_ENTRY_MOV_SS);
        return;
    }
    if (v->launched != (reason == REASON_vmresume)) {
        insn_fail(cpu, v->launched ? VMERR_VMLAUNCH_NOT_CLEAR : VMERR_VMRESUME_NOT_LAUNCHED);
        return;
    }
    if (v->unchecked) {
        enum vmx_error error = check(cpu, slot);
        if (error != VMX_OK) {
            count(cpu, COUNT_ENTRY_REFUSED);
            insn_fail(cpu, error);
            return;
        }
    }

    if (cpu->nmi_virtual) /* an NMI waits in vmcs01 behind STI: it meets the entry */
        event_close_window(cpu);
    if (slot->not_loaded || v->unmerged)
        special_read_l2(n, v->unmerged ? SPECIAL_ALL : slot->not_loaded);
    vmcs12_take(cpu, v);
    cpu->in_nested = true;
    if (!event_ok()) {
        refuse_controls(cpu);
        return;
    }
    if (v->unmerged)
        nested_merge(cpu, slot);
    else
        count(cpu, COUNT_ENTRY_PLAIN);
    if (v->soft[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP) {
        if (bitmap_refresh(cpu, &slot->msr, gpa1(v->soft[FIELD_MSR_BITMAP]), machine.msr_bitmap01))
            slot->flags = special_flags(slot);
    }
    enter_ept(cpu, slot);
    if (slot->flags)
        special_enter(cpu, slot);
    if (n->init_pending) {
        n->init_pending = false;
        start_note_init(cpu);
        reflect_at_entry(cpu, REASON_init, 0);
    }
    if (machine.barriers && cpu->in_nested)
        barrier_nested_entry(cpu);
}

/* The processor found a control that it does not like in a row stored SHARED: SDM 3, "Checks on VMX Controls". */
bool nested_entry_failed(struct cpu *cpu, uint32_t error)
{
    if (!cpu->in_nested || error != VMERR_ENTRY_CONTROLS)
        return false;
    struct nested_slot *slot = cpu->nested->current;
    special_exit(cpu, slot, true);
    refuse_controls(cpu);
    return true;
}
