/* sources: core/boot/acpi.c */
/*
 * The walk to the MADT over tables built here, then with one thing broken at a time.
 */
#include "core/boot/acpi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "tests/host/support/support.h"

#define ARENA (2 * MIB)
#define HEADER 36
#define EBDA 0x9fc00
#define AT_RSDP 0xf5a40
#define AT_RSDT 0x180010 /* nothing in ACPI is aligned */
#define AT_XSDT 0x181021
#define AT_OTHER 0x182003
#define AT_MADT 0x183007
#define LAPIC_ADDRESS 0xfee00000

static uint8_t *at(uint64_t phys) { return hpa_ptr(hpa(phys)); }

static void put(uint64_t phys, uint64_t value, size_t size) { memcpy(at(phys), &value, size); }

/* Pages beyond this are unknown to the map function. */
static uint64_t map_limit;

static const void *map(uint64_t phys, size_t size)
{
    return size <= map_limit && phys <= map_limit - size ? at(phys) : NULL;
}

/* Makes the bytes sum to 0 by the one at `where`. */
static void seal(uint64_t start, size_t size, uint64_t where)
{
    uint8_t sum = 0;
    *at(where) = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + at(start)[i]);
    *at(where) = (uint8_t)-sum;
}

static void table(uint64_t phys, const char *signature, uint32_t length)
{
    memcpy(at(phys), signature, 4);
    put(phys + 4, length, 4);
    seal(phys, length, phys + 9);
}

static void rsdp(uint64_t phys, uint8_t revision)
{
    memcpy(at(phys), "RSD PTR ", 8);
    *at(phys + 15) = revision;
    put(phys + 16, AT_RSDT, 4);
    put(phys + 20, 36, 4);
    put(phys + 24, AT_XSDT, 8);
    seal(phys, 20, phys + 8);
    seal(phys, 36, phys + 32);
}

static uint32_t madt_length;

static void madt_begin(void)
{
    memset(at(AT_MADT), 0, 4096);
    put(AT_MADT + HEADER, LAPIC_ADDRESS, 4);
    madt_length = HEADER + 8;
}

static void madt_add(const void *entry, size_t size)
{
    memcpy(at(AT_MADT + madt_length), entry, size);
    madt_length += (uint32_t)size;
    table(AT_MADT, "APIC", madt_length);
}

static void madt_lapic(uint8_t apic_id, uint8_t flags) { madt_add((uint8_t[]){ 0, 8, 1, apic_id, flags, 0, 0, 0 }, 8); }

static void madt_x2apic(uint32_t apic_id, uint32_t flags)
{
    uint32_t entry[4] = { 9 | 16 << 8, apic_id, flags, 1 };
    madt_add(entry, sizeof(entry));
}

/* A machine with four enabled CPUs of six entries. */
static void machine(void)
{
    test_memory_reset(ARENA);
    map_limit = ARENA;
    madt_begin();
    madt_lapic(0, 1);
    madt_lapic(2, 1);
    madt_lapic(4, 0);
    madt_lapic(6, 2);                                                       /* online capable, not enabled */
    madt_add((uint8_t[]){ 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0 }, 12); /* I/O APIC */
    madt_lapic(0xff, 1);
    madt_x2apic(0x100, 1);
    madt_x2apic(2, 1); /* the same processor again */
    madt_x2apic(0x102, 0);
    madt_x2apic(0xffffffff, 1);
    madt_x2apic(0x104, 1);
    memset(at(AT_OTHER), 0, 64);
    table(AT_OTHER, "FACP", 44);
    put(AT_RSDT + HEADER, AT_OTHER, 4);
    put(AT_RSDT + HEADER + 4, AT_MADT, 4);
    table(AT_RSDT, "RSDT", HEADER + 8);
    put(AT_XSDT + HEADER, AT_OTHER, 8);
    put(AT_XSDT + HEADER + 8, AT_MADT, 8);
    table(AT_XSDT, "XSDT", HEADER + 16);
}

static void assert_found(const void *copy, size_t size)
{
    static const uint32_t wanted[] = { 0, 2, 0x100, 0x104 };
    struct acpi_cpus cpus;
    assert_int_equal(acpi_find_cpus(map, copy, size, &cpus), ACPI_OK);
    assert_int_equal(cpus.count, 4);
    assert_int_equal(cpus.dropped, 0);
    assert_memory_equal(cpus.apic_id, wanted, sizeof(wanted));
    assert_int_equal(cpus.lapic_address, LAPIC_ADDRESS);
}

static enum acpi_result find(void)
{
    struct acpi_cpus cpus;
    return acpi_find_cpus(map, NULL, 0, &cpus);
}

static void test_found_everywhere(void **state)
{
    (void)state;
    static const uint64_t places[] = { AT_RSDP, 0xe0000, 0xfffe0 - 16, EBDA, EBDA + KIB - 48 };
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        machine();
        put(0x40e, EBDA >> 4, 2);
        rsdp(places[i], 2);
        assert_found(NULL, 0);
    }
    /* At the very end of the area only the short form has room. */
    machine();
    rsdp(0xfffe0, 2);
    assert_found(NULL, 0);
    /* The boot loader's copy. */
    machine();
    rsdp(0x1c0000, 2);
    assert_found(at(0x1c0000), 36);
    assert_found(at(0x1c0000), 20);
    *at(0x1c0000 + 15) = 0;
    seal(0x1c0000, 20, 0x1c0008);
    assert_found(at(0x1c0000), 20);
    assert_int_equal(find(), ACPI_NO_RSDP);
}

static void test_not_where_it_must_not_be(void **state)
{
    (void)state;
    static const uint64_t places[] = { AT_RSDP + 8, 0xdfff0, 0x100000, EBDA + KIB };
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        machine();
        put(0x40e, EBDA >> 4, 2);
        rsdp(places[i], 2);
        assert_int_equal(find(), ACPI_NO_RSDP);
    }
}

static void test_falls_back_to_rsdt(void **state)
{
    (void)state;
    machine();
    rsdp(AT_RSDP, 2);
    *at(AT_XSDT + 40) ^= 1; /* checksum */
    assert_found(NULL, 0);
    machine();
    rsdp(AT_RSDP, 2);
    *at(AT_RSDP + 33) ^= 1; /* extended checksum: the XSDT is not believed */
    table(AT_XSDT, "XSDT", HEADER);
    assert_found(NULL, 0);
    machine();
    rsdp(AT_RSDP, 0);
    table(AT_XSDT, "XSDT", HEADER);
    assert_found(NULL, 0);
    machine();
    rsdp(AT_RSDP, 2);
    *at(AT_RSDP + 33) ^= 1; /* not even when it is all there is */
    *at(AT_RSDT + 40) ^= 1;
    assert_int_equal(find(), ACPI_NO_MADT);
    /* And the other way round: only the XSDT is good. */
    machine();
    rsdp(AT_RSDP, 2);
    *at(AT_RSDT + 40) ^= 1;
    assert_found(NULL, 0);
}

static void test_one_thing_broken(void **state)
{
    (void)state;
    // clang-format off
    static const struct { uint64_t where; uint8_t value; enum acpi_result result; } breaks[] = {
        { AT_RSDP, 'X', ACPI_NO_RSDP },          { AT_RSDP + 9, 'X', ACPI_NO_RSDP },
        { AT_RSDT, 'X', ACPI_NO_MADT },          { AT_RSDT + 20, 'X', ACPI_NO_MADT },
        { AT_RSDT + 4, HEADER - 1, ACPI_NO_MADT }, { AT_RSDT + 7, 0xff, ACPI_NO_MADT },
        { AT_MADT, 'X', ACPI_NO_MADT },          { AT_MADT + 20, 'X', ACPI_NO_MADT },
        { AT_MADT + 4, HEADER + 7, ACPI_NO_MADT }, { AT_MADT + 7, 0xff, ACPI_NO_MADT },
        { AT_MADT + 6, 0x1f, ACPI_NO_MADT },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(breaks); i++) {
        machine();
        rsdp(AT_RSDP, 0);
        assert_found(NULL, 0);
        *at(breaks[i].where) = breaks[i].value;
        assert_int_equal(find(), breaks[i].result);
    }
}

static void test_bad_entries(void **state)
{
    (void)state;
    // clang-format off
    static const uint8_t bad[][16] = {
        { 0, 0 },  { 0, 1 },  { 0, 7 },  { 77, 0 }, { 77, 1 }, { 9, 15 },
        { 5, 11 }, { 0, 17 }, { 77, 255 },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        machine();
        rsdp(AT_RSDP, 2);
        madt_add(bad[i], sizeof(bad[i]));
        assert_int_equal(find(), ACPI_BAD_MADT);
    }
    /* One byte that is no entry. */
    machine();
    rsdp(AT_RSDP, 2);
    madt_add("", 1);
    assert_int_equal(find(), ACPI_BAD_MADT);
}

static void test_many_cpus(void **state)
{
    (void)state;
    struct acpi_cpus cpus;
    machine();
    rsdp(AT_RSDP, 2);
    madt_begin();
    for (uint32_t i = 0; i < MAX_CPUS + 3; i++)
        madt_x2apic(2 * i, 1);
    madt_add((uint8_t[]){ 5, 12, 0, 0, 0, 0, 0, 0xfe, 1, 0, 0, 0 }, 12);
    assert_int_equal(acpi_find_cpus(map, NULL, 0, &cpus), ACPI_OK);
    assert_int_equal(cpus.count, MAX_CPUS);
    assert_int_equal(cpus.dropped, 3);
    assert_int_equal(cpus.apic_id[MAX_CPUS - 1], 2 * (MAX_CPUS - 1));
    assert_int_equal(cpus.lapic_address, 0x1fe000000);
}

/* Whatever part of memory is out of reach, nothing outside is touched and there is an answer. */
static void test_limited_view(void **state)
{
    (void)state;
    machine();
    rsdp(AT_RSDP, 2);
    for (map_limit = 0; map_limit < ARENA; map_limit += 1021)
        find();
    map_limit = AT_MADT + 20;
    assert_int_equal(find(), ACPI_NO_MADT);
    map_limit = AT_MADT + madt_length - 1;
    assert_int_equal(find(), ACPI_NO_MADT);
    map_limit = AT_MADT + madt_length;
    assert_int_equal(find(), ACPI_OK);
    map_limit = 0x100000 - 1;
    assert_int_equal(find(), ACPI_NO_RSDP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_everywhere),   cmocka_unit_test(test_not_where_it_must_not_be),
        cmocka_unit_test(test_falls_back_to_rsdt), cmocka_unit_test(test_one_thing_broken),
        cmocka_unit_test(test_bad_entries),        cmocka_unit_test(test_many_cpus),
        cmocka_unit_test(test_limited_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
