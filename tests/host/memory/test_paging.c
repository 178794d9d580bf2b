/* sources: core/memory/paging.c core/memory/mtrr.c core/memory/page_pool.c */
/*
 * Strata's own page tables: everything is mapped once, to itself, in pages that span no two memory types; the image has the rights of its
 * sections.
 */
#include "core/memory/paging.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define WIDTH 40
#define POOL MIB
#define END (6 * GIB)
#define IMAGE_AT 0x7fe00000ull
#define PRESENT BIT(0)
#define WRITE BIT(1)
#define LARGE BIT(7)
#define NX BIT(63)
#define ADDR 0x000ffffffffff000ull

/* Sections of an image that is linked where no memory is: two pages of code, one of constants, one of data. */
#define LINKED_AT 0x70000000ull
__asm__(".globl image_start, text_end, rodata_end, image_end\n"
        "image_start = 0x70000000\ntext_end = 0x70002000\nrodata_end = 0x70003000\nimage_end = 0x70004000");

static struct mtrr mtrr;
static struct page_pool pool;

static void range_set(unsigned pair, uint64_t base, uint64_t size, enum memtype type)
{
    assert_true(mtrr_write(&mtrr, 0x200 + 2 * pair, base | type));
    assert_true(mtrr_write(&mtrr, 0x201 + 2 * pair, ((BIT(WIDTH) - size) & PAGE_MASK) | MTRR_MASK_VALID));
}

/* What firmware leaves: write-back, devices and video memory uncached; and ranges that end anywhere. */
static void types_make(bool odd)
{
    mtrr_init(&mtrr, 8 | BIT(8) | BIT(10), WIDTH);
    for (uint32_t msr = 0x268; msr <= 0x26f; msr++)
        assert_true(mtrr_write(&mtrr, msr, 0x0606060606060606));
    assert_true(mtrr_write(&mtrr, 0x250, 0x0606060606060606));
    assert_true(mtrr_write(&mtrr, 0x258, 0x0606060606060606));
    assert_true(mtrr_write(&mtrr, 0x259, 0));
    range_set(0, 0xc0000000, GIB, MEMTYPE_UC);
    if (odd) {
        range_set(1, 0xb0000000, 256 * MIB, MEMTYPE_UC);
        range_set(2, 0x140001000, PAGE_SIZE, MEMTYPE_WC);
        range_set(3, 5 * GIB + 2 * MIB, 2 * MIB, MEMTYPE_WT);
    }
    assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB));
    mtrr_commit(&mtrr);
}

static uint64_t build(bool pages_1g, const struct mtrr *types)
{
    test_memory_reset(POOL + 4 * MIB);
    memset(&pool, 0, sizeof(pool));
    pool_add(&pool, hpa(POOL), 4 * MIB);
    return paging_build(&pool, END, pages_1g, types);
}

/* The entry that maps addr and the size of its page. */
static uint64_t walk(uint64_t table, uint64_t addr, uint64_t *size)
{
    for (int level = 4;; level--) {
        *size = PAGE_SIZE << (9 * (level - 1));
        uint64_t entry = ((const uint64_t *)hpa_ptr(hpa(table)))[addr / *size % 512];
        if (!(entry & PRESENT) || level == 1 || (entry & LARGE))
            return entry;
        table = entry & ADDR;
    }
}

static void memory_is_mapped_by_type(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 8; n++) {
        const struct mtrr *types = n & 4 ? NULL : &mtrr;
        uint64_t largest = 0, size;
        types_make(n & 2);
        uint64_t pml4 = build(n & 1, types);
        assert_int_not_equal(pml4, 0);
        for (uint64_t addr = 0; addr < END; addr += size) {
            uint64_t entry = walk(pml4, addr, &size), start, end;
            assert_int_equal(entry & ADDR & ~(size - 1), addr);
            assert_int_equal(entry & (PRESENT | WRITE), PRESENT | WRITE);
            assert_int_equal(!(entry & NX), addr < PAGE_2M);
            if (types)
                mtrr_range(types, addr, &start, &end);
            assert_true(!types || end >= addr + size);
            largest = size > largest ? size : largest;
        }
        assert_int_equal(walk(pml4, END, &size) & PRESENT, 0);
        assert_int_equal(largest, n & 1 ? PAGE_1G : PAGE_2M);
    }
}

static void the_image_has_its_rights(void **state)
{
    (void)state;
    test_memory_reset(POOL + 4 * MIB);
    memset(&pool, 0, sizeof(pool));
    pool_add(&pool, hpa(POOL), 4 * MIB);
    uint64_t pml4 = pool_alloc(&pool).v, size;
    assert_true(paging_map_image(&pool, pml4, hpa(IMAGE_AT)));
    for (uint64_t offset = 0; offset < 4 * PAGE_SIZE; offset += PAGE_SIZE) {
        uint64_t entry = walk(pml4, LINKED_AT + offset, &size);
        assert_int_equal(size, PAGE_SIZE);
        assert_int_equal(entry & ADDR, IMAGE_AT + offset);
        assert_int_equal(!(entry & NX), offset < 2 * PAGE_SIZE);
        assert_int_equal(!(entry & WRITE), offset < 3 * PAGE_SIZE);
    }
}

/* Whatever there is too little of: it says so. */
static void no_room(void **state)
{
    (void)state;
    unsigned enough = 0;
    types_make(false);
    for (uint64_t pages = 0; pages < 16; pages++) {
        test_memory_reset(POOL + 4 * MIB);
        memset(&pool, 0, sizeof(pool));
        if (pages)
            pool_add(&pool, hpa(POOL), pages * PAGE_SIZE);
        bool built = paging_build(&pool, GIB, false, &mtrr);
        assert_true(built || !enough);
        enough += built;
    }
    assert_int_equal(enough, 12); /* 4 are needed: one of each level */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_mapped_by_type),
        cmocka_unit_test(the_image_has_its_rights),
        cmocka_unit_test(no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
