/*
 * Reading the VMX capabilities of the processor that this code runs on.
 */
#ifndef STRATA_VMX_PROBE_H
#define STRATA_VMX_PROBE_H

#include "core/cpu/vmx_caps.h"

/*
 * Reads every capability MSR that exists, MAXPHYADDR and the bits of IA32_EFER, and derives offered[]. The
 * processor must have VMX (CPUID 1, ECX[5]); without it there are no such MSRs.
 */
void vmx_probe(struct vmx_caps *hw);

/*
 * Asks the processor for each field that by its capabilities it has; a VMCS is current. A machine that is a hypervisor may lack some:
 * hw->missing says which. The first one that Strata cannot do without, or NULL.
 */
const struct vmcs_field *vmx_probe_fields(struct vmx_caps *hw);

#endif
