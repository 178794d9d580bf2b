/* sources: core/boot/multiboot2.c core/memory/memmap.c */
/*
 * The multiboot2 parser: a complete information block, then every way of breaking one thing in it.
 */
#include "core/boot/multiboot2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define BLOCK_MAX 32768

/* An information block under construction. */
struct block {
    _Alignas(8) uint8_t bytes[BLOCK_MAX];
    uint32_t size;
};

static void put32(struct block *b, uint32_t at, uint32_t value) { memcpy(b->bytes + at, &value, sizeof(value)); }

static void block_begin(struct block *b)
{
    memset(b, 0, sizeof(*b));
    b->size = MULTIBOOT2_INFO_HEADER_SIZE;
    put32(b, 0, b->size);
}

/* Adds a tag with this payload; returns where it starts. */
static uint32_t block_tag(struct block *b, uint32_t type, const void *payload, uint32_t size)
{
    uint32_t at = b->size;
    put32(b, at, type);
    put32(b, at + 4, size + 8);
    if (size)
        memcpy(b->bytes + at + 8, payload, size);
    b->size = at + (uint32_t)align_up(size + 8, 8);
    put32(b, 0, b->size);
    return at;
}

struct map_payload {
    uint32_t entry_size, version;
    struct {
        uint64_t base, length;
        uint32_t type, reserved;
    } entry[3];
};

static const struct map_payload map_payload = {
    24,
    0,
    { { 0, 640 * KIB, 1, 0 }, { MIB, 127 * MIB, 1, 0 }, { 0xfffc0000, 256 * KIB, 2, 0 } },
};
static const char command[] = "/boot/strata.elf log=debug";
static const uint32_t boot_device[3] = { 0x81, 0xffffffff, 0xffffffff };
static const uint8_t old_rsdp[20] = "RSD PTR old", new_rsdp[36] = "RSD PTR new";

/* Where the tags of the complete block start. */
struct tags {
    uint32_t command, module, device, map, rsdp_old, rsdp_new, end;
};

static struct tags block_complete(struct block *b)
{
    struct tags t;
    uint32_t module[3] = { 0x200000, 0x234567, 0 };
    block_begin(b);
    t.command = block_tag(b, MULTIBOOT2_TAG_COMMAND_LINE, command, sizeof(command));
    block_tag(b, 2, "GRUB 2.06", 10);
    t.module = block_tag(b, MULTIBOOT2_TAG_MODULE, module, 9);
    t.device = block_tag(b, MULTIBOOT2_TAG_BOOT_DEVICE, boot_device, sizeof(boot_device));
    t.map = block_tag(b, MULTIBOOT2_TAG_MEMORY_MAP, &map_payload, sizeof(map_payload));
    t.rsdp_new = block_tag(b, MULTIBOOT2_TAG_ACPI_NEW, new_rsdp, sizeof(new_rsdp));
    t.rsdp_old = block_tag(b, MULTIBOOT2_TAG_ACPI_OLD, old_rsdp, sizeof(old_rsdp));
    t.end = block_tag(b, MULTIBOOT2_TAG_END, NULL, 0);
    return t;
}

/* Parses a copy that ends exactly at the end of its allocation, so that a sanitizer sees one byte too many. */
static enum multiboot2_result parse_exact(const struct block *b, uint32_t size, struct boot_info *out)
{
    void *copy = malloc(size ? size : 1); /* aligned to 8 bytes */
    memcpy(copy, b->bytes, size);
    enum multiboot2_result result = multiboot2_parse(copy, size, out);
    free(copy);
    return result;
}

static void test_complete(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    struct tags t = block_complete(&b);
    assert_int_equal(multiboot2_total_size(b.bytes), b.size);
    assert_int_equal(multiboot2_parse(b.bytes, b.size, &info), MULTIBOOT2_OK);
    assert_string_equal(info.command_line, command);
    assert_int_equal(info.boot_drive, 0x81);
    assert_int_equal(info.module_count, 1);
    assert_false(info.modules_cut);
    assert_int_equal(info.module[0].start, 0x200000);
    assert_int_equal(info.module[0].end, 0x234567);
    assert_ptr_equal(info.rsdp, b.bytes + t.rsdp_new + 8);
    assert_int_equal(info.rsdp_size, sizeof(new_rsdp));
    assert_true(info.has_memory_map);
    assert_int_equal(info.memmap.count, 3);
    assert_int_equal(info.memmap.entry[1].length, 127 * MIB);
    /* More may be readable than the block claims. */
    assert_int_equal(multiboot2_parse(b.bytes, BLOCK_MAX, &info), MULTIBOOT2_OK);
}

static void test_minimal(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    block_begin(&b);
    block_tag(&b, MULTIBOOT2_TAG_END, NULL, 0);
    assert_int_equal(parse_exact(&b, b.size, &info), MULTIBOOT2_OK);
    assert_string_equal(info.command_line, "");
    assert_int_equal(info.boot_drive, MULTIBOOT2_NO_DRIVE);
    assert_null(info.rsdp);
    assert_false(info.has_memory_map);
}

static void test_old_rsdp_alone(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    block_begin(&b);
    uint32_t at = block_tag(&b, MULTIBOOT2_TAG_ACPI_OLD, old_rsdp, sizeof(old_rsdp));
    uint32_t newer = block_tag(&b, MULTIBOOT2_TAG_ACPI_NEW, new_rsdp, sizeof(new_rsdp));
    block_tag(&b, MULTIBOOT2_TAG_END, NULL, 0);
    assert_int_equal(multiboot2_parse(b.bytes, b.size, &info), MULTIBOOT2_OK);
    assert_ptr_equal(info.rsdp, b.bytes + newer + 8);
    put32(&b, newer, 99);
    assert_int_equal(multiboot2_parse(b.bytes, b.size, &info), MULTIBOOT2_OK);
    assert_ptr_equal(info.rsdp, b.bytes + at + 8);
}

/* Every shorter buffer and every shorter claim is refused. */
static void test_cut_short(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    block_complete(&b);
    uint32_t whole = b.size;
    for (uint32_t size = 0; size < whole; size++)
        assert_int_equal(parse_exact(&b, size, &info), MULTIBOOT2_BAD_SIZE);
    for (uint32_t claim = 0; claim < whole; claim++) {
        put32(&b, 0, claim);
        assert_int_not_equal(parse_exact(&b, whole, &info), MULTIBOOT2_OK);
    }
    put32(&b, 0, whole + 1);
    assert_int_equal(parse_exact(&b, whole, &info), MULTIBOOT2_BAD_SIZE);
}

enum part { PART_COMMAND, PART_MODULE, PART_DEVICE, PART_MAP, PART_END };

static void test_one_thing_broken(void **state)
{
    (void)state;
    // clang-format off
    static const struct { enum part part; uint32_t offset, value; enum multiboot2_result result; } breaks[] = {
        { PART_COMMAND, 4, 7, MULTIBOOT2_BAD_SIZE },           /* shorter than a tag's head */
        { PART_COMMAND, 4, 0, MULTIBOOT2_BAD_SIZE },           /* would never end */
        { PART_COMMAND, 4, 0xffffffff, MULTIBOOT2_BAD_SIZE },
        { PART_COMMAND, 4, 0xfffffff8, MULTIBOOT2_BAD_SIZE },
        { PART_COMMAND, 4, 8 + 10, MULTIBOOT2_BAD_TAG },       /* text without its end */
        { PART_COMMAND, 4, 8, MULTIBOOT2_BAD_TAG },
        { PART_MODULE, 4, 15, MULTIBOOT2_BAD_TAG },
        { PART_MODULE, 12, 0x1fffff, MULTIBOOT2_BAD_TAG },     /* ends before it starts */
        { PART_DEVICE, 4, 19, MULTIBOOT2_BAD_TAG },
        { PART_MAP, 4, 15, MULTIBOOT2_BAD_TAG },
        { PART_MAP, 8, 0, MULTIBOOT2_BAD_TAG },                /* entries of no size */
        { PART_MAP, 8, 16, MULTIBOOT2_BAD_TAG },
        { PART_MAP, 8, 25, MULTIBOOT2_BAD_TAG },
        { PART_MAP, 4, 8 + 8 + 60, MULTIBOOT2_BAD_TAG },       /* half an entry */
        { PART_END, 4, 16, MULTIBOOT2_BAD_SIZE },              /* less than the whole, but more than what is left */
        { PART_END, 0, 77, MULTIBOOT2_BAD_SIZE },              /* no end tag */
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(breaks); i++) {
        struct block b;
        struct boot_info info;
        struct tags t = block_complete(&b);
        const uint32_t parts[] = { t.command, t.module, t.device, t.map, t.end };
        put32(&b, parts[breaks[i].part] + breaks[i].offset, breaks[i].value);
        assert_int_equal(parse_exact(&b, b.size, &info), breaks[i].result);
    }
}

/* A loader that knows longer map entries. */
static void test_longer_entries(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    uint32_t payload[2 + 2 * 8] = { 32, 1, 0, 0, 0x10000, 0, 1, 0, 0xaaaa, 0xbbbb, 0x100000, 0, 0x10000, 0, 3, 0 };
    block_begin(&b);
    block_tag(&b, MULTIBOOT2_TAG_MEMORY_MAP, payload, sizeof(payload));
    block_tag(&b, MULTIBOOT2_TAG_END, NULL, 0);
    assert_int_equal(parse_exact(&b, b.size, &info), MULTIBOOT2_OK);
    assert_int_equal(info.memmap.count, 2);
    assert_int_equal(info.memmap.entry[1].base, 0x100000);
    assert_int_equal(info.memmap.entry[1].type, MEMMAP_ACPI);
}

static void test_bounds(void **state)
{
    (void)state;
    struct block b;
    struct boot_info info;
    struct {
        uint32_t entry_size, version;
        struct {
            uint64_t base, length, type;
        } entry[MEMMAP_ENTRIES + 1];
    } map = { 24, 0, { { 0 } } };
    for (uint64_t i = 0; i <= MEMMAP_ENTRIES; i++) {
        map.entry[i].base = 2 * i * MIB;
        map.entry[i].length = MIB;
        map.entry[i].type = MEMMAP_RAM;
    }
    block_begin(&b);
    block_tag(&b, MULTIBOOT2_TAG_MEMORY_MAP, &map, sizeof(map));
    block_tag(&b, MULTIBOOT2_TAG_END, NULL, 0);
    assert_int_equal(parse_exact(&b, b.size, &info), MULTIBOOT2_TOO_MANY);

    block_begin(&b);
    for (uint32_t i = 0; i < MAX_BOOT_MODULES + 2; i++)
        block_tag(&b, MULTIBOOT2_TAG_MODULE, (uint32_t[]){ i, i + 1, 0 }, 12);
    block_tag(&b, MULTIBOOT2_TAG_BOOT_DEVICE, (uint32_t[]){ 0x12345678, 0, 0 }, 12);
    block_tag(&b, MULTIBOOT2_TAG_END, NULL, 0);
    assert_int_equal(parse_exact(&b, b.size, &info), MULTIBOOT2_OK);
    assert_int_equal(info.module_count, MAX_BOOT_MODULES);
    assert_true(info.modules_cut);
    assert_int_equal(info.boot_drive, MULTIBOOT2_NO_DRIVE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete),         cmocka_unit_test(test_minimal),
        cmocka_unit_test(test_old_rsdp_alone),   cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_one_thing_broken), cmocka_unit_test(test_longer_entries),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
