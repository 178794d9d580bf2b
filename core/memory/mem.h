/*
 * The three services that pure code may use: pages, pointers to physical memory, panic (with the few string functions).
 * The image implements them in memory.c, page_pool.c and core/lib; host tests bring their own.
 */
#ifndef STRATA_MEM_H
#define STRATA_MEM_H

#include "core/lib/panic.h"
#include "core/lib/string.h"
#include "core/lib/types.h"

/*
 * A stack of free 4 KiB pages of Strata's own memory. Not locked: one pool belongs to one CPU,
 * or is used before the other CPUs run.
 */
struct page_pool {
    uint64_t free_head;  /* hpa of the first free page (its first 8 bytes hold the next), 0 = none */
    uint32_t free_count; /* pages */
    uint32_t total;      /* pages given at creation */
};

/* Gives the pages of [start, start+size) to the pool. start and size are multiples of 4 KiB, start is not 0. */
void pool_add(struct page_pool *pool, hpa_t start, uint64_t size);
/* A zeroed page; .v == 0 when the pool is empty. */
hpa_t pool_alloc(struct page_pool *pool);
void pool_free(struct page_pool *pool, hpa_t page);

/* Pointer to a byte of Strata's own memory, or of machine memory that Strata knows to be RAM. */
void *hpa_ptr(hpa_t addr);

/*
 * Pointer to a byte of the guest hypervisor's memory, valid to the end of its 4 KiB page. What is not RAM
 * of the guest (Strata's own memory, MMIO, nothing) is answered with a page that belongs to nobody and reads
 * as all ones: any address that a guest supplies may be given here.
 */
void *gpa1_ptr(gpa1_t addr);

#endif
