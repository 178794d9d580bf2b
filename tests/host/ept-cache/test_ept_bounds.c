/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * What one exit does is bounded, whatever the guest hypervisor has made of its tables: few tables of ept12 at thousands of places, in
 * page tables that coalesce or not, changed all at once; and what is left undone is still right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "ept-cache/table.h"
#include "tests/host/ept-cache/ept_world.h"

#define GIBS 16
#define REGIONS (GIBS * EPT_ENTRIES)
#define SLACK 2048u /* what is not interrupted: the table at hand, the tables down to an address */

static uint64_t page_table, directory;

/* One page table at every 2 MiB of GIBS GiB. step: from page to page. */
static void begin(uint64_t step)
{
    struct world_config config = world_all_on(9216);
    config.pages = 16;
    config.check_every = 1u << 30;
    world_reset(&config);
    world_pages_grid(16, 513 * PAGE_2M);
    page_table = world_fill(0, 0, world_leaf(WORLD_DATA, EPT_RWX, MEMTYPE_WB), step);
    uint64_t pdpt = world_read(world_table(0), 0) & EPT_ADDR_MASK;
    directory = world_read(pdpt, 0) & EPT_ADDR_MASK;
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(directory, i, page_table | EPT_RWX);
    for (unsigned i = 0; i < GIBS; i++)
        world_write_quiet(pdpt, i, directory | EPT_RWX);
    world_notice();
    for (unsigned i = 0; i < REGIONS; i++)
        world_access(0, 0, i * PAGE_2M, EPT_R);
}

static void change(unsigned what)
{
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        if (what & 1)
            world_write_quiet(page_table, i,
                              world_leaf(WORLD_DATA + (3 * i + what) % 400 * PAGE_SIZE, EPT_RWX, MEMTYPE_WB));
        if (what & 2)
            world_write_quiet(directory, i, page_table | (what & 4 ? EPT_R : EPT_RWX));
    }
    world_notice();
}

static void bounded(const char *where)
{
    const struct ept02 *ept = world_ept02(0);
    if (ept->work > WORK_MAX + SLACK)
        fail_msg("%s: %u units of work", where, ept->work);
}

static void right(void)
{
    for (unsigned i = 0; i < world_page_count(); i++) {
        const char *wrong = world_wrong();
        if (wrong)
            fail_msg("%s", wrong);
        world_access(0, 0, world_page(i), EPT_R);
        bounded("violation");
    }
}

static void a_look_is_bounded(void **state)
{
    (void)state;
    for (unsigned step = 0; step < 3; step++) {
        begin(step * PAGE_SIZE);
        for (unsigned what = 0; what < 16; what++) {
            uint64_t written = world_ept02(0)->written, compared = world_ept02(0)->counters.revalidated;
            change(what);
            world_invept(0, INVEPT_GLOBAL, 0);
            world_enter(0, 0);
            bounded("look");
            assert_in_range(world_ept02(0)->written - written, 0, (WORK_MAX + SLACK) * WORK_ENTRIES);
            assert_in_range(world_ept02(0)->counters.revalidated - compared, 0, (WORK_MAX + SLACK) * EPT_ENTRIES);
            right();
        }
        world_end();
    }
}

/* History names every region of many GiBs. */
static void a_violation_is_bounded(void **state)
{
    (void)state;
    for (unsigned step = 0; step < 3; step++) {
        begin(step * PAGE_SIZE);
        uint64_t root = world_read(world_table(0), 0);
        world_write(world_table(0), 0, 0);
        world_flush(0, INVEPT_SINGLE, 0);
        bounded("everything gone");
        world_write(world_table(0), 0, root);
        world_flush(0, INVEPT_SINGLE, 0);
        bounded("everything back");
        right();
        world_end();
    }
}

/* Tables that nested guests may write are compared at each look, and now and then it is looked whether they still may: in parts. */
static void tables_in_reach(void **state)
{
    (void)state;
    begin(2 * PAGE_SIZE);
    world_write(world_read(world_table(0), 0) & EPT_ADDR_MASK, GIBS, world_leaf(0, EPT_RWX, MEMTYPE_WB) | EPT_LARGE);
    assert_int_equal(world_access(0, 0, GIBS * GIB + page_table, EPT_W), EPT02_REPAIRED);
    for (unsigned i = 0; i < 40; i++) {
        world_nested_write(0, 0, GIBS * GIB + page_table, i, world_leaf(WORLD_DATA + i * PAGE_SIZE, EPT_R, MEMTYPE_WB));
        world_flush(0, INVEPT_SINGLE, 0);
        bounded("look");
        right();
    }
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_look_is_bounded),
        cmocka_unit_test(a_violation_is_bounded),
        cmocka_unit_test(tables_in_reach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
