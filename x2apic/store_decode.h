/*
 * Decoder of the few instructions with which software accesses memory-mapped APIC registers, so that an access that was
 * stopped by EPT can be carried out. Only 32-bit accesses: SDM 3, "APIC Register Address Map". Single-stepping over
 * the access instead is not dependable (the trap flag and the monitor trap flag differ between processors).
 */
#ifndef STRATA_STORE_DECODE_H
#define STRATA_STORE_DECODE_H

#include "core/lib/types.h"
#include "core/lib/x86.h"

#define INSTRUCTION_MAX 15 /* bytes of an instruction */

enum code_size { CODE_16 = 16, CODE_32 = 32, CODE_64 = 64 }; /* CS.D and CS.L */

enum store_kind {
    STORE_UNSUPPORTED, /* not one of these, or not a 32-bit memory access */
    STORE_TRUNCATED,   /* the bytes end before the instruction does */
    STORE_REGISTER,    /* MOV to memory from reg (32 bits of it) */
    STORE_IMMEDIATE,   /* MOV to memory of immediate */
    STORE_LOAD,        /* MOV from memory to reg, whose upper half becomes 0 in 64-bit mode */
    STORE_EXCHANGE,    /* XCHG of memory and reg: as STORE_LOAD for reg */
};

#define STORE_NO_REGISTER 0xff

/* The memory operand: segment base + base + (index << scale) + displacement, cut to the address size. */
struct store_address {
    uint8_t base, index;   /* enum gpr, or STORE_NO_REGISTER */
    uint8_t scale;         /* index is shifted left by it */
    uint8_t segment;       /* enum segment, the default one included */
    bool rip_relative;     /* the address of the next instruction is added, too */
    uint32_t displacement; /* its low 32 bits */
};

struct store {
    enum store_kind kind;
    uint8_t reg;    /* enum gpr */
    uint8_t length; /* bytes of the instruction; 0 unless it was decoded */
    uint32_t immediate;
    struct store_address address; /* of kinds that were decoded */
};

/* Decodes the instruction that starts at code[0], of which size bytes are known (INSTRUCTION_MAX is enough). */
struct store store_decode(const uint8_t *code, size_t size, enum code_size code_size);

#endif
