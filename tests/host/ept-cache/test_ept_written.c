/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * INVEPT: who wrote the tables of ept12, and what has to be compared: one table at many places, tables that the nested
 * guest itself can write, nothing.
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

#define WB (MEMTYPE_WB << EPT_MEMTYPE_SHIFT)
#define UC 0
#define PAGES 16 /* 2-MiB regions that the nested guest uses */

static const struct ept02_counters *counters(unsigned cpu) { return &world_ept02(cpu)->counters; }

/* One EPTP's INVEPT does not excuse another's. */
static void other_eptp_stays_stale(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    world_write(world_table(1), 0, world_read(world_table(0), 0)); /* shares everything below */
    world_access(0, 0, 0, EPT_W);
    world_access(0, 1, 0, EPT_W);
    world_access(1, 1, 0, EPT_W);
    world_write(table, 0, 0);
    world_flush(0, INVEPT_SINGLE, 0);
    assert_int_equal(world_mapped(0, 0, 0, NULL), 0);
    world_flush(0, INVEPT_SINGLE, 1);
    assert_int_equal(world_mapped(0, 1, 0, NULL), 0);
    world_flush(1, INVEPT_GLOBAL, 0);
    assert_int_equal(world_mapped(1, 1, 0, NULL), 0);
    world_end();
}

/* The watch has lost track: everything is compared. */
static void watch_lost_track(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    world_pages_in(0);
    uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    world_access(0, 0, 0, EPT_W);
    world_flush(0, INVEPT_SINGLE, 0);
    world_write(table, 0, 0);
    fake_watch_lose(0);
    world_flush(0, INVEPT_SINGLE, 0);
    assert_int_equal(world_mapped(0, 0, 0, NULL), 0);
    world_end();
}

/* More reports at once than are taken at once. */
static void many_tables_written(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    world_pages_grid(40, PAGE_2M);
    uint64_t first = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    for (unsigned i = 1; i < 40; i++)
        world_fill(0, i * PAGE_2M, world_leaf(WORLD_DATA + i * PAGE_2M, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    for (unsigned i = 0; i < 40; i++)
        world_access(0, 0, i * PAGE_2M, EPT_W);
    for (unsigned i = 0; i < 40; i++) /* tables are next to each other, upper tables come first */
        world_write_quiet(first + i * PAGE_SIZE, 0, 0);
    world_notice();
    world_flush(0, INVEPT_SINGLE, 0);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(world_mapped(0, 0, i * PAGE_2M, NULL), 0);
    world_end();
}

/* One table of ept12 at many places. */
static void shared_table(void **state)
{
    (void)state;
    for (unsigned step = 0; step < 2; step++) {
        struct world_config config = world_all_on(512);
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), step * PAGE_SIZE);
        for (unsigned i = 1; i < PAGES; i++)
            world_set(0, i * PAGE_2M, 2, table | EPT_RWX);
        for (unsigned i = 0; i < PAGES; i++)
            world_access(0, 0, i * PAGE_2M, EPT_W);
        world_write(table, 0, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_R, MEMTYPE_WB));
        world_flush(0, INVEPT_SINGLE, 0);
        for (unsigned i = 0; i < PAGES; i++)
            assert_int_equal(world_mapped(0, 0, i * PAGE_2M, NULL), world_expected(0, 0));
        world_end();
    }
}

/* Nothing changed: nothing is compared. One table changed: one table is compared, however much is mapped. */
static void cost_follows_changes(void **state)
{
    (void)state;
    for (unsigned regions = 4; regions <= 32; regions *= 2) {
        struct world_config config = world_all_on(512);
        world_reset(&config);
        uint64_t table = 0;
        for (unsigned i = 0; i < regions; i++) {
            table = world_fill(0, i * PAGE_2M, world_leaf(WORLD_DATA + i * PAGE_2M, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
            world_access(0, 0, i * PAGE_2M, EPT_W);
        }
        world_flush(0, INVEPT_GLOBAL, 0);
        uint64_t compared = counters(0)->revalidated;
        world_flush(0, INVEPT_GLOBAL, 0);
        assert_int_equal(counters(0)->revalidated, compared);
        world_write(table, 5, 0);
        world_flush(0, INVEPT_GLOBAL, 0);
        assert_int_equal(counters(0)->revalidated, compared + EPT_ENTRIES);
        assert_int_equal(counters(0)->rewritten, 1);
        world_end();
    }
}

/* Growth, and then moves that differ from their old entries by the same number. */
static void move_that_looks_like_growth(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    world_pages_grid(1, 0);
    uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_R, MEMTYPE_WB), 2 * PAGE_SIZE), page = WORLD_DATA;
    for (unsigned i = 0; i < 8; i++) {
        bool growing = i < 2;
        world_write_quiet(table, i,
                          growing ? world_leaf(page + i * PAGE_SIZE, EPT_R, MEMTYPE_WB)
                                  : world_leaf(page + (i - 1) * PAGE_SIZE, EPT_R, MEMTYPE_WB) | BIT(11));
    }
    world_notice();
    for (unsigned i = 0; i < 8; i++)
        world_access(0, 0, i * PAGE_SIZE, EPT_R);
    world_flush(0, INVEPT_SINGLE, 0);
    for (unsigned i = 0; i < 8; i++) {
        bool growing = i < 2;
        world_write_quiet(table, i,
                          world_leaf(page + i * PAGE_SIZE, EPT_R | EPT_W, MEMTYPE_WB) | (growing ? BIT(11) : 0));
    }
    world_notice();
    unsigned before = world_invepts();
    world_flush(0, INVEPT_SINGLE, 0);
    assert_true(world_invepts() > before);
    world_end();
}

/* With everything off, INVEPT maps nothing that was not mapped. */
static void nothing_is_added_with_all_off(void **state)
{
    (void)state;
    struct world_config config = { .seed = 1, .watch = true, .hw_single = true, .pages_1g = true, .pool_pages = 512 };
    world_reset(&config);
    uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    for (unsigned i = 0; i < EPT_ENTRIES; i += 2)
        world_access(0, 0, i * PAGE_SIZE, EPT_R);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(table, i, world_leaf(WORLD_DATA + i * PAGE_SIZE, EPT_R, MEMTYPE_WB));
    world_notice();
    world_flush(0, INVEPT_SINGLE, 0);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        assert_int_equal(world_mapped(0, 0, i * PAGE_SIZE, NULL), 0);
    for (unsigned i = 0; i < EPT_ENTRIES; i += 2)
        world_access(0, 0, i * PAGE_SIZE, EPT_R);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        assert_int_equal(world_mapped(0, 0, i * PAGE_SIZE, NULL), i & 1 ? 0 : world_expected(0, i * PAGE_SIZE));
    world_end();
}

/*
 * The nested guest itself writes a table of ept12 that it can reach, on this CPU or another, with the table known before
 * the page was writable or after. Nobody reports that. The tables are in the first 2 MiB.
 */
enum reach { REACH_PAGES, REACH_2M, REACH_1G, REACH_COALESCED_1G, REACH_MIXED, REACH_COUNT };

static void reach_tables(enum reach reach)
{
    uint64_t upper, entry;
    switch (reach) {
    case REACH_2M:
        world_set(0, PAGE_2M, 2, world_leaf(0, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        break;
    case REACH_1G:
        world_set(0, PAGE_1G, 3, world_leaf(0, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        break;
    case REACH_COALESCED_1G:
        world_page_table(0, PAGE_1G);
        upper = world_read(world_read(world_table(0), 0) & EPT_ADDR_MASK, 1) & EPT_ADDR_MASK;
        for (unsigned i = 0; i < EPT_ENTRIES; i++)
            world_write_quiet(upper, i, world_leaf(i * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        world_notice();
        break;
    default: /* neighbours, or the second half comes from elsewhere */
        upper = world_fill(0, PAGE_2M, world_leaf(0, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
        for (unsigned i = 0; reach == REACH_MIXED && i < 8; i++) {
            entry = world_read(upper, i);
            world_write(upper, i, entry + 5 * PAGE_2M);
        }
    }
}

static void nested_guest_writes_table(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 8 * REACH_COUNT; n++) {
        unsigned writer = n & 1;
        enum reach reach = (enum reach)(n / 8);
        struct world_config config = world_all_on(512);
        config.large = config.coalesce = n & 4;
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
        uint64_t alias = (reach == REACH_1G || reach == REACH_COALESCED_1G ? PAGE_1G : PAGE_2M) + table;
        /* Where one page of another region comes first, that one is touched: the tables' come with it. */
        uint64_t touched = reach == REACH_MIXED && config.coalesce ? PAGE_2M : alias;
        reach_tables(reach);
        if (n & 2)
            world_access(writer, 0, touched, EPT_W);
        world_access(0, 0, 0, EPT_W);
        world_flush(0, INVEPT_GLOBAL, 0);
        if (!(n & 2))
            world_access(writer, 0, touched, EPT_W);
        world_flush(0, INVEPT_GLOBAL, 0);
        world_nested_write(writer, 0, alias, 0, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_R, MEMTYPE_WB));
        assert_int_equal(world_expected(0, 0), world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_R, MEMTYPE_WB));
        world_flush(0, INVEPT_GLOBAL, 0);
        assert_int_equal(world_mapped(0, 0, 0, NULL), world_expected(0, 0));
        world_end();
    }
}

/* When nested guests cannot write tables any more, INVEPT gets cheap again; and not before. */
static void tables_out_of_reach_again(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 4; n++) {
        unsigned reachable = n & 1;
        struct world_config config = world_all_on(512);
        config.coalesce = n & 2;
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE),
                 alias = PAGE_2M + table;
        world_fill(0, PAGE_2M, world_leaf(0, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
        world_access(0, 0, alias, EPT_W);
        world_access(0, 0, 0, EPT_W);
        if (!reachable)
            world_set(0, PAGE_2M, 2, 0);
        for (unsigned i = 0; i < ALWAYS_LIMIT_FIRST; i++) {
            ept02_invept(world_ept02(0), INVEPT_GLOBAL, 0);
            ept02_enter(world_ept02(0), world_root(0, 0));
        }
        uint64_t compared = counters(0)->revalidated;
        world_flush(0, INVEPT_GLOBAL, 0);
        assert_int_equal(counters(0)->revalidated != compared, reachable);
        if (reachable)
            world_nested_write(0, 0, alias, 0, 0);
        else
            world_write(table, 0, 0);
        world_flush(0, INVEPT_GLOBAL, 0);
        assert_int_equal(world_mapped(0, 0, 0, NULL), 0);
        assert_int_equal(world_expected(0, 0), 0);
        world_end();
    }
}

/* INVEPTs, each with its entry, for one EPTP until what is suspect has been looked at anew. */
static void invept_until_tidy(unsigned eptp)
{
    for (unsigned i = 0; i <= ALWAYS_LIMIT_FIRST; i++) {
        ept02_invept(world_ept02(0), INVEPT_SINGLE, world_eptp(eptp));
        ept02_enter(world_ept02(0), world_root(0, eptp));
    }
}

/* Out of reach in ept02, but not yet in what the processor has cached: nobody had to execute INVEPT for that EPTP. */
static void tables_within_cached_reach(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 8; seed++) {
        struct world_config config = world_all_on(512);
        config.seed = seed;
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE),
                 alias = PAGE_2M + table;
        world_fill(1, PAGE_2M, world_leaf(0, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
        world_access(0, 1, alias, EPT_W);
        world_access(0, 0, 0, EPT_W);
        world_set(1, PAGE_2M, 2, 0);
        ept02_unmap(world_ept02(0), world_root(0, 1), gpa2(alias));
        invept_until_tidy(0);
        world_nested_write(0, 1, alias, 0, 0);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_mapped(0, 0, 0, NULL), world_expected(0, 0));
        world_end();
    }
}

/* Written while it was in reach, by a nested guest under another EPTP; INVEPT for its own comes after it was. */
static void written_before_out_of_reach(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    world_pages_in(0);
    uint64_t table = world_fill(1, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE), alias = PAGE_2M + table;
    world_fill(0, PAGE_2M, world_leaf(0, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    world_access(0, 0, alias, EPT_W);
    world_access(0, 1, 0, EPT_W);
    world_nested_write(0, 0, alias, 0, 0);
    world_set(0, PAGE_2M, 2, 0);
    invept_until_tidy(0);
    world_flush(0, INVEPT_SINGLE, 1);
    assert_int_equal(world_mapped(0, 1, 0, NULL), 0);
    assert_int_equal(world_expected(1, 0), 0);
    world_end();
}

/* A table that is one run and then is not, over and over, stays a table. */
static void run_comes_and_goes(void **state)
{
    (void)state;
    struct world_config config = world_all_on(512);
    world_reset(&config);
    for (unsigned i = 0; i < 20; i++) {
        world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), (1 + i % 2) * PAGE_SIZE);
        world_access(0, 0, 0, EPT_W);
        world_flush(0, INVEPT_SINGLE, 0);
        for (unsigned page = 0; page < EPT_ENTRIES; page++)
            assert_int_equal(world_mapped(0, 0, page * PAGE_SIZE, NULL), world_expected(0, page * PAGE_SIZE));
    }
    assert_true(counters(0)->coalesced_2m < 5);
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nested_guest_writes_table),
        cmocka_unit_test(tables_out_of_reach_again),
        cmocka_unit_test(tables_within_cached_reach),
        cmocka_unit_test(written_before_out_of_reach),
        cmocka_unit_test(run_comes_and_goes),
        cmocka_unit_test(other_eptp_stays_stale),
        cmocka_unit_test(watch_lost_track),
        cmocka_unit_test(many_tables_written),
        cmocka_unit_test(shared_table),
        cmocka_unit_test(cost_follows_changes),
        cmocka_unit_test(move_that_looks_like_growth),
        cmocka_unit_test(nothing_is_added_with_all_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
