/*
 * What Strata can boot from a module: how the image is to lie in memory and how it is entered. Pure; the bytes are a guest's
 * invention as much as anything (Strata's loader may be one), so every number in them is checked before use.
 */
#ifndef STRATA_KERNEL_H
#define STRATA_KERNEL_H

#include "core/lib/types.h"

enum kernel_kind {
    KERNEL_LINUX,      /* bzImage. Linux: Documentation/arch/x86/boot.rst */
    KERNEL_MULTIBOOT2, /* Multiboot2 Specification, "OS image format" */
    KERNEL_MULTIBOOT,  /* Multiboot Specification 0.6.96, "OS image format" */
};

#define KERNEL_SEGMENTS 16

/* A piece of the image: `size` bytes at `from` in the image go to `to`; zeros follow up to `memory` bytes. */
struct kernel_segment {
    uint64_t from, size, to, memory;
};

struct kernel {
    enum kernel_kind kind;
    bool long_mode;         /* entered in 64-bit mode; else in protected mode without paging */
    uint64_t entry;         /* physical, as long as it lies where it wants to */
    uint64_t start, end;    /* where it wants to lie, with all that it uses before it knows memory; end is behind */
    uint64_t align;         /* it may lie elsewhere at multiples of this; 0: nowhere else */
    uint64_t lowest, below; /* bounds of elsewhere */
    uint64_t module_below;  /* modules must end there at the latest */
    uint32_t command_line;  /* most characters of its command line, without the zero byte */
    bool modules_aligned;   /* modules begin at pages */
    unsigned segment_count;
    struct kernel_segment segment[KERNEL_SEGMENTS];
};

/* Finds out what the `size` bytes at image are. NULL, or why they cannot be booted; *out is complete only on NULL. */
const char *kernel_read(const uint8_t *image, uint64_t size, struct kernel *out);

/* The three kinds. KERNEL_OTHER: the image is of another kind, *out may have been written to. */
extern const char KERNEL_OTHER[];
const char *kernel_read_linux(const uint8_t *image, uint64_t size, struct kernel *out);
const char *kernel_read_multiboot2(const uint8_t *image, uint64_t size, struct kernel *out);
const char *kernel_read_multiboot(const uint8_t *image, uint64_t size, struct kernel *out);

/*
 * Segments and entry of an ELF file for x86. *physical_entry: 0, or the entry that the kernel's header names instead of the
 * file's own. NULL, or why not.
 */
const char *kernel_read_elf(const uint8_t *image, uint64_t size, uint64_t physical_entry, struct kernel *out);

/* Adds a segment; start and end grow with it. NULL, or why not. */
const char *kernel_add_segment(struct kernel *kernel, struct kernel_segment segment, uint64_t image_size);

/* The `size` bytes (at most 8) of a little-endian number, which may lie anywhere. */
static inline uint64_t kernel_number(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

#endif
