/* sources: core/ept01.c core/mtrr.c core/page_pool.c */
/*
 * ept01 against a model that answers for one 4-KiB page at a time: identity, MTRR type, hidden pages, protected pages.
 */
#include "core/ept01.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/x86.h"
#include "tests/host/journal.h"
#include "tests/host/support.h"

#define ARENA (8 * MIB)
#define POOL_START PAGE_SIZE
#define WIDTH 40
#define JUNK (BIT(WIDTH) - PAGE_SIZE) /* an entry points there, nobody looks */
#define PAIRS 8
#define CAP (PAIRS | MTRRCAP_FIX | MTRRCAP_WC)
#define PROTECTED_MAX 64

/* The machine of a test. */
static struct ept01 ept01;
static struct mtrr mtrr;
static struct page_pool pool;
static struct test_random seed;

/* The model's own list of protected pages. */
static struct {
    uint64_t page;
    uint32_t perm;
} protected[PROTECTED_MAX];
static unsigned protected_count;

static bool model_hidden(uint64_t addr)
{
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        if (addr >= ept01.config.hidden[i].start && addr < ept01.config.hidden[i].end)
            return true;
    return false;
}

static uint32_t model_perm(uint64_t addr)
{
    uint32_t perm = EPT_RWX;
    for (unsigned i = 0; i < protected_count; i++)
        if (protected[i].page == (addr & PAGE_MASK))
            perm = protected[i].perm;
    return perm;
}

/* What is wrong with the translation of addr; NULL when nothing is. lazy: it may also be missing. */
static const char *page_wrong(uint64_t addr)
{
    struct ept_leaf leaf = ept01_lookup(ept01.root, gpa1(addr));
    uint64_t target = leaf.base + (addr & (leaf.size - 1));
    if (addr >= ept01.eager_end && leaf.size == 0)
        return NULL;
    if (addr >= ept01.limit)
        return "mapped beyond the address width";
    if (model_hidden(addr))
        return leaf.size && target == JUNK + (addr & (PAGE_SIZE - 1)) && leaf.perm == (EPT_R | EPT_W)
                   ? NULL
                   : "not the junk page";
    if (model_perm(addr) == 0)
        return leaf.size ? "mapped without rights" : NULL;
    if (leaf.size == 0)
        return "not mapped";
    if (target != addr)
        return "not the identity";
    if (leaf.perm != model_perm(addr))
        return "wrong rights";
    if (leaf.ignore_pat)
        return "ignore PAT";
    return NULL;
}

static const char *type_wrong(uint64_t addr)
{
    struct ept_leaf leaf = ept01_lookup(ept01.root, gpa1(addr));
    uint32_t wanted = model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&mtrr, addr);
    return leaf.size && leaf.memtype != wanted ? "wrong memory type" : NULL;
}

static void assert_page(uint64_t addr)
{
    const char *wrong = page_wrong(addr);
    if (!wrong)
        wrong = type_wrong(addr);
    if (wrong)
        fail_msg("%llxh: %s", (unsigned long long)addr, wrong);
}

static void assert_all_pages(void)
{
    for (uint64_t addr = 0; addr < ept01.eager_end; addr += PAGE_SIZE)
        assert_page(addr);
}

static void assert_some_pages(void)
{
    for (uint64_t addr = 0; addr < 4 * MIB; addr += PAGE_SIZE)
        assert_page(addr);
    for (unsigned i = 0; i < 2000; i++)
        assert_page(test_random(&seed) & (BIT(i % 4 ? 33 : WIDTH) - 1));
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        for (uint64_t addr = align_down(ept01.config.hidden[i].start, PAGE_2M);
             addr < ept01.config.hidden[i].end + PAGE_2M; addr += PAGE_SIZE)
            assert_page(addr);
}

/* Counts tables by walking, and checks that nothing reachable is a misconfiguration or leads to hidden memory. */
struct survey {
    unsigned tables;
    const char *wrong;
};

static const char *leaf_wrong(uint64_t entry, int level)
{
    uint64_t base = entry & EPT_ADDR_MASK, size = ept_span(level),
             type = (entry & EPT_MEMTYPE_MASK) >> EPT_MEMTYPE_SHIFT;
    if ((entry & EPT_W) && !(entry & EPT_R))
        return "write-only entry";
    if (type == 2 || type == 3 || type == 7)
        return "reserved memory type";
    if (base & (size - 1) || base >> WIDTH || (level == 1 && (entry & EPT_LARGE)) || level > 3)
        return "reserved bits";
    if (level == 3 && !ept01.config.pages_1g)
        return "1-GiB page";
    if (base == JUNK && level == 1)
        return (entry & EPT_X) ? "executable junk" : NULL;
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        if (ept01.config.hidden[i].start < base + size && ept01.config.hidden[i].end > base)
            return "leads to hidden memory";
    return NULL;
}

static void survey_table(struct survey *s, uint64_t table, int level)
{
    if (table % PAGE_SIZE || table < POOL_START || table >= ARENA) {
        s->wrong = "table outside the pool";
        return;
    }
    s->tables++;
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        uint64_t entry = ((uint64_t *)hpa_ptr(hpa(table)))[i];
        if (!ept_present(entry))
            continue;
        if (ept_is_leaf(entry, level)) {
            const char *wrong = leaf_wrong(entry, level);
            s->wrong = wrong ? wrong : s->wrong;
        } else if ((entry & ~EPT_ADDR_MASK) != EPT_RWX) {
            s->wrong = "odd link";
        } else if ((entry & EPT_ADDR_MASK) != ept01.junk_table.v) {
            survey_table(s, entry & EPT_ADDR_MASK, level - 1);
        }
    }
}

static const char *survey_wrong(void)
{
    struct survey s = { 0 };
    survey_table(&s, ept01.root.v, EPT_LEVELS);
    return s.wrong;
}

/* Every page of the pool is free, reachable, or waiting for recycling. */
static void assert_no_leak(void)
{
    struct survey s = { 0 };
    survey_table(&s, ept01.root.v, EPT_LEVELS);
    if (s.wrong)
        fail_msg("%s", s.wrong);
    unsigned retired = ept01.lazy_retired ? ept01.lazy_count : 0;
    assert_int_equal(pool.free_count + s.tables + retired + 1, pool.total); /* 1: the junk table */
}

static void mtrr_write_all(struct mtrr *m, uint64_t def, unsigned pairs)
{
    static const uint8_t types[] = { 0, 1, 4, 5, 6 };
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint64_t size = BIT(12 + test_random_below(&seed, 20)), mask = BIT(WIDTH) - size;
        if (test_random_below(&seed, 10) == 0)
            mask &= ~(test_random(&seed) & test_random(&seed) & test_random(&seed));
        uint64_t base = test_random(&seed) & (BIT(33) - 1) & PAGE_MASK;
        assert_true(mtrr_write(m, 0x200 + 2 * i, base | types[test_random_below(&seed, sizeof(types))]));
        assert_true(mtrr_write(m, 0x201 + 2 * i, (mask & PAGE_MASK) | (i < pairs ? MTRR_MASK_VALID : 0)));
    }
    for (uint32_t i = 0; i < 8; i++)
        assert_true(mtrr_write(m, 0x268 + i, test_random_below(&seed, 2) ? 0x0505050505050505 : 0x0600060106000600));
    assert_true(mtrr_write(m, 0x250, 0x0606060606060606));
    assert_true(mtrr_write(m, 0x2ff, def));
    mtrr_commit(m);
}

/* What a PC's firmware leaves: RAM WB, the hole below 4 GiB and video memory UC. */
static void mtrr_like_firmware(struct mtrr *m)
{
    mtrr_init(m, CAP, WIDTH);
    assert_true(mtrr_write(m, 0x200, 0xc0000000 | MEMTYPE_UC));
    assert_true(mtrr_write(m, 0x201, (BIT(WIDTH) - 0x40000000) | MTRR_MASK_VALID));
    assert_true(mtrr_write(m, 0x202, 0xbf800000 | MEMTYPE_UC));
    assert_true(mtrr_write(m, 0x203, (BIT(WIDTH) - 0x800000) | MTRR_MASK_VALID));
    assert_true(mtrr_write(m, 0x250, 0x0606060606060606));
    assert_true(mtrr_write(m, 0x258, 0x0606060606060606));
    for (uint32_t i = 0; i < 8; i++)
        assert_true(mtrr_write(m, 0x268 + i, 0x0505050505050505));
    assert_true(mtrr_write(m, 0x2ff, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB));
    mtrr_commit(m);
}

static bool start(struct ept01_config config, uint64_t pool_pages)
{
    test_memory_reset(ARENA);
    memset(&pool, 0, sizeof(pool));
    if (pool_pages)
        pool_add(&pool, hpa(POOL_START), pool_pages * PAGE_SIZE);
    protected_count = 0;
    config.maxphyaddr = WIDTH;
    config.junk = hpa(JUNK);
    config.mtrr = &mtrr;
    config.pool = &pool;
    return ept01_init(&ept01, &config);
}

static void start_random(void)
{
    struct ept01_config config = { .pages_1g = test_random_below(&seed, 2), .top = test_random_below(&seed, 7 * GIB) };
    uint64_t from = MIB, count = test_random_below(&seed, EPT01_HIDDEN_MAX + 1);
    mtrr_init(&mtrr, CAP, WIDTH);
    mtrr_write_all(&mtrr, MTRR_DEF_E | (test_random_below(&seed, 2) ? MTRR_DEF_FE : 0) | MEMTYPE_WB,
                   (unsigned)test_random_below(&seed, PAIRS + 1));
    for (uint64_t i = 0; i < count; i++) {
        config.hidden[i].start = from + test_random_below(&seed, GIB / 2 / PAGE_SIZE) * PAGE_SIZE;
        config.hidden[i].end = config.hidden[i].start + test_random_below(&seed, 8 * MIB / PAGE_SIZE) * PAGE_SIZE;
        from = config.hidden[i].end;
        if (test_random_below(&seed, 4) == 0) {
            config.hidden[i].start = align_up(config.hidden[i].start, PAGE_2M);
            config.hidden[i].end = from = align_up(from, PAGE_2M) + PAGE_2M;
        }
    }
    assert_true(start(config, 1000));
}

static void test_matches_model(void **state)
{
    (void)state;
    seed.state = 12;
    for (unsigned round = 0; round < 60; round++) {
        start_random();
        assert_some_pages();
        assert_no_leak();
        if (round % 20 == 0)
            assert_all_pages();
    }
}

static void test_eptp(void **state)
{
    (void)state;
    mtrr_like_firmware(&mtrr);
    assert_true(start((struct ept01_config){ .top = GIB }, 100));
    assert_int_equal(ept01_eptp(&ept01), ept01.root.v | 0x1e);
    assert_true(start((struct ept01_config){ .top = GIB, .accessed_dirty = true }, 100));
    assert_int_equal(ept01_eptp(&ept01), ept01.root.v | 0x5e);
    assert_int_equal(ept01_lookup(ept01.root, gpa1(BIT(48))).size, 0);
    assert_int_equal(ept01_lookup(ept01.root, gpa1(~0ull)).size, 0);
}

/* The whole of ept01 for 4 GiB of RAM, Strata's memory included, takes few tables (the limit of the design is 40). */
static void test_budget(void **state)
{
    (void)state;
    for (unsigned pages_1g = 0; pages_1g < 2; pages_1g++) {
        struct ept01_config config = { .pages_1g = pages_1g, .top = 5 * GIB };
        config.hidden[0] = (struct memmap_range){ 0xbe7ff000, 0xbf7ff000 };
        mtrr_like_firmware(&mtrr);
        assert_true(start(config, 1000));
        assert_in_range(pool.total - pool.free_count, 5, 14);
        assert_all_pages();
    }
}

static void protect(uint64_t page, uint32_t perm)
{
    bool possible = page < ept01.eager_end && !model_hidden(page);
    assert_int_equal(ept01_protect(&ept01, gpa1(page), perm), possible);
    for (unsigned i = 0; possible && i <= protected_count; i++)
        if (i == protected_count || protected[i].page == page) {
            protected_count += i == protected_count;
            protected[i].page = page;
            protected[i].perm = perm;
            return;
        }
}

static void test_protect(void **state)
{
    (void)state;
    static const uint32_t perms[] = { 0, EPT_R, EPT_R | EPT_X, EPT_R | EPT_W, EPT_RWX };
    seed.state = 13;
    for (unsigned round = 0; round < 20; round++) {
        start_random();
        protect(0xfee00000, EPT_R);
        protect(0, 0);
        for (unsigned i = 0; i < 40; i++) {
            uint64_t page = test_random(&seed) & (BIT(i % 2 ? 33 : 22) - 1) & PAGE_MASK;
            protect(page, perms[test_random_below(&seed, ARRAY_SIZE(perms))]);
        }
        for (unsigned i = 0; i < protected_count; i++)
            assert_page(protected[i].page);
        assert_some_pages();
        assert_no_leak();
        for (unsigned i = 0; i < protected_count; i++)
            protect(protected[i].page, EPT_RWX);
        assert_some_pages();
    }
    expect_assert_failure(ept01_protect(&ept01, gpa1(0x1000), EPT_W));
    expect_assert_failure(ept01_protect(&ept01, gpa1(0x1000), EPT_W | EPT_X));
}

/* ept01_retype against building anew, and its answer against a comparison of types before and after. */
static void test_retype(void **state)
{
    (void)state;
    seed.state = 14;
    static uint8_t before[8 * GIB / PAGE_SIZE];
    for (unsigned round = 0; round < 12; round++) {
        start_random();
        protect(0xfee00000, EPT_R);
        protect(0x3000, 0);
        for (unsigned step = 0; step < 4; step++) {
            bool differs = false;
            for (uint64_t addr = 0; addr < ept01.eager_end; addr += PAGE_SIZE)
                before[addr / PAGE_SIZE] = (uint8_t)(model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&mtrr, addr));
            mtrr_write_all(&mtrr,
                           (step == 3 ? 0 : MTRR_DEF_E) | (step % 2 ? MTRR_DEF_FE : 0) |
                               (step == 1 ? MEMTYPE_UC : MEMTYPE_WB),
                           step * 3);
            for (uint64_t addr = 0; addr < ept01.eager_end; addr += PAGE_SIZE)
                differs |= before[addr / PAGE_SIZE] != (model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&mtrr, addr));
            bool changed = ept01_retype(&ept01);
            assert_true(changed || !differs);
            assert_some_pages();
            assert_no_leak();
            uint32_t free_count = pool.free_count;
            assert_false(ept01_retype(&ept01));
            assert_int_equal(pool.free_count, free_count);
        }
        assert_all_pages();
    }
}

/* A guest that keeps inventing MTRRs: a bounded number of tables, then UC; types are right or UC. */
static void test_retype_is_bounded(void **state)
{
    (void)state;
    seed.state = 15;
    struct ept01_config config = { .pages_1g = true, .top = 8 * GIB };
    mtrr_like_firmware(&mtrr);
    assert_true(start(config, 1000));
    uint32_t at_start = pool.free_count;
    for (unsigned round = 0; round < 300; round++) {
        mtrr_write_all(&mtrr, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB, PAIRS);
        ept01_retype(&ept01);
        for (unsigned i = 0; i < 500; i++) {
            uint64_t addr = test_random_below(&seed, ept01.eager_end);
            assert_null(page_wrong(addr));
            assert_true(!type_wrong(addr) || ept01_lookup(ept01.root, gpa1(addr)).memtype == MEMTYPE_UC);
        }
    }
    assert_in_range(at_start - pool.free_count, 1, 200);
    assert_no_leak();
    /* Simple MTRRs give right types again, in the tables there are. */
    mtrr_like_firmware(&mtrr);
    ept01_retype(&ept01);
    assert_some_pages();
}

static void test_lazy_fill(void **state)
{
    (void)state;
    seed.state = 16;
    for (unsigned round = 0; round < 20; round++) {
        unsigned flushes = 0;
        start_random();
        uint32_t at_start = pool.free_count;
        for (unsigned i = 0; i < 400; i++) {
            uint64_t addr = test_random(&seed) & (BIT(i % 3 ? WIDTH : 34) - 1);
            enum ept01_fill result = ept01_fill(&ept01, gpa1(addr));
            if (addr < ept01.eager_end) {
                assert_int_equal(result, EPT01_REFUSED);
                continue;
            }
            if (result == EPT01_FLUSH) {
                flushes++;
                assert_int_equal(ept01_lookup(ept01.root, gpa1(BIT(39) + addr % BIT(39))).size, 0);
                assert_int_equal(ept01_fill(&ept01, gpa1(addr)), EPT01_FLUSH);
                ept01_recycle(&ept01);
                result = ept01_fill(&ept01, gpa1(addr));
            }
            assert_int_equal(result, EPT01_FILLED);
            assert_int_not_equal(ept01_lookup(ept01.root, gpa1(addr)).size, 0);
            assert_page(addr);
            assert_int_equal(ept01_fill(&ept01, gpa1(addr)), EPT01_FILLED);
            assert_in_range(at_start - pool.free_count, 0, EPT01_LAZY_MAX);
            if (i % 50 == 49) {
                mtrr_write_all(&mtrr, MTRR_DEF_E | MEMTYPE_WB, (unsigned)test_random_below(&seed, PAIRS));
                ept01_retype(&ept01);
                at_start = pool.free_count + ept01.lazy_count;
                assert_some_pages();
            }
        }
        assert_no_leak();
        assert_some_pages();
        if (!ept01.config.pages_1g)
            assert_true(flushes > 0);
    }
    assert_int_equal(ept01_fill(&ept01, gpa1(BIT(WIDTH))), EPT01_OUTSIDE);
    assert_int_equal(ept01_fill(&ept01, gpa1(~0ull)), EPT01_OUTSIDE);
    assert_int_equal(ept01_fill(&ept01, gpa1(0)), EPT01_REFUSED);
}

static void test_leaf_and_flags(void **state)
{
    (void)state;
    static const uint64_t sizes[] = { PAGE_1G, PAGE_2M, PAGE_SIZE };
    seed.state = 17;
    for (unsigned round = 0; round < 20; round++) {
        start_random();
        for (unsigned i = 0; i < 30; i++) {
            uint64_t addr = test_random(&seed) & (BIT(33) - 1),
                     size = sizes[test_random_below(&seed, ARRAY_SIZE(sizes))];
            uint64_t *entry = ept01_leaf(&ept01, gpa1(addr), size);
            assert_int_equal(entry != NULL, addr < ept01.eager_end && !model_hidden(addr));
            if (!entry)
                continue;
            struct ept_leaf leaf = ept01_lookup(ept01.root, gpa1(addr));
            assert_true(leaf.size <= size);
            assert_int_equal(*entry & EPT_ADDR_MASK, align_down(addr, leaf.size));
            /* A flag that is set survives a split, in every part, and a change of rights. */
            *entry |= EPT_DIRTY | EPT_ACCESSED;
            entry = ept01_leaf(&ept01, gpa1(addr), PAGE_SIZE);
            assert_int_equal(*entry & (EPT_DIRTY | EPT_ACCESSED), EPT_DIRTY | EPT_ACCESSED);
            uint64_t other = align_down(addr, leaf.size) + test_random_below(&seed, leaf.size);
            assert_int_equal(*ept01_leaf(&ept01, gpa1(other), PAGE_SIZE) & (EPT_DIRTY | EPT_ACCESSED),
                             EPT_DIRTY | EPT_ACCESSED);
            assert_true(ept01_protect(&ept01, gpa1(addr & PAGE_MASK), EPT_R));
            assert_true(ept01_protect(&ept01, gpa1(addr & PAGE_MASK), EPT_RWX));
            assert_int_equal(*entry & (EPT_DIRTY | EPT_ACCESSED), EPT_DIRTY | EPT_ACCESSED);
        }
        assert_some_pages();
        assert_no_leak();
    }
}

/* However few tables there are: either it works, or it says so and nothing has changed. */
static void test_pool_exhausted(void **state)
{
    (void)state;
    struct ept01_config config = { .top = GIB };
    config.hidden[0] = (struct memmap_range){ 0x30001000, 0x30ffe000 };
    mtrr_like_firmware(&mtrr);
    uint64_t enough = 0;
    while (!start(config, enough))
        enough++;
    for (uint64_t extra = 0; extra < 12; extra++) {
        unsigned refused = 0;
        assert_true(start(config, enough + extra));
        for (uint64_t page = 0x1400000; page < 0x3000000; page += PAGE_2M) {
            if (!ept01_protect(&ept01, gpa1(page), EPT_R))
                refused++;
            else
            protected[protected_count++].page = page;
        }
        for (unsigned i = 0; i < protected_count; i++)
        protected[i].perm = EPT_R;
        assert_int_equal(protected_count, extra);
        assert_true(refused > 0);
        assert_some_pages();
        assert_int_equal(ept01_fill(&ept01, gpa1(BIT(WIDTH - 1))), EPT01_NO_MEMORY);
        assert_null(ept01_leaf(&ept01, gpa1(0x4000000), PAGE_SIZE));
        assert_non_null(ept01_leaf(&ept01, gpa1(0x4000000), PAGE_2M));
        /* Types that would need tables become UC. */
        assert_true(mtrr_write(&mtrr, 0x204, 0x20001000 | MEMTYPE_WC));
        assert_true(mtrr_write(&mtrr, 0x205, (BIT(WIDTH) - PAGE_SIZE) | MTRR_MASK_VALID));
        mtrr_commit(&mtrr);
        assert_true(ept01_retype(&ept01));
        assert_int_equal(ept01_lookup(ept01.root, gpa1(0x20001000)).memtype, MEMTYPE_UC);
        mtrr_like_firmware(&mtrr);
        assert_true(ept01_retype(&ept01));
        assert_some_pages();
    }
}

static void test_unaligned_hidden_range_panics(void **state)
{
    (void)state;
    struct ept01_config config = { .top = GIB };
    config.hidden[0] = (struct memmap_range){ 0x30000800, 0x31000000 };
    expect_assert_failure(start(config, 100));
}

/* What every store during the journal must leave behind. */
static uint64_t watched[256];
static const char *intermediate_wrong(void)
{
    const char *wrong = survey_wrong();
    for (unsigned i = 0; i < ARRAY_SIZE(watched) && !wrong; i++)
        wrong = page_wrong(watched[i]);
    return wrong;
}

static void journal_over(void (*action)(void))
{
    unsigned writes;
    for (unsigned i = 0; i < ARRAY_SIZE(watched); i++)
        watched[i] = test_random(&seed) & (BIT(33) - 1);
    watched[0] = ept01.config.hidden[0].start;
    watched[1] = ept01.config.hidden[0].end - 1;
    journal_begin(intermediate_wrong);
    action();
    const char *wrong = journal_end(&writes);
    assert_true(writes > 0);
    if (wrong)
        fail_msg("after one of %u stores: %s", writes, wrong);
}

static uint64_t action_addr;
static void action_split(void) { ept01_leaf(&ept01, gpa1(action_addr), PAGE_SIZE); }
static void action_fill(void) { ept01_fill(&ept01, gpa1(action_addr)); }
static void action_retype(void) { ept01_retype(&ept01); }
static void action_retire(void)
{
    for (uint64_t i = 0; ept01_fill(&ept01, gpa1(BIT(39) + i * (PAGE_1G + PAGE_2M))) == EPT01_FILLED; i++)
        ;
    ept01_recycle(&ept01);
}

/* No state that a processor could see between two stores is wrong. */
static void test_no_wrong_intermediate_state(void **state)
{
    (void)state;
    seed.state = 18;
    for (unsigned round = 0; round < 3; round++) {
        struct ept01_config config = { .pages_1g = round != 1, .top = 6 * GIB };
        config.hidden[0] = (struct memmap_range){ 0x3f7ff000, 0x3ffff000 };
        mtrr_like_firmware(&mtrr);
        assert_true(start(config, 400));
        action_addr = 0x11ee00000;
        journal_over(action_split);
        action_addr = 0x3f400000;
        journal_over(action_split);
        action_addr = 3 * BIT(37) + 5 * PAGE_2M;
        journal_over(action_fill);
        if (round == 2)
            journal_over(action_retire);
        mtrr_write_all(&mtrr, MTRR_DEF_E | MEMTYPE_WB, 4);
        journal_over(action_retype);
        assert_some_pages();
        assert_no_leak();
    }
}

/* The journal itself: it sees a wrong state that lasts for one store only. */
static const char *first_word_is_7(void) { return *(uint64_t *)hpa_ptr(hpa(0)) == 7 ? "seven" : NULL; }
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
        cmocka_unit_test(test_matches_model),  cmocka_unit_test(test_eptp),
        cmocka_unit_test(test_budget),         cmocka_unit_test(test_protect),
        cmocka_unit_test(test_retype),         cmocka_unit_test(test_retype_is_bounded),
        cmocka_unit_test(test_lazy_fill),      cmocka_unit_test(test_leaf_and_flags),
        cmocka_unit_test(test_pool_exhausted), cmocka_unit_test(test_unaligned_hidden_range_panics),
        cmocka_unit_test(test_journal_sees),   cmocka_unit_test(test_no_wrong_intermediate_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
