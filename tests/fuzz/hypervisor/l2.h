/*
 * The guest hypervisor's side of a fuzzed machine: addresses that matter, its instructions with any operands, its registers
 * between them. Everything is of the selected CPU.
 */
#ifndef STRATA_FUZZ_L2_H
#define STRATA_FUZZ_L2_H

#include "core/cpu/cpu.h"
#include "tests/host/machine/nested_machine.h"

/* Pages that serve as tables of ept12. */
#define TABLE_FIRST 16u
#define TABLE_COUNT 32u
#define REGION_COUNT 40u /* VMCS12(0) and so on: more than a CPU keeps */

/* One step of the input. */
struct step {
    uint8_t op;
    uint8_t how; /* bit 7: on CPU 1 */
    uint16_t which;
    uint64_t value;
} __attribute__((packed));
#define HOW_CPU1 0x80u
#define HOW_AS_IT_IS 0x40u /* in the state that the last exit left, instead of a sane one */
#define HOW_USER 0x20u     /* at CPL 3 (of op_odd and op_enter) */

/* What a kind of address (any number) and a value mean. */
uint64_t l2_address(unsigned kind, uint64_t value);
/* Before the first step of an input. legacy: the guest hypervisor is in 32-bit mode wherever it can choose. */
void l2_begin(bool legacy);
/* The guest hypervisor runs on the selected CPU, in a sane state unless how says otherwise. False: it cannot be. */
bool l2_ready(unsigned how);
/* CPL 3 from now on, if how says so. */
void l2_user(unsigned how);
/* A VMX instruction with a memory operand that holds these words. Value: whether it succeeded. */
bool l2_instruction(enum exit_reason reason, uint64_t first, uint64_t second, uint64_t reg2);
/* One that the processor has decoded in any way. */
void l2_odd_instruction(enum exit_reason reason, uint64_t info, uint64_t displacement);
/* It has written to a page of its memory, or read it for others' sake. */
void l2_write(uint64_t gpa, uint64_t value);
void l2_fill(uint64_t page, unsigned kind, uint64_t value);
void l2_copy(uint64_t from, uint64_t to);
/* Exits that vmcs01 asks for, but VMX instructions. */
void l2_other_exit(unsigned which, unsigned how, uint64_t value);
/* An MSR that matters, or any. */
uint32_t l2_msr(unsigned which, uint64_t value);

#endif
