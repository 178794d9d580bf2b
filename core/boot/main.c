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
#include "core/boot/wake.h"
#include "core/cpu/trap.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmxon.h"

#define BOOT_MAP_END (4 * GIB) /* what boot.S maps */
#define SHARED_SIZE (6 * MIB)  /* page tables, ept01, history: for all CPUs */
#define CPU_SIZE (2 * MIB)
#define IMAGE_SIZE PAGE_2M
#define MULTIBOOT2_INFO_MAX (1 * MIB)

extern _Noreturn void guest_start(struct cpu *cpu);
extern void relocate(void *to, const void *from, uint64_t size, uint64_t cr3);

static struct boot_info boot;
static struct acpi_cpus found_cpus;

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

static _Noreturn void refuse(const char *reason)
{
    char line[200];
    log_error("refused: %s", reason);
    log_info("continuing boot from drive %02xh without Strata", machine.boot_drive);
    if (!machine.low_page && !lowpage_take())
        panic("no conventional memory to continue the boot from");
    format(line, sizeof(line), "%sstrata: refused: %s", early_messages, reason);
    lowpage_message(line);
    lowpage_boot_without();
}

static void read_boot_info(const void *info)
{
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
    memory01.memmap = boot.memmap;
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

/* The CPU that runs this becomes number 0. */
static void find_cpus(void)
{
    uint32_t self = lapic_id();
    enum acpi_result result = acpi_find_cpus(acpi_pointer, boot.rsdp, boot.rsdp_size, &found_cpus);
    if (result != ACPI_OK || found_cpus.count == 0) {
        log_warn("ACPI lists no CPUs: using this one alone");
        found_cpus.count = 1;
        found_cpus.apic_id[0] = self;
    }
    if (found_cpus.dropped)
        log_warn("using %u CPUs; %u more stay with the firmware", found_cpus.count, found_cpus.dropped);
    for (unsigned i = 0; i < found_cpus.count; i++)
        if (found_cpus.apic_id[i] == self) {
            found_cpus.apic_id[i] = found_cpus.apic_id[0];
            found_cpus.apic_id[0] = self;
        }
}

/* For all CPUs together. Page tables of 4-KiB pages take more. */
static uint64_t shared_size(void)
{
    uint64_t small = machine.options.ept01 == EPT01_4K ? memory01.ram_end / EPT_ENTRIES : 0;
    return SHARED_SIZE + align_up(small, PAGE_2M);
}

/* Chooses the memory that becomes Strata's and hides it from the guest's map. */
static void place(const void *info)
{
    memory01.ram_end = memmap_ram_end(&memory01.memmap);
    uint64_t size = IMAGE_SIZE + shared_size() + found_cpus.count * CPU_SIZE;
    struct memmap_range avoid[MAX_BOOT_MODULES + 2] = {
        { MIB, (uint64_t)image_load + (uint64_t)(image_end - image_start) },
        { (uint64_t)info, (uint64_t)info + multiboot2_total_size(info) },
    };
    for (unsigned i = 0; i < boot.module_count; i++)
        avoid[2 + i] = (struct memmap_range){ boot.module[i].start, boot.module[i].end };
    memory01.hidden_start = memmap_place(&memory01.memmap, size, PAGE_2M, BOOT_MAP_END, avoid, boot.module_count + 2);
    if (!memory01.hidden_start)
        refuse("no free memory below 4 GiB for Strata (8 MiB and 2 MiB a CPU in one piece; with ept01=4k 2 MiB a GiB "
               "more)");
    memory01.hidden_end = memory01.hidden_start + size;
    if (!memmap_hide(&memory01.memmap, memory01.hidden_start, size))
        refuse("the memory map has too many entries");
    memory_find_plain();
}

/* Moves the image to its place and onto Strata's own page tables. */
static void move(void)
{
    hpa_t image = hpa(memory01.hidden_start);
    uint64_t shared = align_up(nested_shared_size(), PAGE_SIZE);
    pool_add(&memory01.pool, hpa(memory01.hidden_start + IMAGE_SIZE + shared), shared_size() - shared);
    uint64_t mapped = memory01.ram_end > BOOT_MAP_END ? align_up(memory01.ram_end, PAGE_1G) : BOOT_MAP_END;
    machine.cr3 = paging_build(&memory01.pool, image, mapped, machine.has_1g_pages);
    if (!machine.cr3)
        refuse("the machine has more memory than Strata can map without 1-GiB pages");
    image_moved(image);
    relocate(hpa_ptr(image), image_start, (uint64_t)(image_end - image_start), machine.cr3);
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

/* What of memory the guest sees, and which of its MSR accesses exit. */
static void make_guest_view(void)
{
    memory01.junk = pool_alloc(&memory01.pool);
    machine.msr_bitmap01 = pool_alloc(&memory01.pool);
    memset(hpa_ptr(memory01.junk), 0xff, PAGE_SIZE);
    msr_bitmap_init(hpa_ptr(machine.msr_bitmap01));
    read_mtrrs();
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
    machine.has_x2apic = hw_cpuid(1, 0).ecx & CPUID1_ECX_X2APIC;
    const char *missing = vmxon_require(&machine.hw);
    if (missing)
        refuse(missing);
    machine.cr4 = CR4_PAE | (machine.has_xsave ? CR4_OSXSAVE : 0) | vmx_caps_msr(&machine.hw, MSR_VMX_CR4_FIXED0);
    if (hw_cpuid(1, 0).edx & CPUID1_EDX_MCE) /* without it a machine check in Strata is a shutdown */
        machine.cr4 |= CR4_MCE;
    machine.barriers = barrier_decide(barrier_facts_read(), machine.options.mitigations);
}

void main_bsp(const void *info)
{
    log_init(SERIAL_COM1);
    read_boot_info(info);
    probe_features();
    find_cpus();
    place(info);
    move();

    panic_show(panic_page);
    trap_init();
    make_cpus();
    cpu_load(cpus[0]);
    make_guest_view();
    if (!lowpage_take())
        panic("no conventional memory (40:13h)");
    lowpage_message(early_messages);
    void *shared = hpa_ptr(hpa(memory01.hidden_start + IMAGE_SIZE));
    memset(shared, 0, nested_shared_size());
    const char *failure = vmxon_cpu(cpus[0]); /* first: what is found out there goes for all CPUs */
    if (failure)
        refuse(failure);
    failure = nested_init(shared);
    if (!failure)
        failure = wake_cpus();
    if (failure) {
        hw_vmxoff();
        refuse(failure);
    }
    if (!lowpage_hook_int15())
        refuse("the memory map has too many entries");
    log_info("started, %u CPUs, memory 0x%llx-0x%llx", cpu_count, (unsigned long long)memory01.hidden_start,
             (unsigned long long)memory01.hidden_end - 1);

    struct low_page *low = hpa_ptr(hpa(machine.low_page));
    vmcs01_create(cpus[0]);
    vmcs01_init_state(cpus[0], ACTIVITY_ACTIVE);
    vmcs01_real_mode((uint16_t)(machine.low_page >> 4), low->boot_entry);
    vmwrite(GUEST_CR0, CR0_ET | vmcs01_cr0_mask()); /* caches stay on */
    vmwrite(CR0_SHADOW, cpus[0]->cr0_shadow = CR0_ET);
    nested_cpu_init(cpus[0]);
    log_info("continuing boot from drive %02xh", machine.boot_drive);
    guest_start(cpus[0]);
}
