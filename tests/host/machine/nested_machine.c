/*
 * Building the machine, exits and entries; see nested_machine.h.
 */
#include "tests/host/machine/nested_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/guest/dispatch.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/trap.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmcs_image.h"
#include "core/cpu/vmx_probe.h"
#include "core/cpu/vmx_require.h"
#include "core/cpu/vmxon.h"
#include "tests/host/support/support.h"

#define SHARED_POOL HIDDEN_START
#define SHARED_POOL_SIZE (8 * MIB)
#define CPU_POOL(cpu) (HIDDEN_START + SHARED_POOL_SIZE + (cpu)*CPU_POOL_SIZE)
#define CPU_POOL_SIZE (4 * MIB)
#define ROOT_VMXON(cpu) (NESTED_MACHINE_END - MIB + (cpu)*PAGE_SIZE)
#define TRIES_MAX 8
#define CODE_64 (0xbu | AR_S | AR_PRESENT | AR_L | AR_G)
#define DATA_32 (0x3u | AR_S | AR_PRESENT | AR_DB | AR_G)
#define APIC_PAGE 0xfee00000ull
#define CR0_L2 (CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG)
#define CR4_L2 (CR4_PAE | CR4_MCE | CR4_VMXE)
#define EFER_L2 (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

struct cpu *cpus[MAX_CPUS];
unsigned cpu_count;
extern const uint8_t vmexit_entry[];
const uint8_t vmexit_entry[16] = { 0 };

static struct cpu *cpu;
static void (*reset_hook)(void);

/* What is not linked. */
_Noreturn void guest_start(struct cpu *c);
_Noreturn void guest_start(struct cpu *c) { panic("test: guest_start of CPU %u", c->index); }
uint64_t trap_idt_base(void) { return 0x1000; }
void cpu_load(struct cpu *c) { panic("test: cpu_load of CPU %u", c->index); }
const char *vmxon_cpu(struct cpu *c) { return c->failure; }
void log_line(enum log_level level, const char *text, ...) { (void)level, (void)text; }
_Noreturn void machine_reset(void)
{
    if (reset_hook)
        reset_hook();
    panic("test: the machine resets");
}
void task_switch_handle(struct cpu *c, uint32_t reason) { panic("test: task switch, %u, CPU %u", reason, c->index); }
void cpuid_emulate(struct cpu *c) { c->regs[GPR_RAX] = 0x57; }

static void put64(uint64_t gpa, uint64_t value) { memcpy((void *)gpa, &value, sizeof(value)); }

/* --- the machine --- */

static void caps_set(const struct nested_machine_config *config)
{
    uint64_t *msr = fake_caps.msr;
    if (config->no_write_info)
        msr[MSR_VMX_MISC - MSR_VMX_FIRST] &= ~VMX_MISC_WRITE_INFO;
    if (config->no_pml)
        msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] &= ~(PROC2_PML << 32);
    if (config->no_flags)
        msr[MSR_VMX_EPT_VPID - MSR_VMX_FIRST] &= ~EPT_CAP_AD;
    if (config->no_apic) {
        msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] &= ~((PROC2_VIRT_INTR_DELIVERY | PROC2_VIRT_APIC_ACCESS) << 32);
        msr[MSR_VMX_PIN - MSR_VMX_FIRST] &= ~(PIN_POSTED_INTR << 32);
        msr[MSR_VMX_TRUE_PIN - MSR_VMX_FIRST] &= ~(PIN_POSTED_INTR << 32);
    }
    if (config->change)
        config->change(&fake_caps);
    vmx_caps_derive(&fake_caps);
    fake_pml = fake_caps.msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] >> 32 & PROC2_PML;
    fake_msr_set(MSR_APIC_BASE, APIC_PAGE | APIC_BASE_ENABLE | APIC_BASE_X2APIC | APIC_BASE_BSP);
    fake_msr_set(MSR_X2APIC_ICR, 0);
    fake_msr_set(MSR_KERNEL_GS_BASE, 0);
    fake_msr_set(MSR_LSTAR, 0);
    fake_msr_set(MSR_FS_BASE, 0);
    fake_msr_set(MSR_GS_BASE, 0);
}

static int on_unless(bool off) { return off ? OPTION_OFF : OPTION_ON; }

static void view_make(const struct nested_machine_config *config)
{
    memset(&machine, 0, sizeof(machine));
    machine.options = (struct options){ .shadow = on_unless(config->shadow_off),
                                        .large = on_unless(config->large_off),
                                        .coalesce = on_unless(config->coalesce_off),
                                        .history = on_unless(config->history_off),
                                        .prefill = on_unless(config->prefill_off),
                                        .x2apic = OPTION_ON };
    vmx_probe(&machine.hw);
    machine.has_1g_pages = true;
    machine.cr3 = HIDDEN_START;
    machine.cr4 = CR4_PAE | CR4_VMXE;
    memmap_init(&memory01.memmap);
    memmap_add(&memory01.memmap, NESTED_MACHINE_START, NESTED_MACHINE_END - NESTED_MACHINE_START, MEMMAP_RAM);
    memmap_hide(&memory01.memmap, HIDDEN_START, NESTED_MACHINE_END - HIDDEN_START);
    memory01.hidden_start = HIDDEN_START;
    memory01.hidden_end = NESTED_MACHINE_END;
    memory01.ram_end = GUEST_END;
    memory_find_plain();
    pool_add(&memory01.pool, hpa(SHARED_POOL),
             config->pool_pages ? 2 * config->pool_pages * PAGE_SIZE : SHARED_POOL_SIZE);
    memory01.junk = pool_alloc(&memory01.pool);
    memset(hpa_ptr(memory01.junk), 0xff, PAGE_SIZE);
    machine.msr_bitmap01 = pool_alloc(&memory01.pool);
    msr_bitmap_init(hpa_ptr(machine.msr_bitmap01));
    mtrr_init(&memory01.mtrr, 0, machine.hw.maxphyaddr);
    struct ept01_config ept01 = {
        .maxphyaddr = machine.hw.maxphyaddr,
        .pages_1g = vmx_caps_msr(&machine.hw, MSR_VMX_EPT_VPID) & EPT_CAP_1G,
        .accessed_dirty = vmx_caps_msr(&machine.hw, MSR_VMX_EPT_VPID) & EPT_CAP_AD,
        .hidden = { { HIDDEN_START, NESTED_MACHINE_END } },
        .junk = memory01.junk,
        .mtrr = &memory01.mtrr,
        .top = memory01.ram_end,
        .pool = &memory01.pool,
    };
    if (!ept01_init(&memory01.ept01, &ept01))
        panic("test: ept01");
}

static void l2_segment(enum segment segment, uint16_t selector, uint32_t rights)
{
    uint32_t i = 2u * (uint32_t)segment;
    hw_vmwrite(VMCS_GUEST_ES_SEL + i, selector);
    hw_vmwrite(VMCS_GUEST_ES_BASE + i, 0);
    hw_vmwrite(VMCS_GUEST_ES_LIMIT + i, 0xffffffff);
    hw_vmwrite(VMCS_GUEST_ES_AR + i, rights);
}

/* 64-bit mode, memory mapped to itself. */
static void l2_state_make(void)
{
    put64(L2_PML4, L2_PDPT | 0x23);
    for (uint64_t i = 0; i < EPT_ENTRIES; i++)
        put64(L2_PDPT + 8 * i, i << 30 | 0xe3);
    for (enum segment s = SEG_ES; s <= SEG_GS; s++)
        l2_segment(s, s == SEG_CS ? 8 : 16, s == SEG_CS ? CODE_64 : DATA_32);
    vmwrite(GUEST_CR0, CR0_L2);
    vmwrite(CR0_SHADOW, cpu->cr0_shadow = CR0_L2);
    vmwrite(GUEST_CR4, CR4_L2);
    vmwrite(CR4_SHADOW, cpu->cr4_shadow = CR4_L2);
    vmwrite(GUEST_CR3, L2_PML4);
    vmwrite(GUEST_EFER, EFER_L2);
    vmwrite(ENTRY_CONTROLS, vmread(ENTRY_CONTROLS) | ENTRY_IA32E);
    vmwrite(GUEST_RIP, L2_ENTRY_RIP);
    vmwrite(GUEST_RSP, L2_OPERAND + 0x800);
}

static uint32_t root_revision(void)
{
    return (uint32_t)(vmx_caps_msr(&fake_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
}

static void root_enter(unsigned index)
{
    uint32_t revision = root_revision();
    memcpy(hpa_ptr(hpa(ROOT_VMXON(index))), &revision, sizeof(revision));
    if (!hw_vmxon(hpa(ROOT_VMXON(index))))
        panic("test: VMXON");
}

/* What vmxon.c does on the first CPU. */
static const char *probe_fields(void)
{
    fake_cpu_select(0);
    root_enter(0);
    hpa_t vmcs = pool_alloc(&memory01.pool);
    uint32_t revision = root_revision();
    memcpy(hpa_ptr(vmcs), &revision, sizeof(revision));
    hw_vmclear(vmcs);
    hw_vmptrld(vmcs);
    const struct vmcs_field *needed = vmx_probe_fields(&machine.hw);
    hw_vmclear(vmcs);
    hpa_t other = pool_alloc(&memory01.pool);
    memcpy(hpa_ptr(other), &revision, sizeof(revision));
    if (!needed)
        vmcs_image_probe(vmcs, other, &machine.hw);
    return needed ? needed->name : NULL;
}

static void cpu_start(unsigned index, uint64_t pool_size)
{
    static struct cpu storage[FAKE_CPUS];
    static struct nested nested_storage[FAKE_CPUS];
    struct cpu *c = &storage[index];
    memset(c, 0, sizeof(*c));
    c->index = c->apic_id = index;
    memset(&nested_storage[index], 0, sizeof(nested_storage[index]));
    c->nested = &nested_storage[index]; /* no heap: those addresses are wider than physical ones */
    pool_add(&c->pool, hpa(CPU_POOL(index)), pool_size);
    c->vmcs01.region = pool_alloc(&c->pool);
    cpus[index] = c;
    cpu_count = index + 1;
    nested_machine_select(index);
    if (index)
        root_enter(index);
    vmcs01_create(c);
    vmcs01_init_state(c, ACTIVITY_ACTIVE);
    nested_cpu_init(c);
    l2_state_make();
    c->state = CPU_STARTED;
    uint32_t revision = root_revision();
    memcpy((void *)(L2_VMXON + index * PAGE_SIZE), &revision, sizeof(revision));
    struct fake_entry entry = fake_enter(FAKE_VMLAUNCH);
    if (entry.result != FAKE_ENTERED)
        panic("test: the first entry fails: %s", entry.rule ? entry.rule->name : "launch state");
}

void nested_machine_start(const struct nested_machine_config *config)
{
    const char *refused = nested_machine_try(config);
    if (refused)
        panic("test: refused: %s", refused);
}

const char *nested_machine_try(const struct nested_machine_config *config)
{
    reset_hook = NULL;
    fake_hw_reset(NESTED_MACHINE_END);
    caps_set(config);
    const char *refused = vmx_require(&fake_caps);
    if (refused)
        return refused;
    view_make(config);
    fake_keeping = config->keeping;
    refused = probe_fields();
    fake_journal_clear();
    if (refused)
        return refused;
    const char *failure = nested_init(calloc(1, nested_shared_size()));
    if (failure)
        panic("test: %s", failure);
    for (unsigned i = 0; i < (config->cpus ? config->cpus : 1); i++)
        cpu_start(i, config->pool_pages ? config->pool_pages * PAGE_SIZE : CPU_POOL_SIZE);
    nested_machine_select(0);
    put64(EPT12_PML4, EPT12_PDPT | EPT_RWX);
    put64(EPT12_PDPT + 8, PAGE_1G | EPT_RWX | EPT_LARGE | MEMTYPE_WB << EPT_MEMTYPE_SHIFT);
    return NULL;
}

void nested_machine_select(unsigned index)
{
    fake_cpu_select((int)index);
    cpu = cpus[index];
    fake_msr_set(MSR_GS_BASE, (uint64_t)cpu);
}

struct cpu *nested_machine_cpu(void) { return cpu; }
struct nested_slot *nested_machine_slot(void) { return cpu->nested->current; }
hpa_t nested_machine_vmcs02(void) { return cpu->nested->current->v.vmcs02.region; }
bool nested_machine_in_l3(void) { return cpu->in_nested; }
void nested_machine_on_reset(void (*hook)(void)) { reset_hook = hook; }

/* --- exits: exit.S --- */

static void enter(bool resume)
{
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        if (cpu->event_pending) {
            resume = entry_inject_pending(cpu);
            continue;
        }
        if (fake_current() != cpu->current->region.v)
            panic("test: Strata enters %llxh, but thinks that it is another one", (unsigned long long)fake_current());
        struct fake_entry entry = fake_enter(resume ? FAKE_VMRESUME : FAKE_VMLAUNCH);
        if (entry.result == FAKE_ENTERED)
            return;
        resume = entry.result == FAKE_VMFAIL ? entry_instruction_failed(cpu, entry.error == VMX_FAIL_INVALID)
                                             : exit_dispatch(cpu);
    }
    panic("test: no entry succeeds");
}

static void save(enum vmcs_row row, uint64_t value) { fake_vmcs_write(hpa(fake_current()), row, value); }

void nested_machine_exit(const struct nested_exit_info *info)
{
    fake_exit(info->reason, info->qualification);
    if (!(info->reason & REASON_ENTRY_FAILURE)) {
        save(FIELD_EXIT_INTR_INFO, info->intr_info);
        save(FIELD_EXIT_INTR_ERROR, info->intr_error);
        save(FIELD_IDT_VECTORING_INFO, info->idt_info);
        save(FIELD_IDT_VECTORING_ERROR, info->idt_error);
        save(FIELD_EXIT_INSTRUCTION_LEN, info->length);
        save(FIELD_EXIT_INSTRUCTION_INFO, info->instruction);
        save(FIELD_GUEST_PHYSICAL_ADDR, info->gpa);
        save(FIELD_GUEST_LINEAR_ADDR, info->linear);
    }
    enter(exit_dispatch(cpu));
}

void nested_machine_exit_reason(uint64_t reason, uint64_t qualification)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = reason, .qualification = qualification, .length = 3 });
}

/* SDM 3, "Accessed and Dirty Flags for EPT", "Page-Modification Logging". */
static uint64_t *ept01_entry(uint64_t gpa)
{
    uint64_t *entry = hpa_ptr(memory01.ept01.root);
    for (int level = EPT_LEVELS;; level--) {
        entry += ept_index(gpa, level);
        if (ept_is_leaf(*entry, level))
            return entry;
        entry = hpa_ptr(hpa(*entry & EPT_ADDR_MASK));
    }
}

void nested_machine_log(uint64_t gpa)
{
    hpa_t vmcs01 = cpu->vmcs01.region;
    if (!(fake_vmcs_read(vmcs01, FIELD_PROC2_CONTROLS) & PROC2_PML))
        return;
    uint64_t index = fake_vmcs_read(vmcs01, FIELD_GUEST_PML_INDEX);
    if (index >= EPT_ENTRIES) {
        nested_machine_exit_reason(REASON_pml_full, 0);
        index = fake_vmcs_read(vmcs01, FIELD_GUEST_PML_INDEX);
    }
    put64(fake_vmcs_read(vmcs01, FIELD_PML_ADDR) + 8 * index, gpa & PAGE_MASK);
    fake_vmcs_write(vmcs01, FIELD_GUEST_PML_INDEX, index - 1);
}

void nested_machine_wrote_unlogged(uint64_t gpa)
{
    if (memory01.ept01.config.accessed_dirty)
        *ept01_entry(gpa) |= EPT_DIRTY;
}

void nested_machine_wrote(uint64_t gpa)
{
    bool flags = memory01.ept01.config.accessed_dirty;
    if (!(*ept01_entry(gpa) & EPT_W))
        nested_machine_exit(&(struct nested_exit_info){
            .reason = REASON_ept_violation, .qualification = EPT_QUAL_WRITE, .gpa = gpa, .linear = gpa });
    if (!(*ept01_entry(gpa) & EPT_W))
        panic("test: a write to %llxh is not let through", (unsigned long long)gpa);
    if (!flags || (*ept01_entry(gpa) & EPT_DIRTY))
        return;
    nested_machine_log(gpa);
    *ept01_entry(gpa) |= EPT_DIRTY;
}
