/* sources: nested/operand.c */
/*
 * Any instruction information, registers and segment: an address that its mode has, or a fault.
 */
#include "nested/operand.h"

#include <string.h>

#include "core/lib/vmx.h"
#include "tests/fuzz/fuzz.h"

struct input {
    uint64_t info, displacement, gpr[GPR_COUNT], base;
    uint32_t limit, access_rights;
    uint8_t unused, mode_64, wide, size, write;
};

static bool canonical(uint64_t linear, unsigned bits)
{
    uint64_t top = linear >> (bits - 1);
    return top == 0 || top == (1ull << (65 - bits)) - 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in;
    memset(&in, 0, sizeof(in));
    memcpy(&in, data, size < sizeof(in) ? size : sizeof(in));
    struct operand operand = operand_decode(in.info);
    fuzz_check(operand_reg1(in.info) < GPR_COUNT && operand_reg2(in.info) < GPR_COUNT && operand.segment < SEG_COUNT);
    fuzz_check(operand.base < GPR_COUNT || operand.base == OPERAND_NONE);
    fuzz_check(operand.index < GPR_COUNT || operand.index == OPERAND_NONE);
    struct operand_segment segment = { in.base, in.limit, in.access_rights };
    struct operand_mode mode = { in.mode_64 & 1, in.wide & 1 ? 57 : 48 };
    unsigned bytes = 4u << in.size % 3;
    uint64_t linear = 0;
    enum operand_fault fault = operand_linear(&operand, in.displacement, in.gpr, &segment, mode, bytes,
                                              in.write & 1 ? OPERAND_WRITE : OPERAND_READ, &linear);
    fuzz_check(fault != OPERAND_SS || operand.segment == SEG_SS);
    if (fault != OPERAND_OK)
        return 0;
    if (mode.mode_64)
        fuzz_check(canonical(linear, mode.linear_bits) && canonical(linear + bytes - 1, mode.linear_bits));
    else
        fuzz_check(linear <= UINT32_MAX && !(in.access_rights & AR_UNUSABLE));
    return 0;
}
