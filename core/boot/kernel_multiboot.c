/*
 * Reads the headers of multiboot2 and multiboot kernels. Pure.
 */
#include "core/boot/kernel.h"

#include "core/boot/multiboot.h"
#include "core/boot/multiboot2.h"
#include "core/memory/mem.h"

#define FROM_FILE_START 0xffffffffu /* load_addr of a multiboot2 kernel whose whole file is loaded */

struct tag_header {
    uint16_t type, flags;
    uint32_t size;
};

/* What a header says about addresses; 0 where it says nothing. */
struct addresses {
    bool given;
    uint64_t header, load, load_end, bss_end, entry;
};

/* The offset of a header in the image, or UINT64_MAX. */
static uint64_t find_header(const uint8_t *image, uint64_t size, uint32_t magic, uint64_t align, uint64_t within,
                            unsigned words)
{
    for (uint64_t at = 0; at + words * 4 <= size && at + words * 4 <= within; at += align) {
        if (kernel_number(image + at, 4) != magic)
            continue;
        uint32_t sum = 0;
        for (unsigned i = 0; i < words; i++)
            sum += (uint32_t)kernel_number(image + at + 4 * i, 4);
        if (sum == 0)
            return at;
    }
    return UINT64_MAX;
}

/* A kernel that is no ELF file, or wants not to be loaded as one: "the address fields of the header". */
static const char *read_by_addresses(const struct addresses *a, uint64_t header_at, uint64_t size, struct kernel *out)
{
    uint64_t load = a->load == FROM_FILE_START ? a->header - header_at : a->load;
    if (a->header < load || a->header - load > header_at || (a->load_end && a->load_end < load))
        return "its multiboot header is damaged: the load addresses make no sense";
    uint64_t from = header_at - (a->header - load), bytes = a->load_end ? a->load_end - load : size - from;
    uint64_t memory = a->bss_end > load + bytes ? a->bss_end - load : bytes;
    const char *reason = kernel_add_segment(out, (struct kernel_segment){ from, bytes, load, memory }, size);
    if (reason)
        return reason;
    out->entry = a->entry;
    return a->entry < out->start || a->entry >= out->end ? "its entry lies outside what is to be loaded" : NULL;
}

static const char *read_relocatable(const uint8_t *at, uint32_t size, struct kernel *out)
{
    if (size < sizeof(struct tag_header) + 12)
        return "its multiboot2 header is damaged";
    uint64_t align = kernel_number(at + 16, 4);
    if (align & (align - 1))
        return "its multiboot2 header is damaged: the alignment is no power of 2";
    out->align = align < PAGE_SIZE ? PAGE_SIZE : align;
    out->lowest = kernel_number(at + 8, 4);
    out->below = kernel_number(at + 12, 4);
    return NULL;
}

static const char *read_request(const uint8_t *at, struct tag_header tag)
{
    for (uint32_t i = sizeof(tag); i + 4 <= tag.size; i += 4)
        if (kernel_number(at + i, 4) > MULTIBOOT2_TAG_IMAGE_BASE)
            return "it asks for information that Strata does not know";
    return NULL;
}

static const char *read_tag(const uint8_t *at, struct tag_header tag, struct addresses *a, struct kernel *out)
{
    bool optional = tag.flags & MULTIBOOT2_HEADER_TAG_OPTIONAL;
    switch (tag.type) {
    case MULTIBOOT2_HEADER_TAG_INFO_REQUEST:
        return optional ? NULL : read_request(at, tag);
    case MULTIBOOT2_HEADER_TAG_ADDRESS:
        if (tag.size < sizeof(tag) + 16)
            return "its multiboot2 header is damaged";
        a->given = true;
        a->header = kernel_number(at + 8, 4);
        a->load = kernel_number(at + 12, 4);
        a->load_end = kernel_number(at + 16, 4);
        a->bss_end = kernel_number(at + 20, 4);
        return NULL;
    case MULTIBOOT2_HEADER_TAG_ENTRY:
        if (tag.size < sizeof(tag) + 4)
            return "its multiboot2 header is damaged";
        a->entry = kernel_number(at + 8, 4);
        return NULL;
    case MULTIBOOT2_HEADER_TAG_RELOCATABLE:
        return read_relocatable(at, tag.size, out);
    case MULTIBOOT2_HEADER_TAG_MODULE_ALIGN:
        out->modules_aligned = true;
        return NULL;
    case MULTIBOOT2_HEADER_TAG_CONSOLE_FLAGS: /* the screen stays as it is, and is described */
    case MULTIBOOT2_HEADER_TAG_FRAMEBUFFER:
    case MULTIBOOT2_HEADER_TAG_EFI32_ENTRY: /* for kernels that are started with boot services */
    case MULTIBOOT2_HEADER_TAG_EFI64_ENTRY:
        return NULL;
    case MULTIBOOT2_HEADER_TAG_EFI_SERVICES:
        return optional ? NULL : "it needs EFI boot services, which have ended";
    default:
        return optional ? NULL : "its multiboot2 header demands something that Strata does not know";
    }
}

const char *kernel_read_multiboot2(const uint8_t *image, uint64_t size, struct kernel *out)
{
    uint64_t header_at = find_header(image, size, MULTIBOOT2_HEADER_MAGIC, MULTIBOOT2_HEADER_ALIGN,
                                     MULTIBOOT2_HEADER_SEARCH, 4);
    if (header_at == UINT64_MAX)
        return KERNEL_OTHER;
    out->kind = KERNEL_MULTIBOOT2;
    if (kernel_number(image + header_at + 4, 4) != MULTIBOOT2_ARCH_I386)
        return "it is a multiboot2 kernel for another processor";
    uint64_t length = kernel_number(image + header_at + 8, 4), at = MULTIBOOT2_HEADER_FIXED;
    if (length > size - header_at)
        return "its multiboot2 header is damaged";
    struct addresses addresses = { 0 };
    for (;;) {
        const uint8_t *tag_at = image + header_at + at;
        struct tag_header tag;
        if (at > length || length - at < sizeof(tag))
            return "its multiboot2 header is damaged: it has no end";
        memcpy(&tag, tag_at, sizeof(tag));
        if (tag.size < sizeof(tag) || tag.size > length - at)
            return "its multiboot2 header is damaged";
        if (tag.type == MULTIBOOT2_HEADER_TAG_END)
            break;
        const char *reason = read_tag(tag_at, tag, &addresses, out);
        if (reason)
            return reason;
        at += align_up(tag.size, MULTIBOOT2_HEADER_ALIGN);
    }
    if (addresses.given)
        return read_by_addresses(&addresses, header_at, size, out);
    return kernel_read_elf(image, size, addresses.entry, out);
}

const char *kernel_read_multiboot(const uint8_t *image, uint64_t size, struct kernel *out)
{
    uint64_t header_at = find_header(image, size, MULTIBOOT_HEADER_MAGIC, MULTIBOOT_HEADER_ALIGN,
                                     MULTIBOOT_HEADER_SEARCH, 3);
    if (header_at == UINT64_MAX)
        return KERNEL_OTHER;
    out->kind = KERNEL_MULTIBOOT;
    uint32_t flags = (uint32_t)kernel_number(image + header_at + 4, 4);
    if (flags & MULTIBOOT_HEADER_UNKNOWN)
        return "its multiboot header demands something that Strata does not know";
    out->modules_aligned = flags & MULTIBOOT_HEADER_PAGE_ALIGN;
    if (!(flags & MULTIBOOT_HEADER_ADDRESSES))
        return kernel_read_elf(image, size, 0, out);
    if (size - header_at < MULTIBOOT_HEADER_SIZE)
        return "its multiboot header is damaged";
    const uint8_t *fields = image + header_at + 12;
    struct addresses a = { true,
                           kernel_number(fields, 4),
                           kernel_number(fields + 4, 4),
                           kernel_number(fields + 8, 4),
                           kernel_number(fields + 12, 4),
                           kernel_number(fields + 16, 4) };
    return read_by_addresses(&a, header_at, size, out);
}
