/*
 * Memory as the guest has it: what is RAM, what is hidden, ept01, MTRRs. Settled before the guest runs, then only read, but for
 * ept01 and the MTRRs, which change under memory_lock.
 */
#ifndef STRATA_MEMORY_H
#define STRATA_MEMORY_H

#include "core/lib/types.h"
#include "core/memory/ept01.h"
#include "core/memory/mem.h"
#include "core/memory/memmap.h"
#include "core/memory/mtrr.h"

struct memory01 {
    struct memmap memmap;              /* as the guest sees it: Strata's memory is reserved */
    uint64_t ram_end;                  /* first byte behind the last RAM */
    uint64_t hidden_start, hidden_end; /* Strata's own memory */
    uint64_t plain_start, plain_size; /* the largest piece of the guest's RAM: most addresses need no look at the map */
    hpa_t junk;                       /* the page that the guest sees in its place */
    bool has_mtrr;
    struct ept01 ept01;
    uint64_t flush_epoch;   /* grows when CPUs must invalidate ept01 before they enter the guest again */
    uint32_t ept01_content; /* grows when what was composed from ept01 must be looked at again */
    struct mtrr mtrr;
    struct page_pool pool; /* of all CPUs; before the guest runs, or under memory_lock */
};

extern struct memory01 memory01;

/* Sets plain_start and plain_size from the memory map. */
void memory_find_plain(void);

/* Serialises what CPUs share after the guest runs: ept01, MTRRs, the start of CPUs. Not taken on the way of a nested exit. */
void memory_lock(void);
void memory_unlock(void);

/*
 * After an entry of ept01 lost a right, moved or changed type (memory_lock is held): every CPU invalidates before it enters its
 * guest again, this one at the end of this exit, the others at the end of their next one (ept01_catch_up, core/guest/ept01_exit.h).
 */
void ept01_announce_change(void);

#endif
