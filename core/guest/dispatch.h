/*
 * The handlers of the guest's own exits (vmcs01 is current in all of them), and what exit.S calls.
 * A handler ends with the guest ready to be entered: skipped, faulted or changed.
 */
#ifndef STRATA_DISPATCH_H
#define STRATA_DISPATCH_H

#include "core/cpu/cpu.h"

/* Called by exit.S; each returns whether the next entry is a VMRESUME. */
bool exit_dispatch(struct cpu *cpu);
bool entry_instruction_failed(struct cpu *cpu, bool invalid);
bool entry_inject_pending(struct cpu *cpu);

/* event.c */
void event_nmi_window(struct cpu *cpu);
/*
 * An NMI waits for its window in the current VMCS; or the VMCS is left before it came, and the NMI goes to whom is entered next.
 */
void event_open_window(struct cpu *cpu);
void event_close_window(struct cpu *cpu);
/* Injects the NMI that waits into the current VMCS, or waits for the window. */
void event_inject_nmi(struct cpu *cpu);
/* cpuid.c: the result of CPUID into the guest's registers; does not skip the instruction. */
void cpuid_emulate(struct cpu *cpu);
/* msr.c */
void msr_handle_read(struct cpu *cpu, uint32_t reason);
void msr_handle_write(struct cpu *cpu, uint32_t reason);
/* cr.c */
void cr_handle_access(struct cpu *cpu, uint32_t reason);
/* start.c */
void start_handle_init(struct cpu *cpu, uint32_t reason);
void start_handle_sipi(struct cpu *cpu, uint32_t reason);
/* ept01_exit.c */
void ept01_handle_violation(struct cpu *cpu, uint32_t reason);
/* task_switch.c */
void task_switch_handle(struct cpu *cpu, uint32_t reason);
/* Resets the machine as a PC's firmware interfaces allow. */
_Noreturn void machine_reset(void);

#endif
