/*
 * See efi_map.h. A descriptor that a range cuts becomes up to three; all its bytes that are not known go into each.
 */
#include "core/boot/efi_map.h"

#include "core/memory/mem.h"

enum efi_type {
    EFI_RESERVED = 0,
    EFI_LOADER_CODE = 1,
    EFI_BOOT_SERVICES_CODE = 3,
    EFI_BOOT_SERVICES_DATA = 4,
    EFI_CONVENTIONAL = 7,
};

struct efi_descriptor {
    uint32_t type, pad;
    uint64_t physical, virtual, pages, attributes;
};
_Static_assert(sizeof(struct efi_descriptor) == EFI_DESCRIPTOR_SIZE, "as the firmware has it");

struct writer {
    const uint8_t *source; /* the descriptor that is being copied */
    uint32_t step;
    uint8_t *out;
    uint64_t size;
};

/* Free for whoever comes after boot services have ended. */
static bool is_free(uint32_t type)
{
    return (type >= EFI_LOADER_CODE && type <= EFI_BOOT_SERVICES_DATA) || type == EFI_CONVENTIONAL;
}

/* d, and what is behind it in the source. */
static void put_descriptor(struct writer *w, const struct efi_descriptor *d)
{
    if (w->out) {
        memcpy(w->out + w->size, w->source, w->step);
        memcpy(w->out + w->size, d, sizeof(*d));
    }
    w->size += w->step;
}

static void put(struct writer *w, struct efi_descriptor d, uint64_t start, uint64_t end, uint32_t type)
{
    if (start >= end)
        return;
    if (d.virtual) /* as far into the descriptor as the other address */
        d.virtual += start - d.physical;
    d.physical = start;
    d.pages = (end - start) >> PAGE_SHIFT;
    d.type = type;
    put_descriptor(w, &d);
}

/* The first of the ranges, by address, that touches [at, end). */
static struct memmap_range next_range(const struct memmap_range *ranges, unsigned count, uint64_t at, uint64_t end)
{
    struct memmap_range found = { end, end };
    for (unsigned i = 0; i < count; i++)
        if (ranges[i].end > at && ranges[i].start < found.start)
            found = ranges[i];
    return found;
}

uint64_t efi_map_reserve(const uint8_t *map, uint64_t size, uint32_t descriptor_size, const struct memmap_range *ranges,
                         unsigned range_count, uint8_t *out)
{
    struct writer w = { map, descriptor_size, out, 0 };
    for (; size >= descriptor_size; size -= descriptor_size, w.source += descriptor_size) {
        struct efi_descriptor d;
        memcpy(&d, w.source, sizeof(d));
        uint64_t end = d.physical + (d.pages << PAGE_SHIFT);
        bool sound = d.pages <= UINT64_MAX >> PAGE_SHIFT && end > d.physical;
        if (!sound || !is_free(d.type)) { /* as it is */
            put_descriptor(&w, &d);
            continue;
        }
        for (uint64_t at = d.physical; at < end;) {
            struct memmap_range r = next_range(ranges, range_count, at, end);
            uint64_t start = r.start > at ? r.start : at, stop = r.end < end ? r.end : end;
            put(&w, d, at, start, d.type);
            put(&w, d, start, stop, EFI_RESERVED);
            at = stop;
        }
    }
    return w.size;
}

bool efi_map_spare_services(const struct boot_efi *efi, struct memmap *map)
{
    for (uint32_t at = 0; efi->map && at < efi->map_size; at += efi->descriptor_size) {
        struct efi_descriptor d;
        memcpy(&d, efi->map + at, sizeof(d));
        bool services = d.type == EFI_BOOT_SERVICES_CODE || d.type == EFI_BOOT_SERVICES_DATA;
        if (services && d.pages <= UINT64_MAX >> PAGE_SHIFT && !memmap_hide(map, d.physical, d.pages << PAGE_SHIFT))
            return false;
    }
    return true;
}
