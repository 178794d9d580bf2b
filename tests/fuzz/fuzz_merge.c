/* sources: machine */
/*
 * Any vmcs12 over any memory, through VMLAUNCH, exits and back: Strata never panics (what it leaves, the fake processor enters),
 * vmcs02's host state and addresses are Strata's or the guest's own pages, and vmcs01's controls stay.
 * Input: steps of 10 bytes: what, which, and a value.
 */
#include <setjmp.h>
#include <string.h>

#include "core/memory/ept.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmcs01.h"
#include "tests/fuzz/fuzz.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define STEP_SIZE 10
#define STEPS_MAX 200
#define FUZZED_FIRST 3u /* guest pages that steps write to */
#define FUZZED_END 72u
#define CANARY (NESTED_MACHINE_END - 2 * MIB)
#define LINK_NONE (~0ull)
#define RESTORED_BITS (PIN_NMI | PIN_VIRTUAL_NMIS)

enum what {
    WRITE_FIELD,
    WRITE_SAMPLE_FIELD,
    WRITE_MEMORY,
    ENTER,
    ENTER_WRONG,
    EXIT_REASON,
    EXIT_EPT,
    EXIT_MSR,
    EXIT_EVENT,
    GUEST_STATE,
    VMPTRLD,
    VMCLEAR,
    VMXOFF,
    NMI,
    INIT,
    INVALIDATE,
    READ_FIELD,
    L2_STATE,
    MEMORY_AT,
    WHAT_COUNT
};

static struct cpu *cpu;
static uint64_t vmcs01_start[FIELD_COUNT], sample[FIELD_COUNT];
static jmp_buf reset;
static uint64_t memory_at; /* offset in a page */

static void on_reset(void) { longjmp(reset, 1); }

static uint64_t *l3_values(void)
{
    static uint64_t values[FIELD_COUNT];
    memcpy(values, fake_vmcs_values(nested_machine_vmcs02()), sizeof(values));
    return values;
}

/* --- what must hold --- */

static bool of_guest_or_nobody(uint64_t address)
{
    return address % PAGE_SIZE == 0 &&
           ((address >= NESTED_MACHINE_START && address < GUEST_END) || address == memory01.junk.v);
}

static void check_controls(const uint64_t *values, const struct nested_slot *slot)
{
    uint64_t window = cpu->nmi_virtual ? RESTORED_BITS : 0;
    uint64_t pin = vmx_caps_allowed1(&nested_caps, MSR_VMX_PIN) | window;
    uint64_t proc = vmx_caps_allowed1(&nested_caps, MSR_VMX_PROC) | PROC_SECONDARY;
    uint64_t proc2 = vmx_caps_allowed1(&nested_caps, MSR_VMX_PROC2) | PROC2_EPT | PROC2_VPID;
    fuzz_check(!(values[FIELD_PIN_CONTROLS] & ~pin));
    fuzz_check(!(values[FIELD_PROC_CONTROLS] & ~proc) && (values[FIELD_PROC_CONTROLS] & PROC_SECONDARY));
    fuzz_check(!(values[FIELD_PROC2_CONTROLS] & ~proc2));
    fuzz_check((values[FIELD_PROC2_CONTROLS] & (PROC2_EPT | PROC2_VPID)) == (PROC2_EPT | PROC2_VPID));
    fuzz_check(values[FIELD_VPID] > VPID01);
    fuzz_check(!values[FIELD_EXIT_MSR_STORE_COUNT] && !values[FIELD_EXIT_MSR_LOAD_COUNT]);
    fuzz_check(!values[FIELD_ENTRY_MSR_LOAD_COUNT]);
    bool shadowing = values[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS;
    fuzz_check(shadowing == (slot->link != NULL));
    fuzz_check(values[FIELD_VMCS_LINK_POINTER] == (shadowing ? slot->link->vmcs02.region.v : LINK_NONE));
    if (shadowing)
        fuzz_check(values[FIELD_VMREAD_BITMAP] == slot->vmread.page.v &&
                   values[FIELD_VMWRITE_BITMAP] == slot->vmwrite.page.v);
    uint64_t root = values[FIELD_EPTP] & EPT_ADDR_MASK;
    fuzz_check(root >= HIDDEN_START && root < NESTED_MACHINE_END);
    fuzz_check(slot->root ? values[FIELD_EPTP] == slot->root->eptp02
                          : values[FIELD_EPTP] == ept01_eptp(&memory01.ept01));
    if (values[FIELD_PROC_CONTROLS] & PROC_IO_BITMAPS)
        fuzz_check(of_guest_or_nobody(values[FIELD_IO_BITMAP_A]) && of_guest_or_nobody(values[FIELD_IO_BITMAP_B]));
    if (values[FIELD_PROC_CONTROLS] & PROC_TPR_SHADOW)
        fuzz_check(of_guest_or_nobody(values[FIELD_VIRTUAL_APIC_ADDR]));
    if (values[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP)
        fuzz_check(values[FIELD_MSR_BITMAP] == slot->msr.page.v);
    /* Another value than one of guest memory is never compared equal: ept02 maps nothing of Strata's. */
    fuzz_check(ept01_lookup(memory01.ept01.root, gpa1(CANARY)).base == memory01.junk.v);
}

static void check_bitmap(const struct nested_slot *slot, const uint64_t *values)
{
    const uint64_t *merged = hpa_ptr(slot->msr.page), *want1 = hpa_ptr(machine.msr_bitmap01);
    const uint64_t *want2 = gpa1_ptr(gpa1(slot->v.soft[FIELD_MSR_BITMAP]));
    if (!(values[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP))
        return;
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(*merged); i++)
        fuzz_check(merged[i] == (want1[i] | want2[i]));
}

static bool host_row(int row) { return vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_HOST; }

static void check(void)
{
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        const struct vmcs12 *v = &cpu->nested->slots[i].v;
        for (int row = 0; v->region.v != VMCS12_NONE && v->host_written && row < FIELD_COUNT; row++)
            fuzz_check(!host_row(row) || fake_vmcs_read(v->vmcs02.region, (enum vmcs_row)row) == vmcs01_start[row]);
    }
    const uint64_t *values = fake_vmcs_values(cpu->vmcs01.region);
    static const enum vmcs_row fixed[] = { FIELD_EPTP,          FIELD_MSR_BITMAP,     FIELD_EXIT_CONTROLS,   FIELD_VPID,
                                           FIELD_VMREAD_BITMAP, FIELD_VMWRITE_BITMAP, FIELD_EXCEPTION_BITMAP };
    for (int row = 0; row < FIELD_COUNT; row++)
        fuzz_check(!host_row(row) || values[row] == vmcs01_start[row]);
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        fuzz_check(values[fixed[i]] == vmcs01_start[fixed[i]]);
    if (cpu->in_nested) {
        check_controls(l3_values(), cpu->nested->current);
        check_bitmap(cpu->nested->current, l3_values());
    } else {
        bool window = values[FIELD_PIN_CONTROLS] & PIN_NMI;
        fuzz_check(window == cpu->nmi_virtual);
    }
    static const uint64_t clean[PAGE_SIZE / 8];
    fuzz_check(memcmp((void *)CANARY, clean, PAGE_SIZE) == 0);
}

/* --- the machine, once, and made fresh for each input --- */

static void guest_memory_make(void)
{
    memset((void *)GUEST_PAGE(FUZZED_FIRST), 0, (FUZZED_END - FUZZED_FIRST) * PAGE_SIZE);
    uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    memcpy((void *)L2_VMXON, &revision, sizeof(revision));
    uint64_t entry = EPT12_PDPT | EPT_RWX, leaf = PAGE_1G | EPT_RWX | EPT_LARGE | MEMTYPE_WB << EPT_MEMTYPE_SHIFT;
    memcpy((void *)EPT12_PML4, &entry, sizeof(entry));
    memcpy((void *)(EPT12_PDPT + 8), &leaf, sizeof(leaf));
    for (uint64_t page = FUZZED_FIRST; page < FUZZED_END; page++)
        nested_machine_wrote(GUEST_PAGE(page));
}

/* The guest hypervisor's own registers: 64-bit mode with its page tables, as after its host state was loaded and restored. */
static void l2_restore(void)
{
    for (int row = 0; row < FIELD_COUNT; row++)
        if (vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST && row != FIELD_VMCS_LINK_POINTER &&
            row != FIELD_GUEST_PML_INDEX)
            fake_vmcs_write(cpu->vmcs01.region, (enum vmcs_row)row, vmcs01_start[row]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_CR0_SHADOW, cpu->cr0_shadow = vmcs01_start[FIELD_CR0_SHADOW]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_CR4_SHADOW, cpu->cr4_shadow = vmcs01_start[FIELD_CR4_SHADOW]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_ENTRY_CONTROLS, vmcs01_start[FIELD_ENTRY_CONTROLS]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_ENTRY_INTR_INFO, 0);
}

static void machine_once(void)
{
    nested_machine_start(&(struct nested_machine_config){ 0 });
    nested_machine_on_reset(on_reset);
    fake_msr_refuse(MSR_APIC_BASE); /* the fake machine has no xAPIC page */
    cpu = nested_machine_cpu();
    memcpy(vmcs01_start, fake_vmcs_values(cpu->vmcs01.region), sizeof(vmcs01_start));
    vmcs12_sample(sample);
}

static void machine_renew(void)
{
    struct nested *n = cpu->nested;
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        struct nested_slot *slot = &n->slots[i];
        if (slot->v.region.v == VMCS12_NONE)
            continue;
        hw_vmclear(slot->v.vmcs02.region);
        bitmap_forget(&slot->msr);
        bitmap_forget(&slot->vmread);
        bitmap_forget(&slot->vmwrite);
        slot->v.region.v = VMCS12_NONE;
        slot->v.state = VMCS12_FREE;
        slot->link = NULL;
        slot->prefill = false;
    }
    vmcs_load(cpu, &cpu->vmcs01);
    n->in_vmx = n->init_pending = false;
    n->current = NULL;
    n->vmxon.v = VMCS12_NONE;
    cpu->in_nested = cpu->waits_in_nested = cpu->nmi_virtual = cpu->smi_blocked = false;
    cpu->event_pending = cpu->nmi_pending = cpu->machine_check_pending = 0;
    memset(cpu->regs, 0, sizeof(cpu->regs));
    l2_restore();
    static const enum vmcs_row rest[] = { FIELD_PIN_CONTROLS, FIELD_PROC_CONTROLS, FIELD_PROC2_CONTROLS, FIELD_CR0_MASK,
                                          FIELD_VMCS_LINK_POINTER };
    for (size_t i = 0; i < ARRAY_SIZE(rest); i++)
        fake_vmcs_write(cpu->vmcs01.region, rest[i], vmcs01_start[rest[i]]);
    ept02_ept01_changed(&n->ept02);
    guest_memory_make();
    fake_journal_clear();
    memory_at = 0;
}

/* --- steps --- */

static void leave_l3(void)
{
    if (cpu->in_nested)
        nested_machine_exit_reason(REASON_cpuid, 0);
    if (cpu->in_nested)
        nested_machine_exit_reason(REASON_vmcall, 0); /* an NMI of Strata's waited */
    l2_restore();
}

static void exit_l3(struct nested_exit_info info) { nested_machine_exit(&info); }

static int offered_row(uint8_t which)
{
    int row = which % FIELD_COUNT;
    return nested_caps.offered[vmcs_fields[row].cap] ? row : -1;
}

static void field_step(enum what what, uint8_t which, uint64_t value)
{
    int row = offered_row(which);
    if (row < 0)
        return;
    leave_l3();
    uint64_t got;
    if (what == READ_FIELD)
        l2_vmread(vmcs_fields[row].encoding | (uint32_t)(value & 1), &got);
    else
        l2_vmwrite(vmcs_fields[row].encoding, what == WRITE_FIELD ? value : sample[row] ^ value);
}

static void guest_step(uint8_t which, uint64_t value)
{
    int row = which % FIELD_COUNT;
    bool guest = vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST && vmcs_fields[row].store == STORE_SHARED;
    if (cpu->in_nested && guest && fake_caps.offered[vmcs_fields[row].cap])
        fake_vmcs_write(nested_machine_vmcs02(), (enum vmcs_row)row, value);
}

static void exit_step(enum what what, uint8_t which, uint64_t value)
{
    if (!cpu->in_nested)
        return;
    cpu->regs[GPR_RCX] = value;
    if (what == EXIT_EPT) /* ept01 has no misconfigurations */
        exit_l3((struct nested_exit_info){
            .reason = (which & 8) && cpu->nested->current->root ? REASON_ept_misconfig : REASON_ept_violation,
            .qualification = which & 7 ? which & 7u : 1,
            .gpa = value & (BIT(40) - 1),
            .idt_info = which & 16 ? INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_UD : 0 });
    else if (what == EXIT_MSR)
        exit_l3((struct nested_exit_info){ .reason = which & 1 ? REASON_wrmsr : REASON_rdmsr, .length = 2 });
    else if (what == EXIT_EVENT)
        exit_l3((struct nested_exit_info){ .reason = REASON_exception_nmi, .intr_info = INTR_VALID | (value & 0xfff) });
    else if (which % REASON_COUNT != REASON_ept_misconfig)
        exit_l3((struct nested_exit_info){ .reason = which % REASON_COUNT, .qualification = value, .length = 3 });
}

static void vmx_step(enum what what, uint8_t which, uint64_t value)
{
    leave_l3();
    uint64_t region = value & 1 ? value & PAGE_MASK : VMCS12(which % 4);
    const struct nested_slot *slot = cpu->nested->current;
    bool resume = slot && slot->v.launched;
    switch (what) {
    case ENTER:
    case ENTER_WRONG:
        nested_machine_exit_reason(resume == (what == ENTER) ? REASON_vmresume : REASON_vmlaunch, 0);
        break;
    case VMPTRLD:
        l2_vmptrld(region);
        break;
    case VMCLEAR:
        l2_vmclear(region);
        break;
    case VMXOFF:
        l2_vmxoff();
        l2_restore();
        l2_vmxon();
        break;
    default:
        if (which & 1)
            l2_invept((enum invept_type)(which >> 1 & 3), value);
        else
            l2_invvpid((enum invvpid_type)(which >> 1 & 7), value & 0xffff, value);
        break;
    }
}

/* Words follow each other from where MEMORY_AT says. */
static void memory_step(uint8_t which, uint64_t value)
{
    uint64_t address = GUEST_PAGE(FUZZED_FIRST + which % (FUZZED_END - FUZZED_FIRST)) + memory_at;
    leave_l3();
    memcpy((void *)address, &value, sizeof(value));
    nested_machine_wrote(address);
    memory_at = (memory_at + sizeof(value)) % PAGE_SIZE;
}

static void step(enum what what, uint8_t which, uint64_t value)
{
    switch (what) {
    case WRITE_FIELD:
    case WRITE_SAMPLE_FIELD:
    case READ_FIELD:
        field_step(what, which, value);
        break;
    case WRITE_MEMORY:
        memory_step(which, value);
        break;
    case MEMORY_AT:
        memory_at = value & (PAGE_SIZE - 8);
        break;
    case EXIT_REASON:
    case EXIT_EPT:
    case EXIT_MSR:
    case EXIT_EVENT:
        exit_step(what, which, value);
        break;
    case GUEST_STATE:
        guest_step(which, value);
        break;
    case NMI:
        cpu->nmi_pending = cpu->event_pending = 1;
        break;
    case INIT:
        leave_l3();
        if (cpu->nested->in_vmx)
            nested_machine_exit_reason(REASON_init, 0);
        break;
    case L2_STATE:
        leave_l3();
        fake_vmcs_write(cpu->vmcs01.region, FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        fake_vmcs_write(cpu->vmcs01.region, FIELD_GUEST_INTERRUPTIBILITY, which % 3);
        nested_machine_exit_reason(REASON_vmresume, 0);
        break;
    default:
        vmx_step(what, which, value);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!cpu)
        machine_once();
    machine_renew();
    if (setjmp(reset))
        return 0;
    l2_make(0, sample);
    for (unsigned i = 0; i < STEPS_MAX && size >= STEP_SIZE; i++, data += STEP_SIZE, size -= STEP_SIZE) {
        uint64_t value;
        memcpy(&value, data + 2, sizeof(value));
        step((enum what)(data[0] % WHAT_COUNT), data[1], value);
        check();
    }
    return 0;
}
