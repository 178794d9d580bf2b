/*
 * Put in front of a Linux kernel by hook.py: runs where the boot protocol has the kernel start (32-bit entry), has
 * every Strata below print its counters, says on COM1 what time it was at GRUB's boot command (left in SYSENTER_EIP),
 * when it was entered ("tsc") and after the counters were printed ("after"), and goes on with the kernel. All that the
 * kernel finds is as GRUB left it, ESP, EFLAGS' conditions and the serial port's speed aside.
 */
#include "bench/machine/serial.inc"
#define SCRATCH_END 0x1e8               /* boot_params: four bytes for the loader's own use end here */
#define SYSENTER_EIP 0x176
#define STRATA 0x40000100
#define STRATA_MARK 0x40000104
#define SIGNATURE 0x61727453
        .text
        .global start
start:  lea     SCRATCH_END(%esi), %esp
        call    1f
1:      popl    %esp
        lea     stack_end - 1b(%esp), %esp
        pushal
        call    2f
2:      popl    %ebp
        sub     $2b - start, %ebp       /* where this runs */
        rdtsc
        mov     %eax, before - start(%ebp)
        mov     %edx, before + 4 - start(%ebp)
        mov     $SYSENTER_EIP, %ecx
        rdmsr
        mov     %eax, boot - start(%ebp)
        mov     %edx, boot + 4 - start(%ebp)
        xor     %eax, %eax
        xor     %edx, %edx
        wrmsr
        mov     $STRATA, %eax
        xor     %ecx, %ecx
        cpuid
        cmp     $SIGNATURE, %ebx
        jne     3f
        mov     $STRATA_MARK, %eax
        mov     $MARKER, %ecx
        cpuid
3:      rdtsc
        mov     %eax, after - start(%ebp)
        mov     %edx, after + 4 - start(%ebp)
        SERIAL_SET_UP
        lea     say_boot - start(%ebp), %esi
        lea     boot - start(%ebp), %edi
        call    say
        lea     say_before - start(%ebp), %esi
        lea     before - start(%ebp), %edi
        call    say
        lea     say_after - start(%ebp), %esi
        lea     after - start(%ebp), %edi
        call    say
        mov     $'\n', %al
        call    put
        lea     BACK(%ebp), %eax
        mov     %eax, kernel - start(%ebp)
        popal
        jmp     *kernel - stack_end(%esp)

say:    lodsb                           /* the text at ESI and the number at EDI */
        test    %al, %al
        jz      number
        call    put
        jmp     say
number: mov     4(%edi), %eax
        call    word
        mov     (%edi), %eax
word:   mov     $8, %ecx
1:      rol     $4, %eax
        push    %eax
        and     $15, %al
        cmp     $10, %al
        sbb     $0x69, %al              /* 0..15 as a hexadecimal digit */
        das
        call    put
        pop     %eax
        loop    1b
        ret
put:    push    %eax
        mov     $COM1 + 5, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        pop     %eax
        mov     $COM1, %dx
        out     %al, %dx
        ret

say_boot:
        .asciz  "strata-guest: stage=grub-boot tsc=0x"
say_before:
        .asciz  "\nstrata-guest: stage=kernel tsc=0x"
say_after:
        .asciz  " after=0x"
        .balign 4
boot:   .quad   0
before: .quad   0
after:  .quad   0
        .space  96
stack_end:
kernel: .long   0
