/*
 * A boot sector and what it loads behind itself: makes the BIOS calls of a table (run puts it at `calls`) and prints on
 * COM1 what came back, all of it. Judges nothing.
 * A row: vector, walk (1: again with the EBX that came back, while there is one), flags, EAX, EBX, ECX, EDX.
 */
#include "bench/machine/serial.inc"
#define LOADED 0x7e00
#define SECTORS 7
#define BUFFER 0x1000           /* of E820: ES:DI */
#define BUFFER_BYTES 32
#define FILLER 0xcccccccc
#define WALK_MAX 64
#define ROW 20
#define POWER 0x8900
        .code16
        .text
        .global _start
_start: ljmp    $0, $1f
1:      cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     $0x0200 + SECTORS, %ax
        mov     $LOADED, %bx
        mov     $2, %cx                 /* cylinder 0, sector 2 */
        xor     %dh, %dh                /* DL: the drive, from the BIOS or Strata */
        int     $0x13
        jc      .
        jmp     main
        .org    510
        .word   0xaa55

main:   SERIAL_SET_UP
        mov     $text_memory, %si       /* 40:13h, KiB of conventional memory */
        call    print
        movzwl  0x413, %eax
        call    number
        call    newline
row:    mov     next, %bp
        cmpb    $0, (%bp)               /* SS = DS */
        je      off
        mov     4(%bp), %eax
        mov     %eax, in_eax
        mov     8(%bp), %eax
        mov     %eax, in_ebx
        mov     12(%bp), %eax
        mov     %eax, in_ecx
        mov     16(%bp), %eax
        mov     %eax, in_edx
        mov     2(%bp), %ax
        mov     %ax, in_flags
        mov     (%bp), %al
        mov     %al, vector
        mov     1(%bp), %al
        mov     %al, walk
        addw    $ROW, next
        movw    $WALK_MAX, walked
again:  call    make
        call    tell
        testb   $1, out_flags           /* carry: no more of it */
        jnz     row
        cmpb    $0, walk
        je      row
        mov     out_ebx, %eax
        mov     %eax, in_ebx
        test    %eax, %eax
        jz      row
        decw    walked
        jnz     again
        jmp     row

make:   mov     $BUFFER, %di
        mov     $FILLER, %eax
        mov     $BUFFER_BYTES / 4, %cx
        cld
        rep stosl
        mov     %sp, saved_sp
        mov     in_eax, %eax
        mov     in_ebx, %ebx
        mov     in_ecx, %ecx
        mov     in_edx, %edx
        mov     $0x11110000, %esi
        mov     $0x22220000 + BUFFER, %edi
        mov     $0x33330000, %ebp
        pushw   in_flags
        popfw
        .byte   0xcd                    /* INT */
vector: .byte   0
        pushfw
        popw    %cs:out_flags
        mov     %eax, %cs:out_eax
        mov     %ebx, %cs:out_ebx
        mov     %ecx, %cs:out_ecx
        mov     %edx, %cs:out_edx
        mov     %esi, %cs:out_esi
        mov     %edi, %cs:out_edi
        mov     %ebp, %cs:out_ebp
        mov     %ds, %cs:out_ds
        mov     %es, %cs:out_es
        mov     %sp, %cs:out_sp
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     saved_sp, %sp
        cld
        sti
        ret

tell:   mov     $text_call, %si
        call    print
        movzwl  next, %eax              /* tells the rows apart */
        call    number
        mov     $in_eax, %si            /* what was asked and what came back, up to the buffer */
        mov     $(saved_sp + 4 - in_eax) / 4, %cx
        call    numbers
        mov     $BUFFER, %si
        mov     $BUFFER_BYTES / 4, %cx
        call    numbers
newline:
        mov     $text_line, %si
print:  lodsb
        test    %al, %al
        jz      1f
        call    put
        jmp     print
1:      ret

numbers:
        mov     $' ', %al
        call    put
        lodsl
        call    number
        loop    numbers
        ret

number: pushal                          /* EAX, eight digits */
        mov     $8, %cx
1:      rol     $4, %eax
        push    %ax
        and     $15, %al
        cmp     $10, %al
        sbb     $0x69, %al
        das
        call    put
        pop     %ax
        loop    1b
        popal
        ret

put:    push    %ax
        push    %dx
        mov     %al, %ah
        mov     $COM1 + 5, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     %ah, %al
        mov     $COM1, %dx
        out     %al, %dx
        pop     %dx
        pop     %ax
        ret

off:    mov     $text_end, %si
        call    print
        mov     $COM1 + 5, %dx
1:      in      %dx, %al                /* until the last character has left */
        test    $0x40, %al
        jz      1b
        mov     $POWER, %dx
        mov     $text_off, %si
2:      lodsb
        out     %al, %dx
        test    %al, %al
        jnz     2b
        hlt
        jmp     .

text_memory:    .asciz  "bios-memory: "
text_call:      .asciz  "bios-call: "
text_end:       .asciz  "bios-end\r\n"
text_line:      .asciz  "\r\n"
text_off:       .asciz  "Shutdown"
        .balign 4
next:           .word   calls
walked:         .word   0
walk:           .byte   0
        .balign 4
in_eax:         .long   0
in_ebx:         .long   0
in_ecx:         .long   0
in_edx:         .long   0
in_flags:       .long   0
out_eax:        .long   0
out_ebx:        .long   0
out_ecx:        .long   0
out_edx:        .long   0
out_esi:        .long   0
out_edi:        .long   0
out_ebp:        .long   0
out_flags:      .long   0
out_ds:         .long   0
out_es:         .long   0
out_sp:         .long   0
saved_sp:       .long   0
        .balign 4
calls:
