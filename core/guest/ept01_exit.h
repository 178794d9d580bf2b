/*
 * ept01 while the guest runs: its violations, and how a change reaches all CPUs.
 */
#ifndef STRATA_EPT01_EXIT_H
#define STRATA_EPT01_EXIT_H

#include "core/cpu/cpu.h"

/*
 * After an entry of ept01 lost a right, moved or changed type (machine_lock is held): every CPU invalidates before it enters its
 * guest again, this one at the end of this exit, the others at the end of their next one.
 */
void ept01_announce_change(void);
void ept01_catch_up(struct cpu *cpu);

/* Makes addr accessible if the guest may have it. False: a store to the watched xAPIC page (or nothing can be mapped). */
bool ept01_make_present(struct cpu *cpu, gpa1_t addr);

#endif
