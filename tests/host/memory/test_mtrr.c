/* sources: core/memory/mtrr.c */
/*
 * Virtual MTRRs against a model that looks at one address and at the raw registers, nothing else.
 */
#include "core/memory/mtrr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/x86.h"
#include "tests/host/support/support.h"

#define WIDTH 40
#define PAIRS 8
#define CAP (PAIRS | MTRRCAP_FIX | MTRRCAP_WC)
#define PHYSBASE(n) (MSR_MTRR_PHYSBASE0 + 2 * (n))
#define PHYSMASK(n) (MSR_MTRR_PHYSBASE0 + 2 * (n) + 1)
#define TOP BIT(WIDTH)

static const uint32_t fixed_msrs[MTRR_FIXED_COUNT] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                                       0x26b, 0x26c, 0x26d, 0x26e, 0x26f };
static const uint8_t types[] = { 0, 1, 4, 5, 6 };

/* Raw registers, by MSR number. */
struct model {
    uint64_t msr[0x300];
};

static uint64_t model_fixed(const struct model *m, uint64_t addr)
{
    uint64_t reg, number;
    if (addr < 0x80000) {
        reg = m->msr[0x250];
        number = addr / 0x10000;
    } else if (addr < 0xc0000) {
        reg = m->msr[addr < 0xa0000 ? 0x258 : 0x259];
        number = addr / 0x4000 % 8;
    } else {
        reg = m->msr[0x268 + (addr - 0xc0000) / 0x8000];
        number = addr / 0x1000 % 8;
    }
    return reg >> (8 * number) & 0xff;
}

static uint64_t model_type(const struct model *m, uint64_t addr)
{
    uint64_t def = m->msr[0x2ff];
    unsigned matched = 0;
    if (!(def & BIT(11)))
        return MEMTYPE_UC;
    if (addr < MIB && (def & BIT(10)))
        return model_fixed(m, addr);
    for (unsigned i = 0; i < PAIRS; i++) {
        uint64_t base = m->msr[PHYSBASE(i)], mask = m->msr[PHYSMASK(i)];
        uint64_t field = mask & (TOP - 1) & PAGE_MASK;
        if ((mask & BIT(11)) && (addr & field) == (base & field))
            matched |= 1u << (base & 0xff);
    }
    if (!matched)
        return def & 0xff;
    if (matched == 1u << MEMTYPE_WC)
        return MEMTYPE_WC;
    if (matched == 1u << MEMTYPE_WP)
        return MEMTYPE_WP;
    if (matched == 1u << MEMTYPE_WB)
        return MEMTYPE_WB;
    if (!(matched & ~(1u << MEMTYPE_WT | 1u << MEMTYPE_WB)))
        return MEMTYPE_WT;
    return MEMTYPE_UC;
}

static void set(struct mtrr *mtrr, struct model *m, uint32_t msr, uint64_t value)
{
    assert_true(mtrr_write(mtrr, msr, value));
    m->msr[msr] = value;
}

static uint64_t random_type(struct test_random *random) { return types[test_random_below(random, sizeof(types))]; }

static uint64_t random_fixed(struct test_random *random)
{
    uint64_t value = 0;
    uint64_t same = random_type(random);
    bool mixed = test_random_below(random, 2);
    for (unsigned i = 0; i < 8; i++)
        value |= (mixed ? random_type(random) : same) << (8 * i);
    return value;
}

/* odd_masks: some PHYSMASK with holes. */
static void random_registers(struct mtrr *mtrr, struct model *m, struct test_random *random, unsigned odd_masks)
{
    for (size_t i = 0; i < MTRR_FIXED_COUNT; i++)
        set(mtrr, m, fixed_msrs[i], random_fixed(random));
    for (uint32_t i = 0; i < PAIRS; i++) {
        unsigned shift = 12 + (unsigned)test_random_below(random, 24);
        uint64_t mask = TOP - BIT(shift),
                 base = test_random(random) & (BIT(test_random_below(random, 2) ? 33 : 24) - 1);
        if (odd_masks && i % 2)
            mask &= ~(test_random(random) & test_random(random));
        set(mtrr, m, PHYSBASE(i), (base & PAGE_MASK) | random_type(random));
        set(mtrr, m, PHYSMASK(i), (mask & PAGE_MASK) | (test_random_below(random, 4) ? MTRR_MASK_VALID : 0));
    }
    set(mtrr, m, 0x2ff,
        random_type(random) | (test_random_below(random, 8) ? MTRR_DEF_E : 0) |
            (test_random_below(random, 3) ? MTRR_DEF_FE : 0));
}

/* An address near where types may change, or anywhere. */
static uint64_t random_address(const struct model *m, struct test_random *random)
{
    uint32_t pair = (uint32_t)test_random_below(random, PAIRS);
    uint64_t mask = m->msr[PHYSMASK(pair)] & PAGE_MASK, base = m->msr[PHYSBASE(pair)] & mask, size = mask & -mask;
    uint64_t near[] = { base, base - 1, base + size, base + size - 1, 0, MIB, MIB - 1, TOP - 1, 0xa0000, 0xbffff };
    uint64_t choice = test_random_below(random, ARRAY_SIZE(near) + 3);
    if (choice < ARRAY_SIZE(near))
        return near[choice] & (TOP - 1);
    return test_random(random) & (BIT(choice % 3 == 0 ? 20 : choice % 3 == 1 ? 34 : WIDTH) - 1);
}

static void test_types(void **state)
{
    (void)state;
    struct test_random random = { 9 };
    for (unsigned round = 0; round < 2000; round++) {
        struct mtrr mtrr;
        struct model model = { { 0 } };
        mtrr_init(&mtrr, CAP, WIDTH);
        random_registers(&mtrr, &model, &random, round % 2);
        mtrr_commit(&mtrr);
        for (unsigned i = 0; i < 100; i++) {
            uint64_t addr = random_address(&model, &random);
            assert_int_equal(mtrr_type(&mtrr, addr), model_type(&model, addr));
        }
    }
}

/* All places where the type may change when masks have no holes. */
static unsigned edges(const struct model *m, uint64_t *out)
{
    unsigned count = 0;
    out[count++] = TOP;
    for (uint64_t at = 0; at <= MIB; at += 4 * KIB)
        out[count++] = at;
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint64_t mask = m->msr[PHYSMASK(i)] & PAGE_MASK;
        out[count++] = m->msr[PHYSBASE(i)] & mask;
        out[count++] = (m->msr[PHYSBASE(i)] & mask) + (mask & -mask);
    }
    return count;
}

static void test_ranges_are_uniform_and_largest(void **state)
{
    (void)state;
    struct test_random random = { 10 };
    uint64_t edge[400];
    for (unsigned round = 0; round < 1500; round++) {
        struct mtrr mtrr;
        struct model model = { { 0 } };
        mtrr_init(&mtrr, CAP, WIDTH);
        random_registers(&mtrr, &model, &random, 0);
        mtrr_commit(&mtrr);
        unsigned count = edges(&model, edge);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t addr = random_address(&model, &random), start, end, type = model_type(&model, addr);
            assert_int_equal(mtrr_range(&mtrr, addr, &start, &end), type);
            assert_true(start <= addr && addr < end && end <= TOP);
            for (unsigned j = 0; j < count; j++)
                if (edge[j] >= start && edge[j] < end)
                    assert_int_equal(model_type(&model, edge[j]), type);
            assert_true(start == 0 || model_type(&model, start - 1) != type);
            assert_true(end == TOP || model_type(&model, end) != type);
        }
    }
}

/* Masks with holes: ranges may be smaller than possible, never wrong. */
static void test_ranges_with_odd_masks(void **state)
{
    (void)state;
    struct test_random random = { 11 };
    for (unsigned round = 0; round < 1000; round++) {
        struct mtrr mtrr;
        struct model model = { { 0 } };
        mtrr_init(&mtrr, CAP, WIDTH);
        random_registers(&mtrr, &model, &random, 1);
        mtrr_commit(&mtrr);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t addr = random_address(&model, &random), start, end, type = model_type(&model, addr);
            assert_int_equal(mtrr_range(&mtrr, addr, &start, &end), type);
            assert_true(start <= addr && addr < end && end <= TOP && end - start >= PAGE_SIZE);
            assert_int_equal((start | end) % PAGE_SIZE, 0);
            for (unsigned j = 0; j < 200; j++)
                assert_int_equal(model_type(&model, start + test_random(&random) % (end - start)), type);
        }
    }
}

/* Firmware that knows fewer address bits than the processor has: the holes cost nothing. */
static void test_short_masks(void **state)
{
    (void)state;
    struct mtrr mtrr;
    uint64_t start, end;
    mtrr_init(&mtrr, CAP, WIDTH);
    assert_true(mtrr_write(&mtrr, PHYSBASE(0), 0x1000 | MEMTYPE_WT));
    assert_true(mtrr_write(&mtrr, PHYSMASK(0), 0x7fffff000 | MTRR_MASK_VALID)); /* matches in every 32 GiB */
    assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MEMTYPE_WB));
    mtrr_commit(&mtrr);
    assert_int_equal(mtrr_range(&mtrr, 5 * GIB, &start, &end), MEMTYPE_WB);
    assert_int_equal(start, 0x2000);
    assert_int_equal(end, 32 * GIB + 0x1000);
    assert_int_equal(mtrr_range(&mtrr, 32 * GIB + 0x1fff, &start, &end), MEMTYPE_WT);
    assert_int_equal(end - start, PAGE_SIZE);
}

static void test_writes_refused(void **state)
{
    (void)state;
    // clang-format off
    static const struct { uint32_t msr; uint64_t value; bool good; } cases[] = {
        { MSR_MTRRCAP, CAP, false },
        { 0x2ff, 0xc06, true }, { 0x2ff, 0x802, false }, { 0x2ff, 0x803, false }, { 0x2ff, 0x807, false },
        { 0x2ff, 0x906, false }, { 0x2ff, 0xa06, false }, { 0x2ff, 0x1806, false }, { 0x2ff, BIT(63) | 6, false },
        { 0x2ff, 1, true }, { 0x2ff, 0, true },
        { PHYSBASE(0), 0x100000006, true }, { PHYSBASE(0), 2, false }, { PHYSBASE(0), 0x86, false },
        { PHYSBASE(0), 0x106, false }, { PHYSBASE(0), 0x806, false }, { PHYSBASE(0), TOP | 6, false },
        { PHYSBASE(0), (TOP - PAGE_SIZE) | 6, true }, { PHYSBASE(PAIRS - 1), 6, true }, { PHYSBASE(PAIRS), 6, false },
        { PHYSMASK(0), 0x800, true }, { PHYSMASK(0), TOP - PAGE_SIZE, true }, { PHYSMASK(0), TOP, false },
        { PHYSMASK(0), 0x400, false }, { PHYSMASK(0), 1, false }, { PHYSMASK(PAIRS), 0, false },
        { 0x21f, 0, false }, { 0x220, 0, false }, { 0x251, 0, false }, { 0x267, 0, false }, { 0x270, 0, false },
        { 0x250, 0x0606060606060606, true }, { 0x250, 0x0606060606060602, false }, { 0x26f, 0x0700000000000000, false },
        { 0x259, 0x0001040506000106, true }, { 0x26f, 0x0300, false },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct mtrr mtrr;
        uint64_t before = 0, after = 0;
        mtrr_init(&mtrr, CAP, WIDTH);
        bool exists = mtrr_read(&mtrr, cases[i].msr, &before);
        assert_int_equal(mtrr_write(&mtrr, cases[i].msr, cases[i].value), cases[i].good);
        assert_int_equal(mtrr_read(&mtrr, cases[i].msr, &after), exists);
        assert_true(after == (cases[i].good ? cases[i].value : before));
    }
}

/* What IA32_MTRRCAP does not announce does not exist. */
static void test_capabilities(void **state)
{
    (void)state;
    struct mtrr mtrr;
    uint64_t value;
    mtrr_init(&mtrr, 0x5f00 | 2 | MTRRCAP_FIX | MTRRCAP_WC, 52); /* and features that are not offered */
    assert_true(mtrr_read(&mtrr, MSR_MTRRCAP, &value));
    assert_int_equal(value, 2 | MTRRCAP_FIX | MTRRCAP_WC);
    assert_true(mtrr_write(&mtrr, PHYSBASE(1), (BIT(52) - PAGE_SIZE) | 6));
    assert_false(mtrr_write(&mtrr, PHYSBASE(1), BIT(52) | 6));
    assert_false(mtrr_write(&mtrr, PHYSBASE(2), 6));
    assert_false(mtrr_read(&mtrr, PHYSMASK(2), &value));
    mtrr_init(&mtrr, 200, 36);
    assert_true(mtrr_read(&mtrr, MSR_MTRRCAP, &value));
    assert_int_equal(value, MTRR_PAIRS_MAX);
    assert_true(mtrr_write(&mtrr, 0x21f, 0x800));
    assert_false(mtrr_read(&mtrr, 0x250, &value)); /* no fixed ranges, */
    assert_false(mtrr_write(&mtrr, 0x250, 0));
    assert_false(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_FE));
    assert_false(mtrr_write(&mtrr, 0x2ff, MEMTYPE_WC)); /* no write combining */
    assert_false(mtrr_write(&mtrr, 0x200, MEMTYPE_WC));
}

static void test_which_msrs(void **state)
{
    (void)state;
    for (uint32_t msr = 0; msr < 0x2000; msr++) {
        bool wanted = msr == 0xfe || msr == 0x2ff || (msr >= 0x200 && msr < 0x220);
        for (size_t i = 0; i < MTRR_FIXED_COUNT; i++)
            wanted |= msr == fixed_msrs[i];
        assert_int_equal(mtrr_is_msr(msr), wanted);
    }
    assert_false(mtrr_is_msr(0xc0000080));
}

/* A guest's usual sequence: disable, write, enable. pending is true once, on the CPU that changes something. */
static void test_collect_then_commit(void **state)
{
    (void)state;
    struct mtrr mtrr;
    mtrr_init(&mtrr, CAP, WIDTH);
    assert_false(mtrr_pending(&mtrr));
    assert_false(mtrr_commit(&mtrr));
    assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MEMTYPE_WB));
    assert_true(mtrr_pending(&mtrr));
    assert_int_equal(mtrr_type(&mtrr, GIB), MEMTYPE_UC);
    assert_true(mtrr_commit(&mtrr));
    assert_false(mtrr_pending(&mtrr));
    assert_int_equal(mtrr_type(&mtrr, GIB), MEMTYPE_WB);
    for (unsigned cpu = 0; cpu < 3; cpu++) {
        assert_true(mtrr_write(&mtrr, 0x2ff, MEMTYPE_WB));
        assert_false(mtrr_pending(&mtrr));
        assert_true(mtrr_write(&mtrr, PHYSBASE(0), 0x80000000));
        assert_true(mtrr_write(&mtrr, PHYSMASK(0), (TOP - 0x80000000) | MTRR_MASK_VALID));
        assert_false(mtrr_pending(&mtrr));
        assert_int_equal(mtrr_type(&mtrr, 0x80000000), cpu ? MEMTYPE_UC : MEMTYPE_WB);
        assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MEMTYPE_WB));
        assert_int_equal(mtrr_pending(&mtrr), cpu == 0);
        if (cpu == 0)
            assert_true(mtrr_commit(&mtrr));
    }
    assert_int_equal(mtrr_type(&mtrr, 0x80000000), MEMTYPE_UC);
}

static void test_no_change_no_commit(void **state)
{
    (void)state;
    struct mtrr mtrr;
    uint64_t value;
    mtrr_init(&mtrr, CAP, WIDTH);
    assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MEMTYPE_WB));
    assert_true(mtrr_commit(&mtrr));
    /* Registers without effect: an invalid pair, fixed ranges that are off. */
    assert_true(mtrr_write(&mtrr, PHYSBASE(3), 0x1000));
    assert_true(mtrr_write(&mtrr, 0x250, 0x0101010101010101));
    assert_false(mtrr_pending(&mtrr));
    assert_false(mtrr_commit(&mtrr));
    assert_true(mtrr_read(&mtrr, 0x250, &value));
    assert_true(value == 0x0101010101010101);
    /* Set and taken back before anybody asked. */
    assert_true(mtrr_write(&mtrr, PHYSMASK(3), MTRR_MASK_VALID));
    assert_true(mtrr_write(&mtrr, PHYSMASK(3), 0));
    assert_false(mtrr_pending(&mtrr));
    /* Fixed ranges switched on later use what was written before. */
    assert_true(mtrr_write(&mtrr, 0x2ff, MTRR_DEF_E | MTRR_DEF_FE | MEMTYPE_WB));
    assert_true(mtrr_pending(&mtrr));
    assert_true(mtrr_commit(&mtrr));
    assert_int_equal(mtrr_type(&mtrr, 0), MEMTYPE_WC);
    /* Disabled and committed all the same: everything is UC. */
    assert_true(mtrr_write(&mtrr, 0x2ff, MEMTYPE_WB));
    assert_true(mtrr_commit(&mtrr));
    assert_int_equal(mtrr_type(&mtrr, 0), MEMTYPE_UC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_ranges_are_uniform_and_largest),
        cmocka_unit_test(test_ranges_with_odd_masks),
        cmocka_unit_test(test_short_masks),
        cmocka_unit_test(test_writes_refused),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_which_msrs),
        cmocka_unit_test(test_collect_then_commit),
        cmocka_unit_test(test_no_change_no_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
