/*
 * Strata's own page tables.
 */
#ifndef STRATA_PAGING_H
#define STRATA_PAGING_H

#include "core/memory/mem.h"
#include "core/memory/mtrr.h"

/*
 * Maps all memory up to `end` (a multiple of 4 KiB) at its physical address, not executable but for the first 2 MiB, where CPUs start.
 * pages_1g: 1-GiB pages may be used. No page spans memory types of mtrr, which is committed; NULL: the processor has none, or they are not
 * known. Returns the PML4 (below 4 GiB), 0 when the pool is empty.
 */
uint64_t paging_build(struct page_pool *pool, uint64_t end, bool pages_1g, const struct mtrr *mtrr);
/* The image, which lies at `image`, at its linked address with the rights that its sections need. False: the pool is empty. */
bool paging_map_image(struct page_pool *pool, uint64_t pml4, hpa_t image);

extern uint8_t image_start[], text_end[], rodata_end[], image_end[], image_load[];

#endif
