/* sources: */
/*
 * The fake processor's caches, a rule of the SDM a test. SDM 3, "Caching Translation Information", "Operations that
 * Invalidate Cached Mappings", and the instruction references of INVEPT and INVVPID.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "tests/host/machine/fake_tlb.h"
#include "tests/host/support/support.h"

#define PAGE(n) ((n)*PAGE_SIZE)
#define ROOTS 2
#define LINEAR PAGE(7)
#define PHYSICAL PAGE(9)
#define OTHER 5 /* number of another guest-physical page */

#define TABLE(root, i) (PAGE(256) + ((root)*4ull + (i)) * PAGE_SIZE) /* four tables each, PML4 first */
#define MEMORY PAGE(512)
static uint64_t linear_entry;
static struct test_random seed;
static uint64_t paging(uint64_t page) { return page == LINEAR ? linear_entry : 0; }
static uint64_t any(uint64_t limit) { return test_random_below(&seed, limit); }

static uint64_t *entry(unsigned root, unsigned i, unsigned index)
{
    return (uint64_t *)hpa_ptr(hpa(TABLE(root, i))) + index;
}
static uint64_t *leaf(unsigned root) { return entry(root, 3, ept_index(PHYSICAL, 1)); }

static struct fake_context context(int cpu, uint16_t vpid, uint16_t pcid, int root)
{
    return (struct fake_context){ cpu, vpid, pcid, root < 0 ? 0 : TABLE((unsigned)root, 0) | EPTP_WALK_4 | MEMTYPE_WB,
                                  paging };
}

/* Both roots lead PHYSICAL to page 100 + root; the guest's paging leads LINEAR there. */
static int setup(void **state)
{
    (void)state;
    test_memory_reset(MEMORY);
    for (unsigned r = 0; r < ROOTS; r++) {
        for (unsigned i = 0; i < 3; i++)
            *entry(r, i, 0) = TABLE(r, i + 1) | EPT_RWX;
        *leaf(r) = PAGE(100 + r) | EPT_RWX;
        *entry(r, 3, OTHER) = PAGE(110 + r) | EPT_RWX;
    }
    linear_entry = PHYSICAL | EPT_RWX;
    seed.state = 1;
    fake_tlb_reset(any);
    return 0;
}

/* As often as it takes for whatever may be cached to be cached, or used. */
#define OFTEN 200
static void fill(struct fake_context c)
{
    for (unsigned i = 0; i < OFTEN; i++)
        fake_tlb_speculate(&c, LINEAR);
}
static void fill_physical(struct fake_context c)
{
    for (unsigned i = 0; i < OFTEN; i++)
        fake_tlb_speculate_physical(&c, PHYSICAL);
}

/* Whether an access of this context may meet the page. */
static bool meets(struct fake_context c, uint64_t page, uint64_t access)
{
    for (unsigned i = 0; i < OFTEN; i++)
        if (fake_tlb_access(&c, LINEAR, access).target == page)
            return true;
    return false;
}

static void move_page(unsigned root) { *leaf(root) = PAGE(200) | EPT_RWX; }
static void move_linear(void) { linear_entry = PAGE(OTHER) | EPT_RWX; }

static void cached_by_speculation_before_any_access(void **state)
{
    (void)state;
    fill(context(0, 1, 0, 0));
    move_page(0);
    assert_true(meets(context(0, 1, 0, 0), PAGE(100), EPT_R));
    assert_true(meets(context(0, 1, 0, 0), PAGE(200), EPT_R));
}

static void other_cpus_cache_for_themselves(void **state)
{
    (void)state;
    fill(context(0, 1, 0, 0));
    move_page(0);
    assert_false(meets(context(1, 1, 0, 0), PAGE(100), EPT_R));
    fill(context(1, 1, 0, 0));
    fake_tlb_invept(1, INVEPT_GLOBAL, 0);
    assert_true(meets(context(0, 1, 0, 0), PAGE(100), EPT_R));
}

static void not_present_is_never_cached(void **state)
{
    (void)state;
    *leaf(0) = 0;
    fill(context(0, 1, 0, 0));
    fill_physical(context(0, 1, 0, 0));
    *leaf(0) = PAGE(100) | EPT_RWX;
    struct fake_context c = context(0, 1, 0, 0);
    for (unsigned i = 0; i < OFTEN; i++)
        assert_int_equal(fake_tlb_access(&c, LINEAR, EPT_R).target, PAGE(100));
}

static void linear_mappings_do_not_depend_on_ept(void **state)
{
    (void)state;
    fill(context(0, 1, 0, -1));
    move_linear();
    fake_tlb_invept(0, INVEPT_GLOBAL, 0);
    assert_true(meets(context(0, 1, 0, -1), PHYSICAL, EPT_R));
    fake_tlb_invvpid(0, INVVPID_SINGLE, 1, 0);
    assert_false(meets(context(0, 1, 0, -1), PHYSICAL, EPT_R));
}

static void guest_physical_mappings_serve_all_vpids(void **state)
{
    (void)state;
    fill_physical(context(0, 1, 0, 0));
    move_page(0);
    assert_true(meets(context(0, 2, 0, 0), PAGE(100), EPT_R));
}

static void combined_mappings_belong_to_vpid_pcid_and_root(void **state)
{
    (void)state;
    struct fake_context other[] = { context(0, 2, 1, 0), context(0, 1, 2, 0), context(0, 1, 1, 1) };
    for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
        setup(state);
        fill(context(0, 1, 1, 0));
        move_linear();
        assert_true(meets(context(0, 1, 1, 0), PAGE(100), EPT_R));
        assert_false(meets(other[i], PAGE(100), EPT_R));
    }
}

static void global_translations_serve_all_pcids(void **state)
{
    (void)state;
    linear_entry |= FAKE_GLOBAL;
    fill(context(0, 1, 1, 0));
    move_linear();
    assert_true(meets(context(0, 1, 2, 0), PAGE(100), EPT_R));
}

static void invept_drops_combined_mappings_of_all_vpids_and_pcids(void **state)
{
    (void)state;
    for (unsigned type = INVEPT_SINGLE; type <= INVEPT_GLOBAL; type++) {
        setup(state);
        fill(context(0, 1, 1, 0));
        fill(context(0, 2, 2, 0));
        move_linear();
        fake_tlb_invept(0, (enum invept_type)type, context(0, 0, 0, 0).eptp);
        assert_false(meets(context(0, 1, 1, 0), PAGE(100), EPT_R));
        assert_false(meets(context(0, 2, 2, 0), PAGE(100), EPT_R));
    }
}

static void invept_single_leaves_other_roots(void **state)
{
    (void)state;
    fill(context(0, 1, 1, 1));
    move_page(1);
    fake_tlb_invept(0, INVEPT_SINGLE, context(0, 0, 0, 0).eptp);
    assert_true(meets(context(0, 1, 1, 1), PAGE(101), EPT_R));
    fake_tlb_invept(0, INVEPT_GLOBAL, 0);
    assert_false(meets(context(0, 1, 1, 1), PAGE(101), EPT_R));
}

static void invvpid_leaves_guest_physical_mappings(void **state)
{
    (void)state;
    fill_physical(context(0, 1, 1, 0));
    move_page(0);
    fake_tlb_invvpid(0, INVVPID_ALL, 0, 0);
    assert_true(meets(context(0, 1, 1, 0), PAGE(100), EPT_R));
}

static void invvpid_types(void **state)
{
    static const struct {
        enum invvpid_type type;
        uint16_t vpid;
        uint64_t linear;
        bool global, gone;
    } rows[] = {
        { INVVPID_ADDRESS, 1, LINEAR, false, true },
        { INVVPID_ADDRESS, 1, LINEAR, true, true },
        { INVVPID_ADDRESS, 1, PAGE(8), false, false },
        { INVVPID_ADDRESS, 2, LINEAR, false, false },
        { INVVPID_SINGLE, 1, 0, true, true },
        { INVVPID_SINGLE, 2, 0, false, false },
        { INVVPID_ALL, 0, 0, true, true },
        { INVVPID_SINGLE_NOGLOBAL, 1, 0, false, true },
        { INVVPID_SINGLE_NOGLOBAL, 1, 0, true, false },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        setup(state);
        linear_entry |= rows[i].global ? FAKE_GLOBAL : 0;
        fill(context(0, 1, 1, 0));
        move_linear();
        fake_tlb_invvpid(0, rows[i].type, rows[i].vpid, rows[i].linear);
        assert_int_equal(meets(context(0, 1, 1, 0), PAGE(100), EPT_R), !rows[i].gone);
    }
}

static void invvpid_of_all_leaves_vpid_0(void **state)
{
    (void)state;
    fill(context(0, 0, 0, 0));
    move_linear();
    fake_tlb_invvpid(0, INVVPID_ALL, 0, 0);
    assert_true(meets(context(0, 0, 0, 0), PAGE(100), EPT_R));
    fake_tlb_transition(0);
    assert_false(meets(context(0, 0, 0, 0), PAGE(100), EPT_R));
}

static void transitions_leave_other_vpids(void **state)
{
    (void)state;
    fill(context(0, 1, 0, 0));
    move_linear();
    fake_tlb_transition(0);
    assert_true(meets(context(0, 1, 0, 0), PAGE(100), EPT_R));
}

/* "Only for the current VPID (but, for combined mappings, all EP4TAs)". */
static void invlpg_drops_combined_mappings_of_all_roots(void **state)
{
    (void)state;
    struct fake_context here = context(0, 1, 1, 0), other = context(0, 2, 1, 0);
    fill(context(0, 1, 1, 1));
    fill(other);
    move_linear();
    fake_tlb_invlpg(&here, LINEAR);
    assert_false(meets(context(0, 1, 1, 1), PAGE(101), EPT_R));
    assert_true(meets(other, PAGE(100), EPT_R));
}

static void invlpg_drops_global_translations_mov_cr3_does_not(void **state)
{
    (void)state;
    struct fake_context here = context(0, 1, 1, 0);
    linear_entry |= FAKE_GLOBAL;
    fill(here);
    linear_entry = 0;
    fake_tlb_mov_cr3(&here);
    assert_true(meets(here, PAGE(100), EPT_R));
    fake_tlb_invlpg(&here, LINEAR);
    assert_false(meets(here, PAGE(100), EPT_R));
    setup(state);
    fill(here);
    linear_entry = 0;
    fake_tlb_mov_cr3(&here);
    assert_false(meets(here, PAGE(100), EPT_R));
}

static void a_violation_drops_what_led_to_it(void **state)
{
    (void)state;
    struct fake_context here = context(0, 1, 1, 0);
    *leaf(0) = PAGE(100) | EPT_R;
    fill(here);
    fill_physical(here);
    move_page(0);
    for (unsigned i = 0; i < OFTEN; i++) /* a stale entry may decide, but not twice */
        if (fake_tlb_access(&here, LINEAR, EPT_W).violation)
            assert_int_equal(fake_tlb_access(&here, LINEAR, EPT_W).target, PAGE(200));
    assert_false(meets(here, PAGE(100), EPT_R));
}

static void paging_structures_are_cached(void **state)
{
    (void)state;
    struct fake_context here = context(0, 1, 1, 0);
    fill_physical(here);
    *leaf(0) = PAGE(150) | EPT_RWX; /* in the table that the cached entry leads to */
    *entry(0, 2, 0) = 0;
    assert_true(meets(here, PAGE(150), EPT_R));
    fake_tlb_invept(0, INVEPT_SINGLE, here.eptp);
    assert_false(meets(here, PAGE(150), EPT_R));
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup(function, setup)
    const struct CMUnitTest tests[] = {
        TEST(cached_by_speculation_before_any_access),
        TEST(other_cpus_cache_for_themselves),
        TEST(not_present_is_never_cached),
        TEST(linear_mappings_do_not_depend_on_ept),
        TEST(guest_physical_mappings_serve_all_vpids),
        TEST(combined_mappings_belong_to_vpid_pcid_and_root),
        TEST(global_translations_serve_all_pcids),
        TEST(invept_drops_combined_mappings_of_all_vpids_and_pcids),
        TEST(invept_single_leaves_other_roots),
        TEST(invvpid_leaves_guest_physical_mappings),
        TEST(invvpid_types),
        TEST(invvpid_of_all_leaves_vpid_0),
        TEST(transitions_leave_other_vpids),
        TEST(invlpg_drops_combined_mappings_of_all_roots),
        TEST(invlpg_drops_global_translations_mov_cr3_does_not),
        TEST(a_violation_drops_what_led_to_it),
        TEST(paging_structures_are_cached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
