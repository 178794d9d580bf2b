/* sources: core/boot/efi_map.c core/memory/memmap.c */
/*
 * EFI memory maps with holes cut out, against a look at each page.
 */
#include "core/boot/efi_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define STEP 56 /* a firmware with more to say than is known */
#define PAGES 64
#define DESCRIPTORS_MAX 16
#define RANGES_MAX 4

struct descriptor {
    uint32_t type, pad;
    uint64_t physical, virtual, pages, attributes, unknown[2];
};
_Static_assert(sizeof(struct descriptor) == STEP, "");

/* The type of each page, the last descriptor that says so; -1: none. */
static void draw(const struct descriptor *d, unsigned count, int *type)
{
    for (unsigned i = 0; i < PAGES; i++)
        type[i] = -1;
    for (unsigned i = 0; i < count; i++)
        for (uint64_t p = 0; p < d[i].pages; p++)
            type[d[i].physical / PAGE_SIZE + p] = (int)d[i].type;
}

static bool is_free(int type) { return (type >= 1 && type <= 4) || type == 7; }

static void test_against_pages(void **state)
{
    (void)state;
    struct test_random random = { 7 };
    for (unsigned round = 0; round < 3000; round++) {
        struct descriptor in[DESCRIPTORS_MAX];
        struct memmap_range ranges[RANGES_MAX];
        unsigned count = 0, range_count = 0;
        for (uint64_t page = test_random_below(&random, 4); page < PAGES && count < DESCRIPTORS_MAX; count++) {
            uint64_t pages = 1 + test_random_below(&random, 12), type = test_random_below(&random, 15);
            if (pages > PAGES - page)
                pages = PAGES - page;
            in[count] = (struct descriptor){ (uint32_t)type, 0,     page * PAGE_SIZE,        0,
                                             pages,          count, { 2 * count, 3 * count } };
            if (type == 3)
                in[count].virtual = in[count].physical + GIB;
            page += pages + test_random_below(&random, 3);
        }
        for (uint64_t page = 0; range_count < RANGES_MAX;) {
            uint64_t start = page + test_random_below(&random, 12), end = start + test_random_below(&random, 12);
            if (end > PAGES)
                break;
            ranges[range_count++] = (struct memmap_range){ start * PAGE_SIZE, end * PAGE_SIZE };
            page = end + 1;
        }
        uint64_t size = count * sizeof(*in);
        uint64_t needed = efi_map_reserve((const uint8_t *)in, size, STEP, ranges, range_count, NULL);
        struct descriptor *out = malloc(needed ? needed : 1); /* a sanitizer sees one byte too many */
        assert_int_equal(efi_map_reserve((const uint8_t *)in, size, STEP, ranges, range_count, (uint8_t *)out), needed);
        assert_int_equal(needed % STEP, 0);
        assert_true(needed <= size + 2 * range_count * STEP);

        int before[PAGES], after[PAGES];
        draw(in, count, before);
        draw(out, (unsigned)(needed / STEP), after);
        for (uint64_t p = 0; p < PAGES; p++) {
            bool cut = false;
            for (unsigned i = 0; i < range_count; i++)
                cut |= p * PAGE_SIZE >= ranges[i].start && p * PAGE_SIZE < ranges[i].end;
            assert_int_equal(after[p], cut && is_free(before[p]) ? 0 : before[p]);
        }
        for (unsigned i = 0; i < needed / STEP; i++) { /* what is not known goes along */
            const struct descriptor *from = &in[out[i].attributes];
            assert_memory_equal(out[i].unknown, from->unknown, sizeof(from->unknown));
            assert_true(out[i].virtual == (from->virtual ? from->virtual + out[i].physical - from->physical : 0));
        }
        free(out);
    }
}

/* Nonsense is handed on as it is. */
static void test_nonsense(void **state)
{
    (void)state;
    struct descriptor in[] = {
        { 7, 0, 0, 0, 0, 0, { 0 } },
        { 7, 0, 4 * PAGE_SIZE, 0, UINT64_MAX, 0, { 0 } },
        { 7, 0, UINT64_MAX - PAGE_SIZE, 0, 16, 0, { 0 } },
        { 99, 0, 0, 0, 1000, 0, { 0 } },
    };
    struct memmap_range range = { 0, GIB };
    uint8_t out[2 * sizeof(in)];
    assert_int_equal(efi_map_reserve((const uint8_t *)in, sizeof(in), STEP, &range, 1, out), sizeof(in));
    assert_memory_equal(out, in, sizeof(in));
    assert_int_equal(efi_map_reserve((const uint8_t *)in, STEP - 1, STEP, &range, 1, out), 0);
}

/* What boot services left is spared; everything else stays free. */
static void test_spare_services(void **state)
{
    (void)state;
    struct descriptor in[] = {
        { 7, 0, 0, 0, 16, 0, { 0 } },
        { 4, 0, 16 * PAGE_SIZE, 0, 4, 0, { 0 } },
        { 2, 0, 20 * PAGE_SIZE, 0, 4, 0, { 0 } },
        { 3, 0, 24 * PAGE_SIZE, 0, 1, 0, { 0 } },
        { 4, 0, 30 * PAGE_SIZE, 0, UINT64_MAX, 0, { 0 } }, /* nonsense */
    };
    struct boot_efi efi = { true, false, 0, (const uint8_t *)in, sizeof(in), STEP, 1 };
    struct memmap map;
    memmap_init(&map);
    assert_true(memmap_add(&map, 0, PAGES * PAGE_SIZE, MEMMAP_RAM));
    assert_true(efi_map_spare_services(&efi, &map));
    for (uint64_t p = 0; p < PAGES; p++)
        assert_int_equal(memmap_is_ram(&map, p * PAGE_SIZE), !((p >= 16 && p < 20) || p == 24));
    efi.map = NULL;
    assert_true(efi_map_spare_services(&efi, &map));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_against_pages), cmocka_unit_test(test_nonsense),
                                        cmocka_unit_test(test_spare_services) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
