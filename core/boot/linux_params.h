/*
 * Linux's boot parameters, the "zero page", as far as a boot loader fills them in.
 * Linux: Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#ifndef STRATA_LINUX_PARAMS_H
#define STRATA_LINUX_PARAMS_H

#include "core/lib/types.h"
#include "core/memory/memmap.h"

#define LINUX_HEADER_START 0x1f1
#define LINUX_HEADER_MAGIC "HdrS"
#define LINUX_HEADER_JUMP 0x201 /* the second byte of a jump over the header, which tells its end */
#define LINUX_LOADED_HIGH 0x01  /* loadflags */
#define LINUX_XLF_KERNEL_64 0x01
#define LINUX_XLF_ABOVE_4G 0x02
#define LINUX_LOADER_UNKNOWN 0xff /* type_of_loader: one without a number of its own */

/* At 1F1h of the image and of the boot parameters. */
struct linux_header {
    uint8_t setup_sects;
    uint16_t root_flags;
    uint32_t syssize;
    uint16_t ram_size, vid_mode, root_dev, boot_flag, jump;
    char header[4];
    uint16_t version;
    uint32_t realmode_swtch;
    uint16_t start_sys_seg, kernel_version;
    uint8_t type_of_loader, loadflags;
    uint16_t setup_move_size;
    uint32_t code32_start, ramdisk_image, ramdisk_size, bootsect_kludge;
    uint16_t heap_end_ptr;
    uint8_t ext_loader_ver, ext_loader_type;
    uint32_t cmd_line_ptr, initrd_addr_max, kernel_alignment;
    uint8_t relocatable_kernel, min_alignment;
    uint16_t xloadflags;
    uint32_t cmdline_size, hardware_subarch;
    uint64_t hardware_subarch_data;
    uint32_t payload_offset, payload_length;
    uint64_t setup_data, pref_address;
    uint32_t init_size, handover_offset;
} __attribute__((packed));

#define LINUX_VIDEO_VGA_TEXT 0x01
#define LINUX_VIDEO_VESA 0x23 /* a linear framebuffer that a BIOS has set up */
#define LINUX_VIDEO_EFI 0x70  /* one of EFI's */

struct linux_screen {
    uint8_t x, y;
    uint16_t ext_mem_k, page;
    uint8_t mode, columns;
    uint16_t unused2, ega_bx, unused3;
    uint8_t lines, type;
    uint16_t points, width, height, depth;
    uint32_t base, size;
    uint16_t magic, parameters, line_length;
    struct {
        uint8_t size, position;
    } red, green, blue, reserved;
    uint16_t vesapm_seg, vesapm_off, pages, attributes;
    uint32_t capabilities, ext_base;
    uint8_t rest[2];
} __attribute__((packed));

struct linux_efi_info {
    char signature[4]; /* "EL64" or "EL32" */
    uint32_t system_table, descriptor_size, descriptor_version, map, map_size, system_table_high, map_high;
} __attribute__((packed));

#define LINUX_E820_MAX 128 /* entries; more go into setup data */

struct linux_params {
    struct linux_screen screen; /* 0 */
    uint8_t gap1[0x70 - 0x40];
    uint64_t acpi_rsdp_addr; /* 70h */
    uint8_t gap2[0xc0 - 0x78];
    uint32_t ext_ramdisk_image, ext_ramdisk_size, ext_cmd_line_ptr; /* C0h */
    uint8_t gap3[0x1c0 - 0xcc];
    struct linux_efi_info efi; /* 1C0h */
    uint32_t alt_mem_k, scratch;
    uint8_t e820_entries; /* 1E8h */
    uint8_t gap4[LINUX_HEADER_START - 0x1e9];
    struct linux_header hdr; /* 1F1h */
    uint8_t gap5[0x2d0 - LINUX_HEADER_START - sizeof(struct linux_header)];
    uint8_t e820_table[LINUX_E820_MAX * E820_ENTRY_OLD_SIZE]; /* 2D0h */
    uint8_t gap6[0x1000 - 0x2d0 - LINUX_E820_MAX * E820_ENTRY_OLD_SIZE];
} __attribute__((packed));

_Static_assert(sizeof(struct linux_screen) == 0x40, "screen_info");
_Static_assert(offsetof(struct linux_params, efi) == 0x1c0, "efi_info");
_Static_assert(offsetof(struct linux_params, hdr.init_size) == 0x260, "init_size");
_Static_assert(offsetof(struct linux_params, e820_table) == 0x2d0, "e820_table");
_Static_assert(sizeof(struct linux_params) == 0x1000, "boot_params");

#define LINUX_SETUP_E820_EXT 1
struct linux_setup_data {
    uint64_t next;
    uint32_t type, length; /* bytes behind this */
} __attribute__((packed));

#endif
