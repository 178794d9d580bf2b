/*
 * Decoding of MOV and XCHG between memory and a register or immediate: opcodes 87, 89, 8B, A1, A3, C7 /0. Pure.
 * The bytes are the guest's, and may not be what the processor executed: no more than size of them are read, and any
 * bytes give a result.
 */
#include "x2apic/store_decode.h"

#define PREFIX_OPERAND_SIZE 0x66
#define PREFIX_ADDRESS_SIZE 0x67
#define PREFIX_LOCK 0xf0
#define REX_FIRST 0x40
#define REX_LAST 0x4f
#define REX_W 8
#define REX_R 4
#define REX_X 2
#define REX_B 1
#define MODRM_REGISTER 3 /* mod: the operand is a register */
#define MODRM_SIB 4      /* rm: a SIB byte follows */
#define SIB_NO_BASE 5
#define SIB_NO_INDEX 4       /* without REX.X */
#define RM_DISPLACEMENT_16 6 /* rm with mod 0, 16-bit addresses */
#define RM_DISPLACEMENT_32 5 /* rm with mod 0, else: displacement without base, or RIP-relative */

enum opcode {
    OP_XCHG = 0x87,
    OP_STORE = 0x89,
    OP_LOAD = 0x8b,
    OP_LOAD_EAX = 0xa1,
    OP_STORE_EAX = 0xa3,
    OP_STORE_IMM = 0xc7
};

struct cursor {
    const uint8_t *code;
    size_t size, at;
    bool truncated;
};

struct prefixes {
    bool operand_size, address_size, lock;
    uint8_t rex;     /* 0 = none */
    uint8_t segment; /* enum segment; SEG_COUNT: none */
};

static uint8_t next_byte(struct cursor *c)
{
    if (c->at >= c->size) {
        c->truncated = true;
        return 0;
    }
    return c->code[c->at++];
}

/* A little-endian number; the low 32 bits of it. */
static uint32_t read_number(struct cursor *c, unsigned bytes)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        uint32_t byte = next_byte(c);
        value |= i < sizeof(value) ? byte << 8 * i : 0;
    }
    return value;
}

/* A signed displacement of 0, 1, 2 or 4 bytes. */
static uint32_t read_displacement(struct cursor *c, unsigned bytes)
{
    uint32_t value = read_number(c, bytes);
    return bytes == 1 ? (uint32_t)(int8_t)value : bytes == 2 ? (uint32_t)(int16_t)value : value;
}

/* SEG_COUNT: the byte is no segment prefix. */
static uint8_t prefix_segment(uint8_t byte)
{
    switch (byte) {
    case 0x26:
        return SEG_ES;
    case 0x2e:
        return SEG_CS;
    case 0x36:
        return SEG_SS;
    case 0x3e:
        return SEG_DS;
    case 0x64:
        return SEG_FS;
    case 0x65:
        return SEG_GS;
    default:
        return SEG_COUNT;
    }
}

/* Reads prefixes; returns the first byte that is none. A REX that is not the last prefix is ignored. */
static uint8_t read_prefixes(struct cursor *c, enum code_size code_size, struct prefixes *p)
{
    for (;;) {
        uint8_t byte = next_byte(c);
        if (code_size == CODE_64 && byte >= REX_FIRST && byte <= REX_LAST) {
            p->rex = byte;
            continue;
        }
        if (byte == PREFIX_OPERAND_SIZE)
            p->operand_size = true;
        else if (byte == PREFIX_ADDRESS_SIZE)
            p->address_size = true;
        else if (byte == PREFIX_LOCK)
            p->lock = true;
        else if (prefix_segment(byte) != SEG_COUNT)
            p->segment = prefix_segment(byte);
        else
            return byte;
        p->rex = 0;
    }
}

/* Bits of the instruction's addresses. */
static unsigned address_bits(enum code_size code_size, const struct prefixes *p)
{
    if (code_size == CODE_64)
        return p->address_size ? 32 : 64;
    return (code_size == CODE_32) != p->address_size ? 32 : 16;
}

static bool is_32bit(enum code_size code_size, const struct prefixes *p)
{
    if (p->rex & REX_W)
        return false;
    return code_size == CODE_16 ? p->operand_size : !p->operand_size;
}

static bool is_stack_register(uint8_t reg) { return reg == GPR_RSP || reg == GPR_RBP; }

/* SDM 2, table "16-Bit Addressing Forms with the ModR/M Byte". */
static void read_address_16(struct cursor *c, uint8_t modrm, struct store_address *a)
{
    static const uint8_t base[] = { GPR_RBX, GPR_RBX, GPR_RBP, GPR_RBP, GPR_RSI, GPR_RDI, GPR_RBP, GPR_RBX };
    static const uint8_t index[] = { GPR_RSI, GPR_RDI, GPR_RSI, GPR_RDI };
    unsigned mod = modrm >> 6, rm = modrm & 7;
    bool plain = mod == 0 && rm == RM_DISPLACEMENT_16;
    if (!plain)
        a->base = base[rm];
    if (rm < ARRAY_SIZE(index))
        a->index = index[rm];
    a->displacement = read_displacement(c, plain ? 2 : mod);
}

/* SDM 2, "Addressing-Mode Encoding of ModR/M and SIB Bytes". */
static void read_address_32(struct cursor *c, uint8_t modrm, enum code_size code_size, uint8_t rex,
                            struct store_address *a)
{
    unsigned mod = modrm >> 6, base = modrm & 7;
    bool sib = base == MODRM_SIB;
    if (sib) {
        uint8_t byte = next_byte(c);
        unsigned index = (byte >> 3 & 7u) | (rex & REX_X ? GPR_R8 : 0u);
        base = byte & 7;
        a->scale = byte >> 6;
        if (index != SIB_NO_INDEX)
            a->index = (uint8_t)index;
    }
    bool no_base = mod == 0 && base == (sib ? SIB_NO_BASE : RM_DISPLACEMENT_32);
    if (!no_base)
        a->base = (uint8_t)(base | (rex & REX_B ? GPR_R8 : 0u));
    a->rip_relative = no_base && !sib && code_size == CODE_64;
    a->displacement = read_displacement(c, mod == 2 || no_base ? 4 : mod);
}

/* What follows a ModRM byte that names memory. */
static void read_address(struct cursor *c, uint8_t modrm, enum code_size code_size, const struct prefixes *p,
                         struct store_address *a)
{
    if (address_bits(code_size, p) == 16)
        read_address_16(c, modrm, a);
    else
        read_address_32(c, modrm, code_size, p->rex, a);
    if (is_stack_register(a->base))
        a->segment = SEG_SS;
    if (p->segment != SEG_COUNT)
        a->segment = p->segment;
}

/* The kind of an opcode with a ModRM byte, which is given. */
static enum store_kind modrm_kind(uint8_t opcode, uint8_t modrm)
{
    if (modrm >> 6 == MODRM_REGISTER)
        return STORE_UNSUPPORTED;
    switch (opcode) {
    case OP_XCHG:
        return STORE_EXCHANGE;
    case OP_STORE:
        return STORE_REGISTER;
    case OP_LOAD:
        return STORE_LOAD;
    case OP_STORE_IMM:
        return (modrm >> 3 & 7) == 0 ? STORE_IMMEDIATE : STORE_UNSUPPORTED;
    default:
        return STORE_UNSUPPORTED;
    }
}

static struct store decode(struct cursor *c, enum code_size code_size)
{
    struct prefixes p = { .segment = SEG_COUNT };
    struct store store = { .kind = STORE_UNSUPPORTED,
                           .address = { STORE_NO_REGISTER, STORE_NO_REGISTER, 0, SEG_DS, false, 0 } };
    uint8_t opcode = read_prefixes(c, code_size, &p);
    if (!is_32bit(code_size, &p) || (p.lock && opcode != OP_XCHG))
        return store;
    if (opcode == OP_LOAD_EAX || opcode == OP_STORE_EAX) {
        store.kind = opcode == OP_LOAD_EAX ? STORE_LOAD : STORE_REGISTER;
        store.address.displacement = read_number(c, address_bits(code_size, &p) / 8);
        if (p.segment != SEG_COUNT)
            store.address.segment = p.segment;
        return store;
    }
    if (opcode != OP_XCHG && opcode != OP_STORE && opcode != OP_LOAD && opcode != OP_STORE_IMM)
        return store;
    uint8_t modrm = next_byte(c);
    store.kind = modrm_kind(opcode, modrm);
    if (store.kind == STORE_UNSUPPORTED)
        return store;
    read_address(c, modrm, code_size, &p, &store.address);
    if (store.kind == STORE_IMMEDIATE)
        store.immediate = read_number(c, sizeof(store.immediate));
    else
        store.reg = (uint8_t)((modrm >> 3 & 7) | (p.rex & REX_R ? GPR_R8 : 0));
    return store;
}

struct store store_decode(const uint8_t *code, size_t size, enum code_size code_size)
{
    struct cursor c = { .code = code, .size = size < INSTRUCTION_MAX ? size : INSTRUCTION_MAX };
    struct store store = decode(&c, code_size);
    if (c.truncated)
        return (struct store){ .kind = size < INSTRUCTION_MAX ? STORE_TRUNCATED : STORE_UNSUPPORTED };
    if (store.kind != STORE_UNSUPPORTED)
        store.length = (uint8_t)c.at;
    return store;
}
