/*
 * What of the processor's CPUID Strata keeps from its guest: one table. Pure.
 */
#ifndef STRATA_CPUID_HIDE_H
#define STRATA_CPUID_HIDE_H

#include "core/lib/hw.h"
#include "core/lib/types.h"

/*
 * Components of extended supervisor state that the guest may switch on in IA32_XSS: those whose MSRs are the guest's as well.
 * XRSTORS loads a component's MSRs from memory, and no bitmap asks. PASID, CET (user, supervisor), HDC, user interrupts, HWP.
 */
#define XSS_ALLOWED (BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(16))
/* Extended user state that the guest may not switch on in XCR0: APX, whose registers VM-exit information does not name. */
#define XCR0_REFUSED BIT(19)

/* Clears in the answer of one leaf and subleaf what is hidden. */
void cpuid_hide(uint32_t leaf, uint32_t subleaf, struct cpuid_regs *regs);

#endif
