/*
 * Processors that take a machine check when code runs through one page of two sizes (CVE-2018-12207, "Machine Check Error on Page Size
 * Change"): any guest can bring that about where EPT gives it large executable pages. A guest hypervisor that maps executable memory in
 * 4-KiB pages defends itself, so Strata must not make large ones of them. Decides as Linux does.
 */
#ifndef STRATA_MULTIHIT_H
#define STRATA_MULTIHIT_H

#include "core/cpu/barrier.h"

/* vendor: CPUID leaf 0; signature: CPUID 1 EAX. True unless the processor is known not to be affected. Decides only. */
bool multihit_affects(struct cpuid_regs vendor, uint32_t signature, struct barrier_facts facts);
/* Asks this processor. */
bool multihit_here(void);

#endif
