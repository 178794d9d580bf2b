/*
 * Strata's own page tables, built once. Code is read-only, data is not executable.
 */
#include "core/memory/paging.h"

#define PTE_PRESENT BIT(0)
#define PTE_WRITE BIT(1)
#define PTE_LARGE BIT(7)
#define PTE_GLOBAL BIT(8)
#define PTE_NX BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull

static unsigned index_of(uint64_t addr, int level) { return (unsigned)(addr >> (PAGE_SHIFT + 9 * (level - 1))) & 511; }

/* Sets the entry for addr at `level` (1 = 4 KiB), making the tables above it. False when the pool is empty. */
static bool map(struct page_pool *pool, uint64_t pml4, uint64_t addr, int level, uint64_t entry)
{
    uint64_t *table = hpa_ptr(hpa(pml4));
    for (int l = 4; l > level; l--) {
        uint64_t *e = &table[index_of(addr, l)];
        if (!*e) {
            hpa_t page = pool_alloc(pool);
            if (!page.v)
                return false;
            *e = page.v | PTE_PRESENT | PTE_WRITE;
        }
        table = hpa_ptr(hpa(*e & PTE_ADDR));
    }
    table[index_of(addr, level)] = entry;
    return true;
}

static uint64_t image_rights(const uint8_t *p)
{
    if (p < text_end)
        return PTE_PRESENT;
    return p < rodata_end ? PTE_PRESENT | PTE_NX : PTE_PRESENT | PTE_WRITE | PTE_NX;
}

/* SDM 3, "Large Page Size Considerations": a page that spans memory types has none that one could rely on. */
static bool type_uniform(const struct mtrr *mtrr, uint64_t addr, uint64_t size)
{
    uint64_t start, end = addr + size;
    if (mtrr)
        mtrr_range(mtrr, addr, &start, &end);
    return end >= addr + size;
}

/* The level of the largest page that can begin at addr. */
static int level_of(uint64_t addr, uint64_t end, bool pages_1g, const struct mtrr *mtrr)
{
    for (int level = pages_1g && addr >= PAGE_1G ? 3 : 2; level > 1; level--) {
        uint64_t size = PAGE_SIZE << (9 * (level - 1));
        if (addr % size == 0 && end - addr >= size && type_uniform(mtrr, addr, size))
            return level;
    }
    return 1;
}

uint64_t paging_build(struct page_pool *pool, uint64_t end, bool pages_1g, const struct mtrr *mtrr)
{
    uint64_t pml4 = pool_alloc(pool).v;
    if (!pml4)
        return 0;
    for (uint64_t a = 0; a < end;) {
        int level = level_of(a, end, pages_1g, mtrr);
        uint64_t bits = PTE_PRESENT | PTE_WRITE | (level > 1 ? PTE_LARGE : 0) | (a < PAGE_2M ? 0 : PTE_NX);
        if (!map(pool, pml4, a, level, a | bits))
            return 0;
        a += PAGE_SIZE << (9 * (level - 1));
    }
    return pml4;
}

bool paging_map_image(struct page_pool *pool, uint64_t pml4, hpa_t image)
{
    for (uint8_t *p = image_start; p < image_end; p += PAGE_SIZE)
        if (!map(pool, pml4, (uint64_t)p, 1, (image.v + (uint64_t)(p - image_start)) | image_rights(p)))
            return false;
    return true;
}
