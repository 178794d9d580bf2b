/*
 * What a kernel that Strata boots is told of the machine, in the form that its kind expects: Linux's boot parameters, multiboot2
 * or multiboot information. It is what the boot loader said of it, less what this level keeps. Pure.
 */
#ifndef STRATA_GUEST_INFO_H
#define STRATA_GUEST_INFO_H

#include "core/boot/kernel.h"
#include "core/boot/multiboot2.h"

struct guest_view {
    const void *info; /* the boot loader's multiboot2 information, parsed as *boot: */
    const struct boot_info *boot;
    const struct memmap *memmap; /* as the guest is to see it */
    uint64_t low_end;            /* conventional memory ends there, at 640 KiB at the latest */
    unsigned kept_count;         /* what this level keeps of free memory: multiples of 4 KiB, apart */
    const struct memmap_range *kept;
    const char *command_line; /* of the kernel */
    unsigned module_count;    /* what is handed to the kernel, where it lies now */
    const struct boot_module *module;
    uint64_t shift; /* how far from where it wanted to be the kernel lies */
};

/* Memory of the guest's that is being filled: `size` bytes, which the guest finds at `address` (a multiple of 4 KiB). */
struct area {
    uint8_t *bytes;
    uint64_t address, size, used;
};

/* Bytes that an area must have for any of the following. */
uint64_t guest_info_bound(const struct guest_view *view);

/*
 * Writes the information into the area. Returns its address, 0 when it does not fit. image: the kernel's module, as it was
 * loaded. Of several modules Linux gets the first as its initial RAM disk.
 */
uint64_t guest_info_linux(const struct guest_view *view, const struct kernel *kernel, const uint8_t *image,
                          struct area *area);
uint64_t guest_info_multiboot2(const struct guest_view *view, const struct kernel *kernel, struct area *area);
uint64_t guest_info_multiboot(const struct guest_view *view, struct area *area);

/* The memory map in E820's form, valid until the next call. *count 0: it has too many entries. */
const struct e820_entry *guest_info_memory(const struct guest_view *view, unsigned *count);
/* KiB of memory without a gap, from 0 and from 1 MiB. */
uint32_t guest_info_low_kib(const struct guest_view *view);
uint32_t guest_info_high_kib(const struct guest_view *view);

/* A zeroed piece of an area, and where the guest finds it. NULL: no room. align: a power of 2. */
void *area_take(struct area *area, uint64_t size, uint64_t align, uint64_t *address);
/* A copy of a terminated text. Returns where the guest finds it, 0: no room. */
uint64_t area_text(struct area *area, const char *text);

/* Length of a terminated text, in bytes, without its end. */
static inline uint64_t text_length(const char *text)
{
    uint64_t length = 0;
    while (text[length])
        length++;
    return length;
}

#endif
