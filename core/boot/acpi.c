/*
 * The walk RSDP, RSDT or XSDT, MADT. Pure: memory is reached through the caller's map function only.
 * Tables come from firmware that may be a guest's invention: lengths and checksums are checked before use,
 * fields are copied out because nothing in ACPI is aligned.
 */
#include "core/boot/acpi.h"

#include "core/memory/mem.h"

#define EBDA_SEGMENT_POINTER 0x40e /* BIOS data area: real-mode segment of the extended BIOS data area */
#define EBDA_SEARCHED KIB
#define BIOS_AREA_START 0xe0000
#define BIOS_AREA_SIZE (128 * KIB)
#define RSDP_ALIGN 16
#define RSDP_SIZE_1 20 /* bytes under the checksum of ACPI 1.0 */
#define RSDP_REVISION_2 2
#define TABLE_SIZE_MAX MIB /* larger than any real RSDT, XSDT or MADT */
#define TABLES_MAX 256     /* pointers of an RSDT or XSDT that are followed */

struct rsdp {
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} __attribute__((packed));

struct table_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

struct madt {
    struct table_header header;
    uint32_t lapic_address, flags;
} __attribute__((packed));

enum madt_type { MADT_LAPIC = 0, MADT_LAPIC_ADDRESS = 5, MADT_X2APIC = 9 };
#define MADT_ENABLED 1u
#define APIC_ID_NONE 0xff /* of a type 0 entry: broadcast, no processor */
#define X2APIC_ID_NONE 0xffffffffu

struct madt_entry {
    uint8_t type, length;
} __attribute__((packed));
struct madt_lapic {
    struct madt_entry entry;
    uint8_t uid, apic_id;
    uint32_t flags;
} __attribute__((packed));
struct madt_lapic_address {
    struct madt_entry entry;
    uint16_t reserved;
    uint64_t address;
} __attribute__((packed));
struct madt_x2apic {
    struct madt_entry entry;
    uint16_t reserved;
    uint32_t apic_id, flags, uid;
} __attribute__((packed));

static bool sums_to_zero(const void *data, size_t size)
{
    const uint8_t *byte = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + byte[i]);
    return sum == 0;
}

/* Copies a valid RSDP out of `size` bytes at `at`; fields that ACPI 1.0 lacks become 0. */
static bool rsdp_take(const uint8_t *at, size_t size, struct rsdp *out)
{
    memset(out, 0, sizeof(*out));
    if (size < RSDP_SIZE_1 || memcmp(at, "RSD PTR ", sizeof(out->signature)) || !sums_to_zero(at, RSDP_SIZE_1))
        return false;
    memcpy(out, at, RSDP_SIZE_1);
    if (out->revision < RSDP_REVISION_2)
        return true;
    if (size < sizeof(*out))
        return out->rsdt != 0;
    memcpy(out, at, sizeof(*out));
    if (out->length < sizeof(*out) || out->length > size || !sums_to_zero(at, out->length))
        out->xsdt = 0;
    return out->rsdt || out->xsdt;
}

static bool rsdp_search(acpi_map map, uint64_t start, size_t size, struct rsdp *out)
{
    const uint8_t *area = map(start, size);
    if (!area)
        return false;
    for (size_t offset = 0; offset + RSDP_SIZE_1 <= size; offset += RSDP_ALIGN)
        if (rsdp_take(area + offset, size - offset, out))
            return true;
    return false;
}

/* ACPI specification, "Finding the RSDP on IA-PC Systems". */
static bool rsdp_find(acpi_map map, const void *copy, size_t copy_size, struct rsdp *out)
{
    if (copy && rsdp_take(copy, copy_size, out))
        return true;
    uint16_t segment = 0;
    const void *pointer = map(EBDA_SEGMENT_POINTER, sizeof(segment));
    if (pointer)
        memcpy(&segment, pointer, sizeof(segment));
    if (segment && rsdp_search(map, (uint64_t)segment * 16, EBDA_SEARCHED, out))
        return true;
    return rsdp_search(map, BIOS_AREA_START, BIOS_AREA_SIZE, out);
}

/* The whole valid table at phys, or NULL. *length: its bytes, at least minimum. */
static const uint8_t *table_map(acpi_map map, uint64_t phys, const char *signature, size_t minimum, size_t *length)
{
    struct table_header header;
    const void *start = phys ? map(phys, sizeof(header)) : NULL;
    if (!start)
        return NULL;
    memcpy(&header, start, sizeof(header));
    if (memcmp(header.signature, signature, sizeof(header.signature)) || header.length < minimum ||
        header.length > TABLE_SIZE_MAX)
        return NULL;
    const uint8_t *table = map(phys, header.length);
    if (!table || !sums_to_zero(table, header.length))
        return NULL;
    *length = header.length;
    return table;
}

/* The MADT among the tables that the RSDT (4-byte pointers) or XSDT (8-byte pointers) at phys lists. */
static const uint8_t *madt_find(acpi_map map, uint64_t phys, const char *signature, size_t pointer_size, size_t *length)
{
    size_t root_length;
    const uint8_t *root = table_map(map, phys, signature, sizeof(struct table_header), &root_length);
    if (!root)
        return NULL;
    if (root_length > sizeof(struct table_header) + TABLES_MAX * pointer_size)
        root_length = sizeof(struct table_header) + TABLES_MAX * pointer_size;
    for (size_t at = sizeof(struct table_header); at + pointer_size <= root_length; at += pointer_size) {
        uint64_t table = 0;
        memcpy(&table, root + at, pointer_size);
        const uint8_t *madt = table_map(map, table, "APIC", sizeof(struct madt), length);
        if (madt)
            return madt;
    }
    return NULL;
}

static void cpus_add(struct acpi_cpus *cpus, uint32_t apic_id)
{
    for (unsigned i = 0; i < cpus->count; i++)
        if (cpus->apic_id[i] == apic_id)
            return;
    if (cpus->count == MAX_CPUS)
        cpus->dropped++;
    else
        cpus->apic_id[cpus->count++] = apic_id;
}

/* One entry of entry->length bytes. A known type that is too short for its fields: false. */
static bool madt_take(const uint8_t *at, struct madt_entry entry, struct acpi_cpus *out)
{
    struct madt_lapic lapic;
    struct madt_x2apic x2apic;
    struct madt_lapic_address address;
    switch (entry.type) {
    case MADT_LAPIC:
        if (entry.length < sizeof(lapic))
            return false;
        memcpy(&lapic, at, sizeof(lapic));
        if ((lapic.flags & MADT_ENABLED) && lapic.apic_id != APIC_ID_NONE)
            cpus_add(out, lapic.apic_id);
        return true;
    case MADT_X2APIC:
        if (entry.length < sizeof(x2apic))
            return false;
        memcpy(&x2apic, at, sizeof(x2apic));
        if ((x2apic.flags & MADT_ENABLED) && x2apic.apic_id != X2APIC_ID_NONE)
            cpus_add(out, x2apic.apic_id);
        return true;
    case MADT_LAPIC_ADDRESS:
        if (entry.length < sizeof(address))
            return false;
        memcpy(&address, at, sizeof(address));
        out->lapic_address = address.address;
        return true;
    default:
        return true;
    }
}

static enum acpi_result madt_parse(const uint8_t *table, size_t length, struct acpi_cpus *out)
{
    struct madt madt;
    memcpy(&madt, table, sizeof(madt));
    out->lapic_address = madt.lapic_address;
    for (size_t at = sizeof(madt); at < length;) {
        struct madt_entry entry;
        if (length - at < sizeof(entry))
            return ACPI_BAD_MADT;
        memcpy(&entry, table + at, sizeof(entry));
        if (entry.length < sizeof(entry) || entry.length > length - at || !madt_take(table + at, entry, out))
            return ACPI_BAD_MADT;
        at += entry.length;
    }
    return ACPI_OK;
}

enum acpi_result acpi_find_cpus(acpi_map map, const void *rsdp_copy, size_t rsdp_size, struct acpi_cpus *out)
{
    struct rsdp rsdp;
    memset(out, 0, sizeof(*out));
    if (!rsdp_find(map, rsdp_copy, rsdp_size, &rsdp))
        return ACPI_NO_RSDP;
    size_t length = 0;
    const uint8_t *madt = madt_find(map, rsdp.xsdt, "XSDT", sizeof(uint64_t), &length);
    if (!madt)
        madt = madt_find(map, rsdp.rsdt, "RSDT", sizeof(uint32_t), &length);
    if (!madt)
        return ACPI_NO_MADT;
    return madt_parse(madt, length, out);
}
