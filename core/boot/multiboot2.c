/*
 * Parser of the multiboot2 information. Pure: a bounded buffer in, struct boot_info out. Every size in the buffer
 * is checked before use, although it comes from the boot loader: Strata's loader may itself be a guest's.
 */
#include "core/boot/multiboot2.h"

#include "core/memory/mem.h"

#define TAG_ALIGN 8

struct tag {
    uint32_t type, size;
};

struct tag_module {
    struct tag tag;
    uint32_t start, end;
}; /* then a terminated string */
struct tag_boot_device {
    struct tag tag;
    uint32_t drive, partition, sub_partition;
};
struct tag_memory_map {
    struct tag tag;
    uint32_t entry_size, entry_version;
}; /* then entries */
struct map_entry {
    uint64_t base, length;
    uint32_t type, reserved;
};

struct cursor {
    const uint8_t *at;
    size_t size;
}; /* one tag with its header, size bytes */

uint32_t multiboot2_total_size(const void *info)
{
    uint32_t total;
    memcpy(&total, info, sizeof(total));
    return total;
}

static bool text_terminated(const uint8_t *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] == 0)
            return true;
    return false;
}

static enum multiboot2_result parse_command_line(struct cursor c, struct boot_info *out)
{
    if (!text_terminated(c.at + sizeof(struct tag), c.size - sizeof(struct tag)))
        return MULTIBOOT2_BAD_TAG;
    out->command_line = (const char *)c.at + sizeof(struct tag);
    return MULTIBOOT2_OK;
}

static enum multiboot2_result parse_module(struct cursor c, struct boot_info *out)
{
    struct tag_module module;
    if (c.size < sizeof(module))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&module, c.at, sizeof(module));
    if (module.end < module.start)
        return MULTIBOOT2_BAD_TAG;
    if (out->module_count == MAX_BOOT_MODULES)
        out->modules_cut = true;
    else
        out->module[out->module_count++] = (struct boot_module){ module.start, module.end };
    return MULTIBOOT2_OK;
}

static enum multiboot2_result parse_boot_device(struct cursor c, struct boot_info *out)
{
    struct tag_boot_device device;
    if (c.size < sizeof(device))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&device, c.at, sizeof(device));
    if (device.drive <= UINT8_MAX)
        out->boot_drive = (int)device.drive;
    return MULTIBOOT2_OK;
}

/* Entries may be longer than the ones known: entry_size is the step. */
static enum multiboot2_result parse_memory_map(struct cursor c, struct boot_info *out)
{
    struct tag_memory_map head;
    if (c.size < sizeof(head))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&head, c.at, sizeof(head));
    if (head.entry_size < sizeof(struct map_entry) || head.entry_size % TAG_ALIGN)
        return MULTIBOOT2_BAD_TAG;
    size_t left = c.size - sizeof(head);
    for (const uint8_t *at = c.at + sizeof(head); left >= head.entry_size;
         at += head.entry_size, left -= head.entry_size) {
        struct map_entry entry;
        memcpy(&entry, at, sizeof(entry));
        if (!memmap_add(&out->memmap, entry.base, entry.length, entry.type))
            return MULTIBOOT2_TOO_MANY;
    }
    if (left)
        return MULTIBOOT2_BAD_TAG;
    out->has_memory_map = true;
    return MULTIBOOT2_OK;
}

/* The ACPI 2.0 copy (type 15) is preferred: it has the address of the XSDT. */
static enum multiboot2_result parse_rsdp(struct cursor c, uint32_t type, struct boot_info *out)
{
    if (out->rsdp && type == MULTIBOOT2_TAG_ACPI_OLD)
        return MULTIBOOT2_OK;
    out->rsdp = c.at + sizeof(struct tag);
    out->rsdp_size = (uint32_t)(c.size - sizeof(struct tag));
    return MULTIBOOT2_OK;
}

static enum multiboot2_result parse_tag(struct cursor c, uint32_t type, struct boot_info *out)
{
    switch (type) {
    case MULTIBOOT2_TAG_COMMAND_LINE:
        return parse_command_line(c, out);
    case MULTIBOOT2_TAG_MODULE:
        return parse_module(c, out);
    case MULTIBOOT2_TAG_BOOT_DEVICE:
        return parse_boot_device(c, out);
    case MULTIBOOT2_TAG_MEMORY_MAP:
        return parse_memory_map(c, out);
    case MULTIBOOT2_TAG_ACPI_OLD:
    case MULTIBOOT2_TAG_ACPI_NEW:
        return parse_rsdp(c, type, out);
    default:
        return MULTIBOOT2_OK;
    }
}

enum multiboot2_result multiboot2_parse(const void *info, size_t size, struct boot_info *out)
{
    memset(out, 0, sizeof(*out));
    out->command_line = "";
    out->boot_drive = MULTIBOOT2_NO_DRIVE;
    memmap_init(&out->memmap);
    if (size < MULTIBOOT2_INFO_HEADER_SIZE || multiboot2_total_size(info) > size)
        return MULTIBOOT2_BAD_SIZE;
    size_t total = multiboot2_total_size(info), offset = MULTIBOOT2_INFO_HEADER_SIZE;
    while (offset <= total && total - offset >= sizeof(struct tag)) {
        const uint8_t *at = (const uint8_t *)info + offset;
        struct tag tag;
        memcpy(&tag, at, sizeof(tag));
        if (tag.size < sizeof(tag) || tag.size > total - offset)
            return MULTIBOOT2_BAD_SIZE;
        if (tag.type == MULTIBOOT2_TAG_END)
            return MULTIBOOT2_OK;
        enum multiboot2_result result = parse_tag((struct cursor){ at, tag.size }, tag.type, out);
        if (result != MULTIBOOT2_OK)
            return result;
        offset += align_up(tag.size, TAG_ALIGN);
    }
    return MULTIBOOT2_BAD_SIZE;
}
