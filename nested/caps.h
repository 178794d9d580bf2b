/*
 * The VMX capabilities that the guest hypervisor sees: the processor's, less what Strata does not run for it.
 * What is not offered here is not supported anywhere else: the entry checks refuse it by these values.
 */
#ifndef STRATA_CAPS_H
#define STRATA_CAPS_H

#include "core/cpu/vmx_caps.h"

/* What boot options switch. Each is offered only where the processor has it, too. */
struct caps_options {
    bool vmcs_shadowing; /* "VMCS shadowing" */
    bool ept_ad;         /* accessed and dirty flags in EPT */
};

/*
 * out: what is offered of what the processor has (hw, as read by vmx_probe), with offered[] derived.
 * SDM 3, appendix "VMX Capability Reporting Facility".
 */
void caps_filter(struct vmx_caps *out, const struct vmx_caps *hw, const struct caps_options *opt);

/* Whether RDMSR of a capability MSR succeeds for the guest hypervisor; false for any number that is not one of them. */
static inline bool caps_msr_exists(const struct vmx_caps *caps, uint32_t msr) { return vmx_caps_msr_exists(caps, msr); }

/* What RDMSR gives the guest hypervisor. The MSR must exist. */
static inline uint64_t caps_msr(const struct vmx_caps *caps, uint32_t msr) { return vmx_caps_msr(caps, msr); }

#endif
