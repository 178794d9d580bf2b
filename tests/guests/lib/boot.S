/*
 * Multiboot2 entry, first CPU to C, and the real-mode trampoline of the others.
 * 64-bit build: long mode with the low 4 GiB mapped 1:1 in 2 MiB pages. 32-bit build: unpaged; C
 * turns paging on, and ap_cr3 tells the other CPUs which.
 */
#define TRAMPOLINE 0x8000
#define STACK_SIZE 32768
#define CPUS 8

        .section .multiboot, "a"
        .balign 8
header:
        .long   0xe85250d6, 0, header_end - header, -(0xe85250d6 + header_end - header)
        .word   0, 0
        .long   8
header_end:

        .bss
        .balign 4096
        .global boot_tables, stacks
#ifdef __x86_64__
boot_tables:            /* PML4, PDPT, four page directories */
        .skip   6 * 4096
#endif
        .balign 16
stacks: .skip   CPUS * STACK_SIZE
stacks_end:

        .text
        .code32
        .global boot_start, trampoline_start, trampoline_end, trampoline_index
boot_start:
        cli
        cld
        mov     $stacks + STACK_SIZE, %esp
        mov     %eax, %ebp              /* magic */
#ifdef __x86_64__
        movl    $boot_tables + 4096 + 7, boot_tables
        mov     $boot_tables + 4096, %edi
        mov     $boot_tables + 8192 + 7, %eax
        mov     $4, %ecx
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $4096, %eax
        loop    1b
        mov     $boot_tables + 8192, %edi
        mov     $0x87, %eax
        mov     $2048, %ecx
2:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        loop    2b
        call    enter_long
        .code64
        mov     %ebx, %esi
        mov     %ebp, %edi
        call    boot_main

        .code32
enter_long:                             /* returns in 64-bit code; keeps ebx, ebp; the return address is 8 bytes after */
        mov     $boot_tables, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x901, %eax            /* NXE, LME, SCE */
        wrmsr
        mov     %cr0, %eax
        and     $0x9fffffff, %eax
        or      $0x80010023, %eax       /* PG, WP, NE, MP, PE */
        mov     %eax, %cr0
        lgdt    boot_gdtr
        ljmp    $8, $3f
        .code64
3:      mov     (%rsp), %eax
        add     $4, %rsp
        jmp     *%rax
#else
        mov     %cr0, %eax
        and     $0x1fffffff, %eax
        or      $0x00010023, %eax
        mov     %eax, %cr0
        push    %ebx
        push    %ebp
        call    boot_main
#endif

        .section .rodata
        .balign 8
boot_gdt:
        .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
boot_gdtr:
        .word   31
        .long   boot_gdt

        /* Copied to TRAMPOLINE; an INIT-SIPI'd CPU starts here. trampoline_index hands out CPU numbers. */
        .text
        .code16
trampoline_start:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   TRAMPOLINE + trampoline_gdtr - trampoline_start
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $0x18, $ap_start
trampoline_gdtr:
        .word   31
        .long   boot_gdt
trampoline_end:

        .code32
ap_start:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $1, %ebx
        lock xadd %ebx, trampoline_index
        cmp     $CPUS, %ebx
        jae     9f
        lea     1(%ebx), %esp
        imul    $STACK_SIZE, %esp
        add     $stacks, %esp
#ifdef __x86_64__
        call    enter_long
        .code64
        mov     %ebx, %edi
        call    smp_ap_main
        .code32
#else
        mov     %cr0, %eax
        and     $0x1fffffff, %eax
        or      $0x00010023, %eax
        mov     %eax, %cr0
        mov     ap_cr3, %eax
        mov     %eax, %cr3
        mov     ap_cr4, %eax
        mov     %eax, %cr4
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        push    %ebx
        call    smp_ap_main
#endif
9:      cli
        hlt
        jmp     9b

        .data
        .balign 4
        .global ap_cr3, ap_cr4
trampoline_index:
        .long   1
ap_cr3: .long   0
ap_cr4: .long   0

        .section .note.GNU-stack, "", @progbits
