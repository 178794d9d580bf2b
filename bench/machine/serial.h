/*
 * The first serial port, for programs without an operating system; the same text assembles to 16-bit and 32-bit code.
 */
/* clang-format off: for assembly */
#define COM1 0x3f8
/* 115200 bits per second, 8 data bits, no parity, 1 stop bit. Changes AL and DX. */
.macro SERIAL_SET_UP
        mov     $COM1 + 3, %dx
        mov     $0x80, %al
        out     %al, %dx
        mov     $COM1, %dx
        mov     $1, %al
        out     %al, %dx
        inc     %dx
        xor     %al, %al
        out     %al, %dx
        mov     $COM1 + 3, %dx
        mov     $3, %al
        out     %al, %dx
.endm
