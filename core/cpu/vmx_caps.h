/*
 * The VMX capabilities of a processor as values: its capability MSRs and the CPUID facts that decide which
 * control bits, field values and fields are legal. One structure describes the processor and another of the same
 * type what is offered to the guest hypervisor. Pure: who fills it in is vmx_probe.c, who cuts it down nested/caps.c.
 */
#ifndef STRATA_VMX_CAPS_H
#define STRATA_VMX_CAPS_H

#include "core/lib/types.h"
#include "core/cpu/vmcs_fields.h"
#include "core/lib/vmx.h"
#include "core/lib/x86.h"

struct vmx_caps {
    uint64_t msr[MSR_VMX_COUNT]; /* by MSR number - MSR_VMX_FIRST; 0 where the MSR does not exist */
    uint64_t efer;               /* bits of IA32_EFER that are not reserved */
    uint8_t maxphyaddr;        /* bits of a physical address: CPUID 80000008h, EAX[7:0], less those that choose a key */
    bool offered[CAP_COUNT];   /* which fields exist: by enum vmcs_cap, derived from msr[] */
    bool missing[FIELD_COUNT]; /* fields that by offered[] exist, but not on this machine (vmx_probe_fields) */
};

/*
 * Whether the processor has this capability MSR (MSR_VMX_FIRST .. MSR_VMX_LAST; false for any other number): RDMSR of
 * one that it has not raises #GP. Of msr[] it reads only MSRs below the one asked for, or IA32_VMX_PROCBASED_CTLS2.
 * SDM 3, appendix "VMX Capability Reporting Facility".
 */
bool vmx_caps_msr_exists(const struct vmx_caps *caps, uint32_t msr);

/* Fills offered[] from msr[]. CAP_ALWAYS becomes true and CAP_NEVER false. */
void vmx_caps_derive(struct vmx_caps *caps);

/* Value of a capability MSR, MSR_VMX_FIRST .. MSR_VMX_LAST. */
static inline uint64_t vmx_caps_msr(const struct vmx_caps *caps, uint32_t msr)
{
    return caps->msr[msr - MSR_VMX_FIRST];
}

/*
 * The MSR that decides about a group of controls: the "true" one where there is one. msr is MSR_VMX_PIN, _PROC, _EXIT
 * or _ENTRY. Bits 31:0 of the value: controls that must be 1; bits 63:32: controls that may be 1.
 */
static inline uint64_t vmx_caps_controls(const struct vmx_caps *caps, uint32_t msr)
{
    bool has_true = vmx_caps_msr(caps, MSR_VMX_BASIC) & VMX_BASIC_TRUE_CONTROLS;
    return vmx_caps_msr(caps, has_true ? msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN : msr);
}

/* The controls that may be 1, as a control field has them. msr also MSR_VMX_PROC2. */
static inline uint64_t vmx_caps_allowed1(const struct vmx_caps *caps, uint32_t msr)
{
    return (msr == MSR_VMX_PROC2 ? vmx_caps_msr(caps, msr) : vmx_caps_controls(caps, msr)) >> 32;
}

/* Bits of a linear address: 57 where the processor has 5-level paging, else 48. "Canonical" means this width. */
static inline unsigned vmx_caps_linear_width(const struct vmx_caps *caps)
{
    return vmx_caps_msr(caps, MSR_VMX_CR4_FIXED1) & CR4_LA57 ? 57 : 48;
}

#endif
