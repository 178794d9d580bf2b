/*
 * The boot of one level, in order, on the CPU that GRUB started: what the boot loader says, can Strata run here, where does it
 * live, its own tables, the guest's view of memory, the other CPUs, and then the next drive's boot sector as its guest.
 * Whatever is missing is said in one line, on serial and screen, and the boot goes on without Strata.
 */
#include "core/boot/acpi.h"
#include "core/cpu/barrier.h"
#include "core/guest/cpuid.h"
#include "core/guest/dispatch.h"
#include "core/lib/format.h"
#include "core/boot/efi_map.h"
#include "core/boot/handover.h"
#include "core/boot/loader.h"
#include "core/cpu/lapic.h"
#include "core/lib/log.h"
#include "core/boot/lowpage.h"
#include "core/cpu/machine.h"
#include "core/cpu/panic_page.h"
#include "core/lib/panic.h"
#include "core/boot/main.h"
#include "core/guest/msr.h"
#include "core/boot/multiboot2.h"
#include "core/memory/paging.h"
#include "core/boot/report.h"
#include "core/boot/wake.h"
#include "core/cpu/trap.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmcs_image.h"
#include "core/cpu/vmxon.h"

#define BOOT_MAP_END (4 * GIB) /* what boot.S maps */
#define SHARED_SIZE (6 * MIB)  /* page tables, ept01, history: for all CPUs */
#define CPU_SIZE (2 * MIB)
#define IMAGE_SIZE PAGE_2M
#define UNCACHED_MAX 32 /* ranges of memory that is not write-back: more are rare, and only slow */
#define MULTIBOOT2_INFO_MAX (1 * MIB)

#define TABLES_SIZE PAGE_2M   /* for page tables of the first 4 GiB: a Strata that gives up */
#define LOWEST_KEPT PAGE_SIZE /* vectors and data of a PC's BIOS */

extern _Noreturn void guest_start(struct cpu *cpu);
extern void relocate(void *to, const void *from, uint64_t size, uint64_t cr3);

static const void *boot_info_at; /* the boot loader's information, where it lies */
static struct boot_info boot;
static struct memmap free_memory; /* of the map that which is free without reserve */
static struct acpi_cpus found_cpus;
static hpa_t image_place; /* where the image has been moved to; 0: not yet */

/* Before lowpage_take there is nowhere to keep a line for the screen. */
static char early_messages[LOW_MESSAGE_SIZE];

static void complain(const char *text)
{
    log_warn("%s", text);
    size_t used = 0;
    while (early_messages[used])
        used++;
    format(early_messages + used, sizeof(early_messages) - used, "strata: %s\r\n", text);
}

static struct memmap_range info_range(void)
{
    uint64_t start = (uint64_t)boot_info_at;
    return (struct memmap_range){ start, start + multiboot2_total_size(boot_info_at) };
}

static bool has_bios(void) { return !boot.efi.present; }

/* On the screen at once: where a module is booted no BIOS will show it later. */
static void show(const char *line)
{
    struct screen screen;
    bool text = boot.screen.type == FRAMEBUFFER_TEXT || boot.screen.type == FRAMEBUFFER_NONE;
    if (!has_bios() || !text || !lowpage_screen(&screen))
        return;
    screen_line(&screen, line);
    lowpage_screen_done(&screen);
}

static void read_mtrrs(void)
{
    memory01.has_mtrr = hw_cpuid(1, 0).edx & CPUID1_EDX_MTRR;
    uint64_t value = 0;
    mtrr_init(&memory01.mtrr, memory01.has_mtrr ? hw_rdmsr(MSR_MTRRCAP) : 0, machine.hw.maxphyaddr);
    if (!memory01.has_mtrr)
        return;
    for (uint32_t msr = MSR_MTRR_PHYSBASE0; msr <= MSR_MTRR_DEF_TYPE; msr++)
        if (mtrr_is_msr(msr) && mtrr_read(&memory01.mtrr, msr, &value) && hw_rdmsr_try(msr, &value))
            mtrr_write(&memory01.mtrr, msr, value);
    mtrr_commit(&memory01.mtrr);
}

/* Below 4 GiB what the MTRRs do not make write-back; at most max ranges. */
static unsigned find_uncached(struct memmap_range *ranges, unsigned max)
{
    unsigned count = 0;
    uint64_t start, end;
    for (uint64_t at = MIB; memory01.has_mtrr && at < BOOT_MAP_END && count < max; at = end)
        if (mtrr_range(&memory01.mtrr, at, &start, &end) != MEMTYPE_WB)
            ranges[count++] = (struct memmap_range){ at, end };
    return count;
}

/* Memory for Strata: free, write-back where there is such, and nothing that the boot loader has put anywhere. 0: none. */
static uint64_t find_place(uint64_t size)
{
    struct memmap_range avoid[MAX_BOOT_MODULES + 2 + UNCACHED_MAX] = {
        { MIB, (uint64_t)image_load + (uint64_t)(image_end - image_start) },
        info_range(),
    };
    unsigned taken = 2;
    for (unsigned i = 0; i < boot.module_count; i++)
        avoid[taken++] = (struct memmap_range){ boot.module[i].start, boot.module[i].end };
    for (unsigned uncached = find_uncached(avoid + taken, UNCACHED_MAX);; uncached = 0) {
        uint64_t at = memmap_place(&free_memory, size, PAGE_2M, BOOT_MAP_END, avoid, taken + uncached);
        if (!at)
            at = memmap_place(&memory01.memmap, size, PAGE_2M, BOOT_MAP_END, avoid, taken + uncached);
        if (at || !uncached)
            return at;
    }
}

/* Moves the image to its place and onto page tables of its own that map memory up to `mapped`. False: no room for these. */
static bool move(hpa_t to, struct page_pool *pool, uint64_t mapped)
{
    machine.cr3 = paging_build(pool, mapped, machine.has_1g_pages, memory01.has_mtrr ? &memory01.mtrr : NULL);
    if (!machine.cr3 || !paging_map_image(pool, machine.cr3, to))
        return false;
    image_place = to;
    relocate(hpa_ptr(to), image_start, (uint64_t)(image_end - image_start), machine.cr3);
    return true;
}

/* What the first module is to find: all of the machine's memory, or what Strata leaves. */
static struct loader_input loader_input(const struct memmap *memmap, uint64_t low_end, const struct memmap_range *kept)
{
    static struct memmap_range avoid[LOADER_AVOID_MAX];
    unsigned count = 0;
    avoid[count++] = (struct memmap_range){ 0, LOWEST_KEPT };
    if (kept)
        avoid[count++] = *kept;
    if (low_end < LOW_MEMORY_END)
        avoid[count++] = (struct memmap_range){ low_end, LOW_MEMORY_END };
    return (struct loader_input){
        .view = { .info = boot_info_at,
                  .boot = &boot,
                  .memmap = memmap,
                  .low_end = low_end,
                  .kept = kept,
                  .kept_count = 0 },
        .free = &free_memory,
        .info = info_range(),
        .avoid = avoid,
        .avoid_count = count,
    };
}

/* The first module in Strata's place. Returns only if it cannot be booted: why. */
static const char *boot_module_without(void)
{
    if (!image_place.v) {
        uint64_t place = find_place(IMAGE_SIZE + TABLES_SIZE);
        struct page_pool pool = { 0 };
        if (!place)
            return "no free memory below 4 GiB";
        pool_add(&pool, hpa(place + IMAGE_SIZE), TABLES_SIZE);
        if (!move(hpa(place), &pool, BOOT_MAP_END))
            return "no room for page tables";
    }
    struct memmap_range image = { image_place.v, image_place.v + IMAGE_SIZE + TABLES_SIZE };
    struct loader_input in = loader_input(&boot.memmap, LOW_MEMORY_END, &image);
    struct guest_entry entry;
    const char *reason = loader_plan(&in);
    if (!reason)
        reason = loader_load(&entry);
    if (reason)
        return reason;
    log_info("booting module 1 without Strata");
    handover_enter(&entry);
}

static _Noreturn void refuse(const char *reason)
{
    char line[LOW_MESSAGE_SIZE];
    log_error("refused: %s", reason);
    if (boot.module_count) {
        format(line, sizeof(line), "strata: refused: %s", reason);
        show(line);
        const char *why = boot_module_without();
        log_error("module 1 cannot be booted without Strata: %s", why);
        format(line, sizeof(line), "strata: module 1 cannot be booted without Strata: %s", why);
        show(line);
        hw_halt();
    }
    if (!has_bios()) {
        log_error("there is nothing to boot without Strata");
        hw_halt();
    }
    log_info("continuing boot from drive %02xh without Strata", machine.boot_drive);
    if (!machine.low_page && !lowpage_take())
        panic("no conventional memory to continue the boot from");
    format(line, sizeof(line), "%sstrata: refused: %s", early_messages, reason);
    lowpage_message(line);
    lowpage_boot_without();
}

static void read_boot_info(const void *info)
{
    boot_info_at = info;
    uint32_t size = multiboot2_total_size(info);
    enum multiboot2_result result = size <= MULTIBOOT2_INFO_MAX ? multiboot2_parse(info, size, &boot)
                                                                : MULTIBOOT2_BAD_SIZE;
    log_set_strata_level(cpuid_level_below() + 1);
    machine.options = options_parse(result == MULTIBOOT2_OK ? boot.command_line : "", complain);
    log_set((uint16_t)machine.options.serial, (enum log_level)machine.options.log);
    int drive = boot.boot_drive == MULTIBOOT2_NO_DRIVE ? BIOS_FIRST_DISK : boot.boot_drive + 1;
    machine.boot_drive = (uint8_t)(machine.options.boot == BOOT_NEXT_DRIVE ? drive : machine.options.boot);
    if (result != MULTIBOOT2_OK)
        refuse("the boot loader's multiboot2 information is damaged");
    if (!boot.has_memory_map)
        refuse("the boot loader gives no memory map");
    memory01.memmap = free_memory = boot.memmap;
    if (!efi_map_spare_services(&boot.efi, &free_memory))
        log_warn("EFI's memory map has too many entries: what its boot services left may be written over");
}

/* ACPI tables lie in what the memory map knows, or in the BIOS's megabyte. */
static const void *acpi_pointer(uint64_t phys, size_t size)
{
    if (phys + size < phys || phys + size > BOOT_MAP_END)
        return NULL;
    if (phys + size <= MIB)
        return hpa_ptr(hpa(phys));
    for (uint32_t i = 0; i < memory01.memmap.count; i++) {
        const struct memmap_entry *e = &memory01.memmap.entry[i];
        if (phys >= e->base && phys + size <= e->base + e->length)
            return hpa_ptr(hpa(phys));
    }
    return NULL;
}

static const char *const acpi_reasons[] = {
    [ACPI_NO_RSDP] = "no RSDP: ACPI does not say which CPUs there are",
    [ACPI_NO_MADT] = "no valid MADT: ACPI does not say which CPUs there are",
    [ACPI_BAD_MADT] = "the MADT is damaged: ACPI does not say which CPUs there are",
};

/* All CPUs are Strata's or none: one that the guest starts by itself would see all memory. The one that runs this is number 0. */
static void find_cpus(void)
{
    uint32_t self = lapic_id();
    bool listed = false;
    enum acpi_result result = acpi_find_cpus(acpi_pointer, boot.rsdp, boot.rsdp_size, &found_cpus);
    if (result != ACPI_OK)
        refuse(acpi_reasons[result]);
    if (found_cpus.dropped)
        refuse("the machine has more than 64 CPUs");
    for (unsigned i = 0; i < found_cpus.count; i++)
        if (found_cpus.apic_id[i] == self) {
            found_cpus.apic_id[i] = found_cpus.apic_id[0];
            found_cpus.apic_id[0] = self;
            listed = true;
        }
    if (!listed)
        refuse("the MADT does not list the CPU that boots");
}

/* For all CPUs together. Page tables of 4-KiB pages take more. */
static uint64_t shared_size(void)
{
    uint64_t small = machine.options.ept01 == EPT01_4K ? memory01.ram_end / EPT_ENTRIES : 0;
    return SHARED_SIZE + align_up(small, PAGE_2M);
}

/* Chooses the memory that becomes Strata's, hides it from the guest's map, and moves there. */
static void settle(void)
{
    memory01.ram_end = memmap_ram_end(&memory01.memmap);
    uint64_t size = IMAGE_SIZE + shared_size() + found_cpus.count * CPU_SIZE;
    uint64_t start = find_place(size), shared = align_up(nested_shared_size(), PAGE_SIZE);
    if (!start)
        refuse("no free memory below 4 GiB for Strata (8 MiB and 2 MiB a CPU in one piece; with ept01=4k 2 MiB a GiB "
               "more)");
    memory01.hidden_start = start;
    memory01.hidden_end = start + size;
    if (!memmap_hide(&memory01.memmap, start, size) || !memmap_hide(&free_memory, start, size))
        refuse("the memory map has too many entries");
    memory_find_plain();
    pool_add(&memory01.pool, hpa(start + IMAGE_SIZE + shared), shared_size() - shared);
    uint64_t mapped = memory01.ram_end > BOOT_MAP_END ? align_up(memory01.ram_end, PAGE_1G) : BOOT_MAP_END;
    if (!move(hpa(start), &memory01.pool, mapped))
        refuse("Strata's page tables need more memory than there is: much memory without 1-GiB pages, or many memory "
               "types");
}

static void make_cpus(void)
{
    for (unsigned i = 0; i < found_cpus.count; i++) {
        uint64_t start = memory01.hidden_start + IMAGE_SIZE + shared_size() + i * CPU_SIZE;
        struct cpu *cpu = hpa_ptr(hpa(start));
        uint64_t nested = align_up(sizeof(*cpu), PAGE_SIZE), own = nested + align_up(nested_cpu_size(), PAGE_SIZE);
        memset(cpu, 0, own);
        cpu_init(cpu, i, found_cpus.apic_id[i]);
        cpu->nested = hpa_ptr(hpa(start + nested));
        pool_add(&cpu->pool, hpa(start + own), CPU_SIZE - own);
        cpus[i] = cpu;
        cpu_count = i + 1;
    }
}

/* What of memory the guest sees, and which of its MSR accesses exit. */
static void make_guest_view(void)
{
    memory01.junk = pool_alloc(&memory01.pool);
    machine.msr_bitmap01 = pool_alloc(&memory01.pool);
    memset(hpa_ptr(memory01.junk), 0xff, PAGE_SIZE);
    msr_bitmap_init(hpa_ptr(machine.msr_bitmap01));
    struct ept01_config config = {
        .maxphyaddr = machine.hw.maxphyaddr,
        .pages_1g = vmx_caps_msr(&machine.hw, MSR_VMX_EPT_VPID) & EPT_CAP_1G,
        .small = machine.options.ept01 == EPT01_4K,
        .accessed_dirty = vmx_caps_msr(&machine.hw, MSR_VMX_EPT_VPID) & EPT_CAP_AD,
        .hidden = { { memory01.hidden_start, memory01.hidden_end } },
        .junk = memory01.junk,
        .mtrr = &memory01.mtrr,
        .top = memory01.ram_end,
        .pool = &memory01.pool,
    };
    if (!ept01_init(&memory01.ept01, &config))
        refuse("the memory types of this machine need more EPT tables than there is room for");
}

static void probe_features(void)
{
    machine.has_1g_pages = hw_cpuid(0x80000001, 0).edx & CPUID8_EDX_1G;
    machine.has_xsave = hw_cpuid(1, 0).ecx & BIT(26);
    machine.is_hypervisor = cpuid_is_hypervisor();
    machine.has_x2apic = hw_cpuid(1, 0).ecx & CPUID1_ECX_X2APIC;
    const char *missing = vmxon_require(&machine.hw);
    if (log_strata_level() == 1) /* the others see what this one leaves */
        report_machine(has_bios() ? "BIOS" : "UEFI", boot.rsdp);
    if (missing)
        refuse(missing);
    machine.cr4 = CR4_PAE | (machine.has_xsave ? CR4_OSXSAVE : 0) | vmx_caps_msr(&machine.hw, MSR_VMX_CR4_FIXED0);
    if (hw_cpuid(1, 0).edx & CPUID1_EDX_MCE) /* without it a machine check in Strata is a shutdown */
        machine.cr4 |= CR4_MCE;
    machine.barriers = barrier_decide(barrier_facts_read(), machine.options.mitigations);
}

/* The page below 1 MiB that other CPUs start in, and where there is a BIOS what it is to say of memory. */
static void take_low_page(void)
{
    if (has_bios()) {
        if (!lowpage_take())
            refuse("no conventional memory (40:13h)");
        if (!lowpage_describe_memory())
            refuse("the memory map has too many entries");
        lowpage_message(early_messages);
        return;
    }
    struct memmap_range avoid[MAX_BOOT_MODULES];
    for (unsigned i = 0; i < boot.module_count; i++)
        avoid[i] = (struct memmap_range){ boot.module[i].start, boot.module[i].end };
    if (!lowpage_borrow(avoid, boot.module_count) && cpu_count > 1)
        refuse("no free page below 640 KiB to start the other CPUs in");
}

/* What the guest is to be: refused before VMX is on. */
static void plan_guest(void)
{
    static struct memmap_range hidden;
    if (!boot.module_count) {
        if (!has_bios())
            refuse("no module to boot: on UEFI the first module2 is what Strata boots");
        return;
    }
    hidden = (struct memmap_range){ memory01.hidden_start, memory01.hidden_end };
    struct loader_input in = loader_input(&memory01.memmap, has_bios() ? machine.low_page : LOW_MEMORY_END, &hidden);
    in.view.kept_count = 1;
    const char *reason = loader_plan(&in);
    if (reason)
        refuse(reason);
}

/* The state in which the guest starts on this CPU. vmcs01 is current. */
static void enter_guest(struct cpu *cpu)
{
    vmcs01_init_state(cpu, ACTIVITY_ACTIVE);
    if (boot.module_count) {
        struct guest_entry entry;
        const char *reason = loader_load(&entry);
        if (reason)
            panic("%s", reason);
        vmcs01_enter_kernel(cpu, &entry);
        log_info("booting module 1");
        return;
    }
    struct low_page *low = hpa_ptr(hpa(machine.low_page));
    vmcs01_real_mode((uint16_t)(machine.low_page >> 4), low->boot_entry);
    vmwrite(GUEST_CR0, CR0_ET | vmcs01_cr0_mask()); /* caches stay on */
    vmwrite(CR0_SHADOW, cpu->cr0_shadow = CR0_ET);
    log_info("continuing boot from drive %02xh", machine.boot_drive);
}

void main_bsp(const void *info)
{
    log_init(SERIAL_COM1);
    read_boot_info(info);
    probe_features();
    find_cpus();
    read_mtrrs();
    settle();

    panic_show(panic_page);
    trap_init();
    make_cpus();
    cpu_load(cpus[0]);
    if (log_strata_level() == 1)
        report_protection();
    make_guest_view();
    take_low_page();
    plan_guest();
    void *shared = hpa_ptr(hpa(memory01.hidden_start + IMAGE_SIZE));
    memset(shared, 0, nested_shared_size());
    const char *failure = vmxon_cpu(cpus[0]); /* first: what is found out there goes for all CPUs */
    if (failure)
        refuse(failure);
    if (machine.is_hypervisor)
        log_info("the machine is a hypervisor that %s VMCSs in memory", vmcs_image.on ? "keeps" : "does not keep");
    failure = nested_init(shared);
    if (!failure)
        failure = wake_cpus();
    if (failure) {
        hw_vmxoff();
        refuse(failure);
    }
    if (has_bios())
        lowpage_hook_int15();
    log_info("started, %u CPUs, memory 0x%llx-0x%llx", cpu_count, (unsigned long long)memory01.hidden_start,
             (unsigned long long)memory01.hidden_end - 1);

    vmcs01_create(cpus[0]);
    enter_guest(cpus[0]);
    nested_cpu_init(cpus[0]);
    guest_start(cpus[0]);
}
