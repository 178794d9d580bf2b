/*
 * ept01 while the guest runs: its violations, and how a change reaches all CPUs.
 */
#ifndef STRATA_EPT01_EXIT_H
#define STRATA_EPT01_EXIT_H

#include "core/cpu/cpu.h"

/* This CPU takes notice of what was announced (ept01_announce_change): invalidates, and has ept02 looked at again. */
void ept01_catch_up(struct cpu *cpu);

/* Makes addr accessible if the guest may have it. False: a store to the watched xAPIC page (or nothing can be mapped). */
bool ept01_make_present(struct cpu *cpu, gpa1_t addr);

#endif
