/*
 * From Strata's 64-bit code, without VMX, to a kernel's entry. handover_jump runs in the image and switches to the kernel's page
 * tables and GDT; handover_blob is position-independent, has been copied to a page of the kernel's memory, and sets the mode.
 */
#include "core/cpu/guest_entry.h"

#define PAGE_SIZE 4096
#define CR0_PE_ET 0x11
#define CR0_LONG 0x80000031     /* PG, NE, ET, PE */
#define CR4_PAE 0x20
#define EFER_MSR 0xc0000080

    .text
    .code64
/* void handover_jump(const struct guest_entry *entry, uint64_t trampoline) */
    .globl handover_jump
handover_jump:
    cli
    cld
    mov ENTRY_AT_CR3(%rdi), %rax
    mov %rax, %cr3
    sub $16, %rsp
    movw $(KERNEL_GDT_SIZE - 1), (%rsp)
    mov ENTRY_AT_GDT(%rdi), %rax
    mov %rax, 2(%rsp)
    lgdt (%rsp)
    movw $0, (%rsp)
    lidt (%rsp)
    mov ENTRY_AT_RIP(%rdi), %r8
    mov ENTRY_AT_RAX(%rdi), %r9
    mov ENTRY_AT_RBX(%rdi), %rbx
    mov ENTRY_AT_RSI(%rdi), %r10
    mov ENTRY_AT_LONG(%rdi), %r11
    mov ENTRY_AT_PAGE(%rdi), %rax
    lea PAGE_SIZE(%rax), %rsp   /* a stack in the trampoline's page */
    jmp *%rsi

    .balign 16
    .globl handover_blob, handover_blob_end
handover_blob:
    mov %r10, %rsi
    xor %ebp, %ebp
    xor %edi, %edi
    test %r11, %r11
    jz 1f
    mov $CR0_LONG, %eax
    mov %rax, %cr0
    mov $CR4_PAE, %eax
    mov %rax, %cr4
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    push $KERNEL_CODE
    push %r8
    mov %r9, %rax
    lretq
1:  push %r8                    /* what 32-bit code cannot reach in R8 and R9: two 32-bit words each */
    push %r9
    lea 2f(%rip), %rax
    push $KERNEL_CODE32
    push %rax
    lretq
    .code32
2:  mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov $CR0_PE_ET, %eax        /* paging off: out of long mode */
    mov %eax, %cr0
    mov $EFER_MSR, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    mov %eax, %cr4
    mov %eax, %cr3
    pop %eax                    /* R9 */
    pop %ecx
    pop %edx                    /* R8 */
    pop %ecx
    xor %ecx, %ecx
    push $KERNEL_CODE
    push %edx
    xor %edx, %edx
    lret
handover_blob_end:

    .section .note.GNU-stack, "", @progbits
