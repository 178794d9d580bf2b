/*
 * Presses keys and measures GRUB's answer. Resident in real mode at the top of conventional memory; hooks INT 9
 * (keyboard interrupt), INT 10h (screen) and INT 16h (keyboard). A key is pressed through the keyboard controller's
 * command D2h right after GRUB has asked for a key in vain: the longest wait. Stamps are TSC ticks since the press:
 * the keyboard interrupt arrives, GRUB reads the key, the last screen call before GRUB asks for the next key is done.
 * The script behind the code is pairs of bytes (what, value), see WHAT_*. At the end all records go to COM1, and the
 * machine is switched off where it is a Bochs.
 */
#include "bench/machine/serial.inc"
#define WHAT_END 0
#define WHAT_MENU 1             /* press value, measured */
#define WHAT_LINE 2             /* the same on GRUB's command line */
#define WHAT_PRESS 3            /* press value, not measured */
#define WHAT_MARK 4             /* Strata prints its counters */
#define IDLE 0
#define PRESSED 1
#define SEEN 2
#define READ 3
#define IDLE_POLLS 8            /* GRUB asks in vain this often between two events */
#define RECORDS 0x1000
#define STRATA 0x40000100
#define STRATA_MARK 0x40000104
        .code16
        .text
        .global _start
.macro HOOK vector, handler, old
        mov     4 * \vector, %eax
        mov     %eax, %cs:\old
        movw    $\handler, 4 * \vector
        mov     %cs, 4 * \vector + 2
.endm
.macro STAMP where
        pushl   %eax
        pushl   %edx
        rdtsc
        sub     %cs:press, %eax
        mov     %eax, %cs:\where
        popl    %edx
        popl    %eax
.endm

_start: pushal                          /* DS = 0 */
        cli
        HOOK    0x09, irq1, old9
        HOOK    0x10, screen, old10
        HOOK    0x16, keys, old16
        SERIAL_SET_UP
        sti
        popal
        lret

irq1:   cmpb    $PRESSED, %cs:state
        jne     1f
        STAMP   arrived
        movb    $SEEN, %cs:state
1:      ljmp    *%cs:old9

screen: cmpb    $READ, %cs:state
        jne     1f
        pushf
        lcall   *%cs:old10
        STAMP   drawn
        iret
1:      ljmp    *%cs:old10

keys:   test    $0xee, %ah
        jnz     1f
        test    $1, %ah
        jnz     poll
        cmpb    $SEEN, %cs:state
        jne     1f
        STAMP   taken
        STAMP   drawn                   /* until there is a screen call */
        movb    $READ, %cs:state
1:      ljmp    *%cs:old16
poll:   pushf
        lcall   *%cs:old16
        pushf
        call    step
        popf
        lret    $2                      /* with the BIOS's flags */

/* After each time GRUB has asked whether there is a key. Changes nothing. */
step:   pushal
        push    %ds
        push    %cs
        pop     %ds
        cmpb    $READ, state
        je      finish
        cmpb    $IDLE, state
        jne     9f
        incw    idle
        cmpw    $IDLE_POLLS, idle
        jb      9f
        movw    $0, idle
        mov     release, %bl
        movb    $0, release
        test    %bl, %bl
        jnz     8f                      /* let go of the key before */
        mov     next, %si
        addw    $2, next
        mov     (%si), %al
        mov     1(%si), %bl
        mov     %al, what
        cmp     $WHAT_MARK, %al
        je      mark
        cmp     $WHAT_END, %al
        je      report
        mov     %bl, release
        orb     $0x80, release
        cmp     $WHAT_PRESS, %al
        je      8f
        movb    $PRESSED, state
8:      call    send
9:      pop     %ds
        popal
        ret
finish: movb    $IDLE, state
        mov     record, %di
        addw    $16, record
        movzbl  what, %eax
        mov     %eax, (%di)
        mov     arrived, %eax
        mov     %eax, 4(%di)
        mov     taken, %eax
        mov     %eax, 8(%di)
        mov     drawn, %eax
        mov     %eax, 12(%di)
        jmp     9b
mark:   movzbl  %bl, %esi
        mov     $STRATA, %eax
        xor     %ecx, %ecx
        cpuid
        cmp     $0x61727453, %ebx
        jne     9b
        mov     $STRATA_MARK, %eax
        mov     %esi, %ecx
        cpuid
        jmp     9b

send:   call    ready                   /* presses scan code BL: handed out as if it came from the keyboard */
        mov     $0xd2, %al
        out     %al, $0x64
        call    ready
        rdtsc
        mov     %eax, press
        mov     %bl, %al
        out     %al, $0x60
        ret
ready:  in      $0x64, %al
        test    $3, %al
        jnz     ready
        ret

report: cli
        mov     $RECORDS, %di
1:      cmp     record, %di
        jae     3f
        mov     $text_key, %si
        call    print
        mov     $4, %cx
2:      mov     (%di), %eax
        call    number
        add     $4, %di
        loop    2b
        mov     $text_line, %si
        call    print
        jmp     1b
3:      mov     $text_end, %si
        call    print
        mov     $COM1 + 5, %dx
5:      in      %dx, %al                /* until the last character has left */
        test    $0x40, %al
        jz      5b
        mov     $0x8900, %dx
        mov     $text_off, %si
4:      lodsb
        out     %al, %dx
        test    %al, %al
        jnz     4b
        hlt
        jmp     .

number: push    %cx                     /* EAX in hexadecimal, and a blank */
        mov     $8, %cx
1:      rol     $4, %eax
        push    %eax
        and     $15, %al
        cmp     $10, %al
        jb      2f
        add     $'a' - '0' - 10, %al
2:      add     $'0', %al
        call    put
        pop     %eax
        loop    1b
        mov     $' ', %al
        call    put
        pop     %cx
        ret
print:  lodsb
        test    %al, %al
        jz      1f
        call    put
        jmp     print
1:      ret
put:    push    %ax
        mov     $COM1 + 5, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        pop     %ax
        mov     $COM1, %dx
        out     %al, %dx
        ret

text_key:
        .asciz  "bench-key: "
text_line:
        .asciz  "\r\n"
text_end:
        .asciz  "bench-end: grub-keyboard\r\n"
text_off:
        .asciz  "Shutdown"
        .balign 4
old9:   .long   0
old10:  .long   0
old16:  .long   0
press:  .long   0
arrived:
        .long   0
taken:  .long   0
drawn:  .long   0
idle:   .word   0
next:   .word   script
record: .word   RECORDS
state:  .byte   IDLE
what:   .byte   0
release:
        .byte   0
        .balign 2
script:
