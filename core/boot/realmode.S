/*
 * Real-mode code of a level, copied to its page of conventional memory (lowpage.h). Offsets are relative to the page.
 *  - the INT 15h handler answers the memory map (E820h, E801h, 88h) from ready-made tables, without a VM exit, and
 *    passes everything else to the handler that was there before, so that any number of levels chain;
 *  - guest_boot is where the guest starts: it boots the chosen BIOS drive;
 *  - ap_start brings another CPU of Strata itself from real mode to 64-bit code.
 */
#include "core/boot/lowpage.h"
#include "core/lib/asm.h"

#define SMAP 0x534d4150
#define BOOT_SECTOR 0x7c00
#define BOOT_SIGNATURE 0xaa55
#define COM1_DATA 0x3f8
#define COM1_LINE_STATUS 0x3fd
#define FLAGS_CF 1

    .section .realmode, "ax"
    .code16
    .balign 16
    .globl realmode_blob, realmode_blob_end
realmode_blob:
#define OFF(label) ((label) - realmode_blob)
    jmp ap_start
    .balign 8
ap_entry:       .quad 0
ap_cpu:         .quad 0
ap_stack:       .quad 0
ap_cr3:         .long 0
gdt_pointer:    .short gdt_end - gdt - 1
                .long 0, 0
ap_jump:        .long 0
                .short BOOT_CS64
old_int15:      .short 0, 0
e801_low_kib:   .short 0
e801_high_64k:  .short 0
ah88_kib:       .short 0
e820_count:     .short 0
boot_drive:     .byte 0
                .byte 0
real_jump:      .short OFF(guest_boot), 0
                .short OFF(guest_boot), OFF(int15), OFF(e820), OFF(ap_long), OFF(gdt), OFF(to_real), OFF(realmode_blob_end)
message:        .fill LOW_MESSAGE_SIZE

    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    /* BOOT_CS64 */
    .quad 0x00cf92000000ffff    /* BOOT_DS */
    .quad 0x00009a000000ffff    /* REAL_CS: 16-bit code; its base is this page */
    .quad 0x000092000000ffff    /* REAL_DS: 16-bit data */
    .quad 0x00cf9a000000ffff    /* FLAT_CS32: 32-bit code */
gdt_end:
#define REAL_CS (LOW_GDT_REAL_CODE * 8)
#define REAL_DS (REAL_CS + 8)
#define FLAT_CS32 (REAL_CS + 16)
real_idt:
    .short 0x3ff
    .long 0

/* INT 15h */
int15:
    cmp $0xe820, %ax
    je int15_e820
    cmp $0xe801, %ax
    je int15_e801
    cmp $0x88, %ah
    je int15_88
int15_old:
    ljmp *%cs:OFF(old_int15)

int15_e820:
    cmp $SMAP, %edx
    jne int15_old
    cmp $20, %ecx
    jb int15_fail
    cmp %cs:OFF(e820_count), %bx
    jae int15_fail
    push %ds
    push %si
    push %di
    push %cx
    mov %cs, %si
    mov %si, %ds
    imul $20, %bx, %si
    add $OFF(e820), %si
    cld
    mov $10, %cx
    rep movsw
    pop %cx
    pop %di
    pop %si
    pop %ds
    mov $SMAP, %eax
    mov $20, %ecx
    inc %bx
    movzwl %bx, %ebx
    cmp %cs:OFF(e820_count), %bx
    jb int15_ok
    xor %ebx, %ebx
int15_ok:
    push %bp
    mov %sp, %bp
    andb $~FLAGS_CF, 6(%bp)     /* FLAGS of the caller: above BP, IP, CS */
    pop %bp
    iret
int15_fail:
    mov $0x86, %ah
    push %bp
    mov %sp, %bp
    orb $FLAGS_CF, 6(%bp)
    pop %bp
    iret

int15_e801:
    mov %cs:OFF(e801_low_kib), %ax
    mov %ax, %cx
    mov %cs:OFF(e801_high_64k), %bx
    mov %bx, %dx
    jmp int15_ok
int15_88:
    mov %cs:OFF(ah88_kib), %ax
    jmp int15_ok

/* The guest's first instruction: as a BIOS does, read the first sector of the drive and jump to it. */
guest_boot:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $BOOT_SECTOR, %sp
    sti
    mov $OFF(message), %si
0:  mov %cs:(%si), %al          /* on screen only: the serial line has it from the log */
    inc %si
    test %al, %al
    jz 0f
    mov $0x0e, %ah
    mov $7, %bx
    int $0x10
    jmp 0b
0:
    mov $3, %di                 /* attempts */
1:  xor %ah, %ah                /* reset the drive */
    mov %cs:OFF(boot_drive), %dl
    int $0x13
    mov $0x0201, %ax            /* read one sector */
    mov $BOOT_SECTOR, %bx
    mov $0x0001, %cx            /* cylinder 0, sector 1 */
    xor %dh, %dh
    mov %cs:OFF(boot_drive), %dl
    int $0x13
    jnc 2f
    dec %di
    jnz 1b
    mov $OFF(text_no_drive), %si
    jmp boot_failed
2:  mov $OFF(text_no_signature), %si
    cmpw $BOOT_SIGNATURE, BOOT_SECTOR + 510
    jne boot_failed
    mov %cs:OFF(boot_drive), %dl
    xor %dh, %dh
    ljmp $0, $BOOT_SECTOR

boot_failed:                    /* CS:SI = text */
    mov $OFF(text_failed), %di
    xchg %si, %di
    call print
    mov %cs:OFF(boot_drive), %al
    shr $4, %al
    call print_digit
    mov %cs:OFF(boot_drive), %al
    and $15, %al
    call print_digit
    mov %di, %si
    call print
    int $0x18                   /* the BIOS's own answer to a boot failure */
3:  hlt
    jmp 3b

print_digit:
    add $'0', %al
    cmp $'9', %al
    jbe print_char
    add $('a' - '9' - 1), %al
print_char:                     /* AL, on screen and COM1 */
    pusha
    mov %al, %cl
    mov $0x0e, %ah
    mov $7, %bx
    int $0x10
    mov $COM1_LINE_STATUS, %dx
    mov $0xffff, %di
1:  in %dx, %al
    test $0x20, %al
    jnz 2f
    dec %di
    jnz 1b
2:  mov %cl, %al
    mov $COM1_DATA, %dx
    out %al, %dx
    popa
    ret
print:                          /* CS:SI */
    mov %cs:(%si), %al
    inc %si
    test %al, %al
    jz 1f
    call print_char
    jmp print
1:  ret

text_failed:        .asciz "strata: refused: drive "
text_no_drive:      .asciz "h cannot be read: no such drive?\r\n"
text_no_signature:  .asciz "h has no boot sector (no 55h AAh at its end)\r\n"

/* Another CPU of Strata: real mode straight to 64-bit mode. DS = CS = page, offset 0. */
ap_start:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl OFF(gdt_pointer)
    mov $0x20, %eax             /* CR4.PAE */
    mov %eax, %cr4
    mov OFF(ap_cr3), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       /* EFER: LME, NXE */
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x80010021, %eax       /* CR0: PG, WP, NE, PE; caches on */
    mov %eax, %cr0
    ljmpl *OFF(ap_jump)
    .code64
ap_long:
    mov $BOOT_DS, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov ap_cpu(%rip), %rdi
    mov ap_stack(%rip), %rsp
    xor %ebp, %ebp
    jmp *ap_entry(%rip)

/* From 64-bit code without VMX back to real mode, to boot without Strata. Paging maps this page at its address. */
to_real:
    lgdt gdt_pointer(%rip)
    lea 1f(%rip), %rax
    push $FLAT_CS32
    push %rax
    lretq
    .code32
1:  mov %cr0, %eax
    and $0x7fffffff, %eax       /* paging off: out of long mode */
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    mov %eax, %cr4
    ljmp $REAL_CS, $OFF(1f)
    .code16
1:  mov $REAL_DS, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    lidtl %cs:OFF(real_idt)
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp *%cs:OFF(real_jump)

    .balign 4
e820:                           /* the list follows the code, as long as it is */
realmode_blob_end:

    .section .note.GNU-stack, "", @progbits
