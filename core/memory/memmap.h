/*
 * The memory map of the machine, as the boot loader gives it and as Strata's guest is to see it, and the
 * ready-made answers of INT 15h made from it. Always sorted, without overlaps, neighbours of one type merged.
 * Bytes that no entry covers are nothing: neither RAM nor known to be anything else.
 */
#ifndef STRATA_MEMMAP_H
#define STRATA_MEMMAP_H

#include "core/lib/limits.h"
#include "core/lib/types.h"

/* Types as E820 numbers them (ACPI specification, "System Address Map Interfaces"). */
enum memmap_type { MEMMAP_RAM = 1, MEMMAP_RESERVED = 2, MEMMAP_ACPI = 3, MEMMAP_NVS = 4, MEMMAP_UNUSABLE = 5 };

#define LOW_MEMORY_END (640 * KIB) /* where a PC's conventional memory ends at the latest */

struct memmap_entry {
    uint64_t base, length; /* bytes; base + length does not pass 2^64 */
    uint32_t type;         /* enum memmap_type, or any number a firmware invented */
};

struct memmap {
    uint32_t count;
    struct memmap_entry entry[MEMMAP_ENTRIES];
};

struct memmap_range {
    uint64_t start, end;
}; /* bytes; end is the first byte behind */

void memmap_init(struct memmap *map);
/*
 * Adds a range in any order, overlapping or not. Where ranges overlap, the higher type number wins (so RAM
 * loses against everything else). Empty ranges and type 0 are ignored; a range passing 2^64 is cut there.
 * False when the map is full: it is then as before.
 */
bool memmap_add(struct memmap *map, uint64_t base, uint64_t length, uint32_t type);
/* Turns the RAM in [start, start+size) into reserved memory. False when the map is full: it is then as before. */
bool memmap_hide(struct memmap *map, uint64_t start, uint64_t size);
/*
 * Highest address a, a multiple of align (a power of two), with all of [a, a+size) RAM, at or above 1 MiB, below
 * `below`, and touching none of the `avoid` ranges. 0 when there is none.
 */
uint64_t memmap_place(const struct memmap *map, uint64_t size, uint64_t align, uint64_t below,
                      const struct memmap_range *avoid, unsigned avoid_count);
/* The same for pages of the first 640 KiB; never the first of all. */
uint64_t memmap_place_low(const struct memmap *map, uint64_t size, const struct memmap_range *avoid,
                          unsigned avoid_count);
bool memmap_is_ram(const struct memmap *map, uint64_t addr);
/* End of the RAM that goes on without a gap from start, but not beyond limit; start when there is none. */
uint64_t memmap_ram_run(const struct memmap *map, uint64_t start, uint64_t limit);
/* First byte behind the last RAM; 0 without RAM. */
uint64_t memmap_ram_end(const struct memmap *map);

/* One entry of INT 15h AX=E820h, as it lies in memory. */
struct e820_entry {
    uint64_t base, length;
    uint32_t type;
    uint32_t attributes; /* ACPI 3.0 extended attributes: bit 0 set = valid */
} __attribute__((packed));
#define E820_ENTRY_OLD_SIZE 20 /* bytes that a caller without extended attributes gets */
#define E820_ATTRIBUTE_VALID 1u

/* Registers of the INT 15h answers about extended memory. */
struct int15_memory {
    uint16_t e801_low;  /* AX and CX: KiB from 1 MiB up to 16 MiB, at most 3C00h */
    uint16_t e801_high; /* BX and DX: 64-KiB units from 16 MiB up */
    uint16_t h88;       /* AX of AH=88h: KiB from 1 MiB up, at most FC00h (64 MiB in all, as BIOSes do) */
};

/*
 * The E820 list: the map, with conventional memory (RAM in the first 640 KiB) ending at low_end bytes at most.
 * What is cut off there becomes reserved. Writes at most max entries, returns their number; 0 when they do not fit.
 */
unsigned memmap_e820(const struct memmap *map, uint64_t low_end, struct e820_entry *out, unsigned max);
/* The older answers: both count only RAM without a gap from 1 MiB (and from 16 MiB), as hidden memory leaves it. */
struct int15_memory memmap_int15(const struct memmap *map);

#endif
