/*
 * Entering VMX operation on one CPU, with the checks that decide whether Strata can run on it.
 */
#ifndef STRATA_VMXON_H
#define STRATA_VMXON_H

#include "core/cpu/cpu.h"
#include "core/cpu/vmx_caps.h"

/*
 * NULL when this CPU can run Strata, else one line naming what is missing. Probes the capabilities into *hw.
 * Executes nothing that changes the machine.
 */
const char *vmxon_require(struct vmx_caps *hw);

/* Turns VMX on: control registers, IA32_FEATURE_CONTROL, VMXON. NULL, or why not. machine.hw is valid. */
const char *vmxon_cpu(struct cpu *cpu);

#endif
