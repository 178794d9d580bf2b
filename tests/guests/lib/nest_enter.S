/*
 * nest_enter(regs, launched): loads the nested guest's registers, enters it, saves them on the exit.
 * Value: 0 after an exit, else RFLAGS after the failed instruction. nest_host_rip is every VMCS's host RIP.
 */
        .text
        .global nest_enter, nest_host_rip, nest_thunk
#ifdef __x86_64__
#define HOST_RSP_FIELD 0x6c14
nest_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        push    %rdi
        mov     $HOST_RSP_FIELD, %eax
        vmwrite %rsp, %rax
        test    %esi, %esi
        mov     (%rdi), %rax
        mov     8(%rdi), %rbx
        mov     16(%rdi), %rcx
        mov     24(%rdi), %rdx
        mov     32(%rdi), %rsi
        mov     48(%rdi), %rbp
        mov     40(%rdi), %rdi
        jnz     1f
        vmlaunch
        jmp     2f
1:      vmresume
2:      pushf
        pop     %rax
        pop     %rdi
        jmp     3f
nest_host_rip:
        push    %rax
        mov     8(%rsp), %rax
        mov     %rbx, 8(%rax)
        mov     %rcx, 16(%rax)
        mov     %rdx, 24(%rax)
        mov     %rsi, 32(%rax)
        mov     %rdi, 40(%rax)
        mov     %rbp, 48(%rax)
        pop     %rcx
        mov     %rcx, (%rax)
        pop     %rdi
        xor     %eax, %eax
3:      pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
nest_thunk:                     /* nested guest: calls the function in rax */
        call    *%rax
        jmp     nest_done
#else
#define HOST_RSP_FIELD 0x6c14
nest_enter:
        mov     4(%esp), %ecx
        mov     8(%esp), %edx
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        push    %ecx
        mov     $HOST_RSP_FIELD, %eax
        vmwrite %esp, %eax
        test    %edx, %edx
        mov     (%ecx), %eax
        mov     4(%ecx), %ebx
        mov     12(%ecx), %edx
        mov     16(%ecx), %esi
        mov     20(%ecx), %edi
        mov     24(%ecx), %ebp
        mov     8(%ecx), %ecx
        jnz     1f
        vmlaunch
        jmp     2f
1:      vmresume
2:      pushf
        pop     %eax
        pop     %ecx
        jmp     3f
nest_host_rip:
        push    %eax
        mov     4(%esp), %eax
        mov     %ebx, 4(%eax)
        mov     %ecx, 8(%eax)
        mov     %edx, 12(%eax)
        mov     %esi, 16(%eax)
        mov     %edi, 20(%eax)
        mov     %ebp, 24(%eax)
        pop     %ecx
        mov     %ecx, (%eax)
        pop     %ecx
        xor     %eax, %eax
3:      pop     %edi
        pop     %esi
        pop     %ebp
        pop     %ebx
        ret
nest_thunk:
        call    *%eax
        jmp     nest_done
#endif
        .section .note.GNU-stack, "", @progbits
