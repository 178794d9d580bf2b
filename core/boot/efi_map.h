/*
 * EFI's memory map, as it is handed on: what Strata keeps is reserved in it, as in the other map. Pure.
 * UEFI Specification, "EFI_BOOT_SERVICES.GetMemoryMap()".
 */
#ifndef STRATA_EFI_MAP_H
#define STRATA_EFI_MAP_H

#include "core/boot/multiboot2.h"
#include "core/memory/memmap.h"

/*
 * Copies the map, `size` bytes of descriptors of descriptor_size bytes (at least EFI_DESCRIPTOR_SIZE), to out with what is free
 * memory of `ranges` (multiples of 4 KiB, apart) turned into reserved memory. Returns the bytes written; with out NULL the
 * bytes that it would write.
 */
uint64_t efi_map_reserve(const uint8_t *map, uint64_t size, uint32_t descriptor_size, const struct memmap_range *ranges,
                         unsigned range_count, uint8_t *out);

/*
 * Takes out of the map what boot services have left: an operating system that knows EFI still looks for tables there.
 * False: the map has too many entries for it; part of it is done.
 */
bool efi_map_spare_services(const struct boot_efi *efi, struct memmap *map);

#endif
