/*
 * The boot sector in front of GRUB's: puts the resident program (resident.S) at the top of conventional memory, as
 * Strata's own stub does, and goes on with GRUB's boot sector, which keyboard.py has put elsewhere. At most 440 bytes.
 */
#define RESIDENT_SECTOR 2041
#define RESIDENT_SECTORS 7
#define GRUB_SECTOR 2040
#define RESIDENT_KIB 8
        .code16
        .text
        .global _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     %ax, %es
        mov     $0x7c00, %si            /* this sector makes room for GRUB's */
        mov     $0x600, %di
        mov     $256, %cx
        cld
        rep movsw
        ljmp    $0, $0x600 + moved - _start
moved:  sti
        mov     %dl, 0x600 + drive - _start
        subw    $RESIDENT_KIB, 0x413
        mov     0x413, %ax
        shl     $6, %ax
        mov     %ax, 0x600 + segment - _start
        mov     %ax, 0x600 + packet + 6 - _start
        mov     $0x600 + packet - _start, %si
        call    read
        lcall   *0x600 + offset - _start
        mov     $0x600 + packet_grub - _start, %si
        call    read
        mov     0x600 + drive - _start, %dl
        xor     %ax, %ax
        mov     %ax, %es
        ljmp    $0, $0x7c00
read:   mov     0x600 + drive - _start, %dl
        mov     $0x42, %ah
        int     $0x13
        jc      .
        ret
        .balign 4
packet: .byte   16, 0
        .word   RESIDENT_SECTORS, 0, 0
        .quad   RESIDENT_SECTOR
packet_grub:
        .byte   16, 0
        .word   1, 0x7c00, 0
        .quad   GRUB_SECTOR
offset: .word   0
segment:
        .word   0
drive:  .byte   0
        .org    440, 0
