/*
 * The model of ept01; see ept01_model.h.
 */
#include "tests/host/memory/ept01_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define POOL_START PAGE_SIZE
#define JUNK (BIT(MODEL_WIDTH) - PAGE_SIZE) /* an entry points there, nobody looks */
#define CAP (MODEL_PAIRS | MTRRCAP_FIX | MTRRCAP_WC)

struct ept01_model model;

bool model_hidden(uint64_t addr)
{
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        if (addr >= model.ept01.config.hidden[i].start && addr < model.ept01.config.hidden[i].end)
            return true;
    return false;
}

static uint32_t model_perm(uint64_t addr)
{
    uint32_t perm = EPT_RWX;
    for (unsigned i = 0; i < model.protected_count; i++)
        if (model.protected[i].page == (addr & PAGE_MASK))
            perm = model.protected[i].perm;
    return perm;
}

const char *model_page_wrong(uint64_t addr)
{
    struct ept_leaf leaf = ept01_lookup(model.ept01.root, gpa1(addr));
    uint64_t target = leaf.base + (addr & (leaf.size - 1));
    if (addr >= model.ept01.eager_end && leaf.size == 0)
        return NULL;
    if (addr >= model.ept01.limit)
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

const char *model_type_wrong(uint64_t addr)
{
    struct ept_leaf leaf = ept01_lookup(model.ept01.root, gpa1(addr));
    uint32_t wanted = model_hidden(addr) ? MEMTYPE_WB : mtrr_type(&model.mtrr, addr);
    return leaf.size && leaf.memtype != wanted ? "wrong memory type" : NULL;
}

void model_assert_page(uint64_t addr)
{
    const char *wrong = model_page_wrong(addr);
    if (!wrong)
        wrong = model_type_wrong(addr);
    if (wrong)
        fail_msg("%llxh: %s", (unsigned long long)addr, wrong);
}

void model_assert_all(void)
{
    for (uint64_t addr = 0; addr < model.ept01.eager_end; addr += PAGE_SIZE)
        model_assert_page(addr);
}

void model_assert_some(void)
{
    for (uint64_t addr = 0; addr < 4 * MIB; addr += PAGE_SIZE)
        model_assert_page(addr);
    for (unsigned i = 0; i < 2000; i++)
        model_assert_page(test_random(&model.seed) & (BIT(i % 4 ? 33 : MODEL_WIDTH) - 1));
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        for (uint64_t addr = align_down(model.ept01.config.hidden[i].start, PAGE_2M);
             addr < model.ept01.config.hidden[i].end + PAGE_2M; addr += PAGE_SIZE)
            model_assert_page(addr);
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
    if (base & (size - 1) || base >> MODEL_WIDTH || (level == 1 && (entry & EPT_LARGE)) || level > 3)
        return "reserved bits";
    if (level == 3 && !model.ept01.config.pages_1g)
        return "1-GiB page";
    if (base == JUNK && level == 1)
        return (entry & EPT_X) ? "executable junk" : NULL;
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        if (model.ept01.config.hidden[i].start < base + size && model.ept01.config.hidden[i].end > base)
            return "leads to hidden memory";
    return NULL;
}

static bool reachable[MODEL_ARENA / PAGE_SIZE];

bool model_page_reachable(uint64_t addr) { return reachable[addr / PAGE_SIZE]; }

static void survey_table(struct survey *s, uint64_t table, int level)
{
    if (table % PAGE_SIZE || table < POOL_START || table >= MODEL_ARENA) {
        s->wrong = "table outside the pool";
        return;
    }
    s->tables++;
    reachable[table / PAGE_SIZE] = true;
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        uint64_t entry = ((uint64_t *)hpa_ptr(hpa(table)))[i];
        if (!ept_present(entry))
            continue;
        if (ept_is_leaf(entry, level)) {
            const char *wrong = leaf_wrong(entry, level);
            s->wrong = wrong ? wrong : s->wrong;
        } else if ((entry & ~EPT_ADDR_MASK) != EPT_RWX) {
            s->wrong = "odd link";
        } else if ((entry & EPT_ADDR_MASK) != model.ept01.junk_table.v) {
            survey_table(s, entry & EPT_ADDR_MASK, level - 1);
        } else {
            reachable[model.ept01.junk_table.v / PAGE_SIZE] = true;
        }
    }
}

const char *model_tables_wrong(void)
{
    struct survey s = { 0 };
    memset(reachable, 0, sizeof(reachable));
    survey_table(&s, model.ept01.root.v, EPT_LEVELS);
    return s.wrong;
}

void model_assert_no_leak(void)
{
    struct survey s = { 0 };
    survey_table(&s, model.ept01.root.v, EPT_LEVELS);
    if (s.wrong)
        fail_msg("%s", s.wrong);
    assert_int_equal(model.pool.free_count + s.tables + 1, model.pool.total); /* 1: the junk table */
}

void model_mtrr_random(struct mtrr *m, uint64_t def, unsigned pairs)
{
    static const uint8_t types[] = { 0, 1, 4, 5, 6 };
    for (uint32_t i = 0; i < MODEL_PAIRS; i++) {
        uint64_t size = BIT(12 + test_random_below(&model.seed, 20)), mask = BIT(MODEL_WIDTH) - size;
        if (test_random_below(&model.seed, 10) == 0)
            mask &= ~(test_random(&model.seed) & test_random(&model.seed) & test_random(&model.seed));
        uint64_t base = test_random(&model.seed) & (BIT(33) - 1) & PAGE_MASK;
        assert_true(mtrr_write(m, 0x200 + 2 * i, base | types[test_random_below(&model.seed, sizeof(types))]));
        assert_true(mtrr_write(m, 0x201 + 2 * i, (mask & PAGE_MASK) | (i < pairs ? MTRR_MASK_VALID : 0)));
    }
    for (uint32_t i = 0; i < 8; i++)
        assert_true(
            mtrr_write(m, 0x268 + i, test_random_below(&model.seed, 2) ? 0x0505050505050505 : 0x0600060106000600));
    assert_true(mtrr_write(m, 0x250, 0x0606060606060606));
    assert_true(mtrr_write(m, 0x2ff, def));
    mtrr_commit(m);
}

void model_mtrr_firmware(struct mtrr *m)
{
    mtrr_init(m, CAP, MODEL_WIDTH);
    assert_true(mtrr_write(m, 0x200, 0xc0000000 | MEMTYPE_UC));
    assert_true(mtrr_write(m, 0x201, (BIT(MODEL_WIDTH) - 0x40000000) | MTRR_MASK_VALID));
    assert_true(mtrr_write(m, 0x202, 0xbf800000 | MEMTYPE_UC));
    assert_true(mtrr_write(m, 0x203, (BIT(MODEL_WIDTH) - 0x800000) | MTRR_MASK_VALID));
    assert_true(mtrr_write(m, 0x250, 0x0606060606060606));
    assert_true(mtrr_write(m, 0x258, 0x0606060606060606));
    for (uint32_t i = 0; i < 8; i++)
        assert_true(mtrr_write(m, 0x268 + i, 0x0505050505050505));
    assert_true(mtrr_write(m, 0x2ff, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB));
    mtrr_commit(m);
}

bool model_start(struct ept01_config config, uint64_t pool_pages)
{
    test_memory_reset(MODEL_ARENA);
    memset(&model.pool, 0, sizeof(model.pool));
    if (pool_pages)
        pool_add(&model.pool, hpa(POOL_START), pool_pages * PAGE_SIZE);
    model.protected_count = 0;
    config.maxphyaddr = MODEL_WIDTH;
    config.junk = hpa(JUNK);
    config.mtrr = &model.mtrr;
    config.pool = &model.pool;
    return ept01_init(&model.ept01, &config);
}

void model_start_random(void)
{
    struct ept01_config config = { .pages_1g = test_random_below(&model.seed, 2),
                                   .top = test_random_below(&model.seed, 7 * GIB) };
    uint64_t from = MIB, count = test_random_below(&model.seed, EPT01_HIDDEN_MAX + 1);
    mtrr_init(&model.mtrr, CAP, MODEL_WIDTH);
    model_mtrr_random(&model.mtrr, MTRR_DEF_E | (test_random_below(&model.seed, 2) ? MTRR_DEF_FE : 0) | MEMTYPE_WB,
                      (unsigned)test_random_below(&model.seed, MODEL_PAIRS + 1));
    for (uint64_t i = 0; i < count; i++) {
        config.hidden[i].start = from + test_random_below(&model.seed, GIB / 2 / PAGE_SIZE) * PAGE_SIZE;
        config.hidden[i].end = config.hidden[i].start + test_random_below(&model.seed, 8 * MIB / PAGE_SIZE) * PAGE_SIZE;
        from = config.hidden[i].end;
        if (test_random_below(&model.seed, 4) == 0) {
            config.hidden[i].start = align_up(config.hidden[i].start, PAGE_2M);
            config.hidden[i].end = from = align_up(from, PAGE_2M) + PAGE_2M;
        }
    }
    assert_true(model_start(config, 1000));
}
