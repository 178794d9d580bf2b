/*
 * MSR areas, activity states, triple fault, and what an exit loads and saves besides registers.
 */
#include "exits.h"

enum { TIMER = 20000 };
struct msr_entry {
    u32 index, zero;
    u64 value;
};

static void g_nothing(void) {}
static u64 seen[2];
static void g_read_msrs(void)
{
    seen[0] = rdmsr(MSR_SYSENTER_ESP);
    seen[1] = rdmsr(MSR_LSTAR);
}
static void g_write_msrs(void)
{
    wrmsr(MSR_STAR, 0x77777777);
    wrmsr(MSR_LSTAR, 0x66666666);
}

/* A nested guest whose MSR accesses do not exit. */
static struct nest *with_msrs(void (*fn)(void))
{
    struct nest *n = nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps") ? nest_new(NEST_SAME, fn) : NULL;
    if (n) {
        vmset(MSR_BITMAP, phys(page_alloc(1)));
        nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    }
    return n;
}

static void msr_areas(void)
{
    struct nest *n = with_msrs(g_read_msrs);
    if (!n)
        return;
    struct msr_entry *area = page_alloc(1), *store = area + 16, *load = area + 32;
    u64 star = rdmsr(MSR_STAR), lstar = rdmsr(MSR_LSTAR);
    area[0] = (struct msr_entry){ MSR_LSTAR, 0, 0x11111111 };
    area[1] = (struct msr_entry){ MSR_LSTAR, 0, 0x22222222 }; /* in order: the last one stays */
    store[0] = (struct msr_entry){ MSR_LSTAR, 0, 0 };
    store[1] = (struct msr_entry){ MSR_STAR, 0, 0 };
    load[0] = (struct msr_entry){ MSR_LSTAR, 0, 0x33333333 };
    load[1] = (struct msr_entry){ MSR_STAR, 0, 0x44444444 };
    vmset(ENTRY_MSR_LOAD, phys(area));
    vmset(EXIT_MSR_STORE, phys(store));
    vmset(EXIT_MSR_LOAD, phys(load));
    vmset(ENTRY_MSR_LOAD_COUNT, 2);
    vmset(EXIT_MSR_STORE_COUNT, 2);
    vmset(EXIT_MSR_LOAD_COUNT, 2);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("LSTAR in the nested guest", seen[1], 0x22222222);
    check_eq("LSTAR stored", store[0].value, 0x22222222);
    check_eq("LSTAR loaded", rdmsr(MSR_LSTAR), 0x33333333);
    check_eq("STAR loaded", rdmsr(MSR_STAR), 0x44444444);
    nest_restart(n, g_write_msrs);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("LSTAR stored after a write", store[0].value, 0x66666666);
    check_eq("STAR stored after a write", store[1].value, 0x77777777);
    check_eq("LSTAR loaded again", rdmsr(MSR_LSTAR), 0x33333333);
    wrmsr(MSR_STAR, star);
    wrmsr(MSR_LSTAR, lstar);
}

/* An entry that must not be loaded ends the entry: reason 34, its number (from 1) as qualification, host state loaded. */
static void msr_load_smm(void) /* IA32_SMM_MONITOR_CTL can be written in SMM only */
{
    struct nest *n = with_msrs(g_nothing);
    if (!n)
        return;
    struct msr_entry *area = page_alloc(1);
    area[0].index = 0x9b;
    vmset(ENTRY_MSR_LOAD, phys(area));
    vmset(ENTRY_MSR_LOAD_COUNT, 1);
    NEST_RUN(n, REASON_BAD_MSR | REASON_ENTRY_FAILED);
}

static void msr_load_fails(void)
{
    // clang-format off
    static const struct { const char *name; struct msr_entry e; } rows[] = {
        { "FS base", { MSR_FS_BASE, 0, 0 } },
        { "GS base", { MSR_GS_BASE, 0, 0 } },
        { "reserved bits 63:32", { MSR_LSTAR, 1, 0 } },
        { "value that WRMSR refuses", { MSR_LSTAR, 0, 0x8000000000000000ull } },
        { "x2APIC MSR", { MSR_X2APIC + 8, 0, 0 } },
        { "reserved bits of IA32_PAT", { MSR_PAT, 0, 0xff } },
    };
    // clang-format on
    struct nest *n = with_msrs(g_nothing);
    if (!n)
        return;
    struct msr_entry *area = page_alloc(1);
    u64 star = rdmsr(MSR_STAR);
    for (u32 at = 0; at < 3; at++)
        area[at] = (struct msr_entry){ MSR_STAR, 0, star };
    vmset(ENTRY_MSR_LOAD, phys(area));
    vmset(ENTRY_MSR_LOAD_COUNT, 3);
    for (u32 i = 0; i < COUNT(rows); i++) {
        u32 at = i % 3;
        if (rows[i].e.index >> 8 == MSR_X2APIC >> 8 && !(cpuid(1, 0).c & 1u << 21))
            continue;
        nest_restart(n, g_nothing);
        area[at] = rows[i].e;
        if (!nest_expect(n, REASON_BAD_MSR | REASON_ENTRY_FAILED))
            test_failed("row: %s", rows[i].name);
        check_eq(rows[i].name, vmget(EXIT_QUALIFICATION), at + 1);
        area[at] = (struct msr_entry){ MSR_STAR, 0, star };
        NEST_RUN(n, REASON_VMCALL);
    }
}

static void triple_fault(void)
{
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    vmset(GUEST_IDTR_LIMIT, 0);
    vmset(ENTRY_INTR_INFO, INTR_VALID | INTR_HARD | VEC_UD);
    NEST_RUN(n, REASON_TRIPLE_FAULT);
    check_eq("interruption information", vmget(EXIT_INTR_INFO) & INTR_VALID, 0);
    vmset(GUEST_IDTR_LIMIT, 256 * 16 - 1);
    NEST_RUN(n, REASON_VMCALL);
}

static void shutdown_state(void)
{
    struct nest *n = nest_need(pin_msr(), PIN_TIMER, "preemption timer") ? nest_new(NEST_SAME, g_nothing) : NULL;
    if (!n)
        return;
    if (!(rdmsr(MSR_VMX_MISC) & BIT(7))) {
        test_skip("activity state shutdown not offered");
        return;
    }
    nest_control(PIN_CONTROLS, PIN_TIMER | PIN_NMI, 0);
    vmset(PREEMPTION_TIMER, TIMER);
    vmset(GUEST_ACTIVITY, ACTIVITY_SHUTDOWN);
    NEST_RUN(n, REASON_TIMER);
    check_eq("activity state", vmget(GUEST_ACTIVITY), ACTIVITY_SHUTDOWN);
    vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    vmset(PREEMPTION_TIMER, ~0u);
    NEST_RUN(n, REASON_VMCALL);
}

/* What the nested guest leaves in registers that the VMCS holds comes back in the VMCS, and the host's is loaded. */
static void g_change_state(void)
{
    wrmsr(MSR_SYSENTER_CS, 0x40);
    wrmsr(MSR_SYSENTER_ESP, 0x12345670);
    wrmsr(MSR_SYSENTER_EIP, 0x12345678);
    asm volatile("mov %0,%%dr7" : : "r"(0x402ul));
    struct table_ptr p = { 0x77, 0x123000 };
    asm volatile("lidt %0" : : "m"(p));
}
static void state_switch(void)
{
    struct nest *n = with_msrs(g_change_state);
    if (!n)
        return;
    NEST_RUN(n, REASON_VMCALL);
    check_eq("SYSENTER_CS", vmget(GUEST_SYSENTER_CS), 0x40);
    check_eq("SYSENTER_ESP", vmget(GUEST_SYSENTER_ESP), 0x12345670);
    check_eq("SYSENTER_EIP", vmget(GUEST_SYSENTER_EIP), 0x12345678);
    check_eq("IDTR base", vmget(GUEST_IDTR_BASE), 0x123000);
    check_eq("IDTR limit", vmget(GUEST_IDTR_LIMIT), 0x77);
    if (vmget(EXIT_CONTROLS) & EXIT_SAVE_DEBUG)
        check_eq("DR7", vmget(GUEST_DR7), 0x402);
    check_eq("host SYSENTER_CS", rdmsr(MSR_SYSENTER_CS), 0);
    check_eq("host SYSENTER_ESP", rdmsr(MSR_SYSENTER_ESP), 0);
    ulong dr7;
    asm volatile("mov %%dr7,%0" : "=r"(dr7));
    check_eq("host DR7", dr7, 0x400);
    check_eq("host IDTR limit", read_idtr().limit, 0xffff);
    check_eq("host GDTR limit", read_gdtr().limit, 0xffff);
    trap_init_cpu(0);
}

/* IA32_PAT and IA32_EFER through the controls. */
static u64 pat_seen;
static void g_pat(void)
{
    pat_seen = rdmsr(MSR_PAT);
    wrmsr(MSR_PAT, 0x0606060606060606ull);
}
static void pat_switch(void)
{
    struct nest *n = with_msrs(g_pat);
    if (!n || !nest_need(entry_msr(), ENTRY_LOAD_PAT, "load PAT") ||
        !nest_need(exit_msr(), EXIT_SAVE_PAT | EXIT_LOAD_PAT, "save and load PAT"))
        return;
    u64 host = rdmsr(MSR_PAT), guest = 0x0007040600070405ull;
    nest_control(ENTRY_CONTROLS, ENTRY_LOAD_PAT, 0);
    nest_control(EXIT_CONTROLS, EXIT_LOAD_PAT | EXIT_SAVE_PAT, 0);
    vmset(GUEST_PAT, guest);
    vmset(HOST_PAT, host);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("PAT in the nested guest", pat_seen, guest);
    check_eq("PAT saved", vmget(GUEST_PAT), 0x0606060606060606ull);
    check_eq("PAT of the host", rdmsr(MSR_PAT), host);
    nest_control(EXIT_CONTROLS, 0, EXIT_LOAD_PAT);
    nest_restart(n, g_pat);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("PAT without the load on exit", rdmsr(MSR_PAT), 0x0606060606060606ull);
    wrmsr(MSR_PAT, host);
}

static u64 efer_seen;
static void g_efer(void)
{
    efer_seen = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer_seen ^ EFER_SCE);
}
static void efer_switch(void)
{
    struct nest *n = with_msrs(g_efer);
    if (!n || !nest_need(entry_msr(), ENTRY_LOAD_EFER, "load EFER") ||
        !nest_need(exit_msr(), EXIT_SAVE_EFER | EXIT_LOAD_EFER, "save and load EFER"))
        return;
    u64 host = rdmsr(MSR_EFER);
    nest_control(ENTRY_CONTROLS, ENTRY_LOAD_EFER, 0);
    nest_control(EXIT_CONTROLS, EXIT_LOAD_EFER | EXIT_SAVE_EFER, 0);
    vmset(GUEST_EFER, host ^ EFER_SCE);
    vmset(HOST_EFER, host);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("EFER in the nested guest", efer_seen, host ^ EFER_SCE);
    check_eq("EFER saved", vmget(GUEST_EFER), host);
    check_eq("EFER of the host", rdmsr(MSR_EFER), host);
    nest_control(ENTRY_CONTROLS, 0, ENTRY_LOAD_EFER);
    nest_control(EXIT_CONTROLS, 0, EXIT_LOAD_EFER | EXIT_SAVE_EFER);
    nest_restart(n, g_efer);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("EFER without the controls, in the nested guest", efer_seen, host);
    check_eq("EFER without the controls, after", rdmsr(MSR_EFER), host ^ EFER_SCE);
    wrmsr(MSR_EFER, host);
}

/* All of the nested guest's general registers, flags and the stack pointer survive an exit and an entry. */
#ifdef __x86_64__
static void g_registers(void)
{
    asm volatile("mov $8,%%r8\nmov $9,%%r9\nmov $10,%%r10\nmov $11,%%r11\nmov $12,%%r12\nmov $13,%%r13\n"
                 "mov $14,%%r14\nmov $15,%%r15\n"
                 "1: cpuid\nlea (%%r8,%%r9),%%rax\nadd %%r10,%%rax\nadd %%r11,%%rax\nadd %%r12,%%rax\nadd %%r13,%%rax\n"
                 "add %%r14,%%rax\nadd %%r15,%%rax\nvmcall\njmp 1b"
                 :
                 :
                 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
}
static void registers(void)
{
    struct nest *n = nest_new(NEST_SAME, g_registers);
    if (!n)
        return;
    NEST_RUN(n, REASON_CPUID); /* r8 to r15 are the nested guest's own here: nest_enter leaves them alone */
    n->regs.si = 0x5151;
    n->regs.di = 0xd1d1;
    n->regs.bp = 0xb9b9;
    n->regs.bx = 0xb1b1;
    n->regs.dx = 0xd2d2;
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_ARITH);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    check_eq("RSI", n->regs.si, 0x5151);
    check_eq("RDI", n->regs.di, 0xd1d1);
    check_eq("RBP", n->regs.bp, 0xb9b9);
    check_eq("RBX", n->regs.bx, 0xb1b1);
    check_eq("RDX", n->regs.dx, 0xd2d2);
}
#else
static void registers(void) { test_skip("64-bit test"); }
#endif

// clang-format off
const struct test exit_state_tests[] = {
    { "msr-areas", msr_areas },
    { "msr-load-fails", msr_load_fails },
    { "msr-load-smm", msr_load_smm },
    { "triple-fault", triple_fault },
    { "shutdown", shutdown_state },
    { "state-switch", state_switch },
    { "pat-switch", pat_switch },
    { "efer-switch", efer_switch },
    { "registers", registers },
    { NULL, NULL },
};
// clang-format on
