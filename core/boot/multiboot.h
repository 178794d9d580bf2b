/*
 * Multiboot, the older specification (0.6.96): the header of a kernel and the information that it gets.
 */
#ifndef STRATA_MULTIBOOT_H
#define STRATA_MULTIBOOT_H

#include "core/lib/types.h"

#define MULTIBOOT_HEADER_MAGIC 0x1badb002
#define MULTIBOOT_LOADER_MAGIC 0x2badb002 /* in EAX at the entry point */
#define MULTIBOOT_HEADER_ALIGN 4
#define MULTIBOOT_HEADER_SEARCH 8192 /* bytes of the image */
#define MULTIBOOT_HEADER_SIZE 32     /* with the address fields */
#define MULTIBOOT_HEADER_PAGE_ALIGN 0x1u
#define MULTIBOOT_HEADER_ADDRESSES 0x10000u
#define MULTIBOOT_HEADER_UNKNOWN 0xfff8u /* of the bits that a loader must know: all but modules, memory, video */

enum multiboot_flag {
    MULTIBOOT_HAS_MEMORY = 1 << 0,
    MULTIBOOT_HAS_BOOT_DEVICE = 1 << 1,
    MULTIBOOT_HAS_COMMAND_LINE = 1 << 2,
    MULTIBOOT_HAS_MODULES = 1 << 3,
    MULTIBOOT_HAS_MEMORY_MAP = 1 << 6,
    MULTIBOOT_HAS_LOADER_NAME = 1 << 9,
    MULTIBOOT_HAS_FRAMEBUFFER = 1 << 12,
};

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line, module_count, modules;
    uint32_t symbols[4];
    uint32_t map_length, map, drives_length, drives, config_table, loader_name, apm_table;
    uint32_t vbe[4];
    uint64_t framebuffer;
    uint32_t framebuffer_pitch, framebuffer_width, framebuffer_height;
    uint8_t framebuffer_depth, framebuffer_type, framebuffer_colours[6];
} __attribute__((packed));

struct multiboot_module {
    uint32_t start, end, text, reserved;
};

/* `size` counts what follows it. */
struct multiboot_map_entry {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

#endif
