/*
 * VMX instructions' outcomes, fields, capabilities, and entering and leaving VMX operation.
 * VMCS regions come from a pool of their own: memory that was once a VMCS never becomes anything else, so that a
 * processor's late write-back cannot hurt.
 */
#include "vmx.h"
#include "verdict.h"

enum { VMCS_POOL = 24 };
static u8 vmcs_pool[VMCS_POOL * PAGE] __attribute__((aligned(4096)));
static u8 vmxon_pool[CPUS * PAGE] __attribute__((aligned(4096)));
static u32 vmcs_used;
static u8 vmcs_owner[VMCS_POOL]; /* index of the CPU that made it: a CPU clears its own only */
u8 vmcs_fill;

outcome_t vmx_outcome(ulong flags)
{
    const struct cpu *cpu = this_cpu();
    if (cpu->fault.vector >= 0)
        return FAULTS((u32)cpu->fault.vector);
    switch (flags & RFLAGS_ARITH) {
    case 0:
        return VMX_OK;
    case RFLAGS_CF:
        return VMX_INVALID;
    case RFLAGS_ZF: {
        ulong error = 0;
        asm volatile("vmread %1,%0" : "=rm"(error) : "r"((ulong)INSN_ERROR) : "cc");
        return FAIL_VALID((u32)error);
    }
    default:
        return VMX_FLAGS | (u32)(flags & RFLAGS_ARITH);
    }
}

static void outcome_name(char *out, size_t size, outcome_t o)
{
    if (o == VMX_OK)
        format(out, size, "success");
    else if (o == VMX_INVALID)
        format(out, size, "VMfailInvalid");
    else if (o & VMX_FLAGS)
        format(out, size, "flags %x", o & RFLAGS_ARITH);
    else
        format(out, size, "%s %u", (o & 0xf00) == VMX_VALID ? "VMfailValid" : "fault vector", o & 0xff);
}

bool check_outcome(const char *what, outcome_t got, outcome_t want)
{
    if (got == want)
        return true;
    char g[32], w[32];
    outcome_name(g, sizeof g, got);
    outcome_name(w, sizeof w, want);
    test_failed("%s: got %s, expected %s", what, g, w);
    return false;
}

u64 field_mask(u32 field)
{
    static const u64 mask[] = { 0xffff, ~0ull, 0xffffffff, (u64)(ulong)-1 };
    return mask[field_width(field)];
}

outcome_t field_read(u32 field, u64 *v)
{
    ulong low = 0, high = 0;
    outcome_t o = vmread(field, &low);
    if (!IS64 && o == VMX_OK && field_width(field) == WIDTH_64)
        o = vmread(field | 1, &high);
    *v = IS64 ? low : (u64)high << 32 | low;
    return o;
}

outcome_t field_write(u32 field, u64 v)
{
    outcome_t o = vmwrite(field, (ulong)v);
    if (!IS64 && o == VMX_OK && field_width(field) == WIDTH_64)
        o = vmwrite(field | 1, (ulong)(v >> 32));
    return o;
}

u64 vmget(u32 field)
{
    u64 v;
    outcome_t o = field_read(field, &v);
    if (o != VMX_OK) {
        char what[60];
        format(what, sizeof what, "in VMREAD of %04x: outcome %x", field, o);
        test_fault(what);
    }
    return v;
}

void vmset(u32 field, u64 v)
{
    outcome_t o = field_write(field, v);
    if (o != VMX_OK) {
        char what[80];
        format(what, sizeof what, "in VMWRITE of %04x value %llx: outcome %x", field, v, o);
        test_fault(what);
    }
}

static bool true_controls(void) { return (rdmsr(MSR_VMX_BASIC) & BIT(55)) != 0; }
u32 pin_msr(void) { return true_controls() ? MSR_VMX_TRUE_PIN : MSR_VMX_PIN; }
u32 proc_msr(void) { return true_controls() ? MSR_VMX_TRUE_PROC : MSR_VMX_PROC; }
u32 exit_msr(void) { return true_controls() ? MSR_VMX_TRUE_EXIT : MSR_VMX_EXIT; }
u32 entry_msr(void) { return true_controls() ? MSR_VMX_TRUE_ENTRY : MSR_VMX_ENTRY; }
u32 vmcs_revision(void) { return (u32)rdmsr(MSR_VMX_BASIC) & 0x7fffffff; }

u32 control_adjust(u32 msr, u32 want)
{
    u64 cap = rdmsr(msr);
    return (want | (u32)cap) & (u32)(cap >> 32);
}

bool control_supported(u32 msr, u32 bits) { return (rdmsr(msr) >> 32 & bits) == bits; }

bool proc2_supported(u32 bits)
{
    return control_supported(proc_msr(), PROC_SECONDARY) && control_supported(MSR_VMX_PROC2, bits);
}

bool ept_has(u32 capability_bit)
{
    bool any = proc2_supported(PROC2_EPT) || proc2_supported(PROC2_VPID);
    return any && (rdmsr(MSR_VMX_EPT_VPID) >> capability_bit & 1) != 0;
}

void vmx_enter_operation(void)
{
    struct cpu *cpu = this_cpu();
    if (!(cpuid(1, 0).c & 1u << 5)) {
        test_fault("(CPUID says there is no VMX)");
    }
    u64 control = rdmsr(MSR_FEATURE_CONTROL);
    if (!(control & 1))
        wrmsr(MSR_FEATURE_CONTROL, control | 5);
    cpu->vmxon = vmxon_pool + cpu->index * PAGE;
    u32 revision = vmcs_revision();
    memcpy(cpu->vmxon, &revision, 4);
    write_cr0(((u32)read_cr0() | (u32)rdmsr(MSR_VMX_CR0_FIXED0)) & (u32)rdmsr(MSR_VMX_CR0_FIXED1));
    write_cr4(read_cr4() | CR4_VMXE);
    outcome_t o = vmxon(phys(cpu->vmxon));
    if (o != VMX_OK) {
        char what[40];
        format(what, sizeof what, "in VMXON: outcome %x", o);
        test_fault(what);
    }
    cpu->vmx = true;
}

void vmcs_reset(void)
{
    vmcs_used = 0;
    vmcs_fill = 0;
}

void vmx_leave_operation(void)
{
    struct cpu *cpu = this_cpu();
    for (u32 i = 0; i < vmcs_used; i++)
        if (vmcs_owner[i] == cpu->index)
            vmclear(phys(vmcs_pool + i * PAGE));
    vmxoff(); /* #UD, and no matter, when a test has left VMX operation by itself */
    cpu->vmx = false;
    write_cr4(read_cr4() & ~(ulong)CR4_VMXE);
    if (cpu->index == 0)
        vmcs_reset();
}

void *vmcs_alloc(void)
{
    u32 at = __atomic_fetch_add(&vmcs_used, 1, __ATOMIC_RELAXED);
    if (at >= VMCS_POOL)
        test_fault("(VMCS pool used up)");
    vmcs_owner[at] = (u8)this_cpu()->index;
    u32 *region = memset(vmcs_pool + at * PAGE, vmcs_fill, PAGE);
    region[0] = vmcs_revision();
    check_outcome("VMCLEAR of a new VMCS", vmclear(phys(region)), VMX_OK);
    return region;
}
