/*
 * What this Strata knows of the machine it runs on and what it decided at boot. Written before the guest runs, then only read
 * (but for ept01 and the MTRRs, under machine_lock).
 */
#ifndef STRATA_MACHINE_H
#define STRATA_MACHINE_H

#include "core/boot/acpi.h"
#include "core/memory/ept01.h"
#include "core/memory/memmap.h"
#include "core/memory/mtrr.h"
#include "core/lib/options.h"
#include "core/lib/types.h"
#include "core/cpu/vmx_caps.h"

struct machine {
    struct options options;
    struct vmx_caps hw;                /* what the processor has */
    struct memmap memmap;              /* as the guest sees it: Strata's memory is reserved */
    uint64_t ram_end;                  /* first byte behind the last RAM */
    uint64_t hidden_start, hidden_end; /* Strata's own memory */
    uint64_t plain_start, plain_size; /* the largest piece of the guest's RAM: most addresses need no look at the map */
    hpa_t junk;                       /* the page that the guest sees in its place */
    hpa_t msr_bitmap01;
    uint64_t cr3;       /* Strata's page tables */
    uint64_t cr4;       /* CR4 in root mode */
    uint32_t low_page;  /* physical address of the page of conventional memory (lowpage.h) */
    uint8_t boot_drive; /* that the guest boots from */
    bool has_1g_pages, has_xsave, has_x2apic, has_mtrr;
    struct ept01 ept01;
    uint64_t flush_epoch;   /* grows when CPUs must invalidate ept01 before they enter the guest again */
    uint32_t ept01_content; /* grows when what was composed from ept01 must be looked at again */
    struct mtrr mtrr;
    struct page_pool pool; /* of all CPUs; before the guest runs, or under machine_lock */
};

extern struct machine machine;

/* Sets plain_start and plain_size from the memory map. */
void memory_find_plain(void);

/* Serialises what CPUs share after the guest runs: ept01, MTRRs, the start of CPUs. Not taken on the way of a nested exit. */
void machine_lock(void);
void machine_unlock(void);

#endif
