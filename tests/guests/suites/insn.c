/*
 * VMX instructions in VMX root operation and outside: each success, each failure number, each fault of
 * SDM 3, "VMX Instruction Reference". Operands and field widths are in insn_operands.c.
 */
#include "insn.h"

/* Every VMX instruction once, with operands that are harmless when it faults. */
static void for_each_insn(void (*each)(const char *name, outcome_t got), bool with_vmxon)
{
    static u64 word;
    static struct inv descriptor;
    ulong value;
    if (with_vmxon)
        each("VMXON", vmxon(0));
    each("VMXOFF", vmxoff());
    each("VMCLEAR", vmclear(0));
    each("VMPTRLD", vmptrld(0));
    each("VMPTRST", vmptrst(&word));
    each("VMREAD", vmread(GUEST_RIP, &value));
    each("VMWRITE", vmwrite(GUEST_RIP, 0));
    each("VMLAUNCH", vmlaunch());
    each("VMRESUME", vmresume());
    each("VMCALL", vmcall());
    each("INVEPT", invept(2, &descriptor));
    each("INVVPID", invvpid(2, &descriptor));
}
static void want_ud(const char *name, outcome_t got) { check_outcome(name, got, FAULTS(VEC_UD)); }
static void want_gp(const char *name, outcome_t got)
{
    if (check_outcome(name, got, FAULTS(VEC_GP)))
        check_eq(name, this_cpu()->fault.error, 0);
}

/* ---- outside VMX operation ---- */

static void ud_without_vmxe(void) { for_each_insn(want_ud, true); }

static void ud_outside(void)
{
    write_cr4(read_cr4() | CR4_VMXE);
    for_each_insn(want_ud, false);
}

static void ud_vmfunc(void)
{
    check_outcome("VMFUNC", VMX_TRY(".byte 0x0f,0x01,0xd4", "a"(0), "c"(0)), FAULTS(VEC_UD));
}

static void vmxon_at_cpl3(void *arg) { *(outcome_t *)arg = vmxon(0); }
static void vmxon_cpl3(void)
{
    outcome_t got = 0;
    write_cr4(read_cr4() | CR4_VMXE);
    user_call(vmxon_at_cpl3, &got);
    want_gp("VMXON at CPL 3", got);
}

static void vmxon_register(void)
{
    write_cr4(read_cr4() | CR4_VMXE);
    check_outcome("VMXON with a register operand", VMX_TRY(".byte 0xf3,0x0f,0xc7,0xf0", "i"(0)), FAULTS(VEC_UD));
}

/* A VMXON region as vmx_enter_operation prepares it, ready for the instruction itself. */
static u64 vmxon_ready(void)
{
    vmx_enter_operation();
    vmxoff();
    this_cpu()->vmx = false;
    return phys(this_cpu()->vmxon);
}

static void vmxon_cr0(void)
{
    u64 region = vmxon_ready();
    write_cr0(read_cr0() & ~(ulong)CR0_NE);
    check_eq("CR0.NE reads", read_cr0() & CR0_NE, 0);
    outcome_t got = vmxon(region);
    write_cr0(read_cr0() | CR0_NE);
    want_gp("VMXON with CR0.NE = 0", got);
}

static void vmxon_unpaged(void)
{
    if (IS64) {
        test_skip("64-bit mode has paging");
        return;
    }
    u64 region = vmxon_ready();
    write_cr0(read_cr0() & ~CR0_PG);
    outcome_t got = vmxon(region);
    write_cr0(read_cr0() | CR0_PG);
    want_gp("VMXON with CR0.PG = 0", got);
}

static void vmxon_pointer(void)
{
    u64 region = vmxon_ready();
    check_outcome("unaligned", vmxon(region + 8), VMX_INVALID);
    check_outcome("beyond MAXPHYADDR", vmxon(region | BIT(maxphyaddr())), VMX_INVALID);
    check_outcome("bit 63", vmxon(region | BIT(63)), VMX_INVALID);
    u32 *revision = (u32 *)this_cpu()->vmxon;
    for (u32 bad = 0; bad < 2; bad++) {
        *revision = bad ? vmcs_revision() | 1u << 31 : vmcs_revision() ^ 1;
        check_outcome(bad ? "revision with bit 31" : "wrong revision", vmxon(region), VMX_INVALID);
    }
    *revision = vmcs_revision();
    check_outcome("VMXOFF after the failures", vmxoff(), FAULTS(VEC_UD));
    check_outcome("a right VMXON", vmxon(region), VMX_OK);
    this_cpu()->vmx = true;
}

static void vmxon_operand_fault(void)
{
    vmxon_ready();
    write_cr4(read_cr4() | CR4_VMXE);
    if (check_outcome("VMXON", VMX_TRY("vmxon (%[b])", [b] "r"(hole_va)), FAULTS(VEC_PF))) {
        check_eq("CR2", this_cpu()->fault.cr2, hole_va);
        check_eq("error code", this_cpu()->fault.error, 0);
    }
}

static void feature_control(void)
{
    u64 value = rdmsr(MSR_FEATURE_CONTROL);
    if (!(value & 1))
        vmxon_ready();
    value = rdmsr(MSR_FEATURE_CONTROL);
    check_masked("IA32_FEATURE_CONTROL", value, 5, 5);
    check_eq("write when locked raises", (u32)wrmsr_try(MSR_FEATURE_CONTROL, value), VEC_GP);
    check_eq("write of 0 when locked raises", (u32)wrmsr_try(MSR_FEATURE_CONTROL, 0), VEC_GP);
    check_eq("IA32_FEATURE_CONTROL after", rdmsr(MSR_FEATURE_CONTROL), value);
}

#ifdef __x86_64__
/* Compatibility mode (EFER.LMA = 1, CS.L = 0): VMX instructions are #UD (SDM, each instruction's "#UD"). */
static void compatibility_mode(void)
{
    static u64 memory;
    int got[3];
#define COMPAT(insn)                                                                                                   \
    ({                                                                                                                 \
        this_cpu()->fault.vector = -1;                                                                                 \
        asm volatile("pushq %0\npushq $3f\nlretq\n3:\n.code32\n1: " insn                                               \
                     "\n2: ljmp %1,$4f\n.code64\n4:\n" EXTABLE(1b, 2b)                                                 \
                     :                                                                                                 \
                     : "i"(SEL_CODE32), "i"(SEL_CODE), "d"(&memory), "c"(GUEST_RIP)                                    \
                     : "memory", "cc", "rax");                                                                         \
        this_cpu()->fault.vector;                                                                                      \
    })
    got[0] = COMPAT("vmptrst (%%edx)");
    got[1] = COMPAT("vmread %%ecx,%%eax");
    got[2] = COMPAT("vmclear (%%edx)");
    for (u32 i = 0; i < COUNT(got); i++)
        check_eq("VMX instruction in compatibility mode raises", (u32)got[i], VEC_UD);
}
#else
static void compatibility_mode(void) { test_skip("64-bit test"); }
#endif

/* ---- in VMX operation ---- */

static void fixed_bits(void)
{
    ulong cr0 = read_cr0(), cr4 = read_cr4();
    check_eq("clearing CR4.VMXE raises", (u32)write_cr4_try(cr4 & ~(ulong)CR4_VMXE), VEC_GP);
    check_eq("clearing CR0.NE raises", (u32)write_cr0_try(cr0 & ~(ulong)CR0_NE), VEC_GP);
    if (!IS64)
        check_eq("clearing CR0.PG raises", (u32)write_cr0_try(cr0 & ~CR0_PG), VEC_GP);
    check_eq("CR0", read_cr0(), cr0);
    check_eq("CR4", read_cr4(), cr4);
    check_outcome("VMXOFF", vmxoff(), VMX_OK);
    this_cpu()->vmx = false;
    check_eq("clearing CR4.VMXE after VMXOFF raises", (u32)write_cr4_try(cr4 & ~(ulong)CR4_VMXE), (u32)-1);
}

static void all_at_cpl3(void *arg)
{
    (void)arg;
    for_each_insn(want_gp, true);
}
static void cpl3(void) { user_call(all_at_cpl3, NULL); }

static void vmxon_twice(void)
{
    check_outcome("without a current VMCS", vmxon(phys(this_cpu()->vmxon)), VMX_INVALID);
    check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK);
    check_outcome("with a current VMCS", vmxon(phys(this_cpu()->vmxon)), FAIL_VALID(ERR_VMXON_ROOT));
    check_outcome("unaligned", vmxon(phys(this_cpu()->vmxon) + 1), FAIL_VALID(ERR_VMXON_ROOT));
}

static void vmxoff_twice(void)
{
    check_outcome("VMXOFF", vmxoff(), VMX_OK);
    check_outcome("VMXOFF again", vmxoff(), FAULTS(VEC_UD));
    check_outcome("VMXON again", vmxon(phys(this_cpu()->vmxon)), VMX_OK);
    u64 pointer = 0;
    check_outcome("VMPTRST", vmptrst(&pointer), VMX_OK);
    check_eq("current VMCS after VMXON", pointer, ~0ull);
}

static void vmclear_results(void)
{
    u64 vmcs = phys(vmcs_alloc()), pointer = 0;
    check_outcome("unaligned, no current VMCS", vmclear(vmcs + 1), VMX_INVALID);
    check_outcome("VMPTRLD", vmptrld(vmcs), VMX_OK);
    check_outcome("unaligned", vmclear(vmcs + 0x800), FAIL_VALID(ERR_VMCLEAR_ADDRESS));
    check_outcome("beyond MAXPHYADDR", vmclear(vmcs | BIT(maxphyaddr())), FAIL_VALID(ERR_VMCLEAR_ADDRESS));
    check_outcome("VMXON pointer", vmclear(phys(this_cpu()->vmxon)), FAIL_VALID(ERR_VMCLEAR_VMXON));
    check_outcome("VMPTRST", vmptrst(&pointer), VMX_OK);
    check_eq("current VMCS after the failures", pointer, vmcs);
    check_outcome("another region", vmclear(phys(vmcs_alloc())), VMX_OK);
    check_outcome("VMPTRST", vmptrst(&pointer), VMX_OK);
    check_eq("current VMCS after VMCLEAR of another", pointer, vmcs);
    check_outcome("the current one", vmclear(vmcs), VMX_OK);
    check_outcome("VMPTRST", vmptrst(&pointer), VMX_OK);
    check_eq("current VMCS after its VMCLEAR", pointer, ~0ull);
}

static void vmptrld_results(void)
{
    u32 *region = vmcs_alloc(), *other = vmcs_alloc();
    u64 vmcs = phys(region), pointer = 0;
    check_outcome("unaligned, no current VMCS", vmptrld(vmcs + 1), VMX_INVALID);
    check_outcome("VMPTRLD", vmptrld(vmcs), VMX_OK);
    check_outcome("unaligned", vmptrld(phys(other) + 4), FAIL_VALID(ERR_VMPTRLD_ADDRESS));
    check_outcome("beyond MAXPHYADDR", vmptrld(phys(other) | BIT(maxphyaddr())), FAIL_VALID(ERR_VMPTRLD_ADDRESS));
    check_outcome("VMXON pointer", vmptrld(phys(this_cpu()->vmxon)), FAIL_VALID(ERR_VMPTRLD_VMXON));
    other[0] = vmcs_revision() ^ 1;
    check_outcome("wrong revision", vmptrld(phys(other)), FAIL_VALID(ERR_VMPTRLD_REVISION));
    other[0] = vmcs_revision() | 1u << 31;
    check_outcome("shadow indicator", vmptrld(phys(other)),
                  proc2_supported(PROC2_SHADOW) ? VMX_OK : FAIL_VALID(ERR_VMPTRLD_REVISION));
    check_outcome("VMCLEAR of it", vmclear(phys(other)), VMX_OK);
    other[0] = vmcs_revision();
    check_outcome("VMPTRLD", vmptrld(vmcs), VMX_OK);
    check_outcome("VMPTRLD of the current one", vmptrld(vmcs), VMX_OK);
    check_outcome("VMPTRST", vmptrst(&pointer), VMX_OK);
    check_eq("current VMCS", pointer, vmcs);
}

static void vmptrst_results(void)
{
    u64 pointer = 0, vmcs = phys(vmcs_alloc());
    check_outcome("VMPTRST before", vmptrst(&pointer), VMX_OK);
    check_eq("pointer before", pointer, ~0ull);
    check_outcome("VMPTRLD", vmptrld(vmcs), VMX_OK);
    check_outcome("VMPTRST after", vmptrst(&pointer), VMX_OK);
    check_eq("pointer after", pointer, vmcs);
}

static void no_current(void)
{
    ulong v;
    check_outcome("VMREAD", vmread(GUEST_RIP, &v), VMX_INVALID);
    check_outcome("VMREAD of no field", vmread(0x7ffe, &v), VMX_INVALID);
    check_outcome("VMWRITE", vmwrite(GUEST_RIP, 0), VMX_INVALID);
    check_outcome("VMLAUNCH", vmlaunch(), VMX_INVALID);
    check_outcome("VMRESUME", vmresume(), VMX_INVALID);
    check_outcome("VMCALL", vmcall(), VMX_INVALID);
    struct inv bad = { 0, 0 };
    check_outcome("INVEPT of type 0", invept(0, &bad), VMX_INVALID);
    check_outcome("INVVPID of type 9", invvpid(9, &bad), VMX_INVALID);
}

static void vmcall_root(void)
{
    check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK);
    check_outcome("VMCALL", vmcall(), FAIL_VALID(ERR_VMCALL_ROOT));
    check_eq("VM-instruction error", vmget(INSN_ERROR), ERR_VMCALL_ROOT);
    check_outcome("VMPTRST keeps the error", vmptrst(&(u64){ 0 }), VMX_OK);
    check_eq("VM-instruction error after", vmget(INSN_ERROR), ERR_VMCALL_ROOT);
}

static void nothing(void) {}

static void entry_results(void)
{
    struct nest *n = nest_new(NEST_SAME, nothing);
    if (!n)
        return;
    check_outcome("VMRESUME of a clear VMCS", vmresume(), FAIL_VALID(ERR_RESUME_NOT_LAUNCHED));
    check_outcome("VMLAUNCH after MOV SS", VMX_TRY("mov %[s],%%ss\nvmlaunch", [s] "r"(SEL_DATA)),
                  FAIL_VALID(ERR_MOVSS));
    vmset(PIN_CONTROLS, ~0u);
    check_outcome("invalid pin-based controls", nest_run(n), FAIL_VALID(ERR_CONTROLS));
    vmset(PIN_CONTROLS, control_adjust(pin_msr(), 0));
    vmset(HOST_TR, 0);
    check_outcome("invalid host TR", nest_run(n), FAIL_VALID(ERR_HOST_STATE));
    vmset(HOST_TR, SEL_TSS0);
    NEST_RUN(n, REASON_VMCALL);
    check_outcome("VMLAUNCH of a launched VMCS", vmlaunch(), FAIL_VALID(ERR_LAUNCH_NOT_CLEAR));
    check_outcome("VMRESUME after MOV SS", VMX_TRY("mov %[s],%%ss\nvmresume", [s] "r"(SEL_DATA)),
                  FAIL_VALID(ERR_MOVSS));
    vmset(PIN_CONTROLS, ~0u);
    check_outcome("VMRESUME with invalid controls", nest_run(n), FAIL_VALID(ERR_CONTROLS));
    vmset(PIN_CONTROLS, control_adjust(pin_msr(), 0));
    NEST_RUN(n, REASON_VMCALL);
    check_outcome("VMCLEAR", vmclear(phys(n->vmcs)), VMX_OK);
    check_outcome("VMPTRLD", vmptrld(phys(n->vmcs)), VMX_OK);
    check_outcome("VMRESUME after VMCLEAR", vmresume(), FAIL_VALID(ERR_RESUME_NOT_LAUNCHED));
    n->launched = false;
    NEST_RUN(n, REASON_VMCALL);
}

static void invept_results(void)
{
    if (!proc2_supported(PROC2_EPT)) {
        test_skip("no EPT");
        return;
    }
    struct ept *e = ept_new(2 * MIB);
    struct inv good = { e->eptp, 0 }, bad = { e->eptp | 7, 0 };
    check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK);
    check_outcome("single", invept(1, &good), ept_has(25) ? VMX_OK : FAIL_VALID(ERR_INVALIDATE));
    check_outcome("global", invept(2, &good), ept_has(26) ? VMX_OK : FAIL_VALID(ERR_INVALIDATE));
    check_outcome("type 0", invept(0, &good), FAIL_VALID(ERR_INVALIDATE));
    check_outcome("type 3", invept(3, &good), FAIL_VALID(ERR_INVALIDATE));
    check_outcome("a large type", invept((ulong)-1, &good), FAIL_VALID(ERR_INVALIDATE));
    check_outcome("invalid EPTP", invept(1, &bad), FAIL_VALID(ERR_INVALIDATE));
    check_outcome("global ignores the descriptor", invept(2, &bad), VMX_OK);
    if (check_outcome("descriptor not mapped", invept(2, (void *)hole_va), FAULTS(VEC_PF)))
        check_eq("CR2", this_cpu()->fault.cr2, hole_va);
}

static void invvpid_results(void)
{
    if (!proc2_supported(PROC2_VPID)) {
        test_skip("no VPID");
        return;
    }
    enum { INDIVIDUAL, SINGLE, ALL, RETAINING };
    // clang-format off
    static const struct { const char *what; u32 type; struct inv d; bool good; } rows[] = {
        { "address", INDIVIDUAL, { 1, 0x1000 }, true },
        { "address of VPID 0", INDIVIDUAL, { 0, 0x1000 }, false },
        { "address not canonical", INDIVIDUAL, { 1, BIT(63) }, false },
        { "address, reserved bits 63:16", INDIVIDUAL, { 1 | BIT(16), 0x1000 }, false },
        { "single", SINGLE, { 1, 0 }, true },
        { "single, VPID 0", SINGLE, { 0, 0 }, false },
        { "single, reserved bits", SINGLE, { 1 | BIT(63), 0 }, false },
        { "single ignores the address", SINGLE, { 0xffff, BIT(63) }, true },
        { "all", ALL, { 0, 0 }, true },
        { "all ignores the address", ALL, { 0, BIT(63) }, true },
        { "retaining globals", RETAINING, { 1, 0 }, true },
        { "retaining globals, VPID 0", RETAINING, { 0, 0 }, false },
    };
    // clang-format on
    check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK);
    for (u32 i = 0; i < COUNT(rows); i++)
        check_outcome(rows[i].what, invvpid(rows[i].type, &rows[i].d),
                      rows[i].good && ept_has(40 + rows[i].type) ? VMX_OK : FAIL_VALID(ERR_INVALIDATE));
    struct inv d = { 1, 0 };
    check_outcome("type 4", invvpid(4, &d), FAIL_VALID(ERR_INVALIDATE));
    check_outcome("a large type", invvpid((ulong)-1, &d), FAIL_VALID(ERR_INVALIDATE));
}

// clang-format off
static const struct test outside[] = {
    { "ud-without-vmxe", ud_without_vmxe }, { "ud-outside", ud_outside },       { "ud-vmfunc", ud_vmfunc },
    { "vmxon-cpl3", vmxon_cpl3 },           { "vmxon-register", vmxon_register }, { "vmxon-cr0", vmxon_cr0 },
    { "vmxon-unpaged", vmxon_unpaged },     { "vmxon-pointer", vmxon_pointer },
    { "vmxon-operand-fault", vmxon_operand_fault }, { "feature-control", feature_control },
    { NULL, NULL },
};
// clang-format on
// clang-format off
static const struct test inside[] = {
    { "fixed-bits", fixed_bits },       { "cpl3", cpl3 },
    { "compatibility-mode", compatibility_mode }, { "vmfunc-root", ud_vmfunc },       { "vmxon-twice", vmxon_twice },
    { "vmxoff-twice", vmxoff_twice },   { "vmclear", vmclear_results },
    { "vmptrld", vmptrld_results },     { "vmptrst", vmptrst_results },
    { "no-current", no_current },       { "vmcall-root", vmcall_root },
    { "entry", entry_results },         { "invept", invept_results },
    { "invvpid", invvpid_results },     { NULL, NULL },
};
// clang-format on

static void run(void)
{
    for (const struct test *t = outside; t->name; t++)
        test_run(t->name, t->run, false);
    for (const struct test *t = inside; t->name; t++)
        test_run(t->name, t->run, true);
    for (const struct test *t = insn_operand_tests; t->name; t++)
        test_run(t->name, t->run, true);
    for (const struct test *t = insn_capability_tests; t->name; t++)
        test_run(t->name, t->run, true);
}
const struct suite suite_insn = { "insn", NULL, run, false, false };
