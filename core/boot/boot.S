/*
 * From GRUB to 64-bit C: the multiboot2 header, the 32-bit entry, and the way of the other CPUs from real mode.
 * boot_entry runs at its load address without paging; everything after the jump to 64-bit code runs at the
 * image's linked address.
 */
#include "core/lib/asm.h"

#define MULTIBOOT2_HEADER_MAGIC 0xe85250d6
#define MULTIBOOT2_BOOT_MAGIC 0x36d76289
#define MULTIBOOT2_ARCH_I386 0

#define CR0_PE 0x1
#define CR0_WP 0x10000
#define CR0_NE 0x20
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define EFER_MSR 0xc0000080
#define EFER_LME 0x100
#define EFER_NXE 0x800
#define PTE_P 1
#define PTE_W 2
#define PTE_PS 0x80
#define CPUID8_EDX_NX_LM ((1 << 29) | (1 << 20))

    .section .multiboot, "a"
    .balign 8
header:
    .long MULTIBOOT2_HEADER_MAGIC
    .long MULTIBOOT2_ARCH_I386
    .long header_end - header
    .long -(MULTIBOOT2_HEADER_MAGIC + MULTIBOOT2_ARCH_I386 + (header_end - header))
    .short 1, 0                 /* information request */
    .long request_end - . + 4
    .long 1, 5, 6               /* command line, BIOS boot device, memory map */
request_end:
    .balign 8
    .short 0, 0
    .long 8
header_end:

    .section .boot, "awx"
    .code32
    .globl boot_entry
boot_entry:
    cli
    cld
    cmp $MULTIBOOT2_BOOT_MAGIC, %eax
    jne .Lno_multiboot
    mov %ebx, %ebp              /* multiboot2 information */
    mov $boot_stack_end, %esp

    /* Is there long mode with no-execute? */
    mov $0x80000000, %eax
    cpuid
    cmp $0x80000001, %eax
    jb .Lno_long_mode
    mov $0x80000001, %eax
    cpuid
    and $CPUID8_EDX_NX_LM, %edx
    cmp $CPUID8_EDX_NX_LM, %edx
    jne .Lno_long_mode

    /* Identity map of the first 4 GiB in 2-MiB pages, and the image at its linked address. */
    mov $boot_pd, %edi
    mov $(PTE_P | PTE_W | PTE_PS), %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $boot_image_pt, %edi
    mov $(image_load + (PTE_P | PTE_W)), %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 1b
    movl $(boot_pd + (PTE_P | PTE_W)), boot_pdpt
    movl $(boot_pd + 0x1000 + (PTE_P | PTE_W)), boot_pdpt + 8
    movl $(boot_pd + 0x2000 + (PTE_P | PTE_W)), boot_pdpt + 16
    movl $(boot_pd + 0x3000 + (PTE_P | PTE_W)), boot_pdpt + 24
    movl $(boot_image_pt + (PTE_P | PTE_W)), boot_image_pd
    movl $(boot_image_pd + (PTE_P | PTE_W)), boot_image_pdpt + 8 * 510
    movl $(boot_pdpt + (PTE_P | PTE_W)), boot_pml4
    movl $(boot_image_pdpt + (PTE_P | PTE_W)), boot_pml4 + 8 * 511

    mov $boot_pml4, %eax
    call enter_long_mode
    lgdt boot_gdt_pointer
    ljmp $BOOT_CS64, $1f
    .code64
1:  mov $BOOT_DS, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebp, %edi
    mov $boot_stack_top, %rsp   /* in the image: moves with it */
    mov $main_bsp, %rax
    xor %ebp, %ebp
    call *%rax
    ud2

    .code32
/* In: EAX = PML4. Sets PAE, NXE, LME and paging; still in 32-bit (compatibility) code on return. Clobbers EAX, ECX, EDX, ESI. */
enter_long_mode:
    mov %eax, %cr3
    mov %cr4, %eax
    or $CR4_PAE, %eax
    mov %eax, %cr4
    mov $EFER_MSR, %ecx
    rdmsr
    or $(EFER_LME | EFER_NXE), %eax
    wrmsr
    mov %cr0, %eax
    or $(CR0_PG | CR0_WP | CR0_NE | CR0_PE), %eax
    and $0x9fffffff, %eax       /* caches on: CD and NW clear */
    mov %eax, %cr0
    ret

.Lno_multiboot:
    mov $text_no_multiboot, %esi
    jmp .Lstop
.Lno_long_mode:
    mov $text_no_long_mode, %esi
.Lstop:                         /* before there is any C: one line on screen and serial, then stop */
    mov $0xb8000, %edi
1:  lodsb
    test %al, %al
    jz 3f
    mov %al, (%edi)
    movb $0x0f, 1(%edi)
    add $2, %edi
    mov %al, %ah
    mov $0x3fd, %dx
    mov $100000, %ecx
2:  in %dx, %al
    test $0x20, %al
    loopz 2b
    mov $0x3f8, %dx
    mov %ah, %al
    out %al, %dx
    jmp 1b
3:  hlt
    jmp 3b
text_no_multiboot:
    .asciz "strata: refused: not started by a multiboot2 boot loader\r\n"
text_no_long_mode:
    .asciz "strata: refused: no long mode with no-execute (CPUID 80000001h EDX[29], EDX[20])\r\n"

    .balign 8
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff    /* 08h: 64-bit code */
    .quad 0x00cf92000000ffff    /* 10h: data */
boot_gdt_end:

    .balign 4096
boot_pml4: .fill 4096
boot_pdpt: .fill 4096
boot_image_pdpt: .fill 4096
boot_image_pd: .fill 4096
boot_image_pt: .fill 4096
boot_pd: .fill 4 * 4096
    .fill 256
boot_stack_end:

    .bss
    .balign 16
    .fill BOOT_STACK_SIZE
    .globl boot_stack_top
boot_stack_top:

    .text
    .code64
/*
 * void relocate(void *to, const void *from, uint64_t size, uint64_t cr3)
 * Copies the image, then maps it at its new place. The stack lies in the image and moves with it.
 */
    .globl relocate
relocate:
    mov %rcx, %rax
    mov %rdx, %rcx
    rep movsb
    mov %rax, %cr3
    ret

    .section .note.GNU-stack, "", @progbits
