/*
 * See loader.h. Places are chosen so that no copy destroys what is still to be read: whatever moves goes to memory that holds
 * nothing, and the kernel, which may want to lie where modules are, is written last.
 */
#include "core/boot/loader.h"

#include "core/boot/multiboot.h"

#include "core/lib/format.h"
#include "core/memory/mem.h"

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_PS BIT(7)
#define TABLE_PAGES 6 /* PML4, PDPT, 4 page directories: 4 GiB in 2-MiB pages */
#define TABLE_ENTRIES 512
#define FLAT_CODE64 0x00af9b000000ffffull
#define FLAT_CODE32 0x00cf9b000000ffffull
#define FLAT_DATA 0x00cf93000000ffffull
#define TEXT_SHOWN 60
#define RANGES_MAX (2 * MAX_BOOT_MODULES + LOADER_AVOID_MAX + 4)

static struct {
    struct guest_view view;
    const struct memmap *free;
    struct kernel kernel;
    struct boot_module module[MAX_BOOT_MODULES]; /* of view: where they are to lie; the first is the kernel's image */
    bool module_moves[MAX_BOOT_MODULES];
    unsigned module_count;
    uint64_t area, area_size;              /* tables, trampoline and information */
    struct memmap_range taken[RANGES_MAX]; /* what is in use or will be */
    unsigned taken_count;
    char reason[256];
} plan;

static const struct boot_module *original(unsigned i) { return &plan.view.boot->module[i]; }

static bool overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end) { return a < b_end && b < a_end; }

static void take(uint64_t start, uint64_t end) { plan.taken[plan.taken_count++] = (struct memmap_range){ start, end }; }

/* A line about module i (from 0), with what its command line begins with. */
static const char *module_reason(unsigned i, const char *why)
{
    const struct boot_module *m = original(i);
    format(plan.reason, sizeof(plan.reason), "module %u (\"%.*s\", %llu bytes): %s", i + 1, TEXT_SHOWN, m->text,
           (unsigned long long)(m->end - m->start), why);
    for (char *c = plan.reason; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    return plan.reason;
}

static bool all_ram(const struct memmap *map, uint64_t start, uint64_t end)
{
    return memmap_ram_run(map, start, end) >= end;
}

/* The original map has what Strata has since taken; modules lie in neither's way. */
static const char *check_modules(const struct loader_input *in)
{
    const struct boot_info *boot = plan.view.boot;
    if (boot->modules_cut)
        return "there are more than 16 modules";
    for (unsigned i = 0; i < boot->module_count; i++) {
        const struct boot_module *m = original(i);
        if (m->end > m->start && !all_ram(plan.view.memmap, m->start, m->end))
            return module_reason(i, "it does not lie in memory that the memory map has");
        for (unsigned j = 0; j < in->avoid_count; j++)
            if (overlap(m->start, m->end, in->avoid[j].start, in->avoid[j].end))
                return module_reason(i, "it lies where Strata is");
        for (unsigned j = 0; j < i; j++)
            if (overlap(m->start, m->end, original(j)->start, original(j)->end))
                return module_reason(i, "it overlaps another module");
    }
    return NULL;
}

static uint64_t place(uint64_t size, uint64_t align, uint64_t below)
{
    uint64_t at = memmap_place(plan.free, size, align, below, plan.taken, plan.taken_count);
    return at ? at : memmap_place(plan.view.memmap, size, align, below, plan.taken, plan.taken_count);
}

static bool kernel_fits(const struct loader_input *in, const struct memmap *map, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < in->avoid_count; i++)
        if (overlap(start, end, in->avoid[i].start, in->avoid[i].end))
            return false;
    return all_ram(map, start, end);
}

/* The kernel lies where it wants to, if that is memory: modules make room for it. Else where there is nothing. */
static const char *place_kernel(const struct loader_input *in)
{
    struct kernel *k = &plan.kernel;
    uint64_t to = k->start, size = k->end - k->start;
    /* A kernel that may lie elsewhere spares what is not quite free. */
    if (!kernel_fits(in, k->align ? plan.free : plan.view.memmap, k->start, k->end)) {
        to = k->align ? place(size, k->align, k->below) : 0;
        if (!to || to < k->lowest)
            return module_reason(0, k->align ? "there is no free memory for the kernel below 4 GiB"
                                             : "the memory that the kernel wants to lie in is not free");
    }
    plan.view.shift = to - k->start;
    take(to, to + size);
    return NULL;
}

static bool module_in_way(unsigned i)
{
    const struct boot_module *m = original(i);
    uint64_t kernel = plan.kernel.start + plan.view.shift;
    return overlap(m->start, m->end, kernel, kernel + plan.kernel.end - plan.kernel.start);
}

static const char *move_module(unsigned i, uint64_t below, const char *why)
{
    uint64_t size = original(i)->end - original(i)->start;
    uint64_t to = place(size ? size : 1, PAGE_SIZE, below);
    if (!to)
        return module_reason(i, why);
    plan.module[i] = (struct boot_module){ (uint32_t)to, (uint32_t)(to + size), original(i)->text };
    plan.module_moves[i] = true;
    take(to, to + size);
    return NULL;
}

static const char *place_modules(bool join)
{
    bool is_linux = plan.kernel.kind == KERNEL_LINUX;
    for (unsigned i = 0; i < (join ? 1 : plan.module_count); i++) {
        const struct boot_module *m = original(i);
        plan.module[i] = *m;
        plan.module_moves[i] = false;
        bool handed_on = i > 0;
        bool misaligned = handed_on && (plan.kernel.modules_aligned || is_linux) && m->start % PAGE_SIZE;
        bool too_high = handed_on && m->end > plan.kernel.module_below;
        if (!module_in_way(i) && !misaligned && !too_high)
            continue;
        const char *reason = move_module(i, handed_on ? plan.kernel.module_below : 4 * GIB,
                                         is_linux && handed_on
                                             ? "the initial RAM disk does not fit into memory beside the kernel"
                                             : "it does not fit into memory beside the kernel");
        if (reason)
            return reason;
    }
    return NULL;
}

/* Linux has one initial RAM disk: several are put behind each other, as its boot loaders do. */
static const char *join_modules(void)
{
    uint64_t size = 0;
    for (unsigned i = 1; i < plan.module_count; i++)
        size += align_up(original(i)->end - original(i)->start, sizeof(uint32_t));
    uint64_t to = size < 4 * GIB ? place(size ? size : 1, PAGE_SIZE, plan.kernel.module_below) : 0;
    if (!to)
        return module_reason(1, "the initial RAM disks do not fit into memory together");
    take(to, to + size);
    for (unsigned i = 1; i < plan.module_count; i++) {
        uint64_t bytes = original(i)->end - original(i)->start;
        plan.module[i] = (struct boot_module){ (uint32_t)to, (uint32_t)(to + bytes), original(i)->text };
        plan.module_moves[i] = true;
        to += align_up(bytes, sizeof(uint32_t));
    }
    return NULL;
}

static const char *place_area(void)
{
    plan.area_size = (1 + TABLE_PAGES) * PAGE_SIZE + align_up(guest_info_bound(&plan.view), PAGE_SIZE);
    plan.area = place(plan.area_size, PAGE_SIZE, 4 * GIB);
    if (!plan.area)
        return "there is no free memory below 4 GiB for what the kernel is to be told";
    take(plan.area, plan.area + plan.area_size);
    return NULL;
}

const char *loader_plan(const struct loader_input *in)
{
    plan.view = in->view;
    plan.free = in->free;
    plan.taken_count = 0;
    plan.module_count = plan.view.boot->module_count;
    const char *reason = check_modules(in);
    if (reason)
        return reason;
    uint64_t size = original(0)->end - original(0)->start;
    reason = kernel_read(hpa_ptr(hpa(original(0)->start)), size, &plan.kernel);
    if (reason)
        return module_reason(0, reason);
    plan.view.command_line = original(0)->text;
    if (text_length(plan.view.command_line) > plan.kernel.command_line)
        return module_reason(0, "its command line is longer than the kernel takes");

    for (unsigned i = 0; i < in->avoid_count; i++)
        take(in->avoid[i].start, in->avoid[i].end);
    for (unsigned i = 0; i < plan.module_count; i++)
        take(original(i)->start, original(i)->end);
    take(in->info.start, in->info.end);
    bool join = plan.kernel.kind == KERNEL_LINUX && plan.module_count > 2;
    if ((reason = place_kernel(in)) || (reason = place_modules(join)) || (join && (reason = join_modules())))
        return reason;
    return place_area();
}

/* Identity map of the first 4 GiB. */
static void write_tables(uint64_t address)
{
    uint64_t *pml4 = hpa_ptr(hpa(address)), *pdpt = pml4 + TABLE_ENTRIES, *pd = pdpt + TABLE_ENTRIES;
    memset(pml4, 0, TABLE_PAGES * PAGE_SIZE);
    pml4[0] = (address + PAGE_SIZE) | PTE_P | PTE_W;
    for (unsigned i = 0; i < TABLE_PAGES - 2; i++)
        pdpt[i] = (address + (2 + i) * PAGE_SIZE) | PTE_P | PTE_W;
    for (uint64_t i = 0; i < (TABLE_PAGES - 2) * TABLE_ENTRIES; i++)
        pd[i] = i * PAGE_2M | PTE_P | PTE_W | PTE_PS;
}

static void write_gdt(uint64_t address)
{
    uint64_t *gdt = hpa_ptr(hpa(address));
    memset(gdt, 0, PAGE_SIZE);
    gdt[KERNEL_CODE / sizeof(*gdt)] = plan.kernel.long_mode ? FLAT_CODE64 : FLAT_CODE32;
    gdt[KERNEL_DATA / sizeof(*gdt)] = FLAT_DATA;
    gdt[KERNEL_CODE32 / sizeof(*gdt)] = FLAT_CODE32;
}

static const char *write_info(struct guest_entry *entry)
{
    uint64_t at = plan.area + (1 + TABLE_PAGES) * PAGE_SIZE;
    struct area area = { hpa_ptr(hpa(at)), at, plan.area + plan.area_size - at, 0 };
    plan.view.module = plan.module + 1;
    plan.view.module_count = plan.module_count - 1;
    uint64_t info = 0;
    switch (plan.kernel.kind) {
    case KERNEL_LINUX:
        if (plan.module_count > 2) { /* they have been joined */
            plan.module[1].end = plan.module[plan.module_count - 1].end;
            plan.view.module_count = 1;
        }
        entry->rsi = info = guest_info_linux(&plan.view, &plan.kernel, hpa_ptr(hpa(original(0)->start)), &area);
        break;
    case KERNEL_MULTIBOOT2:
        entry->rax = MULTIBOOT2_LOADER_MAGIC;
        entry->rbx = info = guest_info_multiboot2(&plan.view, &plan.kernel, &area);
        break;
    case KERNEL_MULTIBOOT:
        entry->rax = MULTIBOOT_LOADER_MAGIC;
        entry->rbx = info = guest_info_multiboot(&plan.view, &area);
        break;
    }
    return info ? NULL : "what the kernel is to be told does not fit where it was planned";
}

static void copy_kernel(uint64_t image)
{
    for (unsigned i = 0; i < plan.kernel.segment_count; i++) {
        const struct kernel_segment *s = &plan.kernel.segment[i];
        uint8_t *to = hpa_ptr(hpa(s->to + plan.view.shift));
        memcpy(to, hpa_ptr(hpa(image + s->from)), s->size);
        if (plan.kernel.kind != KERNEL_LINUX) /* which clears its own */
            memset(to + s->size, 0, s->memory - s->size);
    }
}

const char *loader_load(struct guest_entry *entry)
{
    memset(entry, 0, sizeof(*entry));
    entry->long_mode = plan.kernel.long_mode;
    entry->rip = plan.kernel.entry + plan.view.shift;
    entry->page = entry->gdt_base = plan.area;
    entry->cr3 = plan.area + PAGE_SIZE;
    write_tables(entry->cr3);
    write_gdt(entry->gdt_base);
    const char *reason = write_info(entry);
    if (reason)
        return reason;
    for (unsigned i = 0; i < plan.module_count; i++)
        if (plan.module_moves[i])
            memcpy(hpa_ptr(hpa(plan.module[i].start)), hpa_ptr(hpa(original(i)->start)),
                   original(i)->end - original(i)->start);
    copy_kernel(plan.module[0].start);
    return NULL;
}
