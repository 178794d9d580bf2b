/*
 * lean_run(struct lean *): see cost.h. The path of an expected exit is what every measured round trip of the nested
 * guest costs on the bare machine: 23 instructions from the exit to VMRESUME.
 */
#define EXIT_REASON 0x4402
#define EXIT_LENGTH 0x440c
#define GUEST_RIP 0x681e
#define HOST_RSP 0x6c14
#define LAUNCHED 120
#define EXPECT 128
#define RSP 136
        .text
        .global lean_run, lean_exit
lean_run:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        push    %rdi
        cmp     %rsp, RSP(%rdi)         /* written only when it changed, as every serious hypervisor does */
        je      4f
        mov     %rsp, RSP(%rdi)
        mov     $HOST_RSP, %eax
        vmwrite %rsp, %rax
4:      cmpq    $0, LAUNCHED(%rdi)
        mov     (%rdi), %rax
        mov     8(%rdi), %rbx
        mov     16(%rdi), %rcx
        mov     24(%rdi), %rdx
        mov     32(%rdi), %rsi
        mov     48(%rdi), %rbp
        mov     56(%rdi), %r8
        mov     64(%rdi), %r9
        mov     72(%rdi), %r10
        mov     80(%rdi), %r11
        mov     88(%rdi), %r12
        mov     96(%rdi), %r13
        mov     104(%rdi), %r14
        mov     112(%rdi), %r15
        mov     40(%rdi), %rdi
        jne     1f
        vmlaunch
        jmp     2f
1:      vmresume
2:      mov     $-1, %eax
        pop     %rdi
        jmp     3f

        .balign 16
lean_exit:
        push    %rax
        push    %rcx
        push    %rdx
        mov     $EXIT_REASON, %eax
        vmread  %rax, %rdx
        mov     24(%rsp), %rcx
        movq    $1, LAUNCHED(%rcx)
        cmp     EXPECT(%rcx), %rdx
        jne     5f
        mov     $EXIT_LENGTH, %eax
        vmread  %rax, %rcx
        mov     $GUEST_RIP, %eax
        vmread  %rax, %rdx
        add     %rcx, %rdx
        vmwrite %rdx, %rax
        pop     %rdx
        pop     %rcx
        pop     %rax
        vmresume
        ud2
5:      mov     %rdx, %rax              /* the value of lean_run */
        mov     %rbx, 8(%rcx)
        mov     %rsi, 32(%rcx)
        mov     %rdi, 40(%rcx)
        mov     %rbp, 48(%rcx)
        mov     %r8, 56(%rcx)
        mov     %r9, 64(%rcx)
        mov     %r10, 72(%rcx)
        mov     %r11, 80(%rcx)
        mov     %r12, 88(%rcx)
        mov     %r13, 96(%rcx)
        mov     %r14, 104(%rcx)
        mov     %r15, 112(%rcx)
        mov     %rcx, %rdi
        pop     %rdx
        mov     %rdx, 24(%rdi)
        pop     %rdx
        mov     %rdx, 16(%rdi)
        pop     %rdx
        mov     %rdx, (%rdi)
        pop     %rdi
3:      pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .section .note.GNU-stack, "", @progbits
