/* sources: core/boot/loader.c core/boot/guest_info.c core/boot/guest_info_linux.c core/boot/efi_map.c core/boot/kernel.c
 * core/boot/kernel_elf.c core/boot/kernel_linux.c core/boot/kernel_multiboot.c core/boot/multiboot2.c core/memory/memmap.c
 * core/lib/format.c */
/*
 * Modules in the arena's memory, started as the machine would be: what is where afterwards, what the kernel is told, and each
 * refusal. Contents are random, so that a copy over something that is still needed shows.
 */
#include "core/boot/loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/boot/linux_params.h"
#include "core/boot/multiboot.h"
#include "core/memory/mem.h"
#include "tests/host/support/support.h"

#define MEMORY (48 * MIB)
#define INFO_AT (2 * MIB + 0x1000)
#define INIT_SIZE (6 * MIB)
#define PREFERRED (16 * MIB)
#define SETUP_SECTORS 2
#define PAYLOAD_AT ((SETUP_SECTORS + 1) * 512)
#define IMAGE_MAX (2 * MIB)

static struct test_random random_state = { 1 };
static struct boot_info boot;
static struct memmap memmap;
static struct memmap_range avoid[2] = { { 0, PAGE_SIZE }, { 40 * MIB, 44 * MIB } };

static uint8_t *at(uint64_t address) { return hpa_ptr(hpa(address)); }
static void put(uint64_t address, uint64_t value, unsigned size) { memcpy(at(address), &value, size); }
static uint64_t get(uint64_t address, unsigned size) { return kernel_number(at(address), size); }

static void fill(uint64_t address, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += 8)
        put(address + i, test_random(&random_state), size - i < 8 ? (unsigned)(size - i) : 8);
}

/* A bzImage at this address. Returns its size. */
static uint64_t make_linux(uint64_t address, uint64_t payload)
{
    memset(at(address), 0, PAYLOAD_AT);
    fill(address + PAYLOAD_AT, payload);
    struct linux_header h = {
        .setup_sects = SETUP_SECTORS,
        .syssize = (uint32_t)(payload / 16),
        .boot_flag = 0xaa55,
        .jump = 0x66eb,
        .header = { 'H', 'd', 'r', 'S' },
        .version = 0x20f,
        .loadflags = LINUX_LOADED_HIGH,
        .code32_start = 0x100000,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 0x200000,
        .relocatable_kernel = 1,
        .xloadflags = LINUX_XLF_KERNEL_64,
        .cmdline_size = 2047,
        .pref_address = PREFERRED,
        .init_size = INIT_SIZE,
    };
    memcpy(at(address + LINUX_HEADER_START), &h, sizeof(h));
    return PAYLOAD_AT + payload;
}

/* An ELF file with a multiboot2 or multiboot header and two segments, at 1 MiB and at 5 MiB. Returns its size. */
static uint64_t make_elf(uint64_t address, bool wide, bool multiboot2)
{
    uint64_t size = 0x5000, word = wide ? 8 : 4, table = wide ? 64 : 52, step = wide ? 56 : 32;
    fill(address, size);
    memset(at(address), 0, 0x1000);
    memcpy(at(address), "\177ELF", 4);
    put(address + 4, wide ? 2 : 1, 1);
    put(address + 5, 1, 1);
    put(address + 18, wide ? 62 : 3, 2);
    put(address + 24, 0xffff0123, (unsigned)word); /* virtual */
    put(address + (wide ? 32 : 28), table, (unsigned)word);
    put(address + (wide ? 54 : 42), step, 2);
    put(address + (wide ? 56 : 44), 2, 2);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t p = address + table + i * step, fields = wide ? p + 8 : p + 4;
        uint64_t value[5] = { 0x1000 + i * 0x2000, i ? 0x90000000 : 0xffff0000, i ? 5 * MIB : MIB, 0x2000 - i * 0x10,
                              0x4000 };
        put(p, 1, 4);
        for (unsigned j = 0; j < 5; j++)
            put(fields + j * word, value[j], (unsigned)word);
    }
    uint32_t newer[] = { MULTIBOOT2_HEADER_MAGIC, 0, 24, -(MULTIBOOT2_HEADER_MAGIC + 24), 0, 8 };
    uint32_t older[] = { MULTIBOOT_HEADER_MAGIC, MULTIBOOT_HEADER_PAGE_ALIGN,
                         -(MULTIBOOT_HEADER_MAGIC + MULTIBOOT_HEADER_PAGE_ALIGN) };
    if (multiboot2)
        memcpy(at(address + 0x1100), newer, sizeof(newer));
    else
        memcpy(at(address + 0x1100), older, sizeof(older));
    return size;
}

static uint64_t info_size;
static void add_tag(uint32_t type, const void *payload, uint64_t size)
{
    put(INFO_AT + info_size, type, 4);
    put(INFO_AT + info_size + 4, size + 8, 4);
    memcpy(at(INFO_AT + info_size + 8), payload, size);
    info_size = align_up(info_size + size + 8, 8);
    put(INFO_AT, info_size, 4);
}

/* What a boot loader says: memory, screen, drive, RSDP; modules are added by add_module. */
static void begin(void)
{
    struct {
        uint32_t step, version;
        uint64_t entry[4][3];
    } map = { 24, 0, { { 0, 0x9f000, 1 }, { 0x9f000, 0x1000, 2 }, { MIB, MEMORY - MIB, 1 }, { 5 * GIB, GIB, 1 } } };
    static const uint32_t drive[3] = { 0x80, 0xffffffff, 0xffffffff };
    test_memory_reset(MEMORY);
    info_size = MULTIBOOT2_INFO_HEADER_SIZE;
    add_tag(MULTIBOOT2_TAG_COMMAND_LINE, "log=debug", 10);
    add_tag(MULTIBOOT2_TAG_LOADER_NAME, "GRUB 2.06", 10);
    add_tag(MULTIBOOT2_TAG_MEMORY_MAP, &map, sizeof(map));
    add_tag(MULTIBOOT2_TAG_BOOT_DEVICE, drive, sizeof(drive));
    add_tag(MULTIBOOT2_TAG_ACPI_NEW, "RSD PTR of sixteen and twenty bytes", 36);
}

static void add_module(uint64_t start, uint64_t end, const char *text)
{
    uint8_t payload[300];
    uint32_t range[2] = { (uint32_t)start, (uint32_t)end };
    memcpy(payload, range, sizeof(range));
    strcpy((char *)payload + 8, text);
    add_tag(MULTIBOOT2_TAG_MODULE, payload, 8 + strlen(text) + 1);
}

static struct loader_input finish(void)
{
    add_tag(MULTIBOOT2_TAG_END, "", 0);
    assert_int_equal(multiboot2_parse(at(INFO_AT), info_size, &boot), MULTIBOOT2_OK);
    memmap = boot.memmap;
    assert_true(memmap_hide(&memmap, avoid[1].start, avoid[1].end - avoid[1].start));
    return (struct loader_input){
        .view = { .info = at(INFO_AT),
                  .boot = &boot,
                  .memmap = &memmap,
                  .low_end = 0x90000,
                  .kept = avoid + 1,
                  .kept_count = 1 },
        .free = &memmap,
        .info = { INFO_AT, INFO_AT + info_size },
        .avoid = avoid,
        .avoid_count = 2,
    };
}

static const char *start(struct guest_entry *entry)
{
    struct loader_input in = finish();
    const char *reason = loader_plan(&in);
    return reason ? reason : loader_load(entry);
}

/* What every entry needs: the first 4 GiB mapped at their addresses, a GDT, nothing of it where Strata is. */
static void check_entry(const struct guest_entry *entry)
{
    uint64_t pdpt = get(entry->cr3, 8), flags = 3;
    assert_int_equal(pdpt & 0xfff, flags);
    for (uint64_t a = 0; a < 4 * GIB; a += PAGE_2M) {
        uint64_t pd = get((pdpt & PAGE_MASK) + (a >> 30) * 8, 8);
        assert_int_equal(get((pd & PAGE_MASK) + (a >> 21 & 511) * 8, 8), a | flags | 0x80);
    }
    assert_int_equal(get(entry->gdt_base + KERNEL_CODE, 8), entry->long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    assert_int_equal(get(entry->gdt_base + KERNEL_DATA, 8), 0x00cf93000000ffff);
    assert_true(entry->page >= MIB && (entry->page >= avoid[1].end || entry->cr3 + 6 * PAGE_SIZE <= avoid[1].start));
}

static void test_linux(void **state)
{
    (void)state;
    static uint8_t kernel[IMAGE_MAX], disk[0x12345];
    struct guest_entry entry;
    begin();
    uint64_t size = make_linux(4 * MIB, MIB);
    memcpy(kernel, at(4 * MIB), size);
    fill(17 * MIB, sizeof(disk)); /* where the kernel goes */
    memcpy(disk, at(17 * MIB), sizeof(disk));
    add_module(4 * MIB, 4 * MIB + size, "root=/dev/sda1 quiet");
    add_module(17 * MIB, 17 * MIB + sizeof(disk), "");
    assert_null(start(&entry));
    check_entry(&entry);
    assert_int_equal(entry.long_mode, 1);
    assert_int_equal(entry.rip, PREFERRED + 0x200);
    assert_memory_equal(at(PREFERRED), kernel + PAYLOAD_AT, size - PAYLOAD_AT);

    const struct linux_params *p = (const void *)at(entry.rsi);
    assert_memory_equal(p->hdr.header, "HdrS", 4);
    assert_int_equal(p->hdr.type_of_loader, 0xff);
    assert_string_equal(at(p->hdr.cmd_line_ptr), "root=/dev/sda1 quiet");
    assert_int_equal(p->hdr.ramdisk_size, sizeof(disk));
    assert_memory_equal(at(p->hdr.ramdisk_image), disk, sizeof(disk));
    assert_true(p->hdr.ramdisk_image + sizeof(disk) <= PREFERRED || p->hdr.ramdisk_image >= PREFERRED + INIT_SIZE);
    assert_int_equal(p->screen.mode, 3);
    assert_int_equal(p->screen.type, LINUX_VIDEO_VGA_TEXT);
    /* Memory: conventional memory ends at low_end, Strata's is reserved. */
    static const uint64_t expected[][3] = {
        { 0, 0x90000, 1 },
        { 0x90000, 0x10000, 2 },
        { MIB, 39 * MIB, 1 },
        { 40 * MIB, 4 * MIB, 2 },
        { 44 * MIB, MEMORY - 44 * MIB, 1 },
        { 5 * GIB, GIB, 1 },
    };
    assert_int_equal(p->e820_entries, ARRAY_SIZE(expected));
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        assert_int_equal(kernel_number(p->e820_table + i * 20, 8), expected[i][0]);
        assert_int_equal(kernel_number(p->e820_table + i * 20 + 8, 8), expected[i][1]);
        assert_int_equal(kernel_number(p->e820_table + i * 20 + 16, 4), expected[i][2]);
    }
}

/* 32-bit kernels, and those with a boot loader's hook, are entered where their header says. */
static void test_linux_32(void **state)
{
    (void)state;
    for (int hooked = 0; hooked < 2; hooked++) {
        struct guest_entry entry;
        begin();
        uint64_t size = make_linux(4 * MIB, MIB);
        if (hooked)
            put(4 * MIB + 0x214, 0x100400, 4);
        else
            put(4 * MIB + 0x236, 0, 2);
        add_module(4 * MIB, 4 * MIB + size, "");
        assert_null(start(&entry));
        check_entry(&entry);
        assert_int_equal(entry.long_mode, 0);
        assert_int_equal(entry.rip, PREFERRED + (hooked ? 0x400 : 0));
        assert_int_equal(get(entry.rsi + 0x218, 8), 0); /* no initial RAM disk */
    }
}

/* Several initial RAM disks become one, each at a multiple of 4 bytes. */
static void test_joined_disks(void **state)
{
    (void)state;
    struct guest_entry entry;
    static uint8_t disk[2][0x1001];
    begin();
    uint64_t size = make_linux(4 * MIB, MIB);
    fill(30 * MIB, 0x1001);
    fill(20 * MIB, 0x800);
    memcpy(disk[0], at(30 * MIB), 0x1001);
    memcpy(disk[1], at(20 * MIB), 0x800);
    add_module(4 * MIB, 4 * MIB + size, "");
    add_module(30 * MIB, 30 * MIB + 0x1001, "");
    add_module(20 * MIB, 20 * MIB + 0x800, "");
    assert_null(start(&entry));
    uint64_t place = get(entry.rsi + 0x218, 4);
    assert_int_equal(get(entry.rsi + 0x21c, 4), 0x1004 + 0x800);
    assert_memory_equal(at(place), disk[0], 0x1001);
    assert_memory_equal(at(place + 0x1004), disk[1], 0x800);
}

static void check_segments(const uint8_t *image)
{
    assert_memory_equal(at(MIB), image + 0x1000, 0x2000);
    assert_memory_equal(at(5 * MIB), image + 0x3000, 0x1ff0);
    for (uint64_t i = 0; i < 0x2000; i++) {
        assert_int_equal(*at(MIB + 0x2000 + i), 0);
        assert_true(i >= 0x2010 || *at(5 * MIB + 0x1ff0 + i) == 0);
    }
}

static void test_multiboot2(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        static uint8_t image[0x5000], module[0x3000];
        static struct boot_info told;
        struct guest_entry entry;
        begin();
        uint64_t size = make_elf(MIB + 0x2000, wide, true), other = 5 * MIB - 0x1000; /* both in the kernel's way */
        memcpy(image, at(MIB + 0x2000), size);
        fill(other, sizeof(module));
        memcpy(module, at(other), sizeof(module));
        add_module(MIB + 0x2000, MIB + 0x2000 + size, "one two=3");
        add_module(other, other + sizeof(module), "the rest");
        assert_null(start(&entry));
        check_entry(&entry);
        assert_int_equal(entry.long_mode, 0);
        assert_int_equal(entry.rip, MIB + 0x123);
        assert_int_equal(entry.rax, MULTIBOOT2_LOADER_MAGIC);
        check_segments(image);
        assert_int_equal(multiboot2_parse(at(entry.rbx), get(entry.rbx, 4), &told), MULTIBOOT2_OK);
        assert_string_equal(told.command_line, "one two=3");
        assert_int_equal(told.boot_drive, 0x80);
        assert_string_equal(told.loader_name, "GRUB 2.06");
        assert_int_equal(told.rsdp_size, 36);
        assert_string_equal(told.rsdp, "RSD PTR of sixteen and twenty bytes");
        assert_int_equal(told.module_count, 1);
        assert_string_equal(told.module[0].text, "the rest");
        assert_memory_equal(at(told.module[0].start), module, sizeof(module));
        assert_int_equal(told.memmap.count, 6);
        assert_false(memmap_is_ram(&told.memmap, 40 * MIB));
        assert_false(memmap_is_ram(&told.memmap, 0x90000));
    }
}

static void test_multiboot(void **state)
{
    (void)state;
    static uint8_t image[0x5000];
    struct guest_entry entry;
    begin();
    uint64_t size = make_elf(8 * MIB, false, false);
    memcpy(image, at(8 * MIB), size);
    fill(9 * MIB + 0x100, 0x100);
    add_module(8 * MIB, 8 * MIB + size, "kernel words");
    add_module(9 * MIB + 0x100, 9 * MIB + 0x200, "not at a page");
    assert_null(start(&entry));
    assert_int_equal(entry.rax, MULTIBOOT_LOADER_MAGIC);
    check_segments(image);
    struct multiboot_info info;
    memcpy(&info, at(entry.rbx), sizeof(info));
    assert_string_equal(at(info.command_line), "kernel words");
    assert_int_equal(info.mem_lower, 0x90000 / KIB);
    assert_int_equal(info.mem_upper, 39 * MIB / KIB);
    assert_int_equal(info.boot_device, 0x80ffffff);
    assert_string_equal(at(info.loader_name), "GRUB 2.06"); /* Xen drops a word of its command line under others */
    assert_int_equal(info.module_count, 1);
    assert_int_equal(get(info.modules, 4) % PAGE_SIZE, 0);
    assert_int_equal(get(info.modules + 4, 4) - get(info.modules, 4), 0x100);
    assert_string_equal(at(get(info.modules + 8, 4)), "not at a page");
    assert_int_equal(info.map_length, 6 * 24);
    assert_int_equal(get(info.map, 4), 20);
    assert_int_equal(get(info.map + 3 * 24 + 4, 8), 40 * MIB);
    assert_int_equal(get(info.map + 3 * 24 + 20, 4), MEMMAP_RESERVED);
}

/* A kernel that may lie elsewhere does so where its place is taken; one that may not is refused. */
static void test_elsewhere(void **state)
{
    (void)state;
    for (int relocatable = 0; relocatable < 2; relocatable++) {
        static uint8_t kernel[IMAGE_MAX];
        struct guest_entry entry;
        begin();
        uint64_t size = make_linux(4 * MIB, MIB);
        put(4 * MIB + 0x258, 42 * MIB, 8); /* pref_address: Strata is there */
        if (!relocatable) {
            put(4 * MIB + 0x234, 0, 1);
            put(4 * MIB + 0x260, 41 * MIB, 4);
        }
        memcpy(kernel, at(4 * MIB), size);
        add_module(4 * MIB, 4 * MIB + size, "");
        const char *reason = start(&entry);
        if (!relocatable) {
            assert_non_null(strstr(reason, "the memory that the kernel wants to lie in is not free"));
            continue;
        }
        assert_null(reason);
        uint64_t place = entry.rip - 0x200;
        assert_true(place % 0x200000 == 0 && place >= MIB && place + INIT_SIZE <= 40 * MIB);
        assert_memory_equal(at(place), kernel + PAYLOAD_AT, size - PAYLOAD_AT);
    }
}

/* Wherever a boot loader may have put modules, nothing is lost. */
static void test_any_places(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        static uint8_t kernel[IMAGE_MAX], module[4][0x4000];
        uint64_t place[5];
        struct guest_entry entry;
        begin();
        unsigned count = (unsigned)test_random_below(&random_state, 5);
        uint64_t slots[] = { 4 * MIB, 15 * MIB, 17 * MIB, 22 * MIB - 0x2000, 30 * MIB, 36 * MIB };
        for (unsigned i = 0; i < 5; i++) { /* apart, in any order */
            unsigned j = (unsigned)test_random_below(&random_state, ARRAY_SIZE(slots) - i) + i;
            place[i] = slots[j];
            slots[j] = slots[i];
        }
        bool is_linux = test_random_below(&random_state, 2);
        uint64_t size = is_linux ? make_linux(place[0], MIB) : make_elf(place[0], false, true);
        memcpy(kernel, at(place[0]), size);
        add_module(place[0], place[0] + size, "kernel");
        for (unsigned i = 0; i < count; i++) {
            fill(place[i + 1], sizeof(module[i]));
            memcpy(module[i], at(place[i + 1]), sizeof(module[i]));
            add_module(place[i + 1], place[i + 1] + sizeof(module[i]), "module");
        }
        assert_null(start(&entry));
        if (is_linux) {
            assert_memory_equal(at(entry.rip - 0x200), kernel + PAYLOAD_AT, size - PAYLOAD_AT);
            assert_int_equal(get(entry.rsi + 0x21c, 4), count * sizeof(module[0]));
            for (unsigned i = 0; i < count; i++)
                assert_memory_equal(at(get(entry.rsi + 0x218, 4) + i * sizeof(module[0])), module[i],
                                    sizeof(module[i]));
            continue;
        }
        static struct boot_info told;
        check_segments(kernel);
        assert_int_equal(multiboot2_parse(at(entry.rbx), get(entry.rbx, 4), &told), MULTIBOOT2_OK);
        assert_int_equal(told.module_count, count);
        for (unsigned i = 0; i < count; i++)
            assert_memory_equal(at(told.module[i].start), module[i], sizeof(module[i]));
    }
}

/* One thing wrong, and the words that name it. */
static void test_refusals(void **state)
{
    (void)state;
    // clang-format off
    static const struct { uint32_t offset, size; uint64_t value; const char *words; } breaks[] = {
        { 0x202, 4, 0,          "no kernel" },
        { 0x1fe, 2, 0,          "no kernel" },
        { 0x206, 2, 0x209,      "too old" },
        { 0x211, 1, 0,          "zImage" },
        { 0x1f1, 1, 0xff,       "shorter than its header says" }, /* setup reaches far, as many sectors as there can be */
        { 0x1f4, 4, 0x20000,    "shorter than its header says" },
        { 0x230, 4, 0x180000,   "power of 2" },
        { 0x260, 4, 0x1000,     "less memory than it has bytes" },
        { 0x214, 4, 0x50,       "entry lies outside" },
        { 0x214, 4, 0x10000000, "entry lies outside" },
        { 0x258, 8, 1ull << 40, "does not fit below 4 GiB" },
        { 0x260, 4, 0xff800000, "does not fit below 4 GiB" },
        { 0x260, 4, 0xe0000000, "no free memory for the kernel" },
        { 0x238, 4, 5,          "command line is longer" },
        { 0x22c, 4, 0x2fff,     "initial RAM disk does not fit" },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(breaks); i++) {
        struct guest_entry entry;
        begin();
        uint64_t size = make_linux(4 * MIB, i == 4 ? 0x10000 : MIB);
        put(4 * MIB + breaks[i].offset, breaks[i].value, breaks[i].size);
        add_module(4 * MIB, 4 * MIB + size, "quiet\x01 splash");
        add_module(8 * MIB, 8 * MIB + 0x1000, "");
        const char *reason = start(&entry);
        assert_non_null(reason);
        if (!strstr(reason, breaks[i].words))
            fail_msg("%zu: \"%s\" does not say \"%s\"", i, reason, breaks[i].words);
        assert_non_null(strstr(reason, i == 14 ? "module 2 (\"\", 4096 bytes)" : "module 1 (\"quiet? splash\""));
    }
}

static const char *start_with(uint64_t from, uint64_t to, uint64_t other_from, uint64_t other_to)
{
    struct guest_entry entry;
    begin();
    make_linux(4 * MIB, MIB);
    add_module(from, to, "");
    add_module(other_from, other_to, "");
    return start(&entry);
}

static void test_bad_modules(void **state)
{
    (void)state;
    uint64_t size = PAYLOAD_AT + MIB;
    assert_null(start_with(4 * MIB, 4 * MIB + size, 8 * MIB, 8 * MIB)); /* empty */
    assert_non_null(
        strstr(start_with(4 * MIB, 4 * MIB + size, 5 * MIB, 6 * MIB), "module 2 (\"\", 1048576 bytes): it overlaps"));
    assert_non_null(strstr(start_with(4 * MIB, 4 * MIB + size, MEMORY - 1, MEMORY + 1), "does not lie in memory"));
    assert_non_null(strstr(start_with(4 * MIB, 4 * MIB + size, 0x80000000, 0x80001000), "does not lie in memory"));
    assert_non_null(strstr(start_with(4 * MIB, 4 * MIB + size, 41 * MIB, 42 * MIB), "does not lie in memory"));
    assert_non_null(strstr(start_with(4 * MIB, 4 * MIB + size, 0, 0x100), "where Strata"));
    assert_non_null(strstr(start_with(4 * MIB, 4 * MIB, 8 * MIB, 9 * MIB), "no kernel"));
    struct guest_entry entry;
    begin();
    uint64_t kernel = make_linux(4 * MIB, MIB);
    for (unsigned i = 0; i <= MAX_BOOT_MODULES; i++)
        add_module(4 * MIB + i * 2 * MIB, 4 * MIB + i * 2 * MIB + (i ? 16 : kernel), "");
    assert_non_null(strstr(start(&entry), "more than 16 modules"));
}

/* More ranges than Linux's table has go into its setup data. */
static void test_many_ranges(void **state)
{
    (void)state;
    struct guest_entry entry;
    begin();
    uint64_t size = make_linux(4 * MIB, MIB);
    add_module(4 * MIB, 4 * MIB + size, "");
    struct loader_input in = finish();
    for (uint64_t i = 0; memmap.count < MEMMAP_ENTRIES; i++)
        assert_true(memmap_add(&memmap, 8 * GIB + i * 2 * MIB, MIB, 1 + i % 2));
    assert_null(loader_plan(&in));
    assert_null(loader_load(&entry));
    unsigned in_table = (unsigned)get(entry.rsi + 0x1e8, 1), in_data = 0;
    uint64_t data = get(entry.rsi + 0x250, 8);
    if (data) {
        assert_int_equal(get(data + 8, 4), LINUX_SETUP_E820_EXT);
        in_data = (unsigned)get(data + 12, 4) / 20;
    }
    assert_int_equal(in_table + in_data, memmap.count);
    uint64_t last = in_data ? data + 16 + (in_data - 1) * 20 : entry.rsi + 0x2d0 + (in_table - 1) * 20u;
    assert_int_equal(get(last, 8), memmap.entry[memmap.count - 1].base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linux),       cmocka_unit_test(test_linux_32),  cmocka_unit_test(test_joined_disks),
        cmocka_unit_test(test_multiboot2),  cmocka_unit_test(test_multiboot), cmocka_unit_test(test_elsewhere),
        cmocka_unit_test(test_any_places),  cmocka_unit_test(test_refusals),  cmocka_unit_test(test_bad_modules),
        cmocka_unit_test(test_many_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
