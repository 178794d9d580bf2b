/*
 * What this Strata knows of the machine it runs on and what it decided at boot, but for memory (core/memory/memory.h). Written
 * before the guest runs, then only read.
 */
#ifndef STRATA_MACHINE_H
#define STRATA_MACHINE_H

#include "core/cpu/vmx_caps.h"
#include "core/lib/options.h"
#include "core/lib/types.h"
#include "core/memory/memory.h"

struct machine {
    struct options options;
    struct vmx_caps hw; /* what the processor has */
    hpa_t msr_bitmap01;
    uint64_t cr3;       /* Strata's page tables */
    uint64_t cr4;       /* CR4 in root mode */
    uint32_t barriers;  /* BARRIER_ of barrier.h */
    uint32_t low_page;  /* physical address of the page of conventional memory (lowpage.h) */
    uint8_t boot_drive; /* that the guest boots from */
    bool has_1g_pages, has_xsave, has_x2apic;
    bool is_hypervisor; /* exits to it are what costs (cpuid_is_hypervisor) */
};

extern struct machine machine;

#endif
