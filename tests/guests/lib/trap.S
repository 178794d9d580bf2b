/*
 * Interrupt entry, context save and jump. The host's stubs end in trap_handle; the nested guest's stubs
 * (nest_stubs) execute VMCALL with vector and error code on top of the stack, so that the guest hypervisor
 * sees every event the nested guest receives.
 */
#define ERROR_CODES 0x60227d00  /* vectors 8, 10-14, 17, 21, 29, 30 push one */

#ifdef __x86_64__
#define WORD 8
#define PTR .quad
#else
#define WORD 4
#define PTR .long
#endif

        .text
        .macro stubs label, common
        .balign 16
\label:
        .set vector, 0
        .rept 256
        .balign 16
        .if vector > 31 || ((ERROR_CODES >> (vector & 31)) & 1) == 0
        push    $0
        .endif
        push    $vector
        jmp     \common
        .set vector, vector + 1
        .endr
        .endm

        .global trap_stubs, nest_stubs, context_save, context_jump, user_enter, nest_vmcall, nest_vmcall_end
        stubs   trap_stubs, trap_common
        stubs   nest_stubs, nest_vmcall

#ifdef __x86_64__
trap_common:
        push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbp
        and     $-16, %rsp
        call    trap_handle
        mov     %rbp, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

nest_vmcall:
        vmcall
nest_vmcall_end:
        add     $16, %rsp
        iretq

context_save:
        mov     %rbx, (%rdi)
        mov     %rbp, 8(%rdi)
        mov     %r12, 16(%rdi)
        mov     %r13, 24(%rdi)
        mov     %r14, 32(%rdi)
        mov     %r15, 40(%rdi)
        mov     (%rsp), %rax
        mov     %rax, 48(%rdi)
        mov     %rsp, 56(%rdi)
        xor     %eax, %eax
        ret

context_jump:
        mov     (%rdi), %rbx
        mov     8(%rdi), %rbp
        mov     16(%rdi), %r12
        mov     24(%rdi), %r13
        mov     32(%rdi), %r14
        mov     40(%rdi), %r15
        mov     56(%rdi), %rsp
        mov     48(%rdi), %rax
        mov     %rax, (%rsp)
        mov     $1, %eax
        ret

/* user_enter(fn, arg, stack top): fn(arg) at CPL 3, then VEC_USER_RETURN */
user_enter:
        mov     %rdi, %rax
        mov     %rsi, %rdi
        pushq   $0x2b
        push    %rdx
        pushq   $2
        pushq   $0x23
        lea     1f(%rip), %rcx
        push    %rcx
        iretq
1:      call    *%rax
        int     $0x80
#else
trap_common:
        pushal
        cld
        mov     %esp, %ebp
        and     $-16, %esp
        sub     $12, %esp
        push    %ebp
        call    trap_handle
        mov     %ebp, %esp
        popal
        add     $8, %esp
        iretl

nest_vmcall:
        vmcall
nest_vmcall_end:
        add     $8, %esp
        iretl

context_save:
        mov     4(%esp), %edx
        mov     %ebx, (%edx)
        mov     %ebp, 4(%edx)
        mov     %esi, 8(%edx)
        mov     %edi, 12(%edx)
        mov     (%esp), %eax
        mov     %eax, 16(%edx)
        mov     %esp, 20(%edx)
        xor     %eax, %eax
        ret

context_jump:
        mov     4(%esp), %edx
        mov     (%edx), %ebx
        mov     4(%edx), %ebp
        mov     8(%edx), %esi
        mov     12(%edx), %edi
        mov     20(%edx), %esp
        mov     16(%edx), %eax
        mov     %eax, (%esp)
        mov     $1, %eax
        ret

user_enter:
        mov     4(%esp), %eax
        mov     8(%esp), %ecx
        mov     12(%esp), %edx
        mov     %ecx, -4(%edx)          /* fn's argument */
        sub     $4, %edx
        mov     $0x2b, %ecx
        mov     %ecx, %ds
        mov     %ecx, %es
        pushl   $0x2b
        push    %edx
        pushl   $2
        pushl   $0x23
        pushl   $1f
        iretl
1:      call    *%eax
        int     $0x80
#endif

        .section .note.GNU-stack, "", @progbits
