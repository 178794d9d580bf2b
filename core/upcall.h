/*
 * The entry points by which core reaches the folders above it: all of them, with nothing else going upward.
 */
#ifndef STRATA_UPCALL_H
#define STRATA_UPCALL_H

#include "core/cpu/cpu.h"

struct fault;

/* Bytes that nested/ needs for each CPU (cpu->nested) and for all together; zeroed. */
uint64_t nested_cpu_size(void);
uint64_t nested_shared_size(void);
/* Before any CPU runs its guest. NULL, or why not. */
const char *nested_init(void *shared);
/* Nested virtualization of one CPU; before the CPU enters its guest. VMX is on. */
void nested_cpu_init(struct cpu *cpu);

/* An exit while the nested guest ran. vmcs02 is current. On return whatever is current is to be entered. */
void nested_exit(struct cpu *cpu, uint32_t reason);
/* A VMX instruction of the guest hypervisor (exit reasons VMCLEAR..VMXOFF, INVEPT, INVVPID). vmcs01 is current. */
void nested_instruction(struct cpu *cpu, uint32_t reason);
void nested_vmxon(struct cpu *cpu, uint32_t reason);
void nested_vmcall(struct cpu *cpu, uint32_t reason);
/*
 * An exception that Strata raises for the nested guest. vmcs02 is current. True: the guest hypervisor intercepts it, and has the exit.
 */
bool nested_fault(struct cpu *cpu, const struct fault *fault);
/* The nested guest takes a triple fault without having exited for it. */
void nested_shutdown(struct cpu *cpu);
/* Strata has carried out an instruction of the nested guest: the monitor trap flag may want an exit behind it. */
void nested_retired(struct cpu *cpu);
/* VMLAUNCH or VMRESUME by Strata failed with VMfail. True if it was of vmcs02 and the guest hypervisor was told. */
bool nested_entry_failed(struct cpu *cpu, uint32_t error);
/* An NMI is to be delivered while the nested guest runs. vmcs02 is current. */
void nested_nmi(struct cpu *cpu);
/* The same for a machine check: not pending any more if it became an exit to the guest hypervisor. */
void nested_machine_check(struct cpu *cpu);
/* INIT arrived while the guest hypervisor ran. True if it is in VMX operation, where INIT is blocked (kept pending). */
bool nested_init_signal(struct cpu *cpu);
/* The CPU was reset by INIT: leaves VMX operation. */
void nested_reset(struct cpu *cpu);
/* Whether the guest hypervisor is in VMX operation on this CPU. */
bool nested_in_vmx(const struct cpu *cpu);
/* Value of a VMX capability MSR for the guest; false if it does not exist. */
bool nested_caps_msr(uint32_t msr, uint64_t *value);
/* ept01 changed: what was composed from it on this CPU must be looked at again. */
void nested_ept01_changed(struct cpu *cpu);
/* Pages of the CPU's pool that are in use for as long as they may be of use, which varies. */
uint32_t nested_pages_kept(const struct cpu *cpu);
/* From now on ICR writes of nested guests exit, on CPUs that run one as well. Taken back by the next change of ept01. */
void nested_take_icr(void);
/* Brings counters kept elsewhere into cpu->counters. */
void nested_counters(struct cpu *cpu);

/* x2apic/: CPUID and IA32_APIC_BASE as the guest sees them. */
void x2apic_cpuid(uint32_t leaf, struct cpuid_regs *regs);
/* False: #GP. */
bool x2apic_base_write(uint64_t value);
/* All CPUs wait in their guest, but for the first, which is about to run it: ICR writes are watched until they have been started. */
void x2apic_watch_start(void);
/* The same once more, for a CPU that has taken an INIT (memory_lock is held). False: it is watched already. */
bool x2apic_watch_again(void);
/* They have been started (memory_lock is held). False: nothing was watched any more. */
bool x2apic_watch_end(void);
/* The guest writes the interrupt command register while it is watched. */
void x2apic_icr_write(uint32_t low, uint32_t destination);
/* An access of the guest hypervisor to a page that ept01 protects: true if it was to the xAPIC page and has been done. vmcs01 is current. */
bool x2apic_page_access(struct cpu *cpu, gpa1_t addr);

#endif
