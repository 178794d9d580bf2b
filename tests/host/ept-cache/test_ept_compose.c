/* sources: ept-cache/compose.c ept-cache/history.c ept-cache/writable.c core/memory/page_pool.c */
/*
 * The arithmetic below ept02: every rule for ept12 entries broken once, memory types and access combined exhaustively,
 * exit qualifications, the history of touched regions, the maps of writable memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/vmx.h"
#include "ept-cache/compose.h"
#include "ept-cache/history.h"
#include "ept-cache/writable.h"
#include "tests/host/support/support.h"

#define WIDTH 40
#define ALL (EPT_CAP_EXEC_ONLY | EPT_CAP_2M | EPT_CAP_1G)
#define WB (MEMTYPE_WB << EPT_MEMTYPE_SHIFT)

struct entry_case {
    const char *name;
    uint64_t offered;
    int level;
    uint64_t entry;
    enum ept12_kind kind;
};

// clang-format off
static const struct entry_case entry_cases[] = {
    { "nothing",                    ALL, 1, 0,                                      EPT12_ABSENT },
    { "not present, all else set",  ALL, 2, ~7ull,                                  EPT12_ABSENT },
    { "PML4 entry",                 ALL, 4, 0x1000 | 7,                             EPT12_TABLE },
    { "PDPT entry",                 ALL, 3, 0x1000 | 7,                             EPT12_TABLE },
    { "PD entry",                   ALL, 2, 0x1000 | 1,                             EPT12_TABLE },
    { "PT entry",                   ALL, 1, 0x1000 | 7 | WB,                        EPT12_LEAF },
    { "PT entry, bit 7 is ignored", ALL, 1, 0x1000 | 7 | WB | EPT_LARGE,            EPT12_LEAF },
    { "2-MiB page",                 ALL, 2, PAGE_2M | 7 | WB | EPT_LARGE,           EPT12_LEAF },
    { "1-GiB page",                 ALL, 3, PAGE_1G | 7 | WB | EPT_LARGE,           EPT12_LEAF },
    { "ignored bits",               ALL, 1, 0x1000 | 7 | WB | 0xfff0000000000f00ull, EPT12_LEAF },
    { "ignored bits of a table",    ALL, 2, 0x1000 | 7 | 0xfff0000000000f00ull,     EPT12_TABLE },
    { "write only",                 ALL, 1, 0x1000 | 2 | WB,                        EPT12_MISCONFIG },
    { "write only, table",          ALL, 4, 0x1000 | 2,                             EPT12_MISCONFIG },
    { "write and execute",          ALL, 1, 0x1000 | 6 | WB,                        EPT12_MISCONFIG },
    { "write and execute, table",   ALL, 3, 0x1000 | 6,                             EPT12_MISCONFIG },
    { "execute only",               ALL, 1, 0x1000 | 4 | WB,                        EPT12_LEAF },
    { "execute only, not offered",  EPT_CAP_2M, 1, 0x1000 | 4 | WB,                 EPT12_MISCONFIG },
    { "execute-only table",         ALL, 2, 0x1000 | 4,                             EPT12_TABLE },
    { "execute-only table, not offered", EPT_CAP_2M, 2, 0x1000 | 4,                 EPT12_MISCONFIG },
    { "PML4 entry, bit 3",          ALL, 4, 0x1000 | 7 | BIT(3),                    EPT12_MISCONFIG },
    { "PML4 entry, bit 6",          ALL, 4, 0x1000 | 7 | BIT(6),                    EPT12_MISCONFIG },
    { "PML4 entry, bit 7",          ALL, 4, 0x1000 | 7 | BIT(7),                    EPT12_MISCONFIG },
    { "PDPT entry, bit 3",          ALL, 3, 0x1000 | 7 | BIT(3),                    EPT12_MISCONFIG },
    { "PDPT entry, bit 6",          ALL, 3, 0x1000 | 7 | BIT(6),                    EPT12_MISCONFIG },
    { "PD entry, bit 5",            ALL, 2, 0x1000 | 7 | BIT(5),                    EPT12_MISCONFIG },
    { "memory type 2",              ALL, 1, 0x1000 | 7 | 2 << 3,                    EPT12_MISCONFIG },
    { "memory type 3",              ALL, 1, 0x1000 | 7 | 3 << 3,                    EPT12_MISCONFIG },
    { "memory type 7",              ALL, 1, 0x1000 | 7 | 7 << 3,                    EPT12_MISCONFIG },
    { "memory type 7, 2-MiB page",  ALL, 2, PAGE_2M | 7 | 7 << 3 | EPT_LARGE,       EPT12_MISCONFIG },
    { "UC",                         ALL, 1, 0x1000 | 7,                             EPT12_LEAF },
    { "WC",                         ALL, 1, 0x1000 | 7 | 1 << 3,                    EPT12_LEAF },
    { "WT",                         ALL, 1, 0x1000 | 7 | 4 << 3,                    EPT12_LEAF },
    { "WP",                         ALL, 1, 0x1000 | 7 | 5 << 3,                    EPT12_LEAF },
    { "2-MiB page, bit 12",         ALL, 2, PAGE_2M | BIT(12) | 7 | WB | EPT_LARGE, EPT12_MISCONFIG },
    { "2-MiB page, bit 20",         ALL, 2, PAGE_2M | BIT(20) | 7 | WB | EPT_LARGE, EPT12_MISCONFIG },
    { "1-GiB page, bit 21",         ALL, 3, PAGE_1G | BIT(21) | 7 | WB | EPT_LARGE, EPT12_MISCONFIG },
    { "1-GiB page, bit 29",         ALL, 3, PAGE_1G | BIT(29) | 7 | WB | EPT_LARGE, EPT12_MISCONFIG },
    { "1-GiB page, not offered",    EPT_CAP_2M, 3, PAGE_1G | 7 | WB | EPT_LARGE,    EPT12_MISCONFIG },
    { "2-MiB page, not offered",    0, 2, PAGE_2M | 7 | WB | EPT_LARGE,             EPT12_MISCONFIG },
    { "highest address",            ALL, 1, BIT(WIDTH - 1) | 7 | WB,                EPT12_LEAF },
    { "beyond MAXPHYADDR",          ALL, 1, BIT(WIDTH) | 7 | WB,                    EPT12_MISCONFIG },
    { "bit 51",                     ALL, 1, BIT(51) | 7 | WB,                       EPT12_MISCONFIG },
    { "table beyond MAXPHYADDR",    ALL, 4, BIT(WIDTH) | 7,                         EPT12_MISCONFIG },
    { "2-MiB page beyond MAXPHYADDR", ALL, 2, BIT(51) | 7 | WB | EPT_LARGE,         EPT12_MISCONFIG },
};
// clang-format on

static void classify(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(entry_cases); i++) {
        const struct entry_case *c = &entry_cases[i];
        struct ept_rules rules;
        ept_rules_init(&rules, c->offered, WIDTH);
        if (ept12_classify(&rules, c->entry, c->level) != c->kind)
            fail_msg("%s", c->name);
    }
}

/* The table of "MTRR Precedences", written out: UC if not listed. */
static enum memtype expected_type(unsigned a, unsigned b)
{
    static const uint8_t defined[][3] = {
        { 1, 1, 1 }, { 4, 4, 4 }, { 5, 5, 5 }, { 6, 6, 6 }, { 4, 6, 4 }, { 6, 4, 4 }
    };
    for (unsigned i = 0; i < ARRAY_SIZE(defined); i++)
        if (defined[i][0] == a && defined[i][1] == b)
            return (enum memtype)defined[i][2];
    return MEMTYPE_UC;
}

static void memory_types(void **state)
{
    static const enum memtype types[] = { MEMTYPE_UC, MEMTYPE_WC, MEMTYPE_WT, MEMTYPE_WP, MEMTYPE_WB };
    (void)state;
    for (unsigned a = 0; a < 5; a++)
        for (unsigned b = 0; b < 5; b++)
            assert_int_equal(memtype_combine(types[a], types[b]), expected_type(types[a], types[b]));
}

/* All leaves of ept12 with all of ept01 that can occur, against the rules said one by one. */
static void low_bits(void **state)
{
    static const uint32_t perms01[] = { 0, 1, 3, 4, 5, 7 };
    (void)state;
    for (unsigned n = 0; n < EPT_LOW_VALUES * ARRAY_SIZE(perms01) * 8 * 4; n++) {
        unsigned low12 = n % EPT_LOW_VALUES, rest = n / EPT_LOW_VALUES;
        bool exec_only = rest & 1, ignore_pat = rest & 2;
        struct ept_leaf leaf = { .size = PAGE_SIZE,
                                 .perm = perms01[rest / 4 % ARRAY_SIZE(perms01)],
                                 .ignore_pat = ignore_pat };
        unsigned type01 = rest / 4 / (unsigned)ARRAY_SIZE(perms01) % 8, type12 = low12 >> 3 & 7;
        struct ept_rules rules;
        if (type01 == 2 || type01 == 3 || type01 == 7)
            continue;
        leaf.memtype = type01;
        ept_rules_init(&rules, exec_only ? ALL : ALL & ~EPT_CAP_EXEC_ONLY, WIDTH);
        uint64_t low = ept_compose_low(&rules, low12, &leaf, exec_only);
        bool valid = ept12_classify(&rules, 0x1000 | low12, 1) == EPT12_LEAF;
        uint64_t access = valid ? low12 & leaf.perm & 7 : 0;
        if (access == EPT_X && !exec_only)
            access = 0;
        if (access == 0) {
            assert_int_equal(low, 0);
            continue;
        }
        assert_int_equal(low & 7, access);
        assert_int_equal(low >> 3 & 7, expected_type(type12, type01));
        assert_int_equal(low >> 6 & 1, (low12 >> 6 & 1) | ignore_pat);
        assert_int_equal(low >> 7, 0);
    }
}

static void qualification(void **state)
{
    (void)state;
    uint64_t everything = ~0ull;
    assert_int_equal(ept_qualification12(everything, 5), 7 | 5 << 3 | BIT(7) | BIT(8) | BIT(12));
    assert_int_equal(ept_qualification12(everything & ~BIT(7), 0), 7 | BIT(12));
    assert_int_equal(ept_qualification12(EPT_QUAL_WRITE | EPT_QUAL_PERM_MASK | BIT(7), EPT_R), 2 | 1 << 3 | BIT(7));
}

static void shrinks(void **state)
{
    (void)state;
    uint64_t page = 0x5000 | WB;
    assert_false(ept_shrinks(0, page | 7));
    assert_false(ept_shrinks(page | 1, page | 7));
    assert_false(ept_shrinks(page | 7, page | 7 | BIT(57)));
    assert_true(ept_shrinks(page | 7, page | 5));
    assert_true(ept_shrinks(page | 1, 0));
    assert_true(ept_shrinks(page | 1, (page ^ 0x3000) | 7));
    assert_true(ept_shrinks(page | 1, (page ^ WB) | 7));
    assert_true(ept_shrinks(page | 1, page | 7 | EPT_IGNORE_PAT));
}

static struct ept_history history;

static void history_regions(void **state)
{
    uint64_t touched[HISTORY_WORDS];
    (void)state;
    memset(&history, 0, sizeof(history));
    assert_false(history_touched(&history, 0x1000, gpa2(0)));
    assert_false(history_block(&history, 0x1000, gpa2(0), touched));
    assert_true(history_touch(&history, 0x1000, gpa2(5 * PAGE_2M + 0x1234)));
    assert_false(history_touch(&history, 0x1000, gpa2(5 * PAGE_2M)));
    assert_true(history_touched(&history, 0x101e, gpa2(6 * PAGE_2M - 1)));
    assert_false(history_touched(&history, 0x2000, gpa2(5 * PAGE_2M)));
    assert_false(history_touched(&history, 0x1000, gpa2(PAGE_1G + 5 * PAGE_2M)));
    assert_true(history_block(&history, 0x1000, gpa2(0), touched));
    assert_int_equal(touched[0], BIT(5));
    history_forget(&history, 0x1000, gpa2(5 * PAGE_2M));
    assert_false(history_touched(&history, 0x1000, gpa2(5 * PAGE_2M)));
}

/* Many more blocks than there is room for: bounded, and the last one noted is there. */
static void history_bounded(void **state)
{
    (void)state;
    memset(&history, 0xff, sizeof(history));
    for (uint64_t i = 0; i < 100000; i++) {
        history_touch(&history, i % 977 * PAGE_SIZE, gpa2(i * PAGE_1G));
        assert_true(history_touched(&history, i % 977 * PAGE_SIZE, gpa2(i * PAGE_1G)));
    }
}

static void writable(void **state)
{
    static struct writable_shared shared;
    static struct region_map maps[2];
    uint32_t index;
    (void)state;
    memset(&shared, 0, sizeof(shared));
    memset(maps, 0, sizeof(maps));
    assert_true(writable_join(&shared, &maps[0], &index) && writable_join(&shared, &maps[1], &index));
    /* A table, then memory of the same region becomes writable on some CPU: the generation says so. */
    assert_false(writable_page(&shared, hpa(3 * PAGE_2M + 0x5000)));
    uint32_t generation = writable_generation(&shared);
    writable_mark(&shared, &maps[1], hpa(2 * PAGE_2M), PAGE_2M);
    assert_int_equal(writable_generation(&shared), generation);
    writable_mark(&shared, &maps[1], hpa(3 * PAGE_2M), PAGE_SIZE);
    assert_int_not_equal(writable_generation(&shared), generation);
    assert_true(writable_page(&shared, hpa(3 * PAGE_2M + 0x5000)));
    /* Writable first, then a table. */
    writable_mark(&shared, &maps[0], hpa(5 * PAGE_1G), PAGE_1G);
    assert_true(writable_page(&shared, hpa(6 * PAGE_1G - PAGE_SIZE)));
    assert_false(writable_page(&shared, hpa(6 * PAGE_1G)));
    for (unsigned i = 2; i < WRITABLE_CPUS; i++)
        assert_true(writable_join(&shared, &maps[0], &index));
    assert_false(writable_join(&shared, &maps[0], &index));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classify),        cmocka_unit_test(memory_types), cmocka_unit_test(low_bits),
        cmocka_unit_test(qualification),   cmocka_unit_test(shrinks),      cmocka_unit_test(history_regions),
        cmocka_unit_test(history_bounded), cmocka_unit_test(writable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
