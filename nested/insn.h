/*
 * Operands of the guest hypervisor's VMX instructions: register or memory, through its own page tables. vmcs01 is current.
 * Functions that return false have injected the fault that the access raises; nothing else is to be done then.
 */
#ifndef STRATA_INSN_H
#define STRATA_INSN_H

#include "core/cpu.h"
#include "core/dispatch.h"

/* The memory operand of VMXON, VMCLEAR, VMPTRLD; and of VMPTRST. */
bool insn_read_pointer(struct cpu *cpu, uint64_t *pointer);
bool insn_write_pointer(struct cpu *cpu, uint64_t pointer);
/* VMREAD, VMWRITE: the register that holds the field encoding. */
uint64_t insn_field_operand(const struct cpu *cpu);
/* VMREAD's destination, VMWRITE's source: register or memory, of the guest's operand size. */
bool insn_write_value(struct cpu *cpu, uint64_t value);
bool insn_read_value(struct cpu *cpu, uint64_t *value);
/* INVEPT, INVVPID: type register and 16-byte descriptor. */
uint64_t insn_type_operand(const struct cpu *cpu);
bool insn_read_descriptor(struct cpu *cpu, uint64_t descriptor[2]);

#endif
