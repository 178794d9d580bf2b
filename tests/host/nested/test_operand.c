/* sources: nested/operand.c */
/*
 * Operands of VMX instructions: the fields of the instruction information one by one, and addresses against a model
 * that looks at each byte of the operand.
 */
#include "nested/operand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/vmx.h"
#include "tests/host/support/support.h"

static struct test_random seed;

static void test_decode_fields(void **state)
{
    (void)state;
    seed.state = 30;
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t scale = test_random_below(&seed, 4), reg1 = test_random_below(&seed, 16),
                 size = test_random_below(&seed, 3);
        uint64_t is_register = test_random_below(&seed, 2), segment = test_random_below(&seed, 6);
        uint64_t index = test_random_below(&seed, 16), no_index = test_random_below(&seed, 2);
        uint64_t base = test_random_below(&seed, 16), no_base = test_random_below(&seed, 2),
                 reg2 = test_random_below(&seed, 16);
        uint64_t info = scale | reg1 << 3 | size << 7 | is_register << 10 | segment << 15 | index << 18 |
                        no_index << 22 | base << 23 | no_base << 27 | reg2 << 28;
        info |= test_random(&seed) & (BIT(2) | BIT(11) | BIT(12) | BIT(13) | BIT(14)); /* undefined bits */
        struct operand got = operand_decode(info);
        assert_int_equal(operand_is_register(info), is_register);
        assert_int_equal(operand_reg1(info), reg1);
        assert_int_equal(operand_reg2(info), reg2);
        assert_int_equal(got.segment, segment);
        assert_int_equal(got.address_bits, 16 << size);
        assert_int_equal(got.scale, scale);
        assert_int_equal(got.index, no_index ? OPERAND_NONE : index);
        assert_int_equal(got.base, no_base ? OPERAND_NONE : base);
        /* Bit 10 is 0 or undefined for the other instructions: their operand is in memory. */
        struct operand other = operand_decode(info ^ BIT(10));
        assert_memory_equal(&other, &got, sizeof(got));
    }
}

struct input {
    struct operand operand;
    uint64_t displacement, gpr[GPR_COUNT];
    struct operand_segment segment;
    struct operand_mode mode;
    unsigned size;
    enum operand_access access;
};

static bool model_canonical(uint64_t linear, unsigned bits)
{
    uint64_t top = linear >> (bits - 1);
    return top == 0 || top == (1ull << (64 - bits + 1)) - 1;
}

/* One byte of the operand, at this distance from its start. */
static enum operand_fault model_byte(const struct input *in, uint64_t offset, unsigned distance, uint64_t *linear)
{
    bool stack = in->operand.segment == SEG_SS;
    uint32_t type = in->segment.access_rights & 15;
    if (in->mode.mode_64) {
        uint64_t base = in->operand.segment == SEG_FS || in->operand.segment == SEG_GS ? in->segment.base : 0;
        *linear = base + offset + distance;
        return model_canonical(*linear, in->mode.linear_bits) ? OPERAND_OK : stack ? OPERAND_SS : OPERAND_GP;
    }
    *linear = (uint32_t)(in->segment.base + offset + distance);
    if (in->segment.access_rights & BIT(16))
        return stack ? OPERAND_SS : OPERAND_GP;
    if (in->access == OPERAND_WRITE && type != 2 && type != 3 && type != 6 && type != 7)
        return OPERAND_GP;
    if (in->access == OPERAND_READ && (type == 8 || type == 9 || type == 12 || type == 13))
        return OPERAND_GP;
    bool down = type >= 4 && type < 8;
    if (in->segment.base == 0 && in->segment.limit == 0xffffffff && !down)
        return OPERAND_OK;
    uint64_t at = offset + distance;
    bool inside = down ? at > in->segment.limit && at <= (in->segment.access_rights & BIT(14) ? 0xffffffff : 0xffff)
                       : at <= in->segment.limit;
    return inside ? OPERAND_OK : stack ? OPERAND_SS : OPERAND_GP;
}

static enum operand_fault model_linear(const struct input *in, uint64_t *linear)
{
    uint64_t offset = in->displacement;
    if (in->operand.base != OPERAND_NONE)
        offset += in->gpr[in->operand.base];
    if (in->operand.index != OPERAND_NONE)
        offset += in->gpr[in->operand.index] * (1u << in->operand.scale);
    if (in->operand.address_bits == 16)
        offset = (uint16_t)offset;
    if (in->operand.address_bits == 32 || !in->mode.mode_64)
        offset = (uint32_t)offset;
    for (unsigned i = in->size; i > 0; i--) {
        enum operand_fault fault = model_byte(in, offset, i - 1, linear);
        if (fault != OPERAND_OK)
            return fault;
    }
    return OPERAND_OK;
}

static struct input random_input(void)
{
    static const uint8_t sizes[] = { 4, 8, 16 };
    struct input in;
    memset(&in, 0, sizeof(in));
    in.mode.mode_64 = test_random_below(&seed, 2);
    in.mode.linear_bits = test_random_below(&seed, 3) ? 48 : 57;
    in.operand.segment = (uint8_t)test_random_below(&seed, 6);
    in.operand.address_bits = (uint8_t)((in.mode.mode_64 ? 32 : 16) << test_random_below(&seed, 2));
    in.operand.scale = (uint8_t)test_random_below(&seed, 4);
    in.operand.base = (uint8_t)(test_random_below(&seed, 2) ? OPERAND_NONE : test_random_below(&seed, 16));
    in.operand.index = (uint8_t)(test_random_below(&seed, 2) ? OPERAND_NONE : test_random_below(&seed, 16));
    in.displacement = test_random_value(&seed) + test_random_below(&seed, 40) - 20;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        in.gpr[i] = test_random_below(&seed, 2) ? test_random_below(&seed, 0x20000) : test_random_value(&seed);
    if (test_random_below(&seed, 3) == 0)
        in.displacement = 0x7ffffffffff8 + test_random_below(&seed, 16);
    in.segment.base = test_random_below(&seed, 2) ? 0 : test_random_value(&seed);
    in.segment.limit = (uint32_t)(test_random_below(&seed, 2) ? 0xffffffff : test_random_value(&seed));
    in.segment.access_rights = (uint32_t)(AR_S | AR_PRESENT | test_random_below(&seed, 16) |
                                          (test_random(&seed) & AR_DB));
    if (test_random_below(&seed, 10) == 0)
        in.segment.access_rights |= AR_UNUSABLE;
    in.size = sizes[test_random_below(&seed, 3)];
    in.access = test_random_below(&seed, 2) ? OPERAND_READ : OPERAND_WRITE;
    return in;
}

static enum operand_fault run(const struct input *in, uint64_t *linear)
{
    return operand_linear(&in->operand, in->displacement, in->gpr, &in->segment, in->mode, in->size, in->access,
                          linear);
}

static void test_against_model(void **state)
{
    (void)state;
    unsigned counts[2][3] = { { 0 } };
    seed.state = 31;
    for (unsigned i = 0; i < 300000; i++) {
        struct input in = random_input();
        uint64_t wanted_linear = 0, linear = 0;
        enum operand_fault wanted = model_linear(&in, &wanted_linear);
        assert_int_equal(run(&in, &linear), wanted);
        if (wanted == OPERAND_OK)
            assert_true(linear == wanted_linear);
        counts[in.mode.mode_64][wanted]++;
    }
    for (unsigned mode = 0; mode < 2; mode++)
        for (unsigned fault = 0; fault < 3; fault++)
            assert_true(counts[mode][fault] > 1000);
}

#define FLAT_DATA (AR_S | AR_PRESENT | AR_DB | AR_G | 3)

/* A valid operand, one thing changed at a time. */
static void test_edges(void **state)
{
    (void)state;
    // clang-format off
    static const struct {
        bool mode_64;
        uint8_t segment, address_bits;
        uint64_t displacement, base;
        uint32_t limit, access_rights;
        unsigned size;
        enum operand_access access;
        enum operand_fault fault;
        uint64_t linear;
    } cases[] = {
        { false, SEG_DS, 32, 0x1000, 0, 0xffffffff, FLAT_DATA, 8, OPERAND_READ, OPERAND_OK, 0x1000 },
        { false, SEG_DS, 32, 0x1000, 0x5000, 0x1007, FLAT_DATA, 8, OPERAND_READ, OPERAND_OK, 0x6000 },
        { false, SEG_DS, 32, 0x1000, 0x5000, 0x1006, FLAT_DATA, 8, OPERAND_READ, OPERAND_GP, 0 },
        { false, SEG_SS, 32, 0x1000, 0x5000, 0x1006, FLAT_DATA, 8, OPERAND_READ, OPERAND_SS, 0 },
        { false, SEG_DS, 32, 0xfffffffc, 0, 0xffffffff, FLAT_DATA, 8, OPERAND_READ, OPERAND_OK, 0xfffffffc },
        { false, SEG_DS, 32, 0xfffffffc, 0x10, 0xffffffff, FLAT_DATA, 8, OPERAND_READ, OPERAND_GP, 0 },
        { false, SEG_DS, 16, 0x12345678, 0, 0xffffffff, FLAT_DATA, 8, OPERAND_READ, OPERAND_OK, 0x5678 },
        { false, SEG_ES, 32, 0x1000, 0, 0xffffffff, FLAT_DATA & ~3u, 8, OPERAND_READ, OPERAND_OK, 0x1000 },
        { false, SEG_ES, 32, 0x1000, 0, 0xffffffff, FLAT_DATA & ~3u, 8, OPERAND_WRITE, OPERAND_GP, 0 },
        { false, SEG_CS, 32, 0x1000, 0, 0xffffffff, FLAT_DATA | 8, 8, OPERAND_READ, OPERAND_OK, 0x1000 },
        { false, SEG_CS, 32, 0x1000, 0, 0xffffffff, (FLAT_DATA | 8) & ~2u, 8, OPERAND_READ, OPERAND_GP, 0 },
        { false, SEG_CS, 32, 0x1000, 0, 0xffffffff, FLAT_DATA | 8, 8, OPERAND_WRITE, OPERAND_GP, 0 },
        { false, SEG_FS, 32, 0x1000, 0, 0xffffffff, FLAT_DATA | AR_UNUSABLE, 8, OPERAND_READ, OPERAND_GP, 0 },
        { false, SEG_SS, 32, 0x2000, 0, 0x1fff, FLAT_DATA | 4, 8, OPERAND_READ, OPERAND_OK, 0x2000 },
        { false, SEG_SS, 32, 0x1fff, 0, 0x1fff, FLAT_DATA | 4, 8, OPERAND_READ, OPERAND_SS, 0 },
        { false, SEG_DS, 32, 0xfff9, 0, 0x1fff, (FLAT_DATA | 4) & ~AR_DB, 8, OPERAND_READ, OPERAND_GP, 0 },
        { false, SEG_DS, 32, 0xfff8, 0, 0x1fff, (FLAT_DATA | 4) & ~AR_DB, 8, OPERAND_READ, OPERAND_OK, 0xfff8 },
        { false, SEG_DS, 32, 0xfffffff0, 0, 0xffffffff, FLAT_DATA | 4, 8, OPERAND_READ, OPERAND_GP, 0 },
        { true, SEG_DS, 64, 0x7ffffffffff8, 0x123456, 0, AR_UNUSABLE, 8, OPERAND_WRITE, OPERAND_OK, 0x7ffffffffff8 },
        { true, SEG_DS, 64, 0x7ffffffffff9, 0, 0, AR_UNUSABLE, 8, OPERAND_WRITE, OPERAND_GP, 0 },
        { true, SEG_SS, 64, 0x7ffffffffff9, 0, 0, AR_UNUSABLE, 8, OPERAND_WRITE, OPERAND_SS, 0 },
        { true, SEG_DS, 64, 0x800000000000, 0, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_GP, 0 },
        { true, SEG_DS, 64, 0xffff800000000000, 0, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_OK, 0xffff800000000000 },
        { true, SEG_DS, 64, 0xffff7fffffffffff, 0, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_GP, 0 },
        { true, SEG_GS, 64, 0x10, 0xffff888000000000, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_OK, 0xffff888000000010 },
        { true, SEG_FS, 64, 0x10, 0x0000800000000000, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_GP, 0 },
        { true, SEG_DS, 32, 0xffffffff00001000, 0, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_OK, 0x1000 },
        { true, SEG_DS, 64, 0xfffffffffffffffc, 0, 0, AR_UNUSABLE, 8, OPERAND_READ, OPERAND_OK, 0xfffffffffffffffc },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct input in = { .displacement = cases[i].displacement, .size = cases[i].size, .access = cases[i].access };
        uint64_t linear = 0;
        in.mode = (struct operand_mode){ cases[i].mode_64, 48 };
        in.operand = (struct operand){ .segment = cases[i].segment,
                                       .address_bits = cases[i].address_bits,
                                       .base = OPERAND_NONE,
                                       .index = OPERAND_NONE };
        in.segment = (struct operand_segment){ cases[i].base, cases[i].limit, cases[i].access_rights };
        assert_int_equal(run(&in, &linear), cases[i].fault);
        assert_true(linear == cases[i].linear);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_fields),
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
