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
struct tag_framebuffer {
    struct tag tag;
    uint64_t address;
    uint32_t pitch, width, height;
    uint8_t depth, type, reserved[2];
}; /* then the colours */
struct tag_efi_map {
    struct tag tag;
    uint32_t descriptor_size, descriptor_version;
}; /* then descriptors */
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

/* Whether the text that begins at this offset in a tag of `size` bytes ends in it. */
static bool text_terminated(const uint8_t *tag, size_t size, size_t offset)
{
    for (size_t i = offset; i < size; i++)
        if (tag[i] == 0)
            return true;
    return false;
}

static enum multiboot2_result parse_command_line(struct cursor c, struct boot_info *out)
{
    if (!text_terminated(c.at, c.size, sizeof(struct tag)))
        return MULTIBOOT2_BAD_TAG;
    out->command_line = (const char *)c.at + sizeof(struct tag);
    return MULTIBOOT2_OK;
}

static enum multiboot2_result parse_loader_name(struct cursor c, struct boot_info *out)
{
    if (!text_terminated(c.at, c.size, sizeof(struct tag)))
        return MULTIBOOT2_BAD_TAG;
    out->loader_name = (const char *)c.at + sizeof(struct tag);
    return MULTIBOOT2_OK;
}

static enum multiboot2_result parse_module(struct cursor c, struct boot_info *out)
{
    struct tag_module module;
    if (c.size < sizeof(module) || !text_terminated(c.at, c.size, sizeof(module)))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&module, c.at, sizeof(module));
    if (module.end < module.start)
        return MULTIBOOT2_BAD_TAG;
    if (out->module_count == MAX_BOOT_MODULES)
        out->modules_cut = true;
    else
        out->module[out->module_count++] = (struct boot_module){ module.start, module.end,
                                                                 (const char *)c.at + sizeof(module) };
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

static enum multiboot2_result parse_framebuffer(struct cursor c, struct boot_info *out)
{
    struct tag_framebuffer f;
    if (c.size < sizeof(f))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&f, c.at, sizeof(f));
    if (f.type > FRAMEBUFFER_TEXT)
        return MULTIBOOT2_OK; /* a later kind */
    struct boot_screen screen = { f.type, f.address, f.pitch, f.width, f.height, f.depth, { { 0, 0 } } };
    if (f.type == FRAMEBUFFER_RGB) {
        if (c.size < sizeof(f) + sizeof(screen.colour))
            return MULTIBOOT2_BAD_TAG;
        memcpy(screen.colour, c.at + sizeof(f), sizeof(screen.colour));
    }
    out->screen = screen;
    return MULTIBOOT2_OK;
}

/* The table is the 64-bit one where there are both. */
static enum multiboot2_result parse_efi_table(struct cursor c, size_t pointer_size, struct boot_info *out)
{
    if (c.size < sizeof(struct tag) + pointer_size)
        return MULTIBOOT2_BAD_TAG;
    if (out->efi.system_table && pointer_size < sizeof(uint64_t))
        return MULTIBOOT2_OK;
    out->efi.present = true;
    out->efi.is_32 = pointer_size < sizeof(uint64_t);
    out->efi.system_table = 0;
    memcpy(&out->efi.system_table, c.at + sizeof(struct tag), pointer_size);
    return MULTIBOOT2_OK;
}

/* Descriptors may be longer than the ones known. */
static enum multiboot2_result parse_efi_map(struct cursor c, struct boot_info *out)
{
    struct tag_efi_map head;
    if (c.size < sizeof(head))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&head, c.at, sizeof(head));
    size_t bytes = c.size - sizeof(head);
    if (head.descriptor_size < EFI_DESCRIPTOR_SIZE || head.descriptor_size % TAG_ALIGN || bytes % head.descriptor_size)
        return MULTIBOOT2_BAD_TAG;
    out->efi.present = true;
    out->efi.map = c.at + sizeof(head);
    out->efi.map_size = (uint32_t)bytes;
    out->efi.descriptor_size = head.descriptor_size;
    out->efi.descriptor_version = head.descriptor_version;
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
    case MULTIBOOT2_TAG_LOADER_NAME:
        return parse_loader_name(c, out);
    case MULTIBOOT2_TAG_MODULE:
        return parse_module(c, out);
    case MULTIBOOT2_TAG_BOOT_DEVICE:
        return parse_boot_device(c, out);
    case MULTIBOOT2_TAG_MEMORY_MAP:
        return parse_memory_map(c, out);
    case MULTIBOOT2_TAG_ACPI_OLD:
    case MULTIBOOT2_TAG_ACPI_NEW:
        return parse_rsdp(c, type, out);
    case MULTIBOOT2_TAG_FRAMEBUFFER:
        return parse_framebuffer(c, out);
    case MULTIBOOT2_TAG_EFI32:
        return parse_efi_table(c, sizeof(uint32_t), out);
    case MULTIBOOT2_TAG_EFI64:
        return parse_efi_table(c, sizeof(uint64_t), out);
    case MULTIBOOT2_TAG_EFI_MAP:
        return parse_efi_map(c, out);
    case MULTIBOOT2_TAG_EFI_SERVICES:
        out->efi.present = out->efi_services = true;
        return MULTIBOOT2_OK;
    default:
        return MULTIBOOT2_OK;
    }
}

enum multiboot2_result multiboot2_parse(const void *info, size_t size, struct boot_info *out)
{
    memset(out, 0, sizeof(*out));
    out->command_line = out->loader_name = "";
    out->boot_drive = MULTIBOOT2_NO_DRIVE;
    out->screen.type = FRAMEBUFFER_NONE;
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
