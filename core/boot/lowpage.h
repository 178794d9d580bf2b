/*
 * The page of conventional memory that a level takes for itself: layout shared by realmode.S and C.
 * It holds real-mode code only: the INT 15h handler, the boot of the next drive, the start of Strata's own CPUs.
 * The guest can overwrite it (it is its memory map that would lie to it); Strata trusts nothing in it once the guest runs.
 */
#ifndef STRATA_LOWPAGE_H
#define STRATA_LOWPAGE_H

#define LOW_PAGE_SIZE 4096 /* where CPUs start; long lists of memory take more pages */
#define LOW_MESSAGE_SIZE 240
#define LOW_GDT_REAL_CODE 3 /* index of the 16-bit code segment, whose base is the page */

#ifndef __ASSEMBLER__
#include "core/boot/screen.h"
#include "core/lib/types.h"
#include "core/memory/memmap.h"

struct low_page {
    uint8_t ap_jump[8]; /* a SIPI starts here */
    uint64_t ap_entry;  /* 64-bit address to go to */
    uint64_t ap_cpu;    /* its struct cpu: RDI and, at its end of stack, RSP */
    uint64_t ap_stack;  /* initial RSP */
    uint32_t ap_cr3;
    uint16_t gdt_limit;
    uint32_t gdt_base;
    uint32_t gdt_base_high;  /* 0: 64-bit code loads the GDT, too */
    uint32_t ap_jump_offset; /* far pointer to the 64-bit part: linear address */
    uint16_t ap_jump_selector;
    uint16_t old_int15[2];  /* offset, segment of the handler that was there before */
    uint16_t e801_low_kib;  /* KiB between 1 and 16 MiB */
    uint16_t e801_high_64k; /* 64-KiB blocks above 16 MiB */
    uint16_t ah88_kib;      /* KiB above 1 MiB */
    uint16_t e820_count;
    uint8_t boot_drive;
    uint8_t pad1;
    uint16_t real_jump[2];          /* offset, segment: where to_real ends */
    uint16_t boot_entry;            /* offsets, filled by the assembler: where the guest starts, */
    uint16_t int15_entry;           /* the INT 15h handler, */
    uint16_t e820_offset;           /* the E820 entries (20 bytes each), */
    uint16_t ap_long_offset;        /* the 64-bit part of the CPU start, */
    uint16_t gdt_offset;            /* its GDT, */
    uint16_t to_real_offset;        /* the way from 64-bit code to real mode, */
    uint16_t size;                  /* the end of it all */
    char message[LOW_MESSAGE_SIZE]; /* shown on the screen before the drive is booted; ends with a zero byte */
} __attribute__((packed));

extern const uint8_t realmode_blob[], realmode_blob_end[];

/*
 * Chooses the page (machine.low_page) as a PC's BIOS counts memory, and the pages behind it that the memory map needs, and fills
 * in the code. False: its data area makes no sense.
 */
bool lowpage_take(void);
/*
 * Without such a BIOS: chooses a free page of the memory map, which serves to start Strata's own CPUs and is the guest's
 * afterwards. False: there is none.
 */
bool lowpage_borrow(const struct memmap_range *avoid, unsigned avoid_count);
/* Fills in the answers of INT 15h. False: the memory map has too many entries. */
bool lowpage_describe_memory(void);
/* Hooks INT 15h and takes the page out of conventional memory. */
void lowpage_hook_int15(void);
/* The screen of a PC in text mode, as its BIOS describes it, with the lines of its cursor; false: it makes no sense. */
bool lowpage_screen(struct screen *screen);
/* The BIOS goes on below the last line. */
void lowpage_screen_done(const struct screen *screen);
/* Adds a line to what the screen shows before the drive is booted. */
void lowpage_message(const char *text);
/* Boots machine.boot_drive in real mode, without Strata. VMX must be off on this CPU. */
_Noreturn void lowpage_boot_without(void);
#endif
#endif
