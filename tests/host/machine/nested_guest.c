/*
 * The guest hypervisor of nested_machine.h: its instructions, its vmcs12s.
 */
#include <string.h>

#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"

/* Instruction information: no base, no index, 64-bit addresses, DS; the second register. SDM 3, "Format of ...". */
#define INFO_MEMORY (2u << 7 | 3u << 15 | BIT(22) | BIT(27))
#define INFO_REGISTERS (2u << 7 | BIT(10) | BIT(22) | BIT(27) | GPR_RAX << 3)
#define INFO_REG2(reg) ((uint64_t)(reg) << 28)

static unsigned access_exits;

/* Not an assertion of cmocka's: fuzzers use this file, too. */
static void expect_ok(int result, const char *what)
{
    if (result != VMX_OK)
        panic("test: %s by the guest hypervisor gives %d", what, result);
}

unsigned l2_access_exits(void) { return access_exits; }

static uint64_t field01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }

/* What the instruction did to the flags, or the exception that it raised. */
static int outcome(void)
{
    struct cpu *cpu = nested_machine_cpu();
    uint64_t event = field01(FIELD_ENTRY_INTR_INFO), flags = field01(FIELD_GUEST_RFLAGS);
    if (event & INTR_VALID) {
        fake_vmcs_write(cpu->vmcs01.region, FIELD_ENTRY_INTR_INFO, 0);
        return FAULTED + (int)(event & INTR_VECTOR_MASK);
    }
    if (flags & RFLAGS_CF)
        return VMX_FAIL_INVALID;
    if (!(flags & RFLAGS_ZF))
        return VMX_OK;
    return (int)cpu->nested->current->v.soft[FIELD_VM_INSTRUCTION_ERROR];
}

static int instruction(enum exit_reason reason, uint64_t info, uint64_t displacement)
{
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_OF);
    nested_machine_exit(&(struct nested_exit_info){
        .reason = reason, .qualification = displacement, .instruction = info, .length = 3 });
    return outcome();
}

static int memory_instruction(enum exit_reason reason, uint64_t operand)
{
    memcpy((void *)L2_OPERAND, &operand, sizeof(operand));
    return instruction(reason, INFO_MEMORY, L2_OPERAND);
}

int l2_vmxon(void) { return memory_instruction(REASON_vmxon, L2_VMXON + nested_machine_cpu()->index * PAGE_SIZE); }
int l2_vmxoff(void) { return instruction(REASON_vmxoff, 0, 0); }
int l2_vmclear(uint64_t region) { return memory_instruction(REASON_vmclear, region); }
int l2_vmptrld(uint64_t region) { return memory_instruction(REASON_vmptrld, region); }

int l2_vmptrst(uint64_t *region)
{
    int result = instruction(REASON_vmptrst, INFO_MEMORY, L2_OPERAND);
    memcpy(region, (void *)L2_OPERAND, sizeof(*region));
    return result;
}

static int shadow_result(enum fake_access access)
{
    return access == FAKE_DONE ? VMX_OK : access == FAKE_FAIL_INVALID ? VMX_FAIL_INVALID : VMERR_UNSUPPORTED_FIELD;
}

int l2_vmread(uint32_t field, uint64_t *value)
{
    struct cpu *cpu = nested_machine_cpu();
    enum fake_access access = fake_guest_vmread(field, value);
    if (access != FAKE_EXITS)
        return shadow_result(access);
    access_exits++;
    cpu->regs[GPR_RBX] = field;
    int result = instruction(REASON_vmread, INFO_REGISTERS | INFO_REG2(GPR_RBX), 0);
    *value = cpu->regs[GPR_RAX];
    return result;
}

int l2_vmwrite(uint32_t field, uint64_t value)
{
    struct cpu *cpu = nested_machine_cpu();
    enum fake_access access = fake_guest_vmwrite(field, value);
    if (access != FAKE_EXITS)
        return shadow_result(access);
    access_exits++;
    cpu->regs[GPR_RBX] = field;
    cpu->regs[GPR_RAX] = value;
    return instruction(REASON_vmwrite, INFO_REGISTERS | INFO_REG2(GPR_RBX), 0);
}

static int typed_instruction(enum exit_reason reason, uint64_t type, uint64_t first, uint64_t second)
{
    uint64_t descriptor[2] = { first, second };
    memcpy((void *)L2_OPERAND, descriptor, sizeof(descriptor));
    nested_machine_cpu()->regs[GPR_RBX] = type;
    return instruction(reason, INFO_MEMORY | INFO_REG2(GPR_RBX), L2_OPERAND);
}

int l2_invept(enum invept_type type, uint64_t eptp) { return typed_instruction(REASON_invept, type, eptp, 0); }
int l2_invvpid(enum invvpid_type type, uint64_t vpid, uint64_t linear)
{
    return typed_instruction(REASON_invvpid, type, vpid, linear);
}

int l2_enter(enum exit_reason reason)
{
    uint64_t rip = field01(FIELD_GUEST_RIP);
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, FIELD_GUEST_RFLAGS, RFLAGS_FIXED1);
    nested_machine_exit_reason(reason, 0);
    bool faulted = field01(FIELD_ENTRY_INTR_INFO) & INTR_VALID;
    if (nested_machine_in_l3() || (!faulted && field01(FIELD_GUEST_RIP) != rip + 3))
        return VMX_OK;
    return outcome();
}

uint64_t l2_field(uint32_t field)
{
    uint64_t value = 0;
    expect_ok(l2_vmread(field, &value), "VMREAD");
    return value;
}

/* --- vmcs12 --- */

#define V(row) values[FIELD_##row]

static void sample_controls(uint64_t *values)
{
    V(PIN_CONTROLS) = 0x16 | PIN_EXTERNAL_INTR | PIN_NMI;
    V(PROC_CONTROLS) = 0x04006172 | PROC_HLT | PROC_MSR_BITMAP | PROC_SECONDARY;
    V(PROC2_CONTROLS) = PROC2_EPT | PROC2_VPID | PROC2_UNRESTRICTED | PROC2_RDTSCP;
    V(EXIT_CONTROLS) = 0x00036dfb | EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
                       EXIT_LOAD_EFER;
    V(ENTRY_CONTROLS) = 0x000011fb | ENTRY_LOAD_DEBUG | ENTRY_IA32E | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER;
    V(VPID) = 5;
    V(EPTP) = EPTP12;
    V(MSR_BITMAP) = L2_MSR_BITMAP;
    V(IO_BITMAP_A) = L2_IO_BITMAPS;
    V(IO_BITMAP_B) = L2_IO_BITMAPS + PAGE_SIZE;
    V(VIRTUAL_APIC_ADDR) = L2_VIRTUAL_APIC;
    V(ENTRY_MSR_LOAD_ADDR) = L2_MSR_AREAS;
    V(EXIT_MSR_STORE_ADDR) = L2_MSR_AREAS + 0x400;
    V(EXIT_MSR_LOAD_ADDR) = L2_MSR_AREAS + 0x800;
    V(TSC_MULTIPLIER) = BIT(48);
    V(VMCS_LINK_POINTER) = ~0ull;
}

static void sample_host(uint64_t *values)
{
    V(HOST_CR0) = CR0_PE | CR0_NE | CR0_WP | CR0_PG;
    V(HOST_CR3) = L2_PML4;
    V(HOST_CR4) = CR4_PAE | CR4_MCE | CR4_VMXE | CR4_PGE;
    V(HOST_CS_SEL) = 0x08;
    V(HOST_SS_SEL) = V(HOST_DS_SEL) = V(HOST_FS_SEL) = 0x10;
    V(HOST_TR_SEL) = 0x40;
    V(HOST_FS_BASE) = 0x50300000;
    V(HOST_GS_BASE) = 0xffff888000001000ull;
    V(HOST_TR_BASE) = 0xfffffe0000002000ull;
    V(HOST_GDTR_BASE) = 0xfffffe0000003000ull;
    V(HOST_IDTR_BASE) = 0xfffffe0000004000ull;
    V(HOST_SYSENTER_CS) = 0x10;
    V(HOST_SYSENTER_ESP) = 0xfffffe0000005000ull;
    V(HOST_SYSENTER_EIP) = 0xffffffff81001000ull;
    V(HOST_PAT) = 0x0407010600070106ull;
    V(HOST_EFER) = EFER_SCE | EFER_LME | EFER_LMA;
    V(HOST_RSP) = 0xffffc90000006000ull;
    V(HOST_RIP) = L2_HOST_RIP;
}

static void sample_guest(uint64_t *values)
{
    for (int i = SEG_ES; i <= SEG_GS; i++) {
        values[FIELD_GUEST_ES_SEL + i] = 0x10;
        values[FIELD_GUEST_ES_LIMIT + i] = 0xffffffff;
        values[FIELD_GUEST_ES_AR + i] = 0x3 | AR_S | AR_PRESENT | AR_DB | AR_G;
    }
    V(GUEST_CS_AR) = 0xb | AR_S | AR_PRESENT | AR_L | AR_G;
    V(GUEST_LDTR_AR) = AR_UNUSABLE;
    V(GUEST_TR_AR) = 0xb | AR_PRESENT;
    V(GUEST_TR_LIMIT) = 0x67;
    V(GUEST_CR0) = CR0_PE | CR0_NE | CR0_PG;
    V(GUEST_CR3) = 0x50005000;
    V(GUEST_CR4) = CR4_PAE | CR4_MCE | CR4_VMXE;
    V(GUEST_EFER) = EFER_LME | EFER_LMA;
    V(GUEST_PAT) = 0x0007040600070406ull;
    V(GUEST_DR7) = 0x400;
    V(GUEST_RFLAGS) = RFLAGS_FIXED1;
    V(GUEST_RIP) = 0x50400000;
    V(GUEST_RSP) = 0x50401000;
    V(GUEST_GDTR_LIMIT) = V(GUEST_IDTR_LIMIT) = 0xffff;
}

void vmcs12_sample(uint64_t values[FIELD_COUNT])
{
    memset(values, 0, FIELD_COUNT * sizeof(*values));
    sample_controls(values);
    sample_host(values);
    sample_guest(values);
}

void l2_write_all(const uint64_t values[FIELD_COUNT])
{
    for (int row = 0; row < FIELD_COUNT; row++)
        if (nested_caps.offered[vmcs_fields[row].cap] && vmcs_encoding_type(vmcs_fields[row].encoding) != TYPE_INFO)
            expect_ok(l2_vmwrite(vmcs_fields[row].encoding, values[row]), vmcs_fields[row].name);
}

void l2_make(unsigned n, const uint64_t values[FIELD_COUNT])
{
    uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    if (!nested_machine_cpu()->nested->in_vmx)
        expect_ok(l2_vmxon(), "VMXON");
    memcpy((void *)VMCS12(n), &revision, sizeof(revision));
    expect_ok(l2_vmclear(VMCS12(n)), "VMCLEAR");
    expect_ok(l2_vmptrld(VMCS12(n)), "VMPTRLD");
    l2_write_all(values);
}

void l3_start(void)
{
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    l2_make(0, values);
    expect_ok(l2_enter(REASON_vmlaunch), "VMLAUNCH");
    if (!nested_machine_in_l3())
        panic("test: VMLAUNCH does not lead to the nested guest");
}
