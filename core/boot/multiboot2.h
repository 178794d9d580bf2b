/*
 * Multiboot2: the numbers of the header in the image (boot.S includes this file, too), and the parser of the
 * information that the boot loader hands over. Multiboot2 Specification, "OS image format" and
 * "Boot information format".
 */
#ifndef STRATA_MULTIBOOT2_H
#define STRATA_MULTIBOOT2_H

#define MULTIBOOT2_HEADER_MAGIC 0xe85250d6
#define MULTIBOOT2_ARCH_I386 0
#define MULTIBOOT2_HEADER_ALIGN 8
#define MULTIBOOT2_HEADER_SEARCH 32768 /* bytes of the image */
#define MULTIBOOT2_HEADER_FIXED 16     /* magic, architecture, length, checksum; tags follow */
#define MULTIBOOT2_HEADER_TAG_END 0
#define MULTIBOOT2_HEADER_TAG_INFO_REQUEST 1
#define MULTIBOOT2_HEADER_TAG_ADDRESS 2
#define MULTIBOOT2_HEADER_TAG_ENTRY 3
#define MULTIBOOT2_HEADER_TAG_CONSOLE_FLAGS 4
#define MULTIBOOT2_HEADER_TAG_FRAMEBUFFER 5
#define MULTIBOOT2_HEADER_TAG_MODULE_ALIGN 6
#define MULTIBOOT2_HEADER_TAG_EFI_SERVICES 7
#define MULTIBOOT2_HEADER_TAG_EFI32_ENTRY 8
#define MULTIBOOT2_HEADER_TAG_EFI64_ENTRY 9
#define MULTIBOOT2_HEADER_TAG_RELOCATABLE 10
#define MULTIBOOT2_HEADER_TAG_OPTIONAL 1   /* flag: the loader may ignore this tag */
#define MULTIBOOT2_LOADER_MAGIC 0x36d76289 /* in EAX at the entry point */

#define MULTIBOOT2_TAG_END 0
#define MULTIBOOT2_TAG_COMMAND_LINE 1
#define MULTIBOOT2_TAG_LOADER_NAME 2
#define MULTIBOOT2_TAG_MODULE 3
#define MULTIBOOT2_TAG_BASIC_MEMORY 4
#define MULTIBOOT2_TAG_BOOT_DEVICE 5
#define MULTIBOOT2_TAG_MEMORY_MAP 6
#define MULTIBOOT2_TAG_VBE 7
#define MULTIBOOT2_TAG_FRAMEBUFFER 8
#define MULTIBOOT2_TAG_EFI32 11
#define MULTIBOOT2_TAG_EFI64 12
#define MULTIBOOT2_TAG_SMBIOS 13
#define MULTIBOOT2_TAG_ACPI_OLD 14
#define MULTIBOOT2_TAG_ACPI_NEW 15
#define MULTIBOOT2_TAG_EFI_MAP 17
#define MULTIBOOT2_TAG_EFI_SERVICES 18 /* boot services have not ended */
#define MULTIBOOT2_TAG_IMAGE_BASE 21

#ifndef __ASSEMBLER__

#include "core/lib/limits.h"
#include "core/memory/memmap.h"
#include "core/lib/types.h"

#define MULTIBOOT2_NO_DRIVE (-1)
#define EFI_DESCRIPTOR_SIZE 40 /* bytes of an EFI memory descriptor that are known; firmware may have longer ones */

/* Physical addresses; end is the first byte behind. */
struct boot_module {
    uint32_t start, end;
    const char *text; /* its command line, terminated. Lies in the parsed buffer. */
};

/* The framebuffer that the boot loader has set up. Multiboot2 Specification, "Framebuffer info". */
enum boot_framebuffer { FRAMEBUFFER_INDEXED, FRAMEBUFFER_RGB, FRAMEBUFFER_TEXT, FRAMEBUFFER_NONE };
struct boot_screen {
    enum boot_framebuffer type;
    uint64_t address;
    uint32_t pitch, width, height; /* bytes a line; pixels, or characters */
    uint8_t depth;                 /* bits a pixel */
    struct {
        uint8_t position, size; /* in bits */
    } colour[3];                /* red, green, blue, where the type is RGB */
};

/* What EFI left. UEFI Specification, "EFI System Table" and "EFI_BOOT_SERVICES.GetMemoryMap()". */
struct boot_efi {
    bool present, is_32;
    uint64_t system_table;
    const uint8_t *map; /* descriptors, in the parsed buffer; NULL when there are none */
    uint32_t map_size, descriptor_size, descriptor_version;
};

struct boot_info {
    const char *command_line; /* terminated; "" when there is none. Lies in the parsed buffer. */
    const char *loader_name;  /* terminated; "" when it does not say */
    int boot_drive;           /* BIOS drive number, or MULTIBOOT2_NO_DRIVE */
    const void *rsdp;         /* copy of the ACPI RSDP in the parsed buffer (the newer one if both), or NULL */
    uint32_t rsdp_size;       /* bytes that may be read there */
    unsigned module_count;    /* of module[] */
    bool modules_cut;         /* there were more than MAX_BOOT_MODULES */
    bool has_memory_map;
    bool efi_services; /* EFI's boot services have not ended */
    struct boot_screen screen;
    struct boot_efi efi;
    struct boot_module module[MAX_BOOT_MODULES];
    struct memmap memmap;
};

enum multiboot2_result {
    MULTIBOOT2_OK,
    MULTIBOOT2_BAD_SIZE, /* total size too small, not a sum of its tags, or a tag passes the end */
    MULTIBOOT2_BAD_TAG,  /* a tag is shorter than its type needs, or its text is not terminated */
    MULTIBOOT2_TOO_MANY, /* the memory map has more ranges than Strata keeps */
};

/* Bytes of the fixed part: read these, then total_size says how many there are. */
#define MULTIBOOT2_INFO_HEADER_SIZE 8

/* The total size, in bytes, that the information at `info` claims for itself; at least its first 8 bytes are readable. */
uint32_t multiboot2_total_size(const void *info);
/*
 * Parses the information in the `size` bytes at `info` (8-byte aligned, size = what may be read). Whatever the
 * bytes are, nothing outside is read. *out is complete only on MULTIBOOT2_OK.
 */
enum multiboot2_result multiboot2_parse(const void *info, size_t size, struct boot_info *out);

#endif
#endif
