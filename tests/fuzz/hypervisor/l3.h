/*
 * The nested guest's side of a fuzzed machine: exits of every kind, as the processor would take them under vmcs02, memory
 * accesses through ept02, the state that it leaves behind. Everything is of the selected CPU, whose nested guest runs.
 */
#ifndef STRATA_FUZZ_L3_H
#define STRATA_FUZZ_L3_H

#include "tests/fuzz/hypervisor/l2.h"

void l3_exit(const struct step *s);
void l3_msr(const struct step *s);
/* VMREAD or VMWRITE: through a shadow VMCS if it has one. */
void l3_vmx(const struct step *s);
void l3_state(const struct step *s);
/* An access to memory, repeated until it is let through, reflected or refused. */
void l3_touch(const struct step *s);
/* The guest hypervisor has just invalidated everything on this CPU: from now on ept02 must agree with ept12 as it is now. */
void l3_flushed(void);
/* Nothing is known of what ept02 may hold. */
void l3_begin(void);

#endif
