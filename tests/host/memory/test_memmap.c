/* sources: core/memory/memmap.c */
/*
 * The memory map against a model that keeps one type per 16-KiB unit of a small machine.
 */
#include "core/memory/memmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define UNIT (16 * KIB)
#define UNITS 4800 /* 75 MiB: beyond every limit that INT 15h has, but that of E801 */
#define AVOID_MAX 4

struct model {
    uint32_t type[UNITS];
};

static void model_add(struct model *m, uint64_t first, uint64_t count, uint32_t type)
{
    for (uint64_t i = first; i < first + count && i < UNITS; i++)
        if (type > m->type[i])
            m->type[i] = type;
}

static void model_hide(struct model *m, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count && i < UNITS; i++)
        if (m->type[i] == MEMMAP_RAM)
            m->type[i] = MEMMAP_RESERVED;
}

/* The map is exactly the model's runs, in order. */
static void assert_equals_model(const struct memmap *map, const struct model *m)
{
    unsigned entry = 0;
    for (unsigned start = 0; start < UNITS;) {
        unsigned end = start + 1;
        while (end < UNITS && m->type[end] == m->type[start])
            end++;
        if (m->type[start]) {
            assert_true(entry < map->count);
            assert_int_equal(map->entry[entry].base, start * UNIT);
            assert_int_equal(map->entry[entry].length, (end - start) * UNIT);
            assert_int_equal(map->entry[entry].type, m->type[start]);
            entry++;
        }
        start = end;
    }
    assert_int_equal(map->count, entry);
}

static void assert_ram_equals_model(const struct memmap *map, const struct model *m)
{
    uint64_t ram_end = 0;
    for (unsigned i = 0; i < UNITS; i++) {
        bool ram = m->type[i] == MEMMAP_RAM;
        assert_int_equal(memmap_is_ram(map, i * UNIT), ram);
        assert_int_equal(memmap_is_ram(map, i * UNIT + UNIT - 1), ram);
        if (ram)
            ram_end = (i + 1) * UNIT;
    }
    assert_int_equal(memmap_ram_end(map), ram_end);
}

/* A random map and its model. */
static void random_map(struct memmap *map, struct model *m, struct test_random *random)
{
    memmap_init(map);
    memset(m, 0, sizeof(*m));
    for (uint64_t i = 0, steps = test_random_below(random, 30); i < steps; i++) {
        uint64_t first = test_random_below(random, UNITS),
                 count = test_random_below(random, i % 3 ? 40 : UNITS - first);
        if (first + count > UNITS)
            count = UNITS - first;
        if (i % 7 == 6) {
            assert_true(memmap_hide(map, first * UNIT, count * UNIT));
            model_hide(m, first, count);
            continue;
        }
        uint32_t type = (uint32_t)(i % 2 ? MEMMAP_RAM : test_random_below(random, 6));
        assert_true(memmap_add(map, first * UNIT, count * UNIT, type));
        model_add(m, first, count, type);
    }
}

static void test_random_maps(void **state)
{
    (void)state;
    struct test_random random = { 5 };
    static struct memmap map;
    static struct model model;
    for (unsigned round = 0; round < 1000; round++) {
        random_map(&map, &model, &random);
        assert_equals_model(&map, &model);
        if (round % 20 == 0)
            assert_ram_equals_model(&map, &model);
    }
}

static bool model_fits(const struct model *m, uint64_t start, uint64_t size, uint64_t below,
                       const struct memmap_range *avoid, unsigned avoid_count)
{
    if (start < MIB || start + size > below || start + size > UNITS * UNIT)
        return false;
    for (uint64_t at = start; at < start + size; at += UNIT)
        if (m->type[at / UNIT] != MEMMAP_RAM)
            return false;
    for (unsigned i = 0; i < avoid_count; i++)
        if (avoid[i].start < start + size && avoid[i].end > start)
            return false;
    return true;
}

static void test_place(void **state)
{
    (void)state;
    struct test_random random = { 6 };
    static struct memmap map;
    static struct model model;
    unsigned found = 0;
    for (unsigned round = 0; round < 600; round++) {
        random_map(&map, &model, &random);
        uint64_t size = (1 + test_random_below(&random, 200)) * UNIT, align = UNIT << test_random_below(&random, 6);
        uint64_t below = (1 + test_random_below(&random, UNITS + 100)) * UNIT, wanted = 0;
        unsigned avoid_count = (unsigned)test_random_below(&random, AVOID_MAX + 1);
        struct memmap_range avoid[AVOID_MAX];
        for (unsigned i = 0; i < avoid_count; i++) {
            avoid[i].start = test_random_below(&random, UNITS) * UNIT;
            avoid[i].end = avoid[i].start + test_random_below(&random, 500) * UNIT;
        }
        for (uint64_t start = 0; start < UNITS * UNIT; start += align)
            if (model_fits(&model, start, size, below, avoid, avoid_count))
                wanted = start;
        assert_int_equal(memmap_place(&map, size, align, below, avoid, avoid_count), wanted);
        found += wanted != 0;
        /* What only touches the place, from below and from above, does not push it away. */
        if (wanted) {
            avoid[0] = (struct memmap_range){ wanted - UNIT, wanted };
            avoid[1] = (struct memmap_range){ wanted + size, wanted + size + UNIT };
            uint64_t again = memmap_place(&map, size, align, wanted + size, avoid, 2);
            assert_int_equal(again, wanted);
        }
    }
    assert_in_range(found, 100, 500);
}

static uint64_t model_run(const struct model *m, uint64_t start, uint64_t limit)
{
    uint64_t at = start;
    while (at < limit && at / UNIT < UNITS && m->type[at / UNIT] == MEMMAP_RAM)
        at += UNIT;
    return at - start;
}

static void test_int15(void **state)
{
    (void)state;
    struct test_random random = { 7 };
    static struct memmap map;
    static struct model model;
    for (unsigned round = 0; round < 500; round++) {
        random_map(&map, &model, &random);
        struct int15_memory got = memmap_int15(&map);
        assert_int_equal(got.e801_low, model_run(&model, MIB, 16 * MIB) / KIB);
        assert_int_equal(got.e801_high, model_run(&model, 16 * MIB, UNITS * UNIT) / (64 * KIB));
        assert_int_equal(got.h88, model_run(&model, MIB, 64 * MIB) / KIB);
    }
}

static void test_int15_large_machine(void **state)
{
    (void)state;
    struct memmap map;
    memmap_init(&map);
    assert_true(memmap_add(&map, 0, 0x9fc00, MEMMAP_RAM));
    assert_true(memmap_add(&map, MIB, 3 * GIB - MIB, MEMMAP_RAM));
    assert_true(memmap_add(&map, 4 * GIB, 60 * GIB, MEMMAP_RAM));
    struct int15_memory got = memmap_int15(&map);
    assert_int_equal(got.e801_low, 0x3c00);
    assert_int_equal(got.e801_high, (3 * GIB - 16 * MIB) / (64 * KIB));
    assert_int_equal(got.h88, 0xfc00);
    /* Hidden memory at the top of the low RAM shortens the answer. */
    assert_true(memmap_hide(&map, 3 * GIB - 16 * MIB, 16 * MIB));
    assert_int_equal(memmap_int15(&map).e801_high, (3 * GIB - 32 * MIB) / (64 * KIB));
    /* Without a gap up to 4 GiB and beyond, the 16-bit answer stays at its maximum. */
    memmap_init(&map);
    assert_true(memmap_add(&map, 0, 64 * GIB, MEMMAP_RAM));
    assert_int_equal(memmap_int15(&map).e801_high, (4 * GIB - 16 * MIB) / (64 * KIB));
}

/* The E820 list is the map, with conventional memory cut at low_end. */
static void test_e820(void **state)
{
    (void)state;
    struct test_random random = { 8 };
    static struct memmap map;
    static struct model model;
    struct e820_entry out[MEMMAP_ENTRIES];
    assert_int_equal(sizeof(out[0]), 24);
    for (unsigned round = 0; round < 300; round++) {
        random_map(&map, &model, &random);
        uint64_t low_end = test_random_below(&random, 50) * UNIT;
        unsigned count = memmap_e820(&map, low_end, out, MEMMAP_ENTRIES);
        for (uint64_t at = low_end; at < 640 * KIB; at += UNIT)
            model_hide(&model, at / UNIT, 1);
        struct memmap listed = { .count = count };
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(out[i].attributes, E820_ATTRIBUTE_VALID);
            listed.entry[i] = (struct memmap_entry){ out[i].base, out[i].length, out[i].type };
        }
        assert_equals_model(&listed, &model);
        if (count > 1)
            assert_int_equal(memmap_e820(&map, low_end, out, count - 1), 0);
    }
}

static void test_full_map(void **state)
{
    (void)state;
    struct memmap map, before;
    memmap_init(&map);
    for (uint64_t i = 0; i < MEMMAP_ENTRIES; i++)
        assert_true(memmap_add(&map, 2 * i * MIB, MIB, MEMMAP_RAM));
    before = map;
    assert_false(memmap_add(&map, 2 * MEMMAP_ENTRIES * MIB, MIB, MEMMAP_RAM));
    assert_memory_equal(&map, &before, sizeof(map));
    assert_false(memmap_hide(&map, 2 * MIB + 64 * KIB, 64 * KIB));
    assert_memory_equal(&map, &before, sizeof(map));
    assert_false(memmap_add(&map, 64 * KIB, 64 * KIB, MEMMAP_ACPI));
    assert_memory_equal(&map, &before, sizeof(map));
    struct e820_entry out[MEMMAP_ENTRIES];
    assert_int_equal(memmap_e820(&map, 512 * KIB, out, MEMMAP_ENTRIES), 0);
    /* What merges still fits. */
    assert_true(memmap_add(&map, MIB, MIB, MEMMAP_RAM));
    assert_int_equal(map.count, MEMMAP_ENTRIES - 1);
}

static void test_end_of_addresses(void **state)
{
    (void)state;
    struct memmap map;
    memmap_init(&map);
    assert_true(memmap_add(&map, UINT64_MAX - 0xffff, UINT64_MAX, MEMMAP_RAM));
    assert_true(memmap_add(&map, 0, UINT64_MAX, MEMMAP_RESERVED));
    assert_int_equal(map.count, 1);
    assert_int_equal(map.entry[0].type, MEMMAP_RESERVED);
    assert_int_equal(map.entry[0].base, 0);
    assert_int_equal(map.entry[0].length, UINT64_MAX);
    assert_true(memmap_add(&map, 4096, 0, MEMMAP_NVS));
    assert_int_equal(map.count, 1);
    assert_int_equal(memmap_place(&map, PAGE_SIZE, PAGE_SIZE, UINT64_MAX, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_maps),         cmocka_unit_test(test_place), cmocka_unit_test(test_int15),
        cmocka_unit_test(test_int15_large_machine), cmocka_unit_test(test_e820),  cmocka_unit_test(test_full_map),
        cmocka_unit_test(test_end_of_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
