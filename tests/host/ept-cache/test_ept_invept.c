/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * INVEPT and the entry after it: what changes in ept12 is in ept02 then, what was mapped is mapped again without a
 * violation, and the processor is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "ept-cache/table.h"
#include "tests/host/ept-cache/ept_world.h"
#include "tests/host/support/journal.h"

#define WB (MEMTYPE_WB << EPT_MEMTYPE_SHIFT)
#define UC 0
#define PAGES 16 /* 2-MiB regions that the nested guest uses */

static const struct ept02_counters *counters(unsigned cpu) { return &world_ept02(cpu)->counters; }
static uint64_t repaired(unsigned cpu) { return counters(cpu)->outcome[EPT02_REPAIRED]; }

/* The world of the table of changes: three regions of different kinds, all touched. */
static uint64_t tables[3], pd, pdpt;

static void changes_begin(const struct world_config *config)
{
    world_reset(config);
    world_pages_in(0);
    tables[0] = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    tables[1] = world_fill(0, PAGE_2M, world_leaf(WORLD_DATA + PAGE_2M + PAGE_SIZE, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
    tables[2] = world_fill(0, 8 * PAGE_2M, world_leaf(WORLD_DATA + 5 * PAGE_2M, EPT_R, MEMTYPE_WB), PAGE_SIZE);
    pdpt = world_read(world_table(0), 0) & EPT_ADDR_MASK;
    pd = world_read(pdpt, 0) & EPT_ADDR_MASK;
    world_write(pd, 16, world_leaf(WORLD_DATA + 16 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
    for (unsigned i = 0; i < WORLD_PAGES; i++)
        if (world_expected(0, world_page(i)))
            world_access(0, 0, world_page(i), EPT_R);
}

/* What is changed. */
static void drop_write(void) { world_write(tables[0], 4, world_read(tables[0], 4) & ~EPT_W); }
static void unmap(void) { world_write(tables[0], 8, 0); }
static void unmap_small(void) { world_write(tables[1], 0, 0); }
static void move(void) { world_write(tables[0], 12, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_RWX, MEMTYPE_WB)); }
static void move_small(void) { world_write(tables[1], 0, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_RWX, MEMTYPE_WB)); }
static void retype(void) { world_write(tables[0], 16, world_read(tables[0], 16) & ~EPT_MEMTYPE_MASK); }
static void ignore_pat(void) { world_write(tables[1], 0, world_read(tables[1], 0) | EPT_IGNORE_PAT); }
static void misconfigure(void) { world_write(tables[0], 20, (world_read(tables[0], 20) & ~7ull) | EPT_W); }
static void exec_only(void) { world_write(tables[1], 0, (world_read(tables[1], 0) & ~7ull) | EPT_X); }
static void grow_small(void)
{
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(tables[2], i, world_read(tables[2], i) | EPT_W);
    world_notice();
}
static void ignored_bits(void)
{
    for (unsigned i = 0; i < EPT_ENTRIES; i += 5)
        world_write_quiet(tables[i % 3], i, world_read(tables[i % 3], i) ^ (BIT(57) | BIT(10)));
    world_notice();
}
static void table_read_only(void)
{
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(tables[0], i, world_read(tables[0], i) & ~EPT_W);
    world_notice();
}
static void table_moves(void)
{
    world_fill(0, 0, world_leaf(WORLD_DATA + 40 * PAGE_2M, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
}
static void table_scatters(void)
{
    world_fill(0, 0, world_leaf(WORLD_DATA + 40 * PAGE_2M, EPT_RWX, MEMTYPE_WB), 3 * PAGE_SIZE);
}
static void table_empties(void)
{
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(tables[1], i, 0);
    world_notice();
}
static void page_becomes_large(void)
{
    world_write(pd, 0, world_leaf(WORLD_DATA + 12 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
}
static void large_becomes_table(void) { world_write(pd, 16, tables[2] | EPT_RWX); }
static void large_read_only(void) { world_write(pd, 16, world_read(pd, 16) & ~EPT_W); }
static void large_moves(void)
{
    world_write(pd, 16, world_leaf(WORLD_DATA + 30 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
}
static void large_misconfigured(void) { world_write(pd, 16, world_read(pd, 16) | BIT(13)); }
static void region_unmapped(void) { world_write(pd, 0, 0); }
static void region_read_only(void) { world_write(pd, 0, tables[0] | EPT_R); }
static void tables_exchanged(void)
{
    world_write_quiet(pd, 0, tables[1] | EPT_RWX);
    world_write_quiet(pd, 1, tables[0] | EPT_RWX);
    world_notice();
}
static void gib_read_only(void) { world_write(pdpt, 0, pd | EPT_R | EPT_X); }
static void gib_moves(void)
{
    uint64_t copy = world_table(WORLD_TABLES - 1);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(copy, i, world_read(pd, i));
    world_write_quiet(copy, 0, world_leaf(WORLD_DATA + 50 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
    world_write(pdpt, 0, copy | EPT_RWX);
}
static void gib_becomes_large(void) { world_write(pdpt, 0, world_leaf(2 * GIB, EPT_RWX, MEMTYPE_WB) | EPT_LARGE); }
static void everything_unmapped(void) { world_write(world_table(0), 0, 0); }
static void nothing(void) {}
static void new_page(void)
{
    world_write(pd, 40, world_leaf(WORLD_DATA + 40 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
}
/* The table goes back to where it came from and serves something else, where it maps other pages. */
static void freed_and_reused(void)
{
    world_write(pd, 0, 0);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(tables[0], i, world_leaf(WORLD_DATA + (60 + i) * PAGE_2M, EPT_RWX, MEMTYPE_WB));
    world_notice();
}

struct change {
    const char *name;
    void (*make)(void);
};

// clang-format off
static const struct change changes[] = {
    { "write access dropped", drop_write },
    { "unmapped", unmap },
    { "unmapped, not coalesced", unmap_small },
    { "moved", move },
    { "moved, not coalesced", move_small },
    { "memory type", retype },
    { "ignore PAT", ignore_pat },
    { "misconfigured", misconfigure },
    { "execute only", exec_only },
    { "access grew", grow_small },
    { "ignored bits", ignored_bits },
    { "whole table read-only", table_read_only },
    { "whole table moved", table_moves },
    { "whole table scattered", table_scatters },
    { "whole table emptied", table_empties },
    { "table to large page", page_becomes_large },
    { "large page to table", large_becomes_table },
    { "large page read-only", large_read_only },
    { "large page moved", large_moves },
    { "large page misconfigured", large_misconfigured },
    { "2 MiB unmapped", region_unmapped },
    { "2 MiB read-only from above", region_read_only },
    { "tables exchanged", tables_exchanged },
    { "1 GiB read-only from above", gib_read_only },
    { "1 GiB by other tables", gib_moves },
    { "1 GiB to large page", gib_becomes_large },
    { "all unmapped", everything_unmapped },
    { "nothing", nothing },
    { "page added", new_page },
    { "table freed and reused", freed_and_reused },
};
// clang-format on

static void change_run(const struct change *change, const struct world_config *config)
{
    for (unsigned type = INVEPT_SINGLE; type <= INVEPT_GLOBAL; type++) {
        changes_begin(config);
        /* An INVEPT beforehand: what is found to differ later was remembered by one. */
        if (type == INVEPT_GLOBAL)
            world_flush(0, INVEPT_GLOBAL, 0);
        unsigned before = world_invepts();
        change->make();
        world_flush(0, (enum invept_type)type, 0); /* and the world checks */
        if (world_invepts() == before)
            fail_msg("%s: the processor was not told", change->name);
        world_end();
    }
}

static void change_switches(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 32; bits++) {
        struct world_config config = world_all_on(160);
        config.large = bits & 1;
        config.coalesce = bits & 2;
        config.history = bits & 4;
        config.prefill = bits & 8;
        config.watch = bits & 16;
        for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
            change_run(&changes[i], &config);
    }
}

/* Without history nothing stays mapped; with it everything does. */
static void history_keeps(void **state)
{
    (void)state;
    for (unsigned history = 0; history < 2; history++) {
        struct world_config config = world_all_on(160);
        config.history = history;
        changes_begin(&config);
        unsigned before = 0, after = 0;
        for (unsigned p = 0; p < WORLD_PAGES; p++)
            before += world_mapped(0, 0, world_page(p), NULL) != 0;
        world_flush(0, INVEPT_SINGLE, 0);
        for (unsigned p = 0; p < WORLD_PAGES; p++)
            after += world_mapped(0, 0, world_page(p), NULL) != 0;
        assert_int_not_equal(before, 0);
        assert_int_equal(after, history ? before : 0);
        world_end();
    }
}

/* All on: whatever was changed, what was touched and is still mapped is mapped again when INVEPT is done. */
static void nothing_is_missing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
        struct world_config config = world_all_on(160);
        changes_begin(&config);
        bool touched[WORLD_PAGES];
        for (unsigned p = 0; p < WORLD_PAGES; p++)
            touched[p] = world_expected(0, world_page(p)) != 0;
        changes[i].make();
        world_flush(0, INVEPT_SINGLE, 0);
        for (unsigned p = 0; p < WORLD_PAGES; p++)
            if (touched[p] && world_mapped(0, 0, world_page(p), NULL) != world_expected(0, world_page(p)))
                fail_msg("%s: %llx is missing", changes[i].name, (unsigned long long)world_page(p));
        world_end();
    }
}

/* Unmapped with INVEPT, mapped again later with another: what was touched comes back by itself. */
static void unmapped_and_back(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    changes_begin(&config);
    uint64_t entry = world_read(pd, 0), before;
    for (unsigned n = 0; n < 3; n++) {
        world_write(pd, 0, 0);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_mapped(0, 0, 0, NULL), 0);
        world_write(pd, 0, entry);
        before = repaired(0);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_mapped(0, 0, 0, NULL), world_expected(0, 0));
        assert_int_equal(world_mapped(0, 0, PAGE_2M, NULL), world_expected(0, PAGE_2M));
        assert_int_equal(repaired(0), before);
    }
    world_end();
}

/* An entry changes, is composed again at a violation, and changes back: INVEPT must not take it for unchanged. */
static void changed_and_back(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 4; bits++) {
        struct world_config config = world_all_on(160);
        config.large = bits & 1;
        config.coalesce = bits & 2;
        changes_begin(&config);
        uint64_t old = world_leaf(WORLD_DATA + 16 * PAGE_2M, EPT_R, MEMTYPE_WB) | EPT_LARGE;
        world_write(pd, 16, old);
        world_flush(0, INVEPT_SINGLE, 0);
        world_flush(0, INVEPT_SINGLE, 0);
        world_access(0, 0, 16 * PAGE_2M, EPT_R);
        world_write(pd, 16, world_leaf(WORLD_DATA + 30 * PAGE_2M, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
        assert_int_equal(world_access(0, 0, 16 * PAGE_2M, EPT_W), EPT02_REPAIRED);
        world_write(pd, 16, old);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_mapped(0, 0, 16 * PAGE_2M, NULL), world_expected(0, 16 * PAGE_2M));
        world_end();
    }
}

static const char *wrong_after(uint64_t addr)
{
    (void)addr;
    return world_wrong();
}

/* Single-stepped: while INVEPT is at work, nothing is mapped that ept12 has not allowed since the one before. */
static void no_state_in_between(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
        unsigned writes;
        struct world_config config = world_all_on(160);
        changes_begin(&config);
        changes[i].make();
        journal_begin(wrong_after);
        ept02_invept(world_ept02(0), INVEPT_SINGLE, world_eptp(0));
        ept02_enter(world_ept02(0), world_root(0, 0));
        const char *complaint = journal_end(&writes);
        if (complaint)
            fail_msg("%s: %s", changes[i].name, complaint);
        world_flush(0, INVEPT_SINGLE, 0);
        world_end();
    }
}

/*
 * Access from above grows after something below was taken away: the nested guest never had that access, so no INVEPT was
 * needed in between, and it must not get it now.
 */
static void access_grows_above_stale_entry(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 4; bits++) {
        struct world_config config = world_all_on(160);
        config.coalesce = bits & 1;
        config.large = bits & 2;
        world_reset(&config);
        world_pages_in(0);
        uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE);
        world_set(0, 0, 2, table | EPT_R);
        for (unsigned i = 0; i < 64; i += 4)
            world_access(0, 0, i * PAGE_SIZE, EPT_R);
        for (unsigned i = 32; i < EPT_ENTRIES; i++)
            world_write_quiet(table, i, world_leaf(WORLD_DATA + i * PAGE_SIZE, EPT_R, MEMTYPE_WB));
        world_notice();
        world_set(0, 0, 2, table | EPT_RWX);
        assert_int_equal(world_access(0, 0, 0, EPT_W), EPT02_REPAIRED);
        assert_int_equal(world_access(0, 0, 40 * PAGE_SIZE, EPT_W), EPT02_VIOLATION12);
        world_end();
    }
}

/* A guest hypervisor that protects one page and lets it through again, over and over. */
static void one_page_toggled(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    world_reset(&config);
    world_pages_in(0);
    uint64_t table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), PAGE_SIZE),
             entry = world_read(table, 16);
    world_access(0, 0, 0, EPT_W);
    uint64_t before = repaired(0);
    for (unsigned i = 0; i < 200; i++) {
        world_write(table, 16, i & 1 ? entry : entry & ~EPT_RWX);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_access(0, 0, 0x10000, EPT_W), i & 1 ? EPT02_REPAIRED : EPT02_VIOLATION12);
        assert_int_equal(world_access(0, 0, 0x14000, EPT_W), EPT02_REPAIRED);
    }
    assert_int_equal(repaired(0), before);
    assert_true(counters(0)->coalesced_2m < 5); /* not again and again */
    world_end();
}

/* ept01 changes under everything that is mapped. */
static void ept01_changes(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        struct world_config config = world_all_on(160);
        changes_begin(&config);
        world_ept01(0, (enum world_kind)kind);
        world_ept01(16, (enum world_kind)kind);
        for (unsigned i = 0; i < WORLD_PAGES; i++)
            if (world_expected(0, world_page(i)))
                world_access(0, 0, world_page(i), EPT_R);
        world_end();
    }
}

static void unknown_eptp(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    changes_begin(&config);
    unsigned before = world_invepts();
    world_flush(0, INVEPT_SINGLE, 2);
    assert_int_equal(world_invepts(), before);
    assert_int_equal(counters(0)->invepts, 1);
    world_end();
}

/*
 * INVEPT comes first, or in the middle, or several times: what counts is ept12 at the entry. On another CPU nothing has to
 * change, and there the oracle allows both.
 */
enum order { EDIT_INVEPT_ENTRY, INVEPT_EDIT_ENTRY, INVEPT_EDIT_INVEPT_ENTRY, INVEPT_FAILED_EDIT_ENTRY, ORDERS };

static void order_run(const struct change *change, enum order order, enum invept_type type)
{
    if (order != EDIT_INVEPT_ENTRY)
        world_invept(0, type, 0);
    if (order == INVEPT_FAILED_EDIT_ENTRY)
        world_entry_fails(0, 0, world_page(0));
    change->make();
    if (order == EDIT_INVEPT_ENTRY || order == INVEPT_EDIT_INVEPT_ENTRY)
        world_invept(0, type, 0);
    world_enter(0, 0); /* and the world checks */
}

static void edits_count_until_entry(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 32 * ORDERS * ARRAY_SIZE(changes); n++) {
        const struct change *change = &changes[n / 32 / ORDERS];
        struct world_config config = world_all_on(160);
        config.large = n & 1;
        config.coalesce = n & 2;
        config.history = n & 4;
        config.prefill = n & 8;
        config.watch = n & 16;
        changes_begin(&config);
        bool touched[WORLD_PAGES];
        for (unsigned p = 0; p < WORLD_PAGES; p++)
            touched[p] = world_expected(0, world_page(p)) != 0;
        order_run(change, (enum order)(n / 32 % ORDERS), n & 64 ? INVEPT_GLOBAL : INVEPT_SINGLE);
        bool all_on = (n & 31) == 31;
        for (unsigned p = 0; all_on && p < WORLD_PAGES; p++)
            if (touched[p] && world_mapped(0, 0, world_page(p), NULL) != world_expected(0, world_page(p)))
                fail_msg("%s: %llx is missing", change->name, (unsigned long long)world_page(p));
        for (unsigned p = 0; p < WORLD_PAGES; p += 5)
            world_access(p % 2, 0, world_page(p), EPT_R);
        world_end();
    }
}

/* Each EPTP looks at its own entry, on each CPU, whichever is entered meanwhile. */
static void other_entries_do_not_look(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    changes_begin(&config);
    world_write(world_table(1), 0, world_read(world_table(0), 0));
    world_access(0, 1, 0, EPT_R);
    world_access(1, 0, 0, EPT_R);
    world_invept(0, INVEPT_GLOBAL, 0);
    world_access(0, 1, 0, EPT_R);
    world_access(1, 0, 0, EPT_R);
    unmap_small();
    world_access(0, 1, 8 * PAGE_SIZE, EPT_R);
    world_enter(0, 0);
    assert_int_equal(world_mapped(0, 0, PAGE_2M, NULL), 0);
    world_invept(1, INVEPT_SINGLE, 0);
    unmap();
    world_enter(1, 0);
    assert_int_equal(world_mapped(1, 0, 8 * PAGE_SIZE, NULL), 0);
    world_end();
}

/* Many INVEPTs before one entry cost one look, and an entry without one costs none. */
static void one_look_for_many(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    changes_begin(&config);
    world_flush(0, INVEPT_GLOBAL, 0);
    drop_write();
    uint64_t compared = counters(0)->revalidated, told = counters(0)->hw_invepts;
    for (unsigned i = 0; i < 10; i++)
        world_invept(0, i & 1 ? INVEPT_SINGLE : INVEPT_GLOBAL, 0);
    assert_int_equal(counters(0)->revalidated, compared);
    assert_int_equal(counters(0)->hw_invepts, told);
    for (unsigned i = 0; i < 3; i++)
        world_enter(0, 0);
    assert_int_equal(counters(0)->revalidated, compared + EPT_ENTRIES);
    assert_int_equal(counters(0)->hw_invepts, told + 1);
    world_end();
}

/* A violation invalidates what is cached for its own address: an edit after it needs no INVEPT, prefilled or not. */
static void violation_needs_no_invept(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 16; bits++) {
        struct world_config config = world_all_on(160);
        config.large = bits & 1;
        config.coalesce = bits & 2;
        config.prefill = bits & 4;
        changes_begin(&config);
        world_write(tables[0], 4, world_read(tables[0], 4) & ~EPT_W);
        world_flush(0, INVEPT_SINGLE, 0);
        assert_int_equal(world_access(0, 0, 4 * PAGE_SIZE, EPT_W), EPT02_VIOLATION12);
        if (bits & 8) {
            world_entry_fails(0, 0, 4 * PAGE_SIZE);
            world_invept(0, INVEPT_SINGLE, 0); /* a failed entry has used nothing: as if it had come first */
        }
        world_write(tables[0], 4, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_RWX, MEMTYPE_WB));
        world_prefill(0, 0, 4 * PAGE_SIZE);
        assert_int_equal(world_access(0, 0, 4 * PAGE_SIZE, EPT_W), EPT02_REPAIRED);
        assert_int_equal(world_mapped(0, 0, 4 * PAGE_SIZE, NULL), world_expected(0, 4 * PAGE_SIZE));
        world_end();
    }
}

/* The prefill of an entry that failed does not stand in for the next one's: the address was nobody's since the violation. */
static void failed_prefill_counts_for_nothing(void **state)
{
    (void)state;
    struct world_config config = world_all_on(160);
    changes_begin(&config);
    world_write(tables[1], 0, 0);
    world_flush(0, INVEPT_SINGLE, 0);
    assert_int_equal(world_access(0, 0, PAGE_2M, EPT_R), EPT02_VIOLATION12);
    world_write(tables[1], 0, world_leaf(WORLD_DATA + 9 * PAGE_2M, EPT_RWX, MEMTYPE_WB));
    world_entry_fails(0, 0, PAGE_2M);
    world_write(tables[1], 0, world_leaf(WORLD_DATA + 10 * PAGE_2M, EPT_RWX, MEMTYPE_WB));
    world_enter(0, 0);
    assert_int_equal(world_mapped(0, 0, PAGE_2M, NULL), world_expected(0, PAGE_2M));
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(change_switches),
        cmocka_unit_test(history_keeps),
        cmocka_unit_test(nothing_is_missing),
        cmocka_unit_test(unmapped_and_back),
        cmocka_unit_test(access_grows_above_stale_entry),
        cmocka_unit_test(one_page_toggled),
        cmocka_unit_test(ept01_changes),
        cmocka_unit_test(unknown_eptp),
        cmocka_unit_test(changed_and_back),
        cmocka_unit_test(no_state_in_between),
        cmocka_unit_test(edits_count_until_entry),
        cmocka_unit_test(other_entries_do_not_look),
        cmocka_unit_test(one_look_for_many),
        cmocka_unit_test(violation_needs_no_invept),
        cmocka_unit_test(failed_prefill_counts_for_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
