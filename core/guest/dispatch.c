/*
 * From a VM exit to its handler: exit.S calls exit_dispatch. Exits of the nested guest go to nested/; those of the guest
 * (hypervisor) itself are in one table, a reason a row.
 */
#include "core/guest/dispatch.h"

#include "core/cpu/barrier.h"
#include "core/guest/cpuid_hide.h"
#include "core/guest/ept01_exit.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/watch_log.h"

typedef void exit_handler(struct cpu *cpu, uint32_t reason);

static void handle_cpuid(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    cpuid_emulate(cpu);
    guest_skip(cpu);
}

/* INVD would throw away what other levels wrote: WBINVD keeps the caches' contents as memory. */
static void handle_invd(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    hw_wbinvd();
    guest_skip(cpu);
}

/* XSETBV by the guest takes effect at once: Strata itself uses no extended state. */
static void handle_xsetbv(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t value = (cpu->regs[GPR_RDX] << 32) | (uint32_t)cpu->regs[GPR_RAX];
    if (guest_cpl() == 0 && !(value & XCR0_REFUSED) && hw_xsetbv_try((uint32_t)cpu->regs[GPR_RCX], value))
        guest_skip(cpu);
    else
        guest_fault(cpu, VECTOR_GP, 0);
}

static void handle_undefined(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
}

static void handle_triple_fault(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    guest_shutdown(cpu);
}

/* The NMI-window exiting that entry_inject_pending asked for. */
static void handle_nmi_window(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    event_nmi_window(cpu);
}

/* NMI exiting is on only while an NMI waits for its window. */
static void handle_exception(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if ((vmread(EXIT_INTR_INFO) & INTR_TYPE_MASK) == INTR_TYPE_NMI)
        cpu->nmi_pending = cpu->event_pending = 1;
    guest_redeliver(cpu);
}

static void handle_pml_full(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    watch_log_full(cpu);
    guest_continue(cpu, vmread(EXIT_QUALIFICATION));
}

/* An error of the processor while it entered the guest: the guest gets it. Else vmcs01 itself is wrong, and that ends the guest. */
static void handle_failed_entry(struct cpu *cpu, uint32_t reason)
{
    if ((reason & REASON_BASIC_MASK) == REASON_entry_machine_check) {
        cpu->machine_check_pending = cpu->event_pending = 1;
        return;
    }
    log_error(
        "entry of the guest on CPU %u failed: reason %xh, qualification %llx, RIP %llx, CR0 %llx, CR4 %llx, EFER %llx: "
        "resetting the machine",
        cpu->index, reason, (unsigned long long)vmread(EXIT_QUALIFICATION), (unsigned long long)vmread(GUEST_RIP),
        (unsigned long long)vmread(GUEST_CR0), (unsigned long long)vmread(GUEST_CR4),
        (unsigned long long)vmread(GUEST_EFER));
    machine_reset();
}

static exit_handler *const handlers[REASON_COUNT] = {
    [REASON_exception_nmi] = handle_exception,
    [REASON_triple_fault] = handle_triple_fault,
    [REASON_init] = start_handle_init,
    [REASON_sipi] = start_handle_sipi,
    [REASON_nmi_window] = handle_nmi_window,
    [REASON_task_switch] = task_switch_handle,
    [REASON_cpuid] = handle_cpuid,
    [REASON_getsec] = handle_undefined,
    [REASON_invd] = handle_invd,
    [REASON_vmcall] = nested_vmcall,
    [REASON_vmclear] = nested_instruction,
    [REASON_vmlaunch] = nested_instruction,
    [REASON_vmptrld] = nested_instruction,
    [REASON_vmptrst] = nested_instruction,
    [REASON_vmread] = nested_instruction,
    [REASON_vmresume] = nested_instruction,
    [REASON_vmwrite] = nested_instruction,
    [REASON_vmxoff] = nested_instruction,
    [REASON_vmxon] = nested_vmxon,
    [REASON_cr_access] = cr_handle_access,
    [REASON_rdmsr] = msr_handle_read,
    [REASON_wrmsr] = msr_handle_write,
    [REASON_ept_violation] = ept01_handle_violation,
    [REASON_invept] = nested_instruction,
    [REASON_invvpid] = nested_instruction,
    [REASON_xsetbv] = handle_xsetbv,
    [REASON_vmfunc] = handle_undefined,
    [REASON_encls] = handle_undefined,
    [REASON_pml_full] = handle_pml_full,
};

/*
 * Reasons that have no handler, and those with bits above the basic reason (enclave mode, a bus lock, and what later processors will say),
 * which change nothing here.
 */
static OUT_OF_LINE void handle_unusual(struct cpu *cpu, uint32_t reason)
{
    uint32_t basic = reason & (uint32_t)REASON_BASIC_MASK;
    if (reason & REASON_ENTRY_FAILURE) {
        handle_failed_entry(cpu, reason);
    } else if (basic < REASON_COUNT && handlers[basic]) {
        count(cpu, COUNT_EXIT_L2 + basic);
        handlers[basic](cpu, basic);
    } else {
        count(cpu, basic < REASON_COUNT ? COUNT_EXIT_L2 + basic : COUNT_EXIT_UNKNOWN);
        guest_refuse(cpu);
    }
}

/* Before any entry: what other CPUs (or this one) changed of ept01 is taken notice of. */
static inline __attribute__((always_inline)) bool ready(struct cpu *cpu)
{
    if (cpu->flush_epoch != memory01.flush_epoch)
        ept01_catch_up(cpu);
    return cpu->current->launched;
}

bool exit_dispatch(struct cpu *cpu)
{
    uint32_t reason = (uint32_t)vmread(EXIT_REASON);
    uint16_t last = (uint16_t)(reason & 0x7fff);
    if (cpu->smi_blocked)
        guest_unblock_smi();
    if (cpu->in_nested) {
        cpu->last_exits[cpu->last_exit_count++ % LAST_EXITS] = last | 0x8000;
        nested_exit(cpu, reason);
        if (machine.barriers && cpu->in_nested)
            barrier_nested_entry(cpu);
        return ready(cpu);
    }
    cpu->last_exits[cpu->last_exit_count++ % LAST_EXITS] = last;
    cpu->vmcs01.launched = true;
    if (reason >= REASON_vmclear &&
        reason <= REASON_vmwrite) { /* the usual ones: no look-up, and no thunk in place of a jump */
        count(cpu, COUNT_EXIT_L2 + reason);
        nested_instruction(cpu, reason);
        return ready(cpu);
    }
    if (reason >= REASON_COUNT || !handlers[reason]) {
        handle_unusual(cpu, reason);
        return ready(cpu);
    }
    count(cpu, COUNT_EXIT_L2 + reason);
    handlers[reason](cpu, reason);
    return ready(cpu);
}

bool entry_instruction_failed(struct cpu *cpu, bool invalid)
{
    uint32_t error = invalid ? VMX_FAIL_INVALID : (uint32_t)vmread(VM_INSTRUCTION_ERROR);
    if (nested_entry_failed(cpu, error))
        return cpu->current->launched;
    if (cpu->in_nested)
        panic("VM entry of vmcs02 failed: VM-instruction error %u", error);
    log_error("entry of the guest on CPU %u failed: VM-instruction error %u: resetting the machine", cpu->index, error);
    machine_reset();
}
