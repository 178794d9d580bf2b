/*
 * The start of the guest on its other CPUs.
 */
#ifndef STRATA_START_H
#define STRATA_START_H

#include "core/cpu/cpu.h"

/* Strata gives up before its guest runs: CPUs that wait (CPU_WAITING) are told to leave VMX and halt (CPU_FAILED). */
void start_abandon(void);

/* A guest or nested guest takes an INIT on this CPU, and will wait for a SIPI: none of those that come until then may be lost. */
void start_note_init(struct cpu *cpu);
/* An exit with reason SIPI, of the guest or a nested guest. Its VMCS is current. */
void start_note_sipi(struct cpu *cpu);

#endif
