/*
 * What Strata needs from ACPI: the local APIC identifiers of the processors that are there, and the local APIC's
 * address. ACPI specification, "Root System Description Pointer (RSDP)" and "Multiple APIC Description Table (MADT)".
 */
#ifndef STRATA_ACPI_H
#define STRATA_ACPI_H

#include "core/lib/limits.h"
#include "core/lib/types.h"

/* Pointer to `size` readable bytes at physical address phys, or NULL where Strata does not reach. No alignment. */
typedef const void *(*acpi_map)(uint64_t phys, size_t size);

enum acpi_result {
    ACPI_OK,
    ACPI_NO_RSDP,  /* no valid root pointer found */
    ACPI_NO_MADT,  /* neither XSDT nor RSDT lead to a valid MADT */
    ACPI_BAD_MADT, /* an entry of the MADT has an impossible length */
};

struct acpi_cpus {
    unsigned count;   /* enabled processors, in the order of the table, each once */
    unsigned dropped; /* further ones, for which MAX_CPUS left no room */
    uint32_t apic_id[MAX_CPUS];
    uint64_t lapic_address; /* physical */
};

/*
 * Lists the processors. rsdp_copy is the boot loader's copy of the RSDP with rsdp_size readable bytes; NULL, or one
 * with a wrong checksum: the BIOS areas are searched. Lengths and checksums of all tables are verified.
 */
enum acpi_result acpi_find_cpus(acpi_map map, const void *rsdp_copy, size_t rsdp_size, struct acpi_cpus *out);

#endif
