/*
 * Interrupts and exceptions that arrive while Strata itself runs. Each vector has a stub of 16 bytes that pushes an
 * error code (0 where the processor pushes none) and the vector, then trap_common calls trap_handle(struct trap_frame *).
 * All of them run on an interrupt stack of their own (IST), so an NMI may arrive anywhere.
 */
    .text
    .globl trap_stubs
    .balign 16
trap_stubs:
    vector = 0
    .rept 32
    .balign 16
    .if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17) && (vector != 21)
    push $0
    .endif
    push $vector
    jmp trap_common
    vector = vector + 1
    .endr
    .balign 16

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap_handle
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .section .note.GNU-stack, "", @progbits
