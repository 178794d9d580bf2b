/*
 * Operands of VMX instructions, from what the processor saves on their VM exits: which registers, which memory.
 * SDM 3, "Information for VM Exits Due to Instruction Execution" and the tables "Format of the VM-Exit
 * Instruction-Information Field as Used for ...".
 */
#ifndef STRATA_OPERAND_H
#define STRATA_OPERAND_H

#include "core/lib/types.h"
#include "core/lib/x86.h"

/* What the instruction-information field says of a memory operand. */
struct operand {
    uint8_t segment;      /* enum segment, 0..7 */
    uint8_t address_bits; /* address size: 16, 32 or 64 */
    uint8_t scale;        /* index is shifted left by this: 0..3 */
    uint8_t base, index;  /* enum gpr, or OPERAND_NONE */
};
#define OPERAND_NONE 0xff

/*
 * The usual memory operand: 64-bit addresses in a segment whose base counts as 0 (not FS or GS), in memory. Then the linear address is
 * displacement + operand_flat_64(...).
 */
static inline bool operand_is_flat_64(uint64_t info)
{
    const uint64_t address_64 = 2 << 7, is_register = 1 << 10, segment_fs = 4 << 15;
    return (info & (7 << 7 | is_register | segment_fs)) == address_64;
}

static inline uint64_t operand_flat_64(uint64_t info, const uint64_t gpr[GPR_COUNT])
{
    const uint64_t index_invalid = 1 << 22, base_invalid = 1 << 27;
    uint64_t base = info & base_invalid ? 0 : gpr[info >> 23 & 15];
    uint64_t index = info & index_invalid ? 0 : gpr[info >> 18 & 15] << (info & 3);
    return base + index;
}

/*
 * VMREAD, VMWRITE: the first operand is a register, and which (enum gpr). For the other instructions, whose operand is in memory, the
 * bit is 0 or undefined.
 */
static inline bool operand_is_register(uint64_t info) { return info >> 10 & 1; }
static inline unsigned operand_reg1(uint64_t info) { return info >> 3 & 15; }

/* The second operand: enum gpr. VMREAD, VMWRITE: holds the field; INVEPT, INVVPID: holds the type. */
static inline unsigned operand_reg2(uint64_t info) { return info >> 28 & 15; }

/* Decodes the memory operand in VM-exit instruction information. Total: any value gives an operand. */
struct operand operand_decode(uint64_t info);

/* Which mode the guest is in, as far as addresses go. */
struct operand_mode {
    bool mode_64;        /* CS.L = 1 in IA-32e mode */
    uint8_t linear_bits; /* of canonical addresses: 48, or 57 with CR4.LA57 = 1 */
};

/* The operand's segment register, as the VMCS has it. */
struct operand_segment {
    uint64_t base;
    uint32_t limit, access_rights;
};

enum operand_access { OPERAND_READ, OPERAND_WRITE };
enum operand_fault { OPERAND_OK, OPERAND_GP, OPERAND_SS }; /* #GP(0), #SS(0) */

/*
 * Linear address of a memory operand of size bytes. displacement: the exit qualification (RIP-relative addresses
 * are already complete there). gpr: all 16, RSP included. Checks in the order of the SDM's instruction descriptions:
 * canonical form in 64-bit mode; else usable segment, its type, its limit. *linear is set on OPERAND_OK only.
 * Precondition: the guest is in protected or 64-bit mode (VMX instructions raise #UD elsewhere before they exit).
 */
enum operand_fault operand_linear(const struct operand *operand, uint64_t displacement, const uint64_t gpr[GPR_COUNT],
                                  const struct operand_segment *segment, struct operand_mode mode, unsigned size,
                                  enum operand_access access, uint64_t *linear);

#endif
