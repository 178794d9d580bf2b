/*
 * Decoding of MOV and XCHG between memory and a register or immediate: opcodes 87, 89, 8B, A1, A3, C7 /0. Pure.
 * The bytes are the guest's, and may not be what the processor executed: no more than size of them are read, and any
 * bytes give a result.
 */
#include "core/guest/store_decode.h"

#define PREFIX_OPERAND_SIZE 0x66
#define PREFIX_ADDRESS_SIZE 0x67
#define PREFIX_LOCK 0xf0
#define REX_FIRST 0x40
#define REX_LAST 0x4f
#define REX_W 8
#define REX_R 4
#define MODRM_REGISTER 3 /* mod: the operand is a register */
#define MODRM_SIB 4      /* rm: a SIB byte follows */
#define SIB_NO_BASE 5
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
    uint8_t rex; /* 0 = none */
};

static uint8_t next_byte(struct cursor *c)
{
    if (c->at >= c->size) {
        c->truncated = true;
        return 0;
    }
    return c->code[c->at++];
}

static void skip_bytes(struct cursor *c, size_t count)
{
    while (count--)
        next_byte(c);
}

static bool is_segment_prefix(uint8_t byte)
{
    return byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x64 || byte == 0x65;
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
        else if (!is_segment_prefix(byte))
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

/* Skips what follows a ModRM byte that names memory. SDM 2, "Addressing-Mode Encoding of ModR/M and SIB Bytes". */
static void skip_address(struct cursor *c, uint8_t modrm, unsigned bits)
{
    unsigned mod = modrm >> 6, rm = modrm & 7;
    if (bits == 16) {
        skip_bytes(c, mod == 2 || (mod == 0 && rm == RM_DISPLACEMENT_16) ? 2 : mod);
        return;
    }
    unsigned base = rm;
    if (rm == MODRM_SIB)
        base = next_byte(c) & 7;
    bool wide = mod == 2 || (mod == 0 && base == (rm == MODRM_SIB ? SIB_NO_BASE : RM_DISPLACEMENT_32));
    skip_bytes(c, wide ? 4 : mod);
}

static uint32_t read_immediate(struct cursor *c)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 32; shift += 8)
        value |= (uint32_t)next_byte(c) << shift;
    return value;
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
    struct prefixes p = { 0 };
    struct store store = { .kind = STORE_UNSUPPORTED };
    uint8_t opcode = read_prefixes(c, code_size, &p);
    if (!is_32bit(code_size, &p) || (p.lock && opcode != OP_XCHG))
        return store;
    if (opcode == OP_LOAD_EAX || opcode == OP_STORE_EAX) {
        store.kind = opcode == OP_LOAD_EAX ? STORE_LOAD : STORE_REGISTER;
        skip_bytes(c, address_bits(code_size, &p) / 8);
        return store;
    }
    if (opcode != OP_XCHG && opcode != OP_STORE && opcode != OP_LOAD && opcode != OP_STORE_IMM)
        return store;
    uint8_t modrm = next_byte(c);
    store.kind = modrm_kind(opcode, modrm);
    if (store.kind == STORE_UNSUPPORTED)
        return store;
    skip_address(c, modrm, address_bits(code_size, &p));
    if (store.kind == STORE_IMMEDIATE)
        store.immediate = read_immediate(c);
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
