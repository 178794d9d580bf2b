/*
 * First C code: multiboot2 tags (command line, memory map, ACPI), paging of the 32-bit build, then all suites.
 */
#include "verdict.h"

enum { MULTIBOOT2_MAGIC = 0x36d76289, TAG_COMMAND = 1, TAG_MMAP = 6, TAG_RSDP1 = 14, TAG_RSDP2 = 15 };
struct tag {
    u32 type, size;
    u8 data[];
};
struct mmap_tag {
    u32 type, size, entry_size, version;
    struct mmap_entry entry[];
};
struct acpi {
    char signature[4];
    u32 length;
    u8 rest[28];
    u8 body[];
};

struct mmap_entry memory_map[64];
u32 memory_map_count, cpus_present = 1;
char command_line[1024];
ulong hole_va;
static u32 rsdt;

void boot_main(u32 magic, ulong info) __attribute__((noreturn));

const char *option(const char *name)
{
    size_t n = strlen(name);
    for (const char *p = command_line; *p; p++)
        if ((p == command_line || p[-1] == ' ') && memcmp(p, name, n) == 0 && p[n] == '=')
            return p + n + 1;
    return NULL;
}

static void tag_read(const struct tag *t)
{
    if (t->type == TAG_COMMAND) {
        format(command_line, sizeof command_line, "%s", (const char *)t->data);
    } else if (t->type == TAG_MMAP) {
        const struct mmap_tag *m = (const void *)t;
        memory_map_count = (t->size - sizeof *m) / m->entry_size;
        if (memory_map_count > COUNT(memory_map))
            memory_map_count = COUNT(memory_map);
        for (u32 i = 0; i < memory_map_count; i++)
            memory_map[i] = *(const struct mmap_entry *)((const u8 *)m->entry + i * m->entry_size);
    } else if (t->type == TAG_RSDP1 || t->type == TAG_RSDP2) {
        memcpy(&rsdt, t->data + 16, 4);
    }
}

static void madt_count(const struct acpi *madt)
{
    u32 found = 0;
    for (u32 at = 8; at + 36 < madt->length;) {
        const u8 *e = madt->body + at;
        found += e[0] == 0 && (e[4] & 1);
        if (e[1] < 2)
            break;
        at += e[1];
    }
    cpus_present = found > CPUS ? CPUS : found ? found : 1;
}

static void acpi_read(void)
{
    const struct acpi *root = (const void *)(ulong)rsdt;
    if (!root || memcmp(root->signature, "RSDT", 4) != 0)
        return;
    for (u32 i = 0; i < (root->length - 36) / 4; i++) {
        u32 at;
        memcpy(&at, root->body + 4 * i, 4);
        const struct acpi *table = (const void *)(ulong)at;
        if (memcmp(table->signature, "APIC", 4) == 0)
            madt_count(table);
    }
}

#ifdef __x86_64__
extern u64 boot_tables[];
static u64 hole_tables[2][512] __attribute__((aligned(4096)));

static void paging_init(void) { hole_va = 5 * GIB; }

u64 hole_table(void) { return (ulong)hole_tables[1]; }

void hole_map(u64 pa, u32 flags)
{
    boot_tables[512 + 5] = (ulong)hole_tables[0] | 7;
    hole_tables[0][0] = (ulong)hole_tables[1] | 7;
    hole_tables[1][0] = pa | flags;
    invlpg(hole_va);
}
#else
/*
 * VMX operation wants CR0.PG = 1, so a 32-bit guest hypervisor has either PAE or plain 32-bit paging ("paging=32").
 * Both map 1:1 but for a hole of 4 MiB.
 */
extern u32 ap_cr3, ap_cr4;
static u64 pdpt[4] __attribute__((aligned(32)));
static u64 directory[4][512] __attribute__((aligned(4096)));
static u32 directory32[1024] __attribute__((aligned(4096)));

static void paging_init(void)
{
    const char *want = option("paging");
    bool plain = want && memcmp(want, "32", 2) == 0;
    hole_va = 0xb0000000;
    for (u32 i = 0; i < 1024; i++)
        directory32[i] = hole_va >> 22 == i ? 0 : i << 22 | 0x87;
    for (u32 i = 0; i < 2048; i++)
        directory[i / 512][i % 512] = hole_va >> 22 == i / 2 ? 0 : (u64)i << 21 | 0x87;
    for (u32 i = 0; i < 4; i++)
        pdpt[i] = (ulong)directory[i] | 1;
    ap_cr3 = (u32)(plain ? (ulong)directory32 : (ulong)pdpt);
    write_cr3(ap_cr3);
    ap_cr4 = (u32)read_cr4() | (plain ? CR4_PSE : CR4_PAE);
    write_cr4(ap_cr4);
    write_cr0(read_cr0() | CR0_PG);
}

static u64 hole_entries[512] __attribute__((aligned(4096)));

u64 hole_table(void) { return (ulong)hole_entries; }

void hole_map(u64 pa, u32 flags)
{
    if (ap_cr4 & CR4_PAE) {
        hole_entries[0] = pa | flags;
        directory[hole_va >> 30][hole_va >> 21 & 511] = (ulong)hole_entries | 7;
    } else {
        *(u32 *)hole_entries = (u32)pa | flags;
        directory32[hole_va >> 22] = (u32)(ulong)hole_entries | 7;
    }
    invlpg(hole_va);
}
#endif

static void pic_init(void)
{
    // clang-format off
    static const u8 words[][2] = { { 0x20, 0x11 }, { 0xa0, 0x11 }, { 0x21, 0x40 }, { 0xa1, 0x48 }, { 0x21, 4 },
                                   { 0xa1, 2 }, { 0x21, 1 }, { 0xa1, 1 }, { 0x21, 0xff }, { 0xa1, 0xff } };
    // clang-format on
    for (u32 i = 0; i < COUNT(words); i++)
        outb(words[i][0], words[i][1]);
}

void boot_main(u32 magic, ulong info)
{
    serial_init();
    trap_init_cpu(0);
    if (magic == MULTIBOOT2_MAGIC)
        for (const u8 *p = (const u8 *)info + 8; ((const struct tag *)p)->type;
             p += (((const struct tag *)p)->size + 7) & ~7u)
            tag_read((const void *)p);
    acpi_read();
    paging_init();
    pic_init();
    apic_init_cpu();
    print("guest: %u-bit, CR4 %lx, %u CPUs present, command line: %s\n", IS64 ? 64 : 32, read_cr4(), cpus_present,
          command_line);
    for (u32 i = 0; suites[i]; i++)
        suite_run(suites[i]);
    verdict_print();
    machine_off();
}
