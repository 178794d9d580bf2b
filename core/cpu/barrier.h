/*
 * Barriers against speculation: which of them this processor needs, and executing them. docs/real-machines.md says what each is for.
 * Strata itself has no indirect branch whose target is predicted (Makefile: -mindirect-branch), so none is needed when it is entered.
 */
#ifndef STRATA_BARRIER_H
#define STRATA_BARRIER_H

#include "core/cpu/cpu.h"

#define BARRIER_IBPB BIT(0)       /* an exit of the nested guest is handed to the guest hypervisor */
#define BARRIER_VERW BIT(1)       /* the nested guest is entered */
#define BARRIER_L1D BIT(2)        /* the same, after Strata read the guest hypervisor's memory meanwhile */
#define BARRIER_L1D_ALWAYS BIT(3) /* the same, always */

/* What the processor says of itself. */
struct barrier_facts {
    uint32_t cpuid7_ebx, cpuid7_edx;
    uint64_t arch_capabilities; /* 0: it has no such MSR */
};

/* The barriers that a processor needs and has a remedy for. mitigations: enum option_mitigations. Decides only. */
uint32_t barrier_decide(struct barrier_facts facts, int mitigations);
/* Asks this processor. */
struct barrier_facts barrier_facts_read(void);

/* The nested guest is about to be entered; machine.barriers is not 0. */
void barrier_nested_entry(struct cpu *cpu);
/* An exit of the nested guest is handed to the guest hypervisor; machine.barriers has BARRIER_IBPB. */
void barrier_reflection(struct cpu *cpu);

#endif
