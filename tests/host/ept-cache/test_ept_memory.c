/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * Roots, history and memory: many EPTPs, more tables than pages, what a second CPU need not learn, changes at the wrong
 * moment, and that no state in between maps too much.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "ept-cache/table.h"
#include "tests/host/ept-cache/ept_world.h"
#include "tests/host/cpu/fake_watch.h"
#include "tests/host/support/journal.h"

#define WB (MEMTYPE_WB << EPT_MEMTYPE_SHIFT)
#define RWX_WB (EPT_RWX | WB)

static const struct ept02_counters *counters(unsigned cpu) { return &world_ept02(cpu)->counters; }
static uint64_t repaired(unsigned cpu) { return counters(cpu)->outcome[EPT02_REPAIRED]; }

/* What a second CPU does not have to learn: it takes one violation where the first took eight. */
static void history_is_shared(void **state)
{
    (void)state;
    for (unsigned history = 0; history < 2; history++) {
        struct world_config config = world_all_on(512);
        config.history = history;
        world_reset(&config);
        for (unsigned i = 0; i < 8; i++) {
            world_run(0, i * 3 * PAGE_2M, WORLD_DATA + i * PAGE_2M, EPT_RWX);
            world_access(0, 0, i * 3 * PAGE_2M, EPT_W);
        }
        assert_int_equal(repaired(0), 8);
        for (unsigned i = 0; i < 8; i++)
            world_access(1, 0, i * 3 * PAGE_2M, EPT_W);
        assert_int_equal(repaired(1), history ? 1 : 8);
        assert_int_equal(counters(1)->history_hits, history ? 7 : 0);
        world_end();
    }
}

/* What history names and ept12 does not map any more is not mapped, and forgotten. */
static void history_never_grants(void **state)
{
    (void)state;
    world_reset_all_on(512);
    for (unsigned i = 0; i < 8; i++) {
        world_run(0, i * PAGE_2M, WORLD_DATA + i * PAGE_2M, EPT_RWX);
        world_access(0, 0, i * PAGE_2M, EPT_W);
    }
    for (unsigned i = 4; i < 8; i++)
        world_set(0, i * PAGE_2M, 2, i & 1 ? 0 : EPT_W);
    world_access(1, 0, 0, EPT_W);
    for (unsigned i = 4; i < 8; i++)
        assert_int_equal(world_mapped(1, 0, i * PAGE_2M, NULL), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(history_touched(&world_ept02(1)->shared->history, world_eptp(0), gpa2(i * PAGE_2M)), i < 4);
    assert_int_equal(counters(1)->history_waste, 4);
    assert_int_equal(counters(1)->history_hits, 3);
    world_end();
}

/* Far more EPTPs than there is room for, in turn: each serves, none takes another's pages, memory stays bounded. */
static void alternating_eptps(void **state)
{
    (void)state;
    for (unsigned pages = 32; pages <= 512; pages *= 4) {
        struct world_config config = world_all_on(512);
        config.pool_pages = pages;
        world_reset(&config);
        for (unsigned i = 0; i < 3; i++)
            world_run(i, 0, WORLD_DATA + i * PAGE_2M, EPT_RWX);
        uint32_t serial = world_root(0, 0)->serial;
        for (unsigned i = 0; i < 400; i++) {
            world_other_root(0, i % 100);
            assert_int_equal(world_access(0, i % 3, i % 512 * PAGE_SIZE, EPT_W), EPT02_REPAIRED);
        }
        for (unsigned i = 0; i < 100; i++)
            world_other_root(0, i);
        struct ept02_root *root = ept02_root_get(world_ept02(0), world_eptp(0));
        assert_int_not_equal(root->serial, serial);
        world_end();
    }
}

/* More page tables than memory for one EPTP alone. */
static void one_eptp_larger_than_memory(void **state)
{
    (void)state;
    for (unsigned large = 0; large < 2; large++) {
        struct world_config config = world_all_on(512);
        config.pool_pages = 24;
        config.large = large;
        world_reset(&config);
        world_pages_grid(30, PAGE_2M);
        for (unsigned i = 0; i < 30; i++)
            world_run(0, i * PAGE_2M, WORLD_DATA + i * PAGE_2M + PAGE_SIZE, EPT_RWX);
        for (unsigned i = 0; i < 1000; i++) {
            uint64_t addr = i * 7 % 30 * PAGE_2M + i / 30 % 6 * PAGE_SIZE;
            assert_int_equal(world_access(0, 0, addr, EPT_W), EPT02_REPAIRED);
        }
        assert_true(counters(0)->evictions > 0);
        world_end();
    }
}

/* The same with one large page in each of many GiBs: it is the upper tables that do not fit. */
static void one_eptp_spread_wide(void **state)
{
    (void)state;
    for (unsigned pages = EPT02_PAGES_MIN; pages < 24; pages++) {
        struct world_config config = world_all_on(512);
        config.pool_pages = pages;
        world_reset(&config);
        world_pages_grid(20, 37 * GIB);
        for (unsigned i = 0; i < 20; i++)
            world_run(0, i * 37 * GIB, WORLD_DATA + i * PAGE_2M, EPT_RWX);
        for (unsigned i = 0; i < 200; i++)
            assert_int_equal(world_access(0, 0, i * 7 % 20 * 37 * GIB, EPT_W), EPT02_REPAIRED);
        world_end();
    }
}

/* A whole GiB is replaced when one page of it is touched: other translations of it may still be cached. */
static void gib_replaced_at_violation(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct world_config config = world_all_on(512);
        config.seed = seed;
        config.history = config.coalesce = false;
        world_reset(&config);
        world_pages_grid(8, PAGE_2M);
        for (unsigned i = 0; i < 8; i++) {
            world_run(0, i * PAGE_2M, WORLD_DATA + i * PAGE_2M, EPT_RWX);
            world_run(1, i * PAGE_2M, WORLD_DATA + (20 + i) * PAGE_2M, EPT_RWX);
        }
        for (unsigned i = 0; i < 24; i++)
            world_access(0, 0, world_page(i), EPT_W);
        world_set(0, 0, 3, world_read(world_read(world_table(1), 0) & EPT_ADDR_MASK, 0));
        for (unsigned i = 24; i-- > 0;)
            world_access(0, 0, world_page(i), EPT_W);
        world_end();
    }
}

static void misconfig_exit(void **state)
{
    (void)state;
    world_reset_all_on(512);
    uint64_t table = world_run(0, 0, WORLD_DATA, EPT_RWX);
    world_access(0, 0, 0x1000, EPT_R);
    assert_int_equal(ept02_misconfig(world_ept02(0), world_root(0, 0), gpa2(0x1000)), EPT02_REPAIRED);
    assert_int_equal(world_access(0, 0, 0x1000, EPT_R), EPT02_REPAIRED);
    world_write(table, 1, EPT_W);
    assert_int_equal(ept02_misconfig(world_ept02(0), world_root(0, 0), gpa2(0x1000)), EPT02_MISCONFIG12);
    assert_int_equal(world_mapped(0, 0, 0x1000, NULL), 0);
    assert_int_equal(counters(0)->outcome[EPT02_MISCONFIG12], 1);
    world_end();
}

/* Addresses that a 4-level walk cannot reach. */
static void address_too_wide(void **state)
{
    struct ept02_report report;
    (void)state;
    world_reset_all_on(512);
    world_run(0, 0, WORLD_DATA, EPT_RWX);
    assert_int_equal(ept02_violation(world_ept02(0), world_root(0, 0), gpa2(BIT(48)), EPT_QUAL_READ, &report),
                     EPT02_VIOLATION12);
    assert_int_equal(report.qualification, EPT_QUAL_READ);
    world_end();
}

/* Another CPU changes an entry between the walk and the moment the new table is watched: it must not be missed. */
static uint64_t racing_table, racing_entry;
static unsigned racing_index;
static void race(gpa1_t page)
{
    if (page.v == racing_table)
        world_write(racing_table, racing_index, racing_entry);
}

static void change_before_watching(void **state)
{
    (void)state;
    for (unsigned level = 1; level <= 3; level++) {
        struct world_config config = world_all_on(512);
        config.coalesce = false;
        world_reset(&config);
        world_pages_in(0);
        world_run(0, 0, WORLD_DATA, EPT_RWX);
        uint64_t other = world_run(1, 0, WORLD_DATA + 8 * PAGE_2M, EPT_R);
        uint64_t pdpt = world_read(world_table(0), 0) & EPT_ADDR_MASK, pd = world_read(pdpt, 0) & EPT_ADDR_MASK;
        uint64_t other_pdpt = world_read(world_table(1), 0) & EPT_ADDR_MASK;
        racing_table = level == 1 ? world_read(pd, 0) & EPT_ADDR_MASK : level == 2 ? pd : pdpt;
        racing_index = level == 1 ? 3 : 0;
        racing_entry = level == 1   ? world_leaf(WORLD_DATA + PAGE_2M, EPT_R, MEMTYPE_WB)
                       : level == 2 ? other | 7
                                    : world_read(other_pdpt, 0);
        fake_watch_on_add(race);
        struct ept02_report report;
        ept02_violation(world_ept02(0), world_root(0, 0), gpa2(0x3000), EPT_QUAL_READ, &report);
        fake_watch_on_add(NULL);
        world_flush(0, INVEPT_SINGLE, 0); /* checks */
        assert_int_equal(world_mapped(0, 0, 0x3000, NULL) & ~world_expected(0, 0x3000), 0);
        world_end();
    }
}

static const char *wrong_after(uint64_t addr)
{
    (void)addr;
    return world_wrong();
}

/* Single-stepped: after no store does ept02 map what is not allowed. */
static void no_state_in_between(void **state)
{
    unsigned writes;
    (void)state;
    world_reset_all_on(512);
    world_pages_in(0);
    uint64_t table = world_run(0, 0, WORLD_DATA, EPT_R);
    world_run(0, 8 * PAGE_2M, WORLD_DATA + 3 * PAGE_2M + PAGE_SIZE, EPT_RWX);
    journal_begin(wrong_after);
    world_access(0, 0, 0, EPT_R);
    world_access(0, 0, 8 * PAGE_2M, EPT_W);
    world_access(0, 0, 0x4000, EPT_W);
    world_prefill(0, 0, 0x4000);
    const char *complaint = journal_end(&writes);
    if (complaint)
        fail_msg("%s", complaint);
    assert_true(writes > 1000);
    world_write(table, 16, 0);
    world_set(0, 8 * PAGE_2M, 2, world_leaf(WORLD_DATA + 8 * PAGE_2M, EPT_R, MEMTYPE_WB) | EPT_LARGE);
    journal_begin(wrong_after);
    world_flush(0, INVEPT_SINGLE, 0);
    world_access(0, 0, 0x5000, EPT_R);
    complaint = journal_end(&writes);
    if (complaint)
        fail_msg("%s", complaint);
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_eptp_spread_wide),   cmocka_unit_test(gib_replaced_at_violation),
        cmocka_unit_test(history_is_shared),      cmocka_unit_test(history_never_grants),
        cmocka_unit_test(alternating_eptps),      cmocka_unit_test(one_eptp_larger_than_memory),
        cmocka_unit_test(misconfig_exit),         cmocka_unit_test(address_too_wide),
        cmocka_unit_test(change_before_watching), cmocka_unit_test(no_state_in_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
