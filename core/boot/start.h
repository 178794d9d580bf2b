/*
 * The start of the other CPUs: of Strata itself at boot, and then of the guest on them.
 */
#ifndef STRATA_START_H
#define STRATA_START_H

#include "core/boot/acpi.h"
#include "core/cpu/cpu.h"

/*
 * Starts all other CPUs of cpus[]; each enters VMX and waits in its guest for a SIPI. Returns NULL, or why one could not
 * (then those that could are stopped).
 */
const char *start_cpus(void);

/* An exit with reason SIPI, of the guest or a nested guest. Its VMCS is current. */
void start_note_sipi(struct cpu *cpu);

/* The guest writes the interrupt command register while it is watched. */
void start_icr_write(uint32_t low, uint32_t destination);
/* Whether ICR writes still must reach Strata. */
bool start_watching(void);

#endif
