/*
 * Operands of the guest hypervisor's VMX instructions: register or memory, through its own page tables. vmcs01 is current.
 * Functions that return false have injected the fault that the access raises; nothing else is to be done then.
 */
#ifndef STRATA_INSN_H
#define STRATA_INSN_H

#include "core/cpu/cpu.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/upcall.h"
#include "nested/nested.h"
#include "nested/operand.h"

/* A VMX instruction that exited: of L2, or of L3 for nested/shadow.c. */
struct insn {
    struct cpu *cpu;
    uint64_t info; /* VM-exit instruction information */
    bool mode_64;
};

/* L2's. In IA-32e mode VMX instructions exit from 64-bit mode only: elsewhere they raise #UD. */
static inline struct insn insn_of_l2(struct cpu *cpu)
{
    return (struct insn){ cpu, vmread(EXIT_INSTRUCTION_INFO), cpu->nested->ia32e };
}
static inline struct insn insn_of_l3(struct cpu *cpu)
{
    return (struct insn){ cpu, vmread(EXIT_INSTRUCTION_INFO), guest_is_64bit() };
}

static inline uint64_t insn_gpr(struct insn i, unsigned reg)
{
    uint64_t value = reg == GPR_RSP ? vmread(GUEST_RSP) : i.cpu->regs[reg];
    return i.mode_64 ? value : (uint32_t)value;
}
static inline void insn_set_gpr(struct insn i, unsigned reg, uint64_t value)
{
    if (!i.mode_64)
        value = (uint32_t)value;
    if (reg == GPR_RSP)
        vmwrite(GUEST_RSP, value);
    else
        i.cpu->regs[reg] = value;
}

/* The memory operand of VMXON, VMCLEAR, VMPTRLD; and of VMPTRST. */
bool insn_read_pointer(struct insn i, uint64_t *pointer);
bool insn_write_pointer(struct insn i, uint64_t pointer);
/* INVEPT, INVVPID: the 16-byte descriptor. */
bool insn_read_descriptor(struct insn i, uint64_t descriptor[2]);
/* VMREAD, VMWRITE with an operand in memory, of the guest's operand size. */
bool insn_write_memory(struct insn i, uint64_t value);
bool insn_read_memory(struct insn i, uint64_t *value);

/* VMREAD, VMWRITE: the register that holds the field encoding; INVEPT, INVVPID: the type. */
static inline uint64_t insn_reg2(struct insn i) { return insn_gpr(i, operand_reg2(i.info)); }

/* The row of a field that the guest hypervisor has; -1: there is none of this encoding. */
static inline int insn_field_row(uint64_t encoding)
{
    int row = vmcs_field_find(encoding);
    bool high_of_narrow = vmcs_encoding_high((uint32_t)encoding) && row >= 0 && vmcs_fields[row].width != WIDTH_W64;
    return row < 0 || high_of_narrow || !nested_caps.offered[vmcs_fields[row].cap] ? -1 : row;
}

/* Ends the instruction with these arithmetic flags, the others (and RF) 0. One of L3's: insn_finish_l3. */
static inline void insn_finish(uint64_t flags, bool mode_64)
{
    uint64_t before = vmread(GUEST_RFLAGS), after = (before & ~(RFLAGS_ARITHMETIC | RFLAGS_RF)) | flags;
    if (after != before)
        vmwrite(GUEST_RFLAGS, after);
    guest_retire(vmread(EXIT_INSTRUCTION_LEN), after, mode_64);
}
static inline void insn_finish_l3(struct insn i, uint64_t flags)
{
    insn_finish(flags, i.mode_64);
    nested_retired(i.cpu);
}

/* VMREAD's destination, VMWRITE's source. */
static inline bool insn_write_value(struct insn i, uint64_t value)
{
    if (!operand_is_register(i.info))
        return insn_write_memory(i, value);
    insn_set_gpr(i, operand_reg1(i.info), value);
    return true;
}
static inline bool insn_read_value(struct insn i, uint64_t *value)
{
    if (!operand_is_register(i.info))
        return insn_read_memory(i, value);
    *value = insn_gpr(i, operand_reg1(i.info));
    return true;
}

#endif
