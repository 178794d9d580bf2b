/*
 * Code of nested guests in modes other than their hypervisor's: 32-bit (flat segments) and real mode. Real-mode code
 * runs with its own address as CS base (a multiple of 64: the selector's low bits 0), so everything in it is relative to its first byte.
 */
        .text
        .code32
        .global code32_hello, code32_switch, code32_switch_tss, code32_enable_pae, code32_load_cr3, code32_touch
code32_hello:                   /* CPUID, a port, HLT-less VMCALL; ebx counts */
        xor     %ebx, %ebx
        xor     %eax, %eax
        xor     %ecx, %ecx
        cpuid
        mov     $0x1111, %ebx
        vmcall
        inc     %ebx
        vmcall
1:      jmp     1b

code32_switch:                  /* a far jump through an available TSS descriptor */
code32_switch_tss = . + 5
        ljmp    $0xb0, $0
        vmcall
1:      jmp     1b

code32_enable_pae:              /* esi: CR3; turns on PAE paging */
        mov     %esi, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        vmcall
        mov     (%edi), %ebx
        vmcall
1:      jmp     1b

code32_load_cr3:                /* esi: CR3; a new page-directory-pointer table under PAE */
        mov     %esi, %cr3
        vmcall
        mov     (%edi), %ebx
        vmcall
1:      jmp     1b

code32_touch:                   /* reads and writes (edi), then again */
        mov     (%edi), %ebx
        mov     %ebx, (%edi)
        vmcall
        jmp     code32_touch

/* A new PDPTE (edx) is stored (at esi), and then loaded or not. ebx: what edi shows after INVLPG. */
        .macro  pdpte label, load
        .global \label
\label: mov     (%edi), %ebx
        mov     %edx, (%esi)
        \load
        invlpg  (%edi)
        mov     (%edi), %ebx
        vmcall
1:      jmp     1b
        .endm
        pdpte   code32_pdpte_stored, "nop"
        pdpte   code32_pdpte_cr3, "mov %cr3, %eax; mov %eax, %cr3"
        pdpte   code32_pdpte_cr4, "mov %cr4, %eax; xor $0x80, %eax; mov %eax, %cr4"
        pdpte   code32_pdpte_cr0, "mov %cr0, %eax; xor $0x40000000, %eax; mov %eax, %cr0"

        .global code32_gp
code32_gp:                      /* handler of #GP: error code in edx, EIP in ecx, what edi shows in ebx */
        pop     %edx
        mov     (%esp), %ecx
        mov     (%edi), %ebx
        vmcall
1:      jmp     1b

        .code16
        .global real_e820, real_hello, real_int, real_wait, real_protect, real_handler, real_handler_end
        .balign 64
real_hello:
        mov     $0x1234, %bx
        mov     %cs, %cx
        mov     $0x5678, %dx
        vmcall
        push    %bx
        pop     %ax
        in      $0x80, %al
        hlt
1:      jmp     1b

        .balign 64
real_int:                       /* software interrupt, and back */
        int     $0x21
        vmcall
1:      jmp     1b

        .balign 64
real_wait:                      /* until an interrupt has come */
        sti
        hlt
        vmcall
1:      jmp     1b

        .balign 64
real_protect:                   /* esi: linear address of 32-bit code to go on with */
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        pushw   $0x18
        pushl   %esi
        mov     %sp, %bp
        movw    $0x18, 4(%bp)
        ljmpl   *(%bp)

        .balign 64
real_e820:                      /* INT 15h with the caller's registers; the carry flag comes back in SI */
        int     $0x15
        sbb     %si, %si
        neg     %si
        vmcall
1:      jmp     1b

real_handler:                   /* copied below 1 MiB */
        mov     $0x4242, %ax
        vmcall
        iret
real_handler_end:

        .section .note.GNU-stack, "", @progbits
