/*
 * See guest_info.h: the area, and multiboot information. Pure.
 */
#include "core/boot/guest_info.h"

#include "core/boot/efi_map.h"
#include "core/boot/linux_params.h"
#include "core/boot/multiboot.h"
#include "core/memory/mem.h"

#define MODULE_BOUND 64 /* bytes for what stands beside a module's text in each form */

uint64_t guest_info_bound(const struct guest_view *view)
{
    const struct boot_efi *efi = &view->boot->efi;
    uint64_t map = efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size ? efi->descriptor_size : 1, view->kept,
                                   view->kept_count, NULL);
    return multiboot2_total_size(view->info) + sizeof(struct linux_params) + map +
           MEMMAP_ENTRIES * sizeof(struct e820_entry) + MAX_BOOT_MODULES * MODULE_BOUND + PAGE_SIZE;
}

const struct e820_entry *guest_info_memory(const struct guest_view *view, unsigned *count)
{
    static struct e820_entry list[MEMMAP_ENTRIES + 2];
    *count = memmap_e820(view->memmap, view->low_end, list, ARRAY_SIZE(list));
    return list;
}

uint32_t guest_info_low_kib(const struct guest_view *view)
{
    return (uint32_t)(memmap_ram_run(view->memmap, 0, view->low_end) / KIB);
}

uint32_t guest_info_high_kib(const struct guest_view *view)
{
    return (uint32_t)((memmap_ram_run(view->memmap, MIB, 4 * GIB) - MIB) / KIB);
}

void *area_take(struct area *area, uint64_t size, uint64_t align, uint64_t *address)
{
    uint64_t at = align_up(area->used, align);
    if (at > area->size || size > area->size - at)
        return NULL;
    area->used = at + size;
    *address = area->address + at;
    memset(area->bytes + at, 0, size);
    return area->bytes + at;
}

uint64_t area_text(struct area *area, const char *text)
{
    uint64_t address, length = text_length(text) + 1;
    void *copy = area_take(area, length, 1, &address);
    if (!copy)
        return 0;
    memcpy(copy, text, length);
    return address;
}

/* The old form of the framebuffer's description is the new one's, without 8 bytes of it. */
static void describe_screen(const struct boot_screen *screen, struct multiboot_info *info)
{
    if (screen->type == FRAMEBUFFER_NONE)
        return;
    info->flags |= MULTIBOOT_HAS_FRAMEBUFFER;
    info->framebuffer = screen->address;
    info->framebuffer_pitch = screen->pitch;
    info->framebuffer_width = screen->width;
    info->framebuffer_height = screen->height;
    info->framebuffer_depth = screen->depth;
    info->framebuffer_type = (uint8_t)screen->type;
    if (screen->type == FRAMEBUFFER_RGB)
        memcpy(info->framebuffer_colours, screen->colour, sizeof(screen->colour));
}

static bool describe_modules(const struct guest_view *view, struct multiboot_info *info, struct area *area)
{
    uint64_t address;
    struct multiboot_module *list = area_take(area, view->module_count * sizeof(*list), 4, &address);
    if (!list)
        return false;
    info->flags |= MULTIBOOT_HAS_MODULES;
    info->module_count = view->module_count;
    info->modules = (uint32_t)address;
    for (unsigned i = 0; i < view->module_count; i++) {
        uint64_t text = area_text(area, view->module[i].text);
        if (!text)
            return false;
        list[i] = (struct multiboot_module){ view->module[i].start, view->module[i].end, (uint32_t)text, 0 };
    }
    return true;
}

static bool describe_memory(const struct guest_view *view, struct multiboot_info *info, struct area *area)
{
    unsigned n;
    const struct e820_entry *e820 = guest_info_memory(view, &n);
    uint64_t address;
    struct multiboot_map_entry *map = area_take(area, n * sizeof(*map), 4, &address);
    if (!n || !map)
        return false;
    for (unsigned i = 0; i < n; i++)
        map[i] = (struct multiboot_map_entry){ sizeof(map[i]) - sizeof(map[i].size), e820[i].base, e820[i].length,
                                               e820[i].type };
    info->map = (uint32_t)address;
    info->map_length = (uint32_t)(n * sizeof(*map));
    info->mem_lower = guest_info_low_kib(view);
    info->mem_upper = guest_info_high_kib(view);
    info->flags |= MULTIBOOT_HAS_MEMORY | MULTIBOOT_HAS_MEMORY_MAP;
    return true;
}

uint64_t guest_info_multiboot(const struct guest_view *view, struct area *area)
{
    uint64_t address, text = 0, name = 0;
    struct multiboot_info *info = area_take(area, sizeof(*info), 8, &address);
    if (!info || !describe_memory(view, info, area) || !describe_modules(view, info, area) ||
        !(text = area_text(area, view->command_line)) || !(name = area_text(area, view->boot->loader_name)))
        return 0;
    info->command_line = (uint32_t)text;
    info->loader_name = (uint32_t)name;
    info->flags |= MULTIBOOT_HAS_COMMAND_LINE | MULTIBOOT_HAS_LOADER_NAME;
    if (view->boot->boot_drive != MULTIBOOT2_NO_DRIVE) {
        info->flags |= MULTIBOOT_HAS_BOOT_DEVICE;
        info->boot_device = (uint32_t)view->boot->boot_drive << 24 | 0xffffff; /* no partition */
    }
    describe_screen(&view->boot->screen, info);
    return address;
}

/* A tag with `payload` bytes, which are returned. */
static uint8_t *add_tag(struct area *area, uint32_t type, uint64_t payload)
{
    uint64_t address;
    uint32_t head[2] = { type, (uint32_t)(sizeof(head) + payload) };
    uint8_t *tag = area_take(area, sizeof(head) + payload, 8, &address);
    if (!tag)
        return NULL;
    memcpy(tag, head, sizeof(head));
    return tag + sizeof(head);
}

static bool add_tag_with(struct area *area, uint32_t type, const void *payload, uint64_t size)
{
    uint8_t *to = add_tag(area, type, size);
    if (to)
        memcpy(to, payload, size);
    return to;
}

static bool add_module(struct area *area, const struct boot_module *module)
{
    uint32_t range[2] = { module->start, module->end };
    uint64_t length = text_length(module->text) + 1;
    uint8_t *to = add_tag(area, MULTIBOOT2_TAG_MODULE, sizeof(range) + length);
    if (!to)
        return false;
    memcpy(to, range, sizeof(range));
    memcpy(to + sizeof(range), module->text, length);
    return true;
}

/* An entry of this form is one of E820's with its attributes reserved. */
static bool add_memory(struct area *area, const struct guest_view *view)
{
    unsigned n;
    const struct e820_entry *e820 = guest_info_memory(view, &n);
    uint32_t basic[2] = { guest_info_low_kib(view), guest_info_high_kib(view) };
    uint32_t head[2] = { sizeof(*e820), 0 };
    uint8_t *to = add_tag(area, MULTIBOOT2_TAG_MEMORY_MAP, sizeof(head) + n * sizeof(*e820));
    if (!n || !to)
        return false;
    memcpy(to, head, sizeof(head));
    for (unsigned i = 0; i < n; i++) /* add_tag has zeroed the rest */
        memcpy(to + sizeof(head) + i * sizeof(*e820), &e820[i], E820_ENTRY_OLD_SIZE);
    return add_tag_with(area, MULTIBOOT2_TAG_BASIC_MEMORY, basic, sizeof(basic));
}

static bool add_efi_map(struct area *area, const struct guest_view *view)
{
    const struct boot_efi *efi = &view->boot->efi;
    if (!efi->map)
        return true;
    uint64_t size = efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, view->kept, view->kept_count, NULL);
    uint32_t head[2] = { efi->descriptor_size, efi->descriptor_version };
    uint8_t *to = add_tag(area, MULTIBOOT2_TAG_EFI_MAP, sizeof(head) + size);
    if (!to)
        return false;
    memcpy(to, head, sizeof(head));
    efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, view->kept, view->kept_count, to + sizeof(head));
    return true;
}

/* What is true at every level. Whatever is not known here may be about memory, or about the one that was booted. */
static bool is_passed_on(uint32_t type)
{
    static const uint8_t passed[] = {
        MULTIBOOT2_TAG_LOADER_NAME, /* some kernels read their command line as that loader writes it */
        MULTIBOOT2_TAG_BOOT_DEVICE, MULTIBOOT2_TAG_VBE,    MULTIBOOT2_TAG_FRAMEBUFFER, MULTIBOOT2_TAG_EFI32,
        MULTIBOOT2_TAG_EFI64,       MULTIBOOT2_TAG_SMBIOS, MULTIBOOT2_TAG_ACPI_OLD,    MULTIBOOT2_TAG_ACPI_NEW,
    };
    for (size_t i = 0; i < ARRAY_SIZE(passed); i++)
        if (passed[i] == type)
            return true;
    return false;
}

/* The parser has been over all tags up to the end tag. */
static bool pass_on(struct area *area, const uint8_t *info)
{
    for (uint64_t at = MULTIBOOT2_INFO_HEADER_SIZE;;) {
        uint32_t tag[2];
        memcpy(tag, info + at, sizeof(tag));
        if (tag[0] == MULTIBOOT2_TAG_END)
            return true;
        if (is_passed_on(tag[0]) && !add_tag_with(area, tag[0], info + at + sizeof(tag), tag[1] - sizeof(tag)))
            return false;
        at += align_up(tag[1], 8);
    }
}

uint64_t guest_info_multiboot2(const struct guest_view *view, const struct kernel *kernel, struct area *area)
{
    uint64_t address;
    uint8_t *head = area_take(area, MULTIBOOT2_INFO_HEADER_SIZE, 8, &address);
    uint64_t begin = area->used - MULTIBOOT2_INFO_HEADER_SIZE;
    uint32_t base = (uint32_t)(kernel->start + view->shift);
    bool fits = head && add_tag_with(area, MULTIBOOT2_TAG_COMMAND_LINE, view->command_line,
                                     text_length(view->command_line) + 1);
    for (unsigned i = 0; fits && i < view->module_count; i++)
        fits = add_module(area, &view->module[i]);
    fits = fits && add_memory(area, view) && pass_on(area, view->info) && add_efi_map(area, view) &&
           (!kernel->align || add_tag_with(area, MULTIBOOT2_TAG_IMAGE_BASE, &base, sizeof(base))) &&
           add_tag(area, MULTIBOOT2_TAG_END, 0);
    if (!fits)
        return 0;
    uint32_t total = (uint32_t)(area->used - begin);
    memcpy(head, &total, sizeof(total));
    return address;
}
