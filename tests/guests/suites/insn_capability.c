/*
 * Capability MSRs: read-only, and consistent with each other and with the fields that exist
 * (SDM 3, appendix "VMX Capability Reporting Facility").
 */
#include "insn.h"

static void msr_writes(void)
{
    for (u32 msr = MSR_VMX_BASIC; msr <= MSR_VMX_VMFUNC; msr++) {
        u64 v;
        char what[40];
        format(what, sizeof what, "WRMSR %x raises", msr);
        if (rdmsr_try(msr, &v) == -1)
            check_eq(what, (u32)wrmsr_try(msr, v), VEC_GP);
    }
}

static void basic(void)
{
    u64 v = rdmsr(MSR_VMX_BASIC);
    u32 size = v >> 32 & 0x1fff;
    check_eq("bit 31", v >> 31 & 1, 0);
    check(size > 0 && size <= PAGE, "VMCS size %u", size);
    check_eq("bit 48 (32-bit addresses)", v >> 48 & 1, 0);
    check_eq("memory type", v >> 50 & 15, 6);
    check_eq("bits 63:57", v >> 57, 0);
}

static void controls(void)
{
    // clang-format off
    static const struct { const char *name; u32 plain, exact, default1; } rows[] = {
        { "pin-based", MSR_VMX_PIN, MSR_VMX_TRUE_PIN, 0x16 },
        { "primary", MSR_VMX_PROC, MSR_VMX_TRUE_PROC, 0x0401e172 },
        { "exit", MSR_VMX_EXIT, MSR_VMX_TRUE_EXIT, 0x36dff },
        { "entry", MSR_VMX_ENTRY, MSR_VMX_TRUE_ENTRY, 0x11ff },
    };
    // clang-format on
    bool exact = rdmsr(MSR_VMX_BASIC) >> 55 & 1;
    for (u32 i = 0; i < COUNT(rows); i++) {
        u64 v = rdmsr(rows[i].plain);
        check_eq(rows[i].name, (u32)v & ~(u32)(v >> 32), 0); /* what must be 1 may be 1 */
        check_eq(rows[i].name, (u32)v, rows[i].default1);
        if (!exact)
            continue;
        u64 t = rdmsr(rows[i].exact);
        check_eq(rows[i].name, (u32)t & ~(u32)(t >> 32), 0);
        check_eq(rows[i].name, t >> 32, v >> 32);
        check_eq(rows[i].name, (u32)t & ~(u32)v, 0);
    }
    if (control_supported(proc_msr(), PROC_SECONDARY)) {
        u64 v = rdmsr(MSR_VMX_PROC2);
        check_eq("secondary, bits that must be 1", (u32)v, 0);
    }
}

static void dependencies(void)
{
    // clang-format off
    static const struct { const char *name; u32 control, needs; } rows[] = {
        { "unrestricted guest needs EPT", PROC2_UNRESTRICTED, PROC2_EPT },
        { "PML needs EPT", PROC2_PML, PROC2_EPT },
        { "#VE needs EPT", PROC2_VE, PROC2_EPT },
    };
    // clang-format on
    for (u32 i = 0; i < COUNT(rows); i++)
        if (proc2_supported(rows[i].control))
            check(proc2_supported(rows[i].needs), "%s", rows[i].name);
    if (proc2_supported(PROC2_EPT)) {
        check(ept_has(6), "EPT without 4-level walks");
        check(ept_has(14) || ept_has(8), "EPT without a paging-structure memory type");
        check(!ept_has(20) || ept_has(25) || ept_has(26), "INVEPT without a type");
    }
    if (proc2_supported(PROC2_VPID))
        check(!ept_has(32) || ept_has(40) || ept_has(41) || ept_has(42), "INVVPID without a type");
    if (proc2_supported(PROC2_UNRESTRICTED))
        check_eq("IA32_VMX_MISC[5]: EFER.LMA saved", rdmsr(MSR_VMX_MISC) >> 5 & 1, 1);
}

static void cr_fixed(void)
{
    u64 zero = rdmsr(MSR_VMX_CR0_FIXED0), one = rdmsr(MSR_VMX_CR0_FIXED1);
    check_eq("CR0: must be 1 but may not", zero & ~one, 0);
    check_masked("CR0 bits that must be 1", zero, CR0_PG | CR0_NE | CR0_PE, 0xffffffff);
    zero = rdmsr(MSR_VMX_CR4_FIXED0), one = rdmsr(MSR_VMX_CR4_FIXED1);
    check_eq("CR4: must be 1 but may not", zero & ~one, 0);
    check_masked("CR4 bits that must be 1", zero, CR4_VMXE, 0xffffffff);
    check_masked("CR4 in use may be 1", one, read_cr4(), read_cr4());
}

static void field_enum(void)
{
    static const u32 fields[] = {
#define ROW(name, encoding) encoding,
        VMCS_FIELDS(ROW)
#undef ROW
    };
    u32 highest = 0;
    if (!check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK))
        return;
    for (u32 i = 0; i < COUNT(fields); i++) {
        ulong v;
        if (vmread(fields[i], &v) == VMX_OK && (fields[i] >> 1 & 0x1ff) > highest)
            highest = fields[i] >> 1 & 0x1ff;
    }
    check_eq("IA32_VMX_VMCS_ENUM, highest index", rdmsr(MSR_VMX_VMCS_ENUM) >> 1 & 0x1ff, highest);
}

/* A field exists exactly when the control that uses it does. */
static void field_existence(void)
{
    // clang-format off
    static const struct { u32 field, proc2; } rows[] = {
        { VPID, PROC2_VPID }, { EPTP, PROC2_EPT }, { GUEST_PHYSICAL, PROC2_EPT }, { GUEST_PDPTE0, PROC2_EPT },
        { APIC_ACCESS, PROC2_APIC_ACCESS }, { EOI_EXIT0, PROC2_VID }, { GUEST_INTR_STATUS, PROC2_VID },
        { VM_FUNCTIONS, PROC2_VMFUNC }, { VMREAD_BITMAP, PROC2_SHADOW }, { VMWRITE_BITMAP, PROC2_SHADOW },
        { PML_ADDRESS, PROC2_PML }, { PML_INDEX, PROC2_PML }, { VE_INFO, PROC2_VE }, { XSS_EXITING, PROC2_XSAVES },
        { TSC_MULTIPLIER, PROC2_TSC_SCALING }, { PLE_GAP, PROC2_PLE }, { PLE_WINDOW, PROC2_PLE },
    };
    // clang-format on
    if (!check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK))
        return;
    for (u32 i = 0; i < COUNT(rows); i++) {
        ulong v;
        char what[40];
        format(what, sizeof what, "VMREAD of %04x", rows[i].field);
        check_outcome(what, vmread(rows[i].field, &v), proc2_supported(rows[i].proc2) ? VMX_OK : FAIL_VALID(ERR_FIELD));
    }
}

// clang-format off
const struct test insn_capability_tests[] = {
    { "capability-writes", msr_writes }, { "capability-basic", basic },   { "capability-controls", controls },
    { "capability-dependencies", dependencies }, { "capability-cr", cr_fixed }, { "field-enum", field_enum },
    { "field-existence", field_existence }, { NULL, NULL },
};
// clang-format on
