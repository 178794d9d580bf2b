/* sources: x2apic/store_decode.c */
/*
 * Decoding of APIC accesses. The oracle is the assembler that builds this file: each case is an instruction in its
 * syntax, assembled for 16-, 32- or 64-bit code, and what it means.
 */
#include "x2apic/store_decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

/* clang-format off */
/* X(name, code size, instruction, kind, register, immediate) */
#define CASES(X) \
    X(c64_00, 64, "movl %eax, 0x300(%rbx)", REGISTER, RAX, 0) \
    X(c64_01, 64, "movl %r15d, (%r12)", REGISTER, R15, 0) \
    X(c64_02, 64, "movl %r9d, (%r13)", REGISTER, R9, 0) \
    X(c64_03, 64, "movl %esp, (%rbp)", REGISTER, RSP, 0) \
    X(c64_04, 64, "movl %edi, 0x12345678(%rsi,%r14,4)", REGISTER, RDI, 0) \
    X(c64_05, 64, "movl %ecx, 0x10(%rsp)", REGISTER, RCX, 0) \
    X(c64_06, 64, "movl %ecx, (%rsp)", REGISTER, RCX, 0) \
    X(c64_07, 64, "movl %edx, 0xb0(%rip)", REGISTER, RDX, 0) \
    X(c64_08, 64, "movl %edx, 0x1000(,%rax,8)", REGISTER, RDX, 0) \
    X(c64_09, 64, "movl %ebx, 0x7fe00300", REGISTER, RBX, 0) \
    X(c64_10, 64, "movl %eax, %gs:0x20(%ebx)", REGISTER, RAX, 0) \
    X(c64_11, 64, "movabsl %eax, 0xfffffffffee00300", REGISTER, RAX, 0) \
    X(c64_12, 64, "movabsl 0xfffffffffee00300, %eax", LOAD, RAX, 0) \
    X(c64_13, 64, "movl $0, 0xb0(%rax)", IMMEDIATE, RAX, 0) \
    X(c64_14, 64, "movl $0x89abcdef, 0x12345678(%rip)", IMMEDIATE, RAX, 0x89abcdef) \
    X(c64_15, 64, "movl $0xc4500, -8(%r8,%r9,2)", IMMEDIATE, RAX, 0xc4500) \
    X(c64_16, 64, "movl 0x20(%rdi), %r8d", LOAD, R8, 0) \
    X(c64_17, 64, "movl (%rax,%rbp), %ebp", LOAD, RBP, 0) \
    X(c64_18, 64, "xchgl %eax, 0x300(%rcx)", EXCHANGE, RAX, 0) \
    X(c64_19, 64, "lock xchgl %r10d, (%rcx)", EXCHANGE, R10, 0) \
    X(c64_20, 64, "movl %eax, 0x7f(%r13,%r13,1)", REGISTER, RAX, 0) \
    X(c64_21, 64, "movl %eax, (%rbp,%rax,1)", REGISTER, RAX, 0) \
    X(c64_22, 64, "movl $1, (%r12)", IMMEDIATE, RAX, 1) \
    X(u64_00, 64, "movq %rax, 0x300(%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_01, 64, "movw %ax, 0x300(%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_02, 64, "movb %al, 0x300(%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_03, 64, "movl %eax, %ebx", UNSUPPORTED, RAX, 0) \
    X(u64_04, 64, "movq $1, (%rax)", UNSUPPORTED, RAX, 0) \
    X(u64_05, 64, "movw $1, (%rax)", UNSUPPORTED, RAX, 0) \
    X(u64_06, 64, "xchgl %ecx, %ebx", UNSUPPORTED, RAX, 0) \
    X(u64_07, 64, "orl %eax, (%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_08, 64, "lock addl %eax, (%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_09, 64, "rep stosl", UNSUPPORTED, RAX, 0) \
    X(u64_10, 64, "movups %xmm0, (%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_11, 64, "pushq (%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_12, 64, "vmovdqu %ymm0, (%rbx)", UNSUPPORTED, RAX, 0) \
    X(u64_13, 64, "movnti %eax, (%rbx)", UNSUPPORTED, RAX, 0) \
    X(c32_00, 32, "movl %eax, 0xfee00300", REGISTER, RAX, 0) \
    X(c32_01, 32, "movl 0xfee00020, %eax", LOAD, RAX, 0) \
    X(c32_02, 32, "movl %ecx, 0xfee00310", REGISTER, RCX, 0) \
    X(c32_03, 32, "movl $0xfee0, 0xfee000b0", IMMEDIATE, RAX, 0xfee0) \
    X(c32_04, 32, "movl %esi, (%eax,%ebx,4)", REGISTER, RSI, 0) \
    X(c32_05, 32, "movl %esi, 0x10(%ebp)", REGISTER, RSI, 0) \
    X(c32_06, 32, "movl %esi, 0x1000(%esp)", REGISTER, RSI, 0) \
    X(c32_07, 32, "movl %edx, (%bx,%si)", REGISTER, RDX, 0) \
    X(c32_08, 32, "movl %edx, 0x1234", REGISTER, RDX, 0) \
    X(c32_09, 32, "movl 0x10(%edi), %edi", LOAD, RDI, 0) \
    X(c32_10, 32, "movl %fs:0x10(%edi), %esp", LOAD, RSP, 0) \
    X(c32_11, 32, "xchgl %edx, 0xb0(%edi)", EXCHANGE, RDX, 0) \
    X(c32_12, 32, "movl $5, 0x7f(%bp)", IMMEDIATE, RAX, 5) \
    X(c32_13, 32, "movl $5, 0x7fff(%bp,%di)", IMMEDIATE, RAX, 5) \
    X(u32_00, 32, "movw %ax, 0xfee00300", UNSUPPORTED, RAX, 0) \
    X(u32_01, 32, "incl %eax", UNSUPPORTED, RAX, 0) \
    X(u32_02, 32, "decl (%eax)", UNSUPPORTED, RAX, 0) \
    X(u32_03, 32, "movsl", UNSUPPORTED, RAX, 0) \
    X(c16_00, 16, "movl %eax, (%ebx)", REGISTER, RAX, 0) \
    X(c16_01, 16, "movl %eax, 0x12(%bx,%di)", REGISTER, RAX, 0) \
    X(c16_02, 16, "movl %ebx, 0x1234", REGISTER, RBX, 0) \
    X(c16_03, 16, "movl %eax, 0x1234", REGISTER, RAX, 0) \
    X(c16_04, 16, "movl $0xc4500, %es:0x300(%edi)", IMMEDIATE, RAX, 0xc4500) \
    X(c16_05, 16, "movl $7, 0x1234(%si)", IMMEDIATE, RAX, 7) \
    X(c16_06, 16, "movl (%bp), %ecx", LOAD, RCX, 0) \
    X(c16_07, 16, "movl 0x20, %eax", LOAD, RAX, 0) \
    X(c16_08, 16, "movl %edx, 0x10(%esp,%ecx,2)", REGISTER, RDX, 0) \
    X(u16_00, 16, "movw %ax, (%bx)", UNSUPPORTED, RAX, 0) \
    X(u16_01, 16, "movw $7, (%bx)", UNSUPPORTED, RAX, 0)

#define ASSEMBLE(name, bits, instruction, ...) \
    __asm__(".pushsection .rodata\n.code" #bits "\n" #name "_start: " instruction "\n" #name "_end: .code64\n.popsection"); \
    extern const uint8_t name##_start[], name##_end[];
CASES(ASSEMBLE)

/* X(name, code size, instruction, base, index, scale, segment, RIP-relative, displacement); R: the register's name behind GPR_ */
#define NONE STORE_NO_REGISTER
#define R(name) GPR_##name
#define ADDRESSES(X) \
    X(a64_00, 64, "movl %eax, 0x300(%rbx)", R(RBX), NONE, 0, DS, false, 0x300) \
    X(a64_01, 64, "movl %eax, -0x5fc(%rdi)", R(RDI), NONE, 0, DS, false, (uint32_t)-0x5fc) \
    X(a64_02, 64, "movl %eax, -8(%r13,%r14,8)", R(R13), R(R14), 3, DS, false, (uint32_t)-8) \
    X(a64_03, 64, "movl %eax, 0x310(%rip)", NONE, NONE, 0, DS, true, 0x310) \
    X(a64_04, 64, "movl $7, 0x300(%rip)", NONE, NONE, 0, DS, true, 0x300) \
    X(a64_05, 64, "movl %eax, 0x7fe00300", NONE, NONE, 0, DS, false, 0x7fe00300) \
    X(a64_06, 64, "movl %eax, 0x20(%rsp)", R(RSP), NONE, 0, SS, false, 0x20) \
    X(a64_07, 64, "movl %eax, (%r12)", R(R12), NONE, 0, DS, false, 0) \
    X(a64_08, 64, "movl %eax, (%rax,%r12,4)", R(RAX), R(R12), 2, DS, false, 0) \
    X(a64_09, 64, "movl %eax, %gs:0x10(%rbp)", R(RBP), NONE, 0, GS, false, 0x10) \
    X(a64_10, 64, "movl %eax, 0x300(,%rcx,2)", NONE, R(RCX), 1, DS, false, 0x300) \
    X(a64_11, 64, "movabsl %eax, 0x1fee00300", NONE, NONE, 0, DS, false, 0xfee00300) \
    X(a64_12, 64, "movabsl %fs:0xfee00300, %eax", NONE, NONE, 0, FS, false, 0xfee00300) \
    X(a32_00, 32, "movl %eax, 0xfee00300", NONE, NONE, 0, DS, false, 0xfee00300) \
    X(a32_01, 32, "movl %ecx, 0xfee00310", NONE, NONE, 0, DS, false, 0xfee00310) \
    X(a32_02, 32, "movl %ecx, -4(%ebp,%esi,2)", R(RBP), R(RSI), 1, SS, false, (uint32_t)-4) \
    X(a32_03, 32, "movl %ecx, %ds:8(%esp)", R(RSP), NONE, 0, DS, false, 8) \
    X(a32_04, 32, "movl %ecx, -2(%bp,%di)", R(RBP), R(RDI), 0, SS, false, (uint32_t)-2) \
    X(a16_00, 16, "movl %eax, (%bx,%si)", R(RBX), R(RSI), 0, DS, false, 0) \
    X(a16_01, 16, "movl %eax, 0x300(%bx)", R(RBX), NONE, 0, DS, false, 0x300) \
    X(a16_02, 16, "movl %eax, %es:0x10(%di)", R(RDI), NONE, 0, ES, false, 0x10) \
    X(a16_03, 16, "movl %eax, 4(%bp,%si)", R(RBP), R(RSI), 0, SS, false, 4) \
    X(a16_04, 16, "movl %ecx, 0x1234", NONE, NONE, 0, DS, false, 0x1234) \
    X(a16_05, 16, "movl %ecx, 8(%si)", R(RSI), NONE, 0, DS, false, 8) \
    X(a16_06, 16, "movl %ecx, (%bx,%di)", R(RBX), R(RDI), 0, DS, false, 0) \
    X(a16_07, 16, "movl %ecx, 0x10(%ebx,%edx,4)", R(RBX), R(RDX), 2, DS, false, 0x10)
ADDRESSES(ASSEMBLE)
/* clang-format on */

static const struct {
    const char *instruction;
    const uint8_t *start, *end;
    enum code_size code_size;
    struct store_address address;
} addresses[] = {
#define ADDRESS_ROW(name, bits, instruction, base, index, scale, segment, rip, displacement)                           \
    { instruction, name##_start, name##_end, CODE_##bits, { base, index, scale, SEG_##segment, rip, displacement } },
    ADDRESSES(ADDRESS_ROW)
#undef ADDRESS_ROW
};

static const struct {
    const char *instruction;
    const uint8_t *start, *end;
    enum code_size code_size;
    enum store_kind kind;
    enum gpr reg;
    uint32_t immediate;
} cases[] = {
#define ROW(name, bits, instruction, kind, reg, immediate)                                                             \
    { instruction, name##_start, name##_end, CODE_##bits, STORE_##kind, GPR_##reg, immediate },
    CASES(ROW)
#undef ROW
};

/* Decodes from an allocation that ends with the bytes, so that a sanitizer sees one read too many. */
static struct store decode_exact(const uint8_t *bytes, size_t size, enum code_size code_size)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    struct store store = store_decode(copy, size, code_size);
    free(copy);
    return store;
}

static void assert_case(size_t i, struct store got, size_t length)
{
    if (got.kind != cases[i].kind)
        fail_msg("%s: kind %d", cases[i].instruction, got.kind);
    if (got.kind == STORE_UNSUPPORTED) {
        assert_int_equal(got.length, 0);
        return;
    }
    if (got.length != length)
        fail_msg("%s: length %u, not %zu", cases[i].instruction, got.length, length);
    assert_int_equal(got.reg, cases[i].reg);
    assert_int_equal(got.immediate, cases[i].immediate);
}

static void test_assembled(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        size_t length = (size_t)(cases[i].end - cases[i].start);
        uint8_t padded[32];
        assert_in_range(length, 1, INSTRUCTION_MAX);
        assert_case(i, decode_exact(cases[i].start, length, cases[i].code_size), length);
        memset(padded, 0xcc, sizeof(padded));
        memcpy(padded, cases[i].start, length);
        assert_case(i, decode_exact(padded, sizeof(padded), cases[i].code_size), length);
    }
}

static void test_addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
        size_t size = (size_t)(addresses[i].end - addresses[i].start);
        struct store_address got = decode_exact(addresses[i].start, size, addresses[i].code_size).address;
        const struct store_address *want = &addresses[i].address;
        if (got.base != want->base || got.index != want->index ||
            (got.index != STORE_NO_REGISTER && got.scale != want->scale) || got.segment != want->segment ||
            got.rip_relative != want->rip_relative || got.displacement != want->displacement)
            fail_msg("%s: base %u, index %u << %u, segment %u, %d, displacement %x", addresses[i].instruction, got.base,
                     got.index, got.scale, got.segment, got.rip_relative, got.displacement);
    }
}

/* An instruction that is cut short is never taken for a shorter one. */
static void test_truncated(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (size_t size = 0; size < (size_t)(cases[i].end - cases[i].start); size++) {
            struct store got = decode_exact(cases[i].start, size, cases[i].code_size);
            if (cases[i].kind != STORE_UNSUPPORTED)
                assert_int_equal(got.kind, STORE_TRUNCATED);
            else
                assert_true(got.kind == STORE_TRUNCATED || got.kind == STORE_UNSUPPORTED);
            assert_int_equal(got.length, 0);
        }
}

static void test_odd_prefixes(void **state)
{
    (void)state;
    // clang-format off
    static const struct { uint8_t bytes[16]; size_t size; enum code_size code_size; enum store_kind kind; uint8_t length; } odd[] = {
        { { 0x44, 0x3e, 0x89, 0x03 }, 4, CODE_64, STORE_REGISTER, 4 }, /* REX before another prefix is void: EAX */
        { { 0x48, 0x3e, 0x89, 0x03 }, 4, CODE_64, STORE_REGISTER, 4 },
        { { 0x3e, 0x48, 0x89, 0x03 }, 4, CODE_64, STORE_UNSUPPORTED, 0 },
        { { 0x44, 0x40, 0x89, 0x03 }, 4, CODE_64, STORE_REGISTER, 4 },  /* the last REX counts */
        { { 0x66, 0x66, 0x89, 0x03 }, 4, CODE_64, STORE_UNSUPPORTED, 0 },
        { { 0x67, 0xa3, 0x00, 0x03, 0xe0, 0xfe }, 6, CODE_64, STORE_REGISTER, 6 }, /* a 4-byte moffs, */
        { { 0x67, 0xa3, 0x34, 0x12 }, 4, CODE_32, STORE_REGISTER, 4 },             /* and a 2-byte one */
        { { 0xf0, 0x89, 0x03 }, 3, CODE_64, STORE_UNSUPPORTED, 0 },     /* LOCK MOV is an invalid opcode */
        { { 0xf3, 0x89, 0x03 }, 3, CODE_64, STORE_UNSUPPORTED, 0 },
        { { 0xc7, 0x0b, 1, 2, 3, 4 }, 6, CODE_64, STORE_UNSUPPORTED, 0 }, /* C7 /1 */
        { { 0x44, 0x89, 0x03 }, 3, CODE_32, STORE_UNSUPPORTED, 0 },     /* INC ESP */
        { { 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x89, 0x03 }, 15, CODE_64, STORE_REGISTER, 15 },
        { { 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x89, 0x03 }, 16, CODE_64, STORE_UNSUPPORTED, 0 },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        struct store got = decode_exact(odd[i].bytes, odd[i].size, odd[i].code_size);
        assert_int_equal(got.kind, odd[i].kind);
        assert_int_equal(got.length, odd[i].length);
        assert_int_equal(got.reg, 0);
    }
}

/* Whatever the bytes are: a length that fits, and the same answer when more bytes follow. */
static void test_random_bytes(void **state)
{
    (void)state;
    static const uint8_t likely[] = { 0x89, 0x8b, 0xc7, 0xa1, 0xa3, 0x87, 0x66, 0x67, 0x48, 0x44, 0xf0, 0x65 };
    static const enum code_size sizes[] = { CODE_16, CODE_32, CODE_64 };
    struct test_random random = { 40 };
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t bytes[20];
        for (size_t j = 0; j < sizeof(bytes); j++)
            bytes[j] = (uint8_t)test_random(&random);
        for (size_t j = 0; j < 3; j++)
            if (test_random_below(&random, 3))
                bytes[j] = likely[test_random_below(&random, sizeof(likely))];
        enum code_size code_size = sizes[test_random_below(&random, 3)];
        struct store whole = decode_exact(bytes, sizeof(bytes), code_size);
        assert_int_not_equal(whole.kind, STORE_TRUNCATED);
        if (whole.kind == STORE_UNSUPPORTED)
            continue;
        assert_in_range(whole.length, 2, INSTRUCTION_MAX);
        assert_in_range(whole.reg, 0, GPR_COUNT - 1);
        struct store exact = decode_exact(bytes, whole.length, code_size);
        assert_int_equal(exact.kind, whole.kind);
        assert_int_equal(exact.length, whole.length);
        assert_int_equal(decode_exact(bytes, (size_t)whole.length - 1, code_size).kind, STORE_TRUNCATED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_assembled),    cmocka_unit_test(test_addresses),    cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_odd_prefixes), cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
