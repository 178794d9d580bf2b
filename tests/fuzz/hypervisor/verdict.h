/*
 * What must hold whatever a guest hypervisor has done: Strata's controls, host state and memory are its own, and ept02 lets
 * nested guests reach nothing that ept01 does not let the guest hypervisor reach. A breach ends the process.
 */
#ifndef STRATA_FUZZ_VERDICT_H
#define STRATA_FUZZ_VERDICT_H

#include "core/cpu/cpu.h"

/* After every step. */
void verdict_step(void);
/* All tables of ept01 and ept02: at the end, and now and then. */
void verdict_tables(void);

/* What a nested guest's access at gpa2 finds in ept02 of the VMCS that runs on cpu. */
struct verdict_leaf {
    uint64_t hpa; /* of the byte */
    uint64_t perm;
};
struct verdict_leaf verdict_lookup(struct cpu *cpu, uint64_t gpa2);
/* ept12, as it is now, lets a nested guest of cpu have what `leaf` gives at gpa2. */
bool verdict_allowed12(struct cpu *cpu, uint64_t gpa2, struct verdict_leaf leaf, uint64_t access);

#endif
