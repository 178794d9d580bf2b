/*
 * NMIs and machine checks that arrived while Strata ran: delivered to whom they belong, at the next entry or as soon as one can be.
 * The guest owns NMIs (no NMI exiting), so blocking by NMI is the processor's own: in root mode an NMI arrives only
 * when the guest would have taken it. The one state that refuses injection, blocking by MOV SS or STI, is waited out
 * with NMI-window exiting.
 */
#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"

/* NMI-window exiting needs virtual NMIs, which need NMI exiting: all three for as long as an NMI waits. */
static void window_set(struct cpu *cpu, bool on)
{
    uint64_t pin = vmread(PIN_CONTROLS), proc = vmread(PROC_CONTROLS);
    uint64_t pin_bits = PIN_NMI | PIN_VIRTUAL_NMIS;
    vmwrite(PIN_CONTROLS, on ? pin | pin_bits : pin & ~pin_bits);
    vmwrite(PROC_CONTROLS, on ? proc | PROC_NMI_WINDOW : proc & ~PROC_NMI_WINDOW);
    cpu->nmi_virtual = on;
}

void event_open_window(struct cpu *cpu) { window_set(cpu, true); }

void event_close_window(struct cpu *cpu)
{
    window_set(cpu, false);
    cpu->event_pending = cpu->nmi_pending | cpu->machine_check_pending;
}

void event_inject_nmi(struct cpu *cpu)
{
    bool busy = vmread(ENTRY_INTR_INFO) & INTR_VALID;
    bool blocked = vmread(GUEST_INTERRUPTIBILITY) & (BLOCKING_MOV_SS | BLOCKING_STI | BLOCKING_NMI);
    bool waiting = vmread(GUEST_ACTIVITY) == ACTIVITY_WAIT_SIPI; /* NMIs are blocked there */
    if (waiting)
        return;
    if (busy || blocked) {
        window_set(cpu, true);
        return;
    }
    if (cpu->nmi_virtual)
        window_set(cpu, false);
    cpu->nmi_pending = 0;
    vmwrite(ENTRY_INTR_INFO, INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI);
}

void event_nmi_window(struct cpu *cpu)
{
    window_set(cpu, false);
    if (cpu->machine_check_pending) /* it comes first: exit.S asks once more */
        cpu->event_pending = 1;
    else if (cpu->nmi_pending)
        event_inject_nmi(cpu);
}

/* A guest that has machine checks off shuts down, as a processor does. SDM 3, "Machine-Check Exceptions and CR4.MCE". */
static _Noreturn void shut_down(const struct cpu *cpu)
{
    log_error("machine check on CPU %u, whose guest has CR4.MCE off: resetting the machine", cpu->index);
    machine_reset();
}

/*
 * The guest's, or the guest hypervisor's as an exit. One that finds another event on its way waits as an NMI does. A CPU that waits for
 * its SIPI runs nobody whom it could concern: the banks keep it.
 */
static void inject_machine_check(struct cpu *cpu)
{
    if (cpu->in_nested)
        nested_machine_check(cpu);
    if (!cpu->machine_check_pending)
        return;
    if (vmread(GUEST_ACTIVITY) == ACTIVITY_WAIT_SIPI) {
        cpu->machine_check_pending = 0;
        return;
    }
    if (!(vmread(GUEST_CR4) & CR4_MCE))
        shut_down(cpu);
    if (vmread(ENTRY_INTR_INFO) & INTR_VALID) {
        window_set(cpu, true);
        return;
    }
    if (cpu->nmi_virtual)
        window_set(cpu, false);
    cpu->machine_check_pending = 0;
    guest_inject(VECTOR_MC, NO_ERROR_CODE);
}

bool entry_inject_pending(struct cpu *cpu)
{
    cpu->event_pending = 0;
    if (cpu->machine_check_pending)
        inject_machine_check(cpu);
    if (cpu->nmi_pending) {
        if (cpu->in_nested)
            nested_nmi(cpu);
        else
            event_inject_nmi(cpu);
    }
    if (machine.barriers && cpu->in_nested)
        barrier_nested_entry(cpu);
    return cpu->current->launched;
}
