/*
 * DR6 of the guest that exited: the processor neither saves nor loads it on exits and entries.
 */
    .text
    .globl task_switch_dr6_set

/* void task_switch_dr6_set(uint64_t bits): sets these bits. */
task_switch_dr6_set:
    mov %dr6, %rax
    or %rdi, %rax
    mov %rax, %dr6
    ret

    .section .note.GNU-stack, "", @progbits
