/*
 * Reads the setup header of a Linux bzImage. Pure. Linux: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 */
#include "core/boot/kernel.h"

#include "core/boot/linux_params.h"
#include "core/memory/mem.h"

#define SECTOR 512
#define SETUP_SECTS_OF_0 4 /* what a setup_sects of 0 means */
#define HEADER_END 0x268   /* the fields that are read end here */
#define BOOT_FLAG 0xaa55
#define VERSION_MIN 0x20a  /* 2.10, the first with init_size */
#define VERSION_LONG 0x20c /* 2.12, the first with xloadflags */
#define LOADED_AT 0x100000 /* what code32_start counts from */
#define ENTRY_64 0x200     /* of the 64-bit entry, from where the kernel lies */
#define PARAGRAPH 16       /* unit of syssize */
#define INITRD_MAX_OLD 0x37ffffff

/* The kernel's image in memory, and where it may lie. */
static const char *read_place(const struct linux_header *h, uint64_t offset, uint64_t size, struct kernel *out)
{
    uint64_t payload = size - offset;
    if (payload + PARAGRAPH - 1 < (uint64_t)h->syssize * PARAGRAPH)
        return "it is cut off: shorter than its header says";
    if (h->init_size < payload)
        return "its header is damaged: it needs less memory than it has bytes";
    uint64_t align = h->kernel_alignment;
    if (h->relocatable_kernel && (align < PAGE_SIZE || (align & (align - 1))))
        return "its header is damaged: the alignment of the kernel is no power of 2";
    out->align = h->relocatable_kernel ? align : 0;
    out->lowest = LOADED_AT;
    out->below = 4 * GIB;
    struct kernel_segment all = { offset, payload, h->relocatable_kernel ? h->pref_address : LOADED_AT, h->init_size };
    return kernel_add_segment(out, all, size);
}

/* A kernel whose code32_start was changed has a boot loader's hook there, which is 32-bit code: that is what is entered. */
static const char *read_entry(const struct linux_header *h, struct kernel *out)
{
    uint64_t payload = out->segment[0].size;
    out->long_mode = h->version >= VERSION_LONG && (h->xloadflags & LINUX_XLF_KERNEL_64) &&
                     h->code32_start == LOADED_AT;
    uint64_t offset = out->long_mode ? ENTRY_64 : (uint64_t)h->code32_start - LOADED_AT;
    if (h->code32_start < LOADED_AT || offset >= payload)
        return "its header is damaged: the entry lies outside the kernel";
    out->entry = out->start + offset;
    return NULL;
}

const char *kernel_read_linux(const uint8_t *image, uint64_t size, struct kernel *out)
{
    struct linux_header h;
    if (size < HEADER_END)
        return KERNEL_OTHER;
    memcpy(&h, image + LINUX_HEADER_START, sizeof(h));
    if (h.boot_flag != BOOT_FLAG || memcmp(h.header, LINUX_HEADER_MAGIC, sizeof(h.header)))
        return KERNEL_OTHER;
    out->kind = KERNEL_LINUX;
    if (h.version < VERSION_MIN)
        return "it is too old: a Linux boot protocol before 2.10 (Linux 2.6.31)";
    if (!(h.loadflags & LINUX_LOADED_HIGH))
        return "it is a zImage, which lies below 1 MiB";
    uint64_t offset = ((h.setup_sects ? h.setup_sects : SETUP_SECTS_OF_0) + 1u) * SECTOR;
    if (offset >= size)
        return "it is cut off: shorter than its header says";
    out->command_line = h.cmdline_size;
    out->module_below = h.initrd_addr_max ? (uint64_t)h.initrd_addr_max + 1 : INITRD_MAX_OLD + 1ull;
    if (h.version >= VERSION_LONG && (h.xloadflags & LINUX_XLF_ABOVE_4G))
        out->module_below = 4 * GIB;
    const char *reason = read_place(&h, offset, size, out);
    return reason ? reason : read_entry(&h, out);
}
