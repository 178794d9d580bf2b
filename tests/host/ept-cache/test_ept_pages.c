/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * What ept02 maps at a violation: page sizes, coalescing, whole tables, prefill.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "ept-cache/table.h"
#include "tests/host/ept-cache/ept_world.h"

#define WB (MEMTYPE_WB << EPT_MEMTYPE_SHIFT)
#define RWX_WB (EPT_RWX | WB)

/* Every page of [base, base + size) is mapped exactly as the oracle says; the page size is the same throughout. */
static void assert_mapped(unsigned eptp, uint64_t base, uint64_t size, uint64_t page_size)
{
    for (uint64_t addr = base; addr < base + size; addr += PAGE_SIZE) {
        uint64_t found;
        assert_int_equal(world_mapped(0, eptp, addr, &found), world_expected(eptp, addr));
        assert_int_equal(found, page_size);
    }
}

static const struct ept02_counters *counters(unsigned cpu) { return &world_ept02(cpu)->counters; }
static uint64_t repaired(unsigned cpu) { return counters(cpu)->outcome[EPT02_REPAIRED]; }

static void page_sizes(void **state)
{
    (void)state;
    for (unsigned large = 0; large < 2; large++) {
        struct world_config config = world_all_on(512);
        config.large = large;
        world_reset(&config);
        world_page_table(0, 0);
        world_set(0, PAGE_2M, 2, world_leaf(WORLD_DATA + PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        world_page_table(0, 512 * GIB);
        world_set(0, 512 * GIB, 3, world_leaf(2 * GIB, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        assert_int_equal(world_access(0, 0, PAGE_2M + 0x5123, EPT_W), EPT02_REPAIRED);
        assert_mapped(0, PAGE_2M, PAGE_2M, large ? PAGE_2M : PAGE_SIZE);
        assert_int_equal(world_access(0, 0, 512 * GIB + 77 * PAGE_2M, EPT_X), EPT02_REPAIRED);
        assert_mapped(0, 512 * GIB + 77 * PAGE_2M, PAGE_2M, large ? PAGE_1G : PAGE_SIZE);
        world_end();
    }
}

/* A 1-GiB page of ept12 over parts of ept01 that differ: each part in the largest page that it allows. */
static void page_size_of_ept01(void **state)
{
    (void)state;
    world_reset_all_on(512);
    world_ept01(1, KIND_MIXED);
    world_ept01(2, KIND_PAGES);
    world_ept01(3, KIND_UC);
    world_ept01(4, KIND_HOLE);
    world_page_table(0, PAGE_1G);
    world_set(0, PAGE_1G, 3, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
    assert_int_equal(world_access(0, 0, PAGE_1G, EPT_R), EPT02_REPAIRED);
    assert_mapped(0, PAGE_1G, PAGE_2M, PAGE_2M);
    assert_int_equal(world_access(0, 0, PAGE_1G + PAGE_2M, EPT_R), EPT02_REPAIRED);
    assert_mapped(0, PAGE_1G + PAGE_2M, PAGE_2M, PAGE_SIZE);
    assert_mapped(0, PAGE_1G + 2 * PAGE_2M, 2 * PAGE_2M, PAGE_2M);
    assert_int_equal(world_access(0, 0, PAGE_1G + 4 * PAGE_2M, EPT_R), EPT02_FAULT01);
    assert_int_equal(world_access(0, 0, PAGE_1G + PAGE_2M + 3 * PAGE_SIZE, EPT_X), EPT02_FAULT01);
    world_end();
}

static void coalesce_page_table(void **state)
{
    (void)state;
    world_reset_all_on(512);
    world_run(0, 0, WORLD_DATA + 4 * PAGE_2M, EPT_RWX);
    assert_int_equal(world_access(0, 0, 0x7000, EPT_R), EPT02_REPAIRED);
    assert_mapped(0, 0, PAGE_2M, PAGE_2M);
    assert_int_equal(counters(0)->coalesced_2m, 1);
    assert_int_equal(repaired(0), 1);
    world_end();
}

/* Where code in pages of several sizes is a danger, 4-KiB pages of code stay what the guest hypervisor made them. */
static void code_is_not_coalesced(void **state)
{
    (void)state;
    for (unsigned executable = 0; executable < 2; executable++) {
        struct world_config config = world_all_on(512);
        config.no_coalesce_code = true;
        world_reset(&config);
        uint64_t access = executable ? EPT_RWX : EPT_R | EPT_W;
        uint64_t table = world_run(0, 0, WORLD_DATA + 4 * PAGE_2M, access);
        assert_int_equal(world_access(0, 0, 0x7000, EPT_R), EPT02_REPAIRED);
        assert_mapped(0, 0, PAGE_2M, executable ? PAGE_SIZE : PAGE_2M);
        assert_int_equal(counters(0)->coalesced_2m, !executable);
        for (unsigned i = 0; i < EPT_ENTRIES; i++)
            world_write_quiet(table, i, world_read(table, i) ^ EPT_X);
        world_notice();
        world_flush(0, INVEPT_SINGLE, 0);
        assert_mapped(0, 0, PAGE_2M, executable ? PAGE_2M : PAGE_SIZE);
        world_end();
    }
}

/* An APIC-access page, named after its table was made or before. */
static void named_pages_stay_small(void **state)
{
    (void)state;
    for (unsigned early = 0; early < 2; early++) {
        world_reset_all_on(512);
        uint64_t target = 2 * GIB, page = target + 7 * PAGE_SIZE;
        world_run(0, 0, target, EPT_RWX);
        if (early)
            ept02_keep_small(world_ept02(0), hpa(page));
        assert_int_equal(world_access(0, 0, 0, EPT_R), EPT02_REPAIRED);
        unsigned before = world_invepts();
        ept02_keep_small(world_ept02(0), hpa(page));
        assert_int_equal(world_invepts() > before, !early); /* a large translation may be cached */
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(world_access(0, 0, 7 * PAGE_SIZE, EPT_R), EPT02_REPAIRED);
            assert_mapped(0, 0, PAGE_2M, PAGE_SIZE);
            world_flush(0, INVEPT_SINGLE, 0);
        }
        world_end();
    }
}

/* One thing wrong with one entry, or with ept01 below: the table stays a table, and is right. */
static void coalesce_refused(void **state)
{
    static const unsigned where[] = { 0, 1, 200, 510, 511 };
    (void)state;
    for (unsigned n = 0; n < 7 * ARRAY_SIZE(where); n++) {
        unsigned index = where[n % ARRAY_SIZE(where)];
        uint64_t target = WORLD_DATA + 4 * PAGE_2M;
        world_reset_all_on(512);
        uint64_t table = world_run(0, 0, target, EPT_RWX), entry = world_read(table, index);
        switch (n / ARRAY_SIZE(where)) {
        case 0:
            entry ^= EPT_W;
            break;
        case 1:
            entry = 0;
            break;
        case 2:
            entry ^= PAGE_2M;
            break;
        case 3:
            entry ^= WB;
            break;
        case 4:
            entry |= EPT_IGNORE_PAT;
            break;
        case 5:
            entry = (entry & ~EPT_RWX) | EPT_W;
            break;
        default:
            world_ept01(4, KIND_MIXED);
        }
        world_write(table, index, entry);
        world_access(0, 0, 0x64000, EPT_R);
        assert_mapped(0, 0, PAGE_2M, PAGE_SIZE);
        assert_int_equal(counters(0)->coalesced_2m, 0);
        world_end();
    }
}

/* One region of ept01 is somewhere else, or allows less, or has another type: no page of ept02 may reach across. */
static void ept01_not_uniform(void **state)
{
    static const enum world_kind differing[] = { KIND_SHIFTED, KIND_UC, KIND_WT, KIND_READ_ONLY };
    (void)state;
    for (unsigned n = 0; n < 2 * ARRAY_SIZE(differing); n++) {
        world_reset_all_on(512);
        world_ept01(5, differing[n / 2]);
        world_page_table(0, 0);
        uint64_t pdpt = world_read(world_table(0), 0) & EPT_ADDR_MASK, pd = world_read(pdpt, 0) & EPT_ADDR_MASK;
        for (unsigned i = 0; i < EPT_ENTRIES; i++)
            world_write_quiet(pd, i, world_leaf(WORLD_DATA + i * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        world_write(pdpt, 0, n & 1 ? pd | EPT_RWX : world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        for (unsigned i = 4; i < 7; i++) {
            assert_int_equal(world_access(0, 0, i * PAGE_2M, EPT_R), EPT02_REPAIRED);
            assert_mapped(0, i * PAGE_2M, PAGE_2M, PAGE_2M);
        }
        world_end();
    }
}

/* 512 neighbours, but one of them refers to a table that happens to lie where the page would: UC looks like reserved 0. */
static void coalesce_table_among_pages(void **state)
{
    (void)state;
    world_reset_all_on(512);
    world_page_table(0, 0);
    uint64_t pd = world_read(world_read(world_table(0), 0) & EPT_ADDR_MASK, 0) & EPT_ADDR_MASK;
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(pd, i, world_leaf(i * PAGE_2M, EPT_RWX, MEMTYPE_UC) | (i == 3 ? 0 : EPT_LARGE));
    world_notice();
    assert_int_equal(world_access(0, 0, 0, EPT_W), EPT02_REPAIRED);
    assert_mapped(0, 0, PAGE_2M, PAGE_2M);
    assert_int_equal(world_mapped(0, 0, 3 * PAGE_2M, NULL), world_expected(0, 3 * PAGE_2M));
    world_end();
}

/* A page of another size at a place where the old one may be cached: the processor is told, INVEPT or not. */
static void size_changes_at_violation(void **state)
{
    (void)state;
    world_reset_all_on(512);
    world_pages_in(0);
    world_page_table(0, 0);
    uint64_t table = world_run(1, 0, WORLD_DATA, EPT_RWX);
    for (unsigned n = 0; n < 4; n++) {
        uint64_t page = world_leaf(WORLD_DATA + PAGE_2M, EPT_R, MEMTYPE_WB) | EPT_LARGE;
        world_write(table, 7, world_read(table, 8) - PAGE_SIZE);
        world_set(0, PAGE_2M, 2, n & 1 ? table | EPT_R : page);
        world_flush(0, INVEPT_GLOBAL, 0);
        world_access(0, 0, PAGE_2M, EPT_R);
        unsigned before = world_invepts();
        world_write(table, 7, n & 2 ? 0 : world_read(table, 7));
        world_set(0, PAGE_2M, 2, n & 1 ? page | EPT_W : table | EPT_RWX);
        assert_int_equal(world_access(0, 0, PAGE_2M, EPT_W), EPT02_REPAIRED);
        assert_true(world_invepts() > before);
    }
    world_end();
}

/* Neighbouring pages from an address that is not a multiple of 2 MiB. */
static void coalesce_unaligned(void **state)
{
    (void)state;
    world_reset_all_on(512);
    world_run(0, 0, WORLD_DATA + 4 * PAGE_2M + PAGE_SIZE, EPT_RWX);
    world_access(0, 0, 0, EPT_R);
    assert_mapped(0, 0, PAGE_2M, PAGE_SIZE);
    world_end();
}

/* What the entry above the table allows counts as well, and ignored bits do not count. */
static void coalesce_with_access_from_above(void **state)
{
    (void)state;
    world_reset_all_on(512);
    uint64_t table = world_run(0, 0, WORLD_DATA, EPT_RWX);
    for (unsigned i = 0; i < EPT_ENTRIES; i += 3)
        world_write_quiet(table, i, world_read(table, i) | BIT(57) | BIT(62) | EPT_ACCESSED);
    world_notice();
    world_set(0, 0, 2, table | EPT_R);
    assert_int_equal(world_access(0, 0, 0, EPT_R), EPT02_REPAIRED);
    assert_mapped(0, 0, PAGE_2M, PAGE_2M);
    assert_int_equal(world_access(0, 0, 0, EPT_W), EPT02_VIOLATION12);
    world_end();
}

static void coalesce_2m_pages(void **state)
{
    (void)state;
    for (unsigned hole = 0; hole < 2; hole++) {
        world_reset_all_on(512);
        world_page_table(0, 0);
        uint64_t pd = world_read(world_read(world_table(0), 0) & EPT_ADDR_MASK, 0) & EPT_ADDR_MASK;
        for (unsigned i = 0; i < EPT_ENTRIES; i++)
            world_write_quiet(pd, i, world_leaf(2 * GIB + i * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        world_write(pd, 300, hole ? 0 : world_read(pd, 300));
        assert_int_equal(world_access(0, 0, 5 * PAGE_2M, EPT_R), EPT02_REPAIRED);
        for (unsigned i = 0; i < EPT_ENTRIES; i += 23)
            assert_mapped(0, i * PAGE_2M, PAGE_SIZE, hole ? PAGE_2M : PAGE_1G);
        assert_int_equal(counters(0)->coalesced_1g, !hole);
        /* One of them changes: the others stay. */
        world_write(pd, 46, world_leaf(3 * GIB, EPT_R, MEMTYPE_UC) | EPT_LARGE);
        world_flush(0, INVEPT_SINGLE, 0);
        for (unsigned i = 0; i < EPT_ENTRIES; i += 23)
            assert_mapped(0, i * PAGE_2M, PAGE_SIZE, PAGE_2M);
        assert_int_equal(repaired(0), 1);
        world_end();
    }
}

/* The guest hypervisor fills a table page by page; in the end it is one large page, and no page was asked for twice. */
static void coalesce_when_full(void **state)
{
    (void)state;
    world_reset_all_on(512);
    uint64_t table = world_page_table(0, 0);
    for (unsigned n = 0; n < EPT_ENTRIES; n++) {
        unsigned i = n * 197 % EPT_ENTRIES;
        assert_int_equal(world_access(0, 0, i * PAGE_SIZE, EPT_W), EPT02_VIOLATION12);
        world_write(table, i, world_leaf(WORLD_DATA + i * PAGE_SIZE, EPT_RWX, MEMTYPE_WB));
        world_prefill(0, 0, i * PAGE_SIZE);
        assert_int_equal(world_access(0, 0, i * PAGE_SIZE, EPT_W), EPT02_REPAIRED);
    }
    assert_mapped(0, 0, PAGE_2M, PAGE_2M);
    assert_int_equal(repaired(0), 0);
    assert_int_equal(counters(0)->prefilled, EPT_ENTRIES);
    world_end();
}

/* One violation a table, whatever its entries are like. */
static void whole_table(void **state)
{
    (void)state;
    world_reset_all_on(512);
    uint64_t table = world_page_table(0, 0);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(table, i,
                          world_leaf(WORLD_DATA + (i * 7 % 512) * PAGE_2M + i * PAGE_SIZE, i % 3 ? EPT_RWX : EPT_R,
                                     i % 5 ? MEMTYPE_WB : MEMTYPE_UC));
    world_notice();
    assert_int_equal(world_access(0, 0, 0x3000, EPT_R), EPT02_REPAIRED);
    assert_mapped(0, 0, PAGE_2M, PAGE_SIZE);
    assert_int_equal(repaired(0), 1);
    world_end();
}

/* With everything off, a page at a time, and none that was not asked for. */
static void one_page_at_a_time(void **state)
{
    (void)state;
    struct world_config config = { .seed = 1, .watch = true, .hw_single = true, .pages_1g = true, .pool_pages = 512 };
    world_reset(&config);
    world_run(0, 0, WORLD_DATA, EPT_RWX);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(world_mapped(0, 0, i * PAGE_SIZE, NULL), 0);
        assert_int_equal(world_access(0, 0, i * PAGE_SIZE, EPT_R), EPT02_REPAIRED);
        assert_int_equal(repaired(0), i + 1);
    }
    world_end();
}

/* After a reflected violation the guest hypervisor may change the page at will without INVEPT. */
static void reflected_page_is_forgotten(void **state)
{
    (void)state;
    for (unsigned prefill = 0; prefill < 2; prefill++) {
        struct world_config config = world_all_on(512);
        config.prefill = prefill;
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_run(0, 0, WORLD_DATA, EPT_R);
        assert_int_equal(world_access(0, 0, 0x4000, EPT_R), EPT02_REPAIRED);
        assert_int_equal(world_access(0, 0, 0x4000, EPT_W), EPT02_VIOLATION12);
        world_write(table, 4, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_R, MEMTYPE_WB));
        /* The oracle allows only the new page now, and world_access looks. */
        world_prefill(0, 0, 0x4000);
        assert_int_equal(world_access(0, 0, 0x4000, EPT_R), EPT02_REPAIRED);
        assert_int_equal(world_mapped(0, 0, 0x4000, NULL), world_expected(0, 0x4000));
        world_end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_sizes),
        cmocka_unit_test(page_size_of_ept01),
        cmocka_unit_test(coalesce_page_table),
        cmocka_unit_test(code_is_not_coalesced),
        cmocka_unit_test(named_pages_stay_small),
        cmocka_unit_test(coalesce_refused),
        cmocka_unit_test(coalesce_unaligned),
        cmocka_unit_test(ept01_not_uniform),
        cmocka_unit_test(coalesce_table_among_pages),
        cmocka_unit_test(size_changes_at_violation),
        cmocka_unit_test(coalesce_with_access_from_above),
        cmocka_unit_test(coalesce_2m_pages),
        cmocka_unit_test(coalesce_when_full),
        cmocka_unit_test(whole_table),
        cmocka_unit_test(one_page_at_a_time),
        cmocka_unit_test(reflected_page_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
