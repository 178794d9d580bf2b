/*
 * What Strata itself needs of the processor's VMX.
 */
#ifndef STRATA_VMX_REQUIRE_H
#define STRATA_VMX_REQUIRE_H

#include "core/cpu/vmx_caps.h"

/*
 * NULL when the processor has all that Strata needs; else the first missing feature with the capability MSR and bit
 * that announces it, such as "unrestricted guest (IA32_VMX_PROCBASED_CTLS2[39])". hw: as read by vmx_probe.
 */
const char *vmx_require(const struct vmx_caps *hw);

#endif
