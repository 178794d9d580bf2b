/* sources: core/boot/multiboot2.c core/boot/efi_map.c core/memory/memmap.c */
/*
 * Any bytes as multiboot2 information: nothing outside is read, and what comes out is consistent.
 */
#include "core/boot/efi_map.h"
#include "core/boot/multiboot2.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/* Sorted, apart, not empty, merged. */
static void check_memmap(const struct memmap *map)
{
    fuzz_check(map->count <= MEMMAP_ENTRIES);
    for (uint32_t i = 0; i < map->count; i++) {
        const struct memmap_entry *e = &map->entry[i];
        fuzz_check(e->length > 0 && e->type != 0 && e->base + e->length > e->base);
        if (i == 0)
            continue;
        const struct memmap_entry *before = e - 1;
        fuzz_check(before->base + before->length <= e->base);
        fuzz_check(before->base + before->length < e->base || before->type != e->type);
    }
}

static void check_answers(const struct memmap *map)
{
    struct e820_entry e820[MEMMAP_ENTRIES];
    fuzz_check(memmap_e820(map, 512 * KIB, e820, MEMMAP_ENTRIES) <= MEMMAP_ENTRIES);
    struct int15_memory int15 = memmap_int15(map);
    fuzz_check(int15.e801_low <= 0x3c00 && int15.h88 <= 0xfc00);
    uint64_t place = memmap_place(map, 16 * MIB, PAGE_2M, 4 * GIB, NULL, 0);
    if (place)
        fuzz_check(place % PAGE_2M == 0 && memmap_is_ram(map, place) && memmap_is_ram(map, place + 16 * MIB - 1));
}

/* The map with holes in it: all of it, and not a byte more than it says that it takes. */
static void check_efi(const struct boot_efi *efi)
{
    static const struct memmap_range kept[] = { { 0x9f000, 0xa0000 }, { 0x180000, 0x380000 } };
    if (!efi->map)
        return;
    fuzz_check(efi->present && efi->descriptor_size >= EFI_DESCRIPTOR_SIZE &&
               efi->map_size % efi->descriptor_size == 0);
    uint64_t size = efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, kept, 2, NULL);
    uint8_t *out = malloc(size ? size : 1);
    fuzz_check(size >= efi->map_size && size % efi->descriptor_size == 0);
    fuzz_check(efi_map_reserve(efi->map, efi->map_size, efi->descriptor_size, kept, 2, out) == size);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct boot_info info;
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    if (multiboot2_parse(copy, size, &info) == MULTIBOOT2_OK) {
        fuzz_check(info.module_count <= MAX_BOOT_MODULES);
        fuzz_check(info.boot_drive >= MULTIBOOT2_NO_DRIVE && info.boot_drive <= 0xff);
        fuzz_check(strlen(info.command_line) < size);
        if (info.rsdp) {
            const uint8_t *rsdp = info.rsdp;
            fuzz_check(rsdp >= copy && rsdp + info.rsdp_size <= copy + size);
        }
        for (unsigned i = 0; i < info.module_count; i++)
            fuzz_check(info.module[i].start <= info.module[i].end && strlen(info.module[i].text) < size);
        fuzz_check(info.screen.type <= FRAMEBUFFER_NONE);
        check_efi(&info.efi);
        check_memmap(&info.memmap);
        check_answers(&info.memmap);
    }
    free(copy);
    return 0;
}
