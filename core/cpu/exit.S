/*
 * VM entry and exit of one CPU. Strata runs on the CPU's own stack, which ends where the guest's registers
 * are saved (struct cpu, cpu.h): VM exit -> save registers -> exit_dispatch -> load registers -> VM entry.
 *
 * An NMI that arrives in Strata sets cpu->event_pending (trap.c). One that arrives between the check of that flag and
 * the entry instruction would be noticed an exit too late: trap.c moves RIP from [entry_window, entry_window_end)
 * back to entry_again. Nothing is lost by that: the registers are still in struct cpu.
 */
#include "core/lib/asm.h"

    .text
    .globl vmexit_entry, guest_start, entry_window, entry_window_end, entry_again

/* HOST_RIP. HOST_RSP is the end of cpu->regs. */
vmexit_entry:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push %rbp                   /* RSP's place: the VMCS has it */
    push %rbx
    push %rdx
    push %rcx
    push %rax
    lea -CPU_REGS(%rsp), %rdi
    call exit_dispatch          /* bool: enter by VMRESUME */

enter:
    mov %rsp, %rdi
    sub $CPU_REGS, %rdi
entry_window:
    cmpb $0, CPU_EVENT_PENDING(%rdi)
    jne entry_pending
    test %al, %al               /* POP leaves the flags alone */
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    pop %rbp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    jz 1f
    vmresume
    jmp entry_failed
1:  vmlaunch
entry_window_end:
entry_failed:
    /* The instruction failed before it loaded any guest state: RSP is HOST_RSP. */
    setc %sil                   /* CF: VMfailInvalid. The registers' saved values are still in cpu->regs. */
    movzbl %sil, %esi
    sub $(16 * 8), %rsp
    lea -CPU_REGS(%rsp), %rdi
    call entry_instruction_failed
    jmp enter

/* trap.c comes here with RSP = &cpu->regs[0]. */
entry_again:
    lea -CPU_REGS(%rsp), %rdi
entry_pending:
    call entry_inject_pending   /* bool: enter by VMRESUME */
    jmp enter

/* void guest_start(struct cpu *cpu): first entry of a CPU; registers are in cpu->regs. */
guest_start:
    lea CPU_REGS(%rdi), %rsp
    xor %eax, %eax
    jmp enter

    .section .note.GNU-stack, "", @progbits
