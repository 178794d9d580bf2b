/*
 * vmcs01: the VMCS in which Strata runs its guest (hypervisor), and what every VMCS that Strata runs has in common.
 */
#ifndef STRATA_VMCS01_H
#define STRATA_VMCS01_H

#include "core/cpu/cpu.h"
#include "core/cpu/guest_entry.h"

/* A control field: the wanted bits as far as the processor allows, with those that must be 1. msr: MSR_VMX_PIN etc. */
uint32_t vmx_adjust(uint64_t want, uint32_t msr);

/* Writes host state into the current VMCS: an exit leads to vmexit_entry on this CPU's stack. */
void vmcs_write_host_state(const struct cpu *cpu);

/* Makes vmcs01 of a CPU: clears it, makes it current, writes everything but guest registers that depend on the start. */
void vmcs01_create(struct cpu *cpu);
/* VPID of the guest hypervisor. */
#define VPID01 1

/* Guest state after INIT. SDM 3, "Processor State Following Power-up, Reset, or INIT". vmcs01 is current. */
void vmcs01_init_state(struct cpu *cpu, enum activity activity);
/* Real mode at selector:offset. vmcs01 is current and in the state after INIT. */
void vmcs01_real_mode(uint16_t selector, uint16_t offset);
/* A kernel that Strata has loaded, in 64-bit or protected mode. vmcs01 is current and in the state after INIT. */
void vmcs01_enter_kernel(struct cpu *cpu, const struct guest_entry *entry);

/* What the guest may own in CR0 and CR4: bits that a VMX processor fixes are Strata's. */
uint64_t vmcs01_cr0_mask(void);
uint64_t vmcs01_cr4_mask(void);

#endif
