/*
 * Interrupts and exceptions that arrive while Strata itself runs: NMIs and machine checks are kept for the guest,
 * faults of instructions that may be refused continue at their fixup, everything else is a panic.
 */
#ifndef STRATA_TRAP_H
#define STRATA_TRAP_H

#include "core/cpu/cpu.h"

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

/* Builds the IDT; once, before any cpu_load. */
void trap_init(void);
void trap_load(void);
uint64_t trap_idt_base(void);
void trap_handle(struct trap_frame *frame);

#endif
