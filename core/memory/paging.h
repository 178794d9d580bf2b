/*
 * Strata's own page tables.
 */
#ifndef STRATA_PAGING_H
#define STRATA_PAGING_H

#include "core/memory/mem.h"

/*
 * Maps all memory up to `end` at its physical address (not executable but for the first 2 MiB, where CPUs start) and the
 * image, which lies at `image`, at its linked address with the rights its sections need. Returns the PML4 (below 4 GiB),
 * 0 when the pool is empty. ram_1g: 1-GiB pages may be used.
 */
uint64_t paging_build(struct page_pool *pool, hpa_t image, uint64_t end, bool pages_1g);

/* Physical address of something in the image, given where the image lies. */
hpa_t image_hpa(const void *p);
void image_moved(hpa_t image);

extern uint8_t image_start[], text_end[], rodata_end[], image_end[], image_load[];

#endif
