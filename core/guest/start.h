/*
 * The start of the guest on its other CPUs, and the watch on its interrupt command register until then.
 */
#ifndef STRATA_START_H
#define STRATA_START_H

#include "core/cpu/cpu.h"

/* All CPUs of cpus[] wait in their guest, but for the first, which is about to run it: watches until they have been started. */
void start_watch(void);
/* Strata gives up before its guest runs: CPUs that wait leave VMX and halt, for the firmware's successor to start. */
void start_abandon(void);

/* An exit with reason SIPI, of the guest or a nested guest. Its VMCS is current. */
void start_note_sipi(struct cpu *cpu);

/* The guest writes the interrupt command register while it is watched. */
void start_icr_write(uint32_t low, uint32_t destination);
/* Whether ICR writes still must reach Strata. */
bool start_watching(void);

#endif
