/* sources: core/memory/ept01.c core/memory/mtrr.c core/memory/page_pool.c */
/*
 * ept01 against its model (ept01_model.h), and the states that processors can see in between.
 */
#include "core/memory/ept01.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/memory/ept01_model.h"
#include "tests/host/support/journal.h"
#include "tests/host/support/support.h"

static void test_matches_model(void **state)
{
    (void)state;
    model.seed.state = 12;
    for (unsigned round = 0; round < 60; round++) {
        model_start_random();
        model_assert_some();
        model_assert_no_leak();
        if (round % 20 == 0)
            model_assert_all();
    }
}

static void test_eptp(void **state)
{
    (void)state;
    model_mtrr_firmware(&model.mtrr);
    assert_true(model_start((struct ept01_config){ .top = GIB }, 100));
    assert_int_equal(ept01_eptp(&model.ept01), model.ept01.root.v | 0x1e);
    assert_true(model_start((struct ept01_config){ .top = GIB, .accessed_dirty = true }, 100));
    assert_int_equal(ept01_eptp(&model.ept01), model.ept01.root.v | 0x5e);
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(BIT(48))).size, 0);
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(~0ull)).size, 0);
}

/* The whole of ept01 for 4 GiB of RAM, Strata's memory included, takes few tables (the limit of the design is 40). */
static void test_budget(void **state)
{
    (void)state;
    for (unsigned pages_1g = 0; pages_1g < 2; pages_1g++) {
        struct ept01_config config = { .pages_1g = pages_1g, .top = 5 * GIB };
        config.hidden[0] = (struct memmap_range){ 0xbe7ff000, 0xbf7ff000 };
        model_mtrr_firmware(&model.mtrr);
        assert_true(model_start(config, 1000));
        assert_in_range(model.pool.total - model.pool.free_count, 5, 14);
        model_assert_all();
    }
}

/* ept01=4k: RAM in pages of 4 KiB, the rest as before. */
static void test_small(void **state)
{
    (void)state;
    struct ept01_config config = { .pages_1g = true, .small = true, .top = GIB };
    config.hidden[0] = (struct memmap_range){ 0x3e7ff000, 0x3f7ff000 };
    model_mtrr_firmware(&model.mtrr);
    assert_true(model_start(config, 1000));
    for (uint64_t addr = 0; addr < 4 * GIB; addr += PAGE_2M) {
        uint64_t size = ept01_lookup(model.ept01.root, gpa1(addr)).size;
        if (addr < GIB ? size != PAGE_SIZE : size < PAGE_2M)
            fail_msg("%llx is mapped by a page of %llx", (unsigned long long)addr, (unsigned long long)size);
    }
    assert_in_range(model.pool.total - model.pool.free_count, 504, 520);
    model_assert_all();
}

static void protect(uint64_t page, uint32_t perm)
{
    bool possible = page < model.ept01.eager_end && !model_hidden(page);
    assert_int_equal(ept01_protect(&model.ept01, gpa1(page), perm), possible);
    for (unsigned i = 0; possible && i <= model.protected_count; i++)
        if (i == model.protected_count || model.protected[i].page == page) {
            model.protected_count += i == model.protected_count;
            model.protected[i].page = page;
            model.protected[i].perm = perm;
            return;
        }
}

/* Neither the shared junk table nor any other hidden page can be touched, nor what lies above the eager part. */
static void protect_hidden(void)
{
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++) {
        const struct memmap_range *r = &model.ept01.config.hidden[i];
        for (uint64_t page = r->start;
             page<r->end; page += r->end - r->start> 64 * PAGE_SIZE ? 31 * PAGE_SIZE : PAGE_SIZE) {
            assert_false(ept01_protect(&model.ept01, gpa1(page), EPT_RWX));
            assert_null(ept01_leaf(&model.ept01, gpa1(page), PAGE_1G));
        }
    }
    assert_false(ept01_protect(&model.ept01, gpa1(model.ept01.eager_end), EPT_R));
    assert_null(ept01_leaf(&model.ept01, gpa1(~0ull), PAGE_1G));
}

static void test_protect(void **state)
{
    (void)state;
    static const uint32_t perms[] = { 0, EPT_R, EPT_R | EPT_X, EPT_R | EPT_W, EPT_RWX };
    model.seed.state = 13;
    for (unsigned round = 0; round < 20; round++) {
        model_start_random();
        protect(0xfee00000, EPT_R);
        protect(0, 0);
        protect_hidden();
        for (unsigned i = 0; i < 40; i++) {
            uint64_t page = test_random(&model.seed) & (BIT(i % 2 ? 33 : 22) - 1) & PAGE_MASK;
            protect(page, perms[test_random_below(&model.seed, ARRAY_SIZE(perms))]);
        }
        for (unsigned i = 0; i < model.protected_count; i++)
            model_assert_page(model.protected[i].page);
        model_assert_some();
        model_assert_no_leak();
        for (unsigned i = 0; i < model.protected_count; i++)
            protect(model.protected[i].page, EPT_RWX);
        model_assert_some();
    }
    expect_assert_failure(ept01_protect(&model.ept01, gpa1(0x1000), EPT_W));
    expect_assert_failure(ept01_protect(&model.ept01, gpa1(0x1000), EPT_W | EPT_X));
}

/* ept01_retype against building anew, and its answer against a comparison of types before and after. */
static void test_retype(void **state)
{
    (void)state;
    model.seed.state = 14;
    static uint8_t before[8 * GIB / PAGE_SIZE];
    for (unsigned round = 0; round < 4; round++) {
        model_start_random();
        protect(0xfee00000, EPT_R);
        protect(0x3000, 0);
        for (unsigned step = 0; step < 4; step++) {
            bool differs = false;
            for (uint64_t addr = 0; addr < model.ept01.eager_end; addr += PAGE_SIZE)
                before[addr / PAGE_SIZE] = (uint8_t)(model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&model.mtrr, addr));
            model_mtrr_random(&model.mtrr,
                              (step == 3 ? 0 : MTRR_DEF_E) | (step % 2 ? MTRR_DEF_FE : 0) |
                                  (step == 1 ? MEMTYPE_UC : MEMTYPE_WB),
                              step * 3);
            for (uint64_t addr = 0; addr < model.ept01.eager_end; addr += PAGE_SIZE)
                differs |= before[addr / PAGE_SIZE] != (model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&model.mtrr, addr));
            bool changed = ept01_retype(&model.ept01);
            assert_true(changed || !differs);
            model_assert_some();
            model_assert_no_leak();
            uint32_t free_count = model.pool.free_count;
            assert_false(ept01_retype(&model.ept01));
            assert_int_equal(model.pool.free_count, free_count);
        }
        if (round == 0)
            model_assert_all();
    }
}

/* A guest that keeps inventing MTRRs: a bounded number of tables, then UC; types are right or UC. */
static void test_retype_is_bounded(void **state)
{
    (void)state;
    model.seed.state = 15;
    struct ept01_config config = { .pages_1g = true, .top = 8 * GIB };
    model_mtrr_firmware(&model.mtrr);
    assert_true(model_start(config, 1000));
    uint32_t at_start = model.pool.free_count;
    for (unsigned round = 0; round < 300; round++) {
        model_mtrr_random(&model.mtrr, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB, MODEL_PAIRS);
        ept01_retype(&model.ept01);
        for (unsigned i = 0; i < 500; i++) {
            uint64_t addr = test_random_below(&model.seed, model.ept01.eager_end);
            assert_null(model_page_wrong(addr));
            assert_true(!model_type_wrong(addr) || ept01_lookup(model.ept01.root, gpa1(addr)).memtype == MEMTYPE_UC);
        }
    }
    assert_in_range(at_start - model.pool.free_count, 1, 200);
    model_assert_no_leak();
    /* Simple MTRRs give right types again, in the tables there are. */
    model_mtrr_firmware(&model.mtrr);
    ept01_retype(&model.ept01);
    model_assert_some();
}

static void test_lazy_fill(void **state)
{
    (void)state;
    model.seed.state = 16;
    for (unsigned round = 0; round < 20; round++) {
        model_start_random();
        uint32_t at_start = model.pool.free_count;
        for (unsigned i = 0; i < 400; i++) {
            uint64_t addr = test_random(&model.seed) & (BIT(i % 3 ? MODEL_WIDTH : 34) - 1);
            enum ept01_fill result = ept01_fill(&model.ept01, gpa1(addr));
            if (addr < model.ept01.eager_end) {
                assert_int_equal(result, EPT01_REFUSED);
                continue;
            }
            assert_int_equal(result, EPT01_FILLED);
            assert_int_not_equal(ept01_lookup(model.ept01.root, gpa1(addr)).size, 0);
            model_assert_page(addr);
            assert_int_equal(ept01_fill(&model.ept01, gpa1(addr)), EPT01_FILLED);
            assert_int_equal(at_start - model.pool.free_count, model.ept01.lazy_count);
            if (i % 50 == 49) {
                model_mtrr_random(&model.mtrr, MTRR_DEF_E | MEMTYPE_WB,
                                  (unsigned)test_random_below(&model.seed, MODEL_PAIRS));
                ept01_retype(&model.ept01);
                at_start = model.pool.free_count + model.ept01.lazy_count;
                model_assert_some();
            }
        }
        model_assert_no_leak();
        model_assert_some();
    }
    assert_int_equal(ept01_fill(&model.ept01, gpa1(BIT(MODEL_WIDTH))), EPT01_OUTSIDE);
    assert_int_equal(ept01_fill(&model.ept01, gpa1(~0ull)), EPT01_OUTSIDE);
    assert_int_equal(ept01_fill(&model.ept01, gpa1(0)), EPT01_REFUSED);
}

/* Every GiB that there can be, once: with 1-GiB pages all of it, without as much as there are tables for, and then no more. */
static void test_lazy_everywhere(void **state)
{
    (void)state;
    for (unsigned pages_1g = 0; pages_1g < 2; pages_1g++) {
        unsigned filled = 0, refused = 0;
        model_mtrr_firmware(&model.mtrr);
        assert_true(model_start((struct ept01_config){ .pages_1g = pages_1g, .top = 4 * GIB }, 1000));
        for (uint64_t addr = 4 * GIB; addr < BIT(MODEL_WIDTH); addr += PAGE_1G) {
            enum ept01_fill result = ept01_fill(&model.ept01, gpa1(addr));
            filled += result == EPT01_FILLED;
            refused += result == EPT01_NO_MEMORY;
            assert_true(result == EPT01_NO_MEMORY || ept01_lookup(model.ept01.root, gpa1(addr)).size);
        }
        assert_int_equal(filled + refused, (BIT(MODEL_WIDTH) - 4 * GIB) / PAGE_1G);
        assert_int_equal(refused == 0, pages_1g);
        assert_true(filled >= EPT01_LAZY_MAX - 2);
        /* What was filled stays. */
        assert_int_equal(ept01_fill(&model.ept01, gpa1(5 * GIB)), EPT01_FILLED);
        assert_int_equal(ept01_lookup(model.ept01.root, gpa1(5 * GIB)).base, align_down(5 * GIB, PAGE_2M));
        model_assert_no_leak();
    }
}

/* No table where types differ: UC is right with any. */
static void test_lazy_without_tables(void **state)
{
    (void)state;
    model_mtrr_firmware(&model.mtrr);
    assert_true(mtrr_write(&model.mtrr, 0x204, 9 * GIB | MEMTYPE_WC));
    assert_true(mtrr_write(&model.mtrr, 0x205, (BIT(MODEL_WIDTH) - PAGE_SIZE) | MTRR_MASK_VALID));
    mtrr_commit(&model.mtrr);
    assert_true(model_start((struct ept01_config){ .pages_1g = true, .top = 4 * GIB }, EPT01_LAZY_SPARE));
    assert_int_equal(ept01_fill(&model.ept01, gpa1(9 * GIB)), EPT01_FILLED);
    struct ept_leaf leaf = ept01_lookup(model.ept01.root, gpa1(9 * GIB));
    assert_int_equal(leaf.memtype, MEMTYPE_UC);
    assert_int_equal(leaf.size, PAGE_1G);
    assert_int_equal(ept01_fill(&model.ept01, gpa1(BIT(39))), EPT01_NO_MEMORY);
    model_assert_no_leak();
}

/* A lazy page in which types come to differ is unmapped, and mapped in parts by the next access. */
static void test_retype_lazy(void **state)
{
    (void)state;
    uint64_t addr = 9 * GIB + 5 * PAGE_SIZE;
    model_mtrr_firmware(&model.mtrr);
    assert_true(model_start((struct ept01_config){ .pages_1g = true, .top = 4 * GIB }, 200));
    uint32_t at_start = model.pool.free_count;
    assert_int_equal(ept01_fill(&model.ept01, gpa1(addr)), EPT01_FILLED);
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(addr)).size, PAGE_1G);
    assert_true(mtrr_write(&model.mtrr, 0x204, addr | MEMTYPE_WC));
    assert_true(mtrr_write(&model.mtrr, 0x205, (BIT(MODEL_WIDTH) - PAGE_SIZE) | MTRR_MASK_VALID));
    mtrr_commit(&model.mtrr);
    assert_true(ept01_retype(&model.ept01));
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(addr)).size, 0);
    assert_int_equal(model.pool.free_count, at_start);
    assert_int_equal(ept01_fill(&model.ept01, gpa1(addr)), EPT01_FILLED);
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(addr)).memtype, MEMTYPE_WC);
    assert_int_equal(ept01_fill(&model.ept01, gpa1(addr + PAGE_2M)), EPT01_FILLED);
    assert_int_equal(ept01_lookup(model.ept01.root, gpa1(addr + PAGE_2M)).size, PAGE_2M);
    assert_int_equal(at_start - model.pool.free_count, 2);
    model_assert_no_leak();
}

static void test_leaf_and_flags(void **state)
{
    (void)state;
    static const uint64_t sizes[] = { PAGE_1G, PAGE_2M, PAGE_SIZE };
    model.seed.state = 17;
    for (unsigned round = 0; round < 20; round++) {
        model_start_random();
        for (unsigned i = 0; i < 30; i++) {
            uint64_t addr = test_random(&model.seed) & (BIT(33) - 1),
                     size = sizes[test_random_below(&model.seed, ARRAY_SIZE(sizes))];
            uint64_t *entry = ept01_leaf(&model.ept01, gpa1(addr), size);
            assert_int_equal(entry != NULL, addr < model.ept01.eager_end && !model_hidden(addr));
            if (!entry)
                continue;
            struct ept_leaf leaf = ept01_lookup(model.ept01.root, gpa1(addr));
            assert_true(leaf.size <= size);
            assert_int_equal(*entry & EPT_ADDR_MASK, align_down(addr, leaf.size));
            /* A flag that is set survives a split, in every part, and a change of rights. */
            *entry |= EPT_DIRTY | EPT_ACCESSED;
            entry = ept01_leaf(&model.ept01, gpa1(addr), PAGE_SIZE);
            assert_int_equal(*entry & (EPT_DIRTY | EPT_ACCESSED), EPT_DIRTY | EPT_ACCESSED);
            uint64_t other = align_down(addr, leaf.size) + test_random_below(&model.seed, leaf.size);
            assert_int_equal(*ept01_leaf(&model.ept01, gpa1(other), PAGE_SIZE) & (EPT_DIRTY | EPT_ACCESSED),
                             EPT_DIRTY | EPT_ACCESSED);
            assert_true(ept01_protect(&model.ept01, gpa1(addr & PAGE_MASK), EPT_R));
            assert_true(ept01_protect(&model.ept01, gpa1(addr & PAGE_MASK), EPT_RWX));
            assert_int_equal(*entry & (EPT_DIRTY | EPT_ACCESSED), EPT_DIRTY | EPT_ACCESSED);
        }
        model_assert_some();
        model_assert_no_leak();
    }
}

/* Small pages that are as one large page, against a comparison page by page. */
static void test_table_uniform(void **state)
{
    (void)state;
    model.seed.state = 19;
    unsigned found[2] = { 0 };
    for (unsigned round = 0; round < 20; round++) {
        model_start_random();
        for (unsigned i = 0; i < 40; i++) {
            uint64_t addr = test_random(&model.seed) & (BIT(i % 2 ? 33 : 24) - 1), region = align_down(addr, PAGE_2M);
            if (i % 3 == 0 && i % 2)
                protect(addr & PAGE_MASK, EPT_R);
            else
                ept01_leaf(&model.ept01, gpa1(addr), PAGE_SIZE);
            struct ept_leaf first = ept01_lookup(model.ept01.root, gpa1(region));
            bool uniform = first.size == PAGE_SIZE && first.perm && first.base % PAGE_2M == 0;
            for (uint64_t at = region; uniform && at < region + PAGE_2M; at += PAGE_SIZE) {
                struct ept_leaf leaf = ept01_lookup(model.ept01.root, gpa1(at));
                uniform = leaf.size == PAGE_SIZE && leaf.base == first.base + (at - region) &&
                          leaf.perm == first.perm && leaf.memtype == first.memtype;
            }
            assert_int_equal(ept01_table_uniform(model.ept01.root, gpa1(addr)), uniform);
            found[uniform]++;
        }
    }
    assert_true(found[0] > 50 && found[1] > 50);
    assert_false(ept01_table_uniform(model.ept01.root, gpa1(BIT(39))));
}

/* However few tables there are: either it works, or it says so and nothing has changed. */
static void test_pool_exhausted(void **state)
{
    (void)state;
    struct ept01_config config = { .top = GIB };
    config.hidden[0] = (struct memmap_range){ 0x30001000, 0x30ffe000 };
    model_mtrr_firmware(&model.mtrr);
    uint64_t enough = 0;
    while (!model_start(config, enough))
        enough++;
    for (uint64_t extra = 0; extra < 12; extra++) {
        unsigned refused = 0;
        assert_true(model_start(config, enough + extra));
        for (uint64_t page = 0x1400000; page < 0x3000000; page += PAGE_2M) {
            if (!ept01_protect(&model.ept01, gpa1(page), EPT_R))
                refused++;
            else
                model.protected[model.protected_count++].page = page;
        }
        for (unsigned i = 0; i < model.protected_count; i++)
            model.protected[i].perm = EPT_R;
        assert_int_equal(model.protected_count, extra);
        assert_true(refused > 0);
        model_assert_some();
        assert_int_equal(ept01_fill(&model.ept01, gpa1(BIT(MODEL_WIDTH - 1))), EPT01_NO_MEMORY);
        assert_null(ept01_leaf(&model.ept01, gpa1(0x4000000), PAGE_SIZE));
        assert_non_null(ept01_leaf(&model.ept01, gpa1(0x4000000), PAGE_2M));
        /* Types that would need tables become UC. */
        assert_true(mtrr_write(&model.mtrr, 0x204, 0x20001000 | MEMTYPE_WC));
        assert_true(mtrr_write(&model.mtrr, 0x205, (BIT(MODEL_WIDTH) - PAGE_SIZE) | MTRR_MASK_VALID));
        mtrr_commit(&model.mtrr);
        assert_true(ept01_retype(&model.ept01));
        assert_int_equal(ept01_lookup(model.ept01.root, gpa1(0x20001000)).memtype, MEMTYPE_UC);
        model_mtrr_firmware(&model.mtrr);
        assert_true(ept01_retype(&model.ept01));
        model_assert_some();
    }
}

static void test_unaligned_hidden_range_panics(void **state)
{
    (void)state;
    struct ept01_config config = { .top = GIB };
    config.hidden[0] = (struct memmap_range){ 0x30000800, 0x31000000 };
    expect_assert_failure(model_start(config, 100));
}

/* What every store during the journal must leave behind. */
static uint64_t watched[256];
static const char *intermediate_wrong(uint64_t written)
{
    if (!model_page_reachable(written))
        return NULL; /* a page that no processor can find */
    const char *wrong = model_tables_wrong();
    for (unsigned i = 0; i < ARRAY_SIZE(watched) && !wrong; i++)
        wrong = model_page_wrong(watched[i]);
    return wrong;
}

static void journal_over(void (*action)(void))
{
    unsigned writes;
    for (unsigned i = 0; i < ARRAY_SIZE(watched); i++)
        watched[i] = test_random(&model.seed) & (BIT(33) - 1);
    watched[0] = model.ept01.config.hidden[0].start;
    watched[1] = model.ept01.config.hidden[0].end - 1;
    model_tables_wrong();
    journal_begin(intermediate_wrong);
    action();
    const char *wrong = journal_end(&writes);
    assert_true(writes > 0);
    if (wrong)
        fail_msg("after one of %u stores: %s", writes, wrong);
}

static uint64_t action_addr;
static void action_split(void) { ept01_leaf(&model.ept01, gpa1(action_addr), PAGE_SIZE); }
static void action_fill(void) { ept01_fill(&model.ept01, gpa1(action_addr)); }
static void action_retype(void) { ept01_retype(&model.ept01); }
static void action_fill_more(void)
{
    for (uint64_t i = 0; i < 8; i++)
        ept01_fill(&model.ept01, gpa1(BIT(39) + i * (PAGE_1G + PAGE_2M)));
}

/* No state that a processor could see between two stores is wrong. */
static void test_no_wrong_intermediate_state(void **state)
{
    (void)state;
    model.seed.state = 18;
    for (unsigned round = 0; round < 3; round++) {
        struct ept01_config config = { .pages_1g = round != 1, .top = 6 * GIB };
        config.hidden[0] = (struct memmap_range){ 0x3f7ff000, 0x3ffff000 };
        model_mtrr_firmware(&model.mtrr);
        assert_true(model_start(config, 400));
        action_addr = 0x11ee00000;
        if (round == 0)
            journal_over(action_split);
        action_addr = 0x3f400000;
        journal_over(action_split);
        action_addr = 3 * BIT(37) + 5 * PAGE_2M;
        journal_over(action_fill);
        if (round == 2)
            journal_over(action_fill_more);
        model_mtrr_random(&model.mtrr, MTRR_DEF_E | MEMTYPE_WB, 2);
        journal_over(action_retype);
        model_assert_some();
        model_assert_no_leak();
    }
}

/* The journal itself: it sees a wrong state that lasts for one store only. */
static const char *first_word_is_7(uint64_t written)
{
    return written == 0 && *(uint64_t *)hpa_ptr(hpa(0)) == 7 ? "seven" : NULL;
}
static void test_journal_sees(void **state)
{
    (void)state;
    unsigned writes;
    test_memory_reset(4 * PAGE_SIZE);
    volatile uint64_t *word = hpa_ptr(hpa(0));
    journal_begin(first_word_is_7);
    word[0] = 1;
    word[0] = 7;
    word[0] = 2;
    word[PAGE_SIZE / 8] = 3;
    assert_string_equal(journal_end(&writes), "seven");
    assert_int_equal(writes, 4);
    journal_begin(first_word_is_7);
    word[0] = 8;
    assert_null(journal_end(&writes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_model),
        cmocka_unit_test(test_eptp),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_protect),
        cmocka_unit_test(test_retype),
        cmocka_unit_test(test_retype_is_bounded),
        cmocka_unit_test(test_lazy_fill),
        cmocka_unit_test(test_lazy_everywhere),
        cmocka_unit_test(test_lazy_without_tables),
        cmocka_unit_test(test_retype_lazy),
        cmocka_unit_test(test_leaf_and_flags),
        cmocka_unit_test(test_table_uniform),
        cmocka_unit_test(test_pool_exhausted),
        cmocka_unit_test(test_unaligned_hidden_range_panics),
        cmocka_unit_test(test_journal_sees),
        cmocka_unit_test(test_no_wrong_intermediate_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
