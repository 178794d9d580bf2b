/*
 * Linux's boot parameters. Pure. Linux: Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#include "core/boot/efi_map.h"
#include "core/boot/guest_info.h"
#include "core/boot/linux_params.h"
#include "core/memory/mem.h"

#define HIGH(address) ((uint32_t)((address) >> 32))
#define VGA_TEXT_MODE 3 /* 80 columns, 25 lines */
#define VGA_TEXT_COLUMNS 80
#define VGA_TEXT_LINES 25
#define VGA_TEXT_POINTS 16
#define FRAMEBUFFER_UNIT (64 * KIB) /* of its size, where a BIOS has set it up */

static void write_text_screen(struct linux_screen *screen)
{
    screen->mode = VGA_TEXT_MODE;
    screen->columns = VGA_TEXT_COLUMNS;
    screen->lines = VGA_TEXT_LINES;
    screen->points = VGA_TEXT_POINTS;
    screen->type = LINUX_VIDEO_VGA_TEXT;
}

/* Linux knows linear framebuffers of colours with 15 bits and more a pixel. */
static void write_framebuffer(struct linux_screen *to, const struct boot_screen *from, bool efi)
{
    uint64_t size = (uint64_t)from->pitch * from->height;
    to->type = efi ? LINUX_VIDEO_EFI : LINUX_VIDEO_VESA;
    to->base = (uint32_t)from->address;
    to->ext_base = HIGH(from->address);
    to->capabilities = to->ext_base ? 2 : 0; /* VIDEO_CAPABILITY_64BIT_BASE */
    to->size = (uint32_t)(efi ? size : (size + FRAMEBUFFER_UNIT - 1) / FRAMEBUFFER_UNIT);
    to->width = (uint16_t)from->width;
    to->height = (uint16_t)from->height;
    to->depth = from->depth;
    to->line_length = (uint16_t)from->pitch;
    to->pages = 1;
    to->red.size = from->colour[0].size;
    to->red.position = from->colour[0].position;
    to->green.size = from->colour[1].size;
    to->green.position = from->colour[1].position;
    to->blue.size = from->colour[2].size;
    to->blue.position = from->colour[2].position;
    unsigned used = to->red.size + 0u + to->green.size + to->blue.size;
    if (from->depth > used && from->depth == 32) {
        to->reserved.size = (uint8_t)(from->depth - used);
        to->reserved.position = (uint8_t)used;
    }
}

static void write_screen(struct linux_screen *to, const struct boot_info *boot)
{
    if (boot->screen.type == FRAMEBUFFER_RGB)
        write_framebuffer(to, &boot->screen, boot->efi.present);
    else if (!boot->efi.present) /* a PC's BIOS starts with text */
        write_text_screen(to);
}

/* What does not fit the table goes into setup data. */
static bool write_memory(struct linux_params *params, const struct guest_view *view, struct area *area)
{
    unsigned n;
    const struct e820_entry *e820 = guest_info_memory(view, &n);
    unsigned more = n > LINUX_E820_MAX ? n - LINUX_E820_MAX : 0;
    for (unsigned i = 0; i < n - more; i++)
        memcpy(params->e820_table + i * E820_ENTRY_OLD_SIZE, &e820[i], E820_ENTRY_OLD_SIZE);
    params->e820_entries = (uint8_t)(n - more);
    params->alt_mem_k = guest_info_high_kib(view);
    if (!more)
        return n;
    uint64_t address;
    struct linux_setup_data data = { 0, LINUX_SETUP_E820_EXT, more * E820_ENTRY_OLD_SIZE };
    uint8_t *to = area_take(area, sizeof(data) + data.length, 8, &address);
    if (!to)
        return false;
    memcpy(to, &data, sizeof(data));
    for (unsigned i = 0; i < more; i++)
        memcpy(to + sizeof(data) + i * E820_ENTRY_OLD_SIZE, &e820[LINUX_E820_MAX + i], E820_ENTRY_OLD_SIZE);
    params->hdr.setup_data = address;
    return true;
}

static bool write_efi(struct linux_params *params, const struct guest_view *view, struct area *area)
{
    const struct boot_efi *efi = &view->boot->efi;
    if (!efi->system_table || !efi->map)
        return true;
    uint64_t address;
    uint64_t size = efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, view->kept, view->kept_count, NULL);
    uint8_t *map = area_take(area, size, PAGE_SIZE, &address);
    if (!map)
        return false;
    efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, view->kept, view->kept_count, map);
    memcpy(params->efi.signature, efi->is_32 ? "EL32" : "EL64", sizeof(params->efi.signature));
    params->efi.system_table = (uint32_t)efi->system_table;
    params->efi.system_table_high = HIGH(efi->system_table);
    params->efi.map = (uint32_t)address;
    params->efi.map_high = HIGH(address);
    params->efi.map_size = (uint32_t)size;
    params->efi.descriptor_size = efi->descriptor_size;
    params->efi.descriptor_version = efi->descriptor_version;
    return true;
}

/* The header in the parameters is the image's own, up to where that says it ends, with the loader's fields filled in. */
static void write_header(struct linux_params *params, const uint8_t *image, const struct kernel *kernel, uint64_t shift)
{
    uint64_t size = LINUX_HEADER_JUMP + 1u + image[LINUX_HEADER_JUMP] - LINUX_HEADER_START;
    memcpy(&params->hdr, image + LINUX_HEADER_START, size < sizeof(params->hdr) ? size : sizeof(params->hdr));
    params->hdr.type_of_loader = LINUX_LOADER_UNKNOWN;
    params->hdr.code32_start = (uint32_t)(kernel->long_mode ? kernel->start + shift : kernel->entry + shift);
    params->hdr.setup_data = 0;
}

uint64_t guest_info_linux(const struct guest_view *view, const struct kernel *kernel, const uint8_t *image,
                          struct area *area)
{
    uint64_t address;
    struct linux_params *params = area_take(area, sizeof(*params), PAGE_SIZE, &address);
    if (!params)
        return 0;
    write_header(params, image, kernel, view->shift);
    uint64_t command_line = area_text(area, view->command_line);
    if (!command_line || !write_memory(params, view, area) || !write_efi(params, view, area))
        return 0;
    params->hdr.cmd_line_ptr = (uint32_t)command_line;
    params->ext_cmd_line_ptr = HIGH(command_line);
    if (view->module_count) {
        params->hdr.ramdisk_image = view->module[0].start;
        params->hdr.ramdisk_size = view->module[0].end - view->module[0].start;
    }
    write_screen(&params->screen, view->boot);
    return address;
}
