/*
 * An exit of the nested guest: who owns it? Nearly always the guest hypervisor: reflect.c. Strata deals by itself with what only it
 * asked for: ept02 misses, MSRs that it keeps from everybody, NMIs that wait in it.
 */
#include "core/guest/dispatch.h"
#include "core/guest/ept01_exit.h"
#include "core/guest/guest.h"
#include "core/guest/guest_memory.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/guest/start.h"
#include "core/upcall.h"
#include "nested/nested.h"
#include "x2apic/x2apic.h"

/*
 * A read (write false) or write of msr is what vmcs12 asked an exit for: its bitmap as it was merged for the processor, not as it is now.
 */
static bool msr_wanted(const struct nested_slot *slot, uint32_t msr, bool write)
{
    if (!(slot->v.soft[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP))
        return true;
    bool high = msr >= MSR_BITMAP_HIGH_FIRST;
    uint32_t index = high ? msr - MSR_BITMAP_HIGH_FIRST : msr;
    if (index >= MSR_BITMAP_PART_MSRS)
        return true;
    const uint8_t *bitmap = hpa_ptr(slot->msr.seen);
    uint32_t part = write ? (high ? MSR_BITMAP_WRITE_HIGH : MSR_BITMAP_WRITE_LOW)
                          : (high ? MSR_BITMAP_READ_HIGH : MSR_BITMAP_READ_LOW);
    return bitmap[part + index / 8] >> (index % 8) & 1;
}

/* The guest hypervisor lets L3 have the MSR: L3 gets what the guest hypervisor would. */
static void handle_msr(struct cpu *cpu, uint32_t reason)
{
    const struct nested_slot *slot = cpu->nested->current;
    bool write = reason == REASON_wrmsr;
    if (msr_wanted(slot, (uint32_t)cpu->regs[GPR_RCX], write))
        reflect(cpu);
    else if (write)
        msr_handle_write(cpu, reason);
    else
        msr_handle_read(cpu, reason);
}

/*
 * L3's memory as an instruction of its own that Strata emulates uses it: what ept02 maps at the moment is enough, since the
 * processor has just walked there. Without EPT in vmcs12 it is the guest hypervisor's.
 */
static void *guest2_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    const struct ept02_root *root = context;
    struct ept_leaf leaf = ept01_lookup(hpa(root->eptp02 & EPT_ADDR_MASK), gpa1(gpa));
    bool allowed = leaf.perm & (use == GUEST_USE_WRITE ? EPT_W : EPT_R);
    return leaf.size && allowed ? gpa1_ptr(gpa1(leaf.base + (gpa & (leaf.size - 1)))) : NULL;
}

struct guest_memory nested_memory(const struct cpu *cpu)
{
    const struct nested_slot *slot = cpu->in_nested ? cpu->nested->current : NULL;
    return slot && slot->root ? (struct guest_memory){ guest2_pointer, slot->root } : guest_memory1;
}

/* ept12 lets L3 have the page, ept01 does not at the moment. */
static void handle_fault01(struct cpu *cpu, gpa1_t addr, uint64_t qualification)
{
    if (ept01_make_present(cpu, addr)) {
        ept02_ept01_grew(&cpu->nested->ept02);
        guest_continue(cpu, qualification);
        return;
    }
    struct guest_memory memory = nested_memory(cpu);
    if (x2apic_page_store(cpu, &memory, addr))
        return;
    guest_fault(cpu, VECTOR_GP, 0);
}

/* True: L3 goes on. False: the exit was reflected. */
static bool resolve(struct cpu *cpu, uint64_t addr, uint64_t qualification)
{
    struct nested *n = cpu->nested;
    struct nested_slot *slot = n->current;
    struct ept02_report report;
    switch (ept02_violation(&n->ept02, slot->root, gpa2(addr), qualification, &report)) {
    case EPT02_REPAIRED:
        return true;
    case EPT02_FAULT01:
        handle_fault01(cpu, report.gpa1, qualification);
        return false;
    case EPT02_VIOLATION12:
        slot->prefill = true;
        slot->prefill_addr = gpa2(addr);
        if (report.qualification != qualification)
            vmcs12_set_info(&slot->v, FIELD_EXIT_QUALIFICATION, report.qualification);
        reflect(cpu);
        return false;
    default: /* EPT02_MISCONFIG12 */
        slot->prefill = true;
        slot->prefill_addr = gpa2(addr);
        reflect_reason(cpu, REASON_ept_misconfig, 0);
        return false;
    }
}

static void handle_violation(struct cpu *cpu)
{
    uint64_t addr = vmread(GUEST_PHYSICAL_ADDR), qualification = vmread(EXIT_QUALIFICATION);
    if (!cpu->nested->current->root)
        handle_fault01(cpu, gpa1(addr), qualification);
    else if (resolve(cpu, addr, qualification))
        guest_continue(cpu, qualification);
}

void nested_miss(struct cpu *cpu, const struct walk *walk)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    uint64_t qualification = EPT_QUAL_LINEAR_VALID | (walk->use == GUEST_USE_WRITE ? EPT_QUAL_WRITE : EPT_QUAL_READ);
    if (!walk->in_table)
        qualification |= EPT_QUAL_LINEAR_TRANSLATION;
    vmcs12_set_info(v, FIELD_EXIT_REASON, REASON_ept_violation);
    vmcs12_set_info(v, FIELD_EXIT_QUALIFICATION, qualification);
    vmcs12_set_info(v, FIELD_GUEST_PHYSICAL_ADDR, walk->gpa);
    vmcs12_set_info(v, FIELD_GUEST_LINEAR_ADDR, walk->linear);
    resolve(cpu, walk->gpa, qualification);
}

static void handle_misconfig(struct cpu *cpu)
{
    struct nested_slot *slot = cpu->nested->current;
    gpa2_t addr = gpa2(vmread(GUEST_PHYSICAL_ADDR));
    if (!slot->root) /* ept01 has none */
        guest_refuse(cpu);
    else if (ept02_misconfig(&cpu->nested->ept02, slot->root, addr) == EPT02_MISCONFIG12)
        reflect(cpu);
    else
        guest_redeliver(cpu);
}

/* NMI and NMI-window exits while an NMI of Strata's keeping waits in vmcs02 (event.c). True if it was that. */
static bool handle_waiting_nmi(struct cpu *cpu, uint32_t reason)
{
    if (!cpu->nmi_virtual)
        return false;
    if (reason == REASON_nmi_window) {
        event_nmi_window(cpu);
        return true;
    }
    if (reason != REASON_exception_nmi || (vmread(EXIT_INTR_INFO) & INTR_TYPE_MASK) != INTR_TYPE_NMI)
        return false;
    cpu->nmi_pending = 1;
    guest_redeliver(cpu);
    return true;
}

OUT_OF_LINE void nested_exit(struct cpu *cpu, uint32_t reason)
{
    struct nested_slot *slot = cpu->nested->current;
    if (slot->flags & SLOT_MSR_AREAS) /* if L3 goes on, its MSRs are its own */
        area_disarm();
    if (reason & REASON_ENTRY_FAILURE) {
        nested_entry_undone(cpu);
        count(cpu, COUNT_ENTRY_REFUSED);
        vmcs12_info_of_failed_entry(&slot->v);
        reflect(cpu);
        return;
    }
    /* Bits above it say more about the exit, for L2 alone, which has them in vmcs12. */
    reason &= (uint32_t)REASON_BASIC_MASK;
    count(cpu, reason < REASON_COUNT ? COUNT_EXIT_L3 + reason : COUNT_EXIT_UNKNOWN);
    vmcs12_info_of_exit(&slot->v);
    slot->v.launched = slot->v.vmcs02.launched = true;
    switch (reason) {
    case REASON_ept_violation:
        handle_violation(cpu);
        return;
    case REASON_ept_misconfig:
        handle_misconfig(cpu);
        return;
    case REASON_rdmsr:
    case REASON_wrmsr:
        handle_msr(cpu, reason);
        return;
    case REASON_vmread:
    case REASON_vmwrite:
        if (shadow_emulate(cpu, reason))
            return;
        break;
    case REASON_init:
        start_note_init(cpu);
        break;
    case REASON_sipi:
        start_note_sipi(cpu);
        break;
    case REASON_exception_nmi:
    case REASON_nmi_window:
        if (handle_waiting_nmi(cpu, reason))
            return;
        break;
    default:
        break;
    }
    reflect(cpu);
}

/*
 * An NMI arrived in Strata while L3 was to be entered: an exit if the guest hypervisor wants NMIs, else L3's. That one waits for
 * NMI-window exiting, which comes only if the entry succeeds. vmcs02 is current.
 */
void nested_nmi(struct cpu *cpu)
{
    if (!(cpu->nested->current->v.soft[FIELD_PIN_CONTROLS] & PIN_NMI)) {
        event_open_window(cpu);
        return;
    }
    cpu->nmi_pending = 0;
    reflect_at_entry(cpu, REASON_exception_nmi, INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI);
}

/* SDM 3, "Exceptions" of "Other Causes of VM Exits": the exception bitmap; for page faults the error code decides, too. */
static bool exception_wanted(const struct fault *fault)
{
    bool bit = vmread(EXCEPTION_BITMAP) & BIT(fault->vector);
    if (fault->vector != VECTOR_PF)
        return bit;
    bool match = ((uint64_t)fault->error & vmread(PF_ERROR_MASK)) == vmread(PF_ERROR_MATCH);
    return bit == match;
}

bool nested_fault(struct cpu *cpu, const struct fault *fault)
{
    if (!exception_wanted(fault))
        return false;
    reflect_exception(cpu, fault);
    return true;
}

void nested_shutdown(struct cpu *cpu) { reflect_made_up(cpu, REASON_triple_fault, 0); }

void nested_retired(struct cpu *cpu)
{
    if (cpu->nested->current->v.soft[FIELD_PROC_CONTROLS] & PROC_MONITOR_TRAP)
        reflect_made_up(cpu, REASON_monitor_trap, 0);
}

/* Without CR4.MCE it is L3's shutdown. SDM 3, "Machine-Check Exceptions and CR4.MCE". */
void nested_machine_check(struct cpu *cpu)
{
    if (vmread(EXCEPTION_BITMAP) & BIT(VECTOR_MC)) {
        cpu->machine_check_pending = 0;
        reflect_at_entry(cpu, REASON_exception_nmi, INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC);
    } else if (!(vmread(GUEST_CR4) & CR4_MCE) && vmread(GUEST_ACTIVITY) != ACTIVITY_WAIT_SIPI) {
        cpu->machine_check_pending = 0;
        reflect_at_entry(cpu, REASON_triple_fault, 0);
    }
}

bool nested_init_signal(struct cpu *cpu)
{
    if (!cpu->nested->in_vmx)
        return false;
    cpu->nested->init_pending = true;
    return true;
}
