/*
 * MSRs of the machine that a nested guest reaches because its MSR bitmap lets it: the TSC deadline of the local APIC and
 * the MTRRs. What it writes is what its hypervisor reads, what is wrong is #GP in the nested guest.
 */
#include "exits.h"

enum {
    VECTOR = 0x51,
    MSR_TSC_DEADLINE = 0x6e0,
    CPUID_TSC_DEADLINE = 1 << 24,
    LVT_TSC_DEADLINE = 2 << 17,
    LVT_MASKED = 0x10000,
    SOON = 20000,  /* ticks */
    SPINS = 40000, /* at least as many */
    MTRR_VALID = 1 << 11,
    MTRR_UC = 0,
};

static struct nest *guest_with_msrs(void (*fn)(void))
{
    struct nest *n = nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps") ? nest_new(NEST_SAME, fn) : NULL;
    if (!n)
        return NULL;
    vmset(MSR_BITMAP, phys(page_alloc(1)));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    return n;
}

/* ---- TSC deadline ---- */
static volatile struct {
    u64 offset; /* of the nested guest's TSC */
    u64 left;   /* of the deadline, after a while */
    u32 spins;
} deadline;

static void g_deadline(void)
{
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - deadline.offset + SOON);
    irq_on();
    for (deadline.spins = 0; deadline.spins < SPINS; deadline.spins++)
        pause();
    irq_off();
    deadline.left = rdmsr(MSR_TSC_DEADLINE);
}

/*
 * A TSC offset changes what RDTSC says, not what the deadline is compared with: SDM 3, "Time-Stamp Counter Offset and
 * Multiplier" names the instructions.
 */
static void tsc_deadline(u64 offset, bool exits)
{
    struct nest *n = guest_with_msrs(g_deadline);
    if (!n)
        return;
    if (!(cpuid(1, 0).c & CPUID_TSC_DEADLINE)) {
        test_skip("no TSC deadline");
        return;
    }
    deadline.offset = offset;
    if (offset) {
        nest_control(PROC_CONTROLS, PROC_TSC_OFFSET, 0);
        vmset(TSC_OFFSET, offset);
    }
    nest_control(PIN_CONTROLS, exits ? PIN_EXT_INT : 0, 0);
    nest_control(EXIT_CONTROLS, 0, EXIT_ACK_INT);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_TSC_DEADLINE);
    if (exits && nest_expect(n, REASON_EXT_INT)) {
        u32 before = this_cpu()->irqs[VECTOR];
        irq_on();
        irq_off();
        check_eq("interrupts taken by the host", this_cpu()->irqs[VECTOR] - before, 1);
    } else if (!exits && nest_event(n, VECTOR, 0)) {
        apic_eoi();
        nest_skip();
    }
    if (test_ok())
        nest_expect(n, REASON_VMCALL);
    wrmsr(MSR_TSC_DEADLINE, 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}
static void deadline_delivered(void) { tsc_deadline(0, false); }
static void deadline_exits(void) { tsc_deadline(0, true); }
static void deadline_offset(void) { tsc_deadline(BIT(44), false); }
static void deadline_cleared(void) /* a deadline that is reached reads as 0 */
{
    tsc_deadline(0, false);
    check_eq("the deadline, reached", deadline.left, 0);
}

/* ---- MTRRs ---- */
enum { REGION_PAGES = 512, ODD_PAGE = 5 };
#define REGION (32 * (u64)MIB)
static volatile struct {
    u32 msr; /* IA32_MTRR_PHYSBASEn of a pair that is not in use */
    u64 base, mask;
    u64 read_base, read_mask;
    u32 wrong; /* pages that did not show their mark */
} mtrr;

static void g_look(void)
{
    mtrr.wrong = 0;
    for (u32 i = 0; i < REGION_PAGES; i++)
        mtrr.wrong += *(volatile u32 *)(ulong)(REGION + (u64)i * PAGE) != i + 1;
}

static void g_mtrr(void)
{
    g_look();
    u32 before = mtrr.wrong;
    wrmsr(mtrr.msr, mtrr.base);
    wrmsr(mtrr.msr + 1, mtrr.mask);
    mtrr.read_base = rdmsr(mtrr.msr);
    mtrr.read_mask = rdmsr(mtrr.msr + 1);
    g_look();
    mtrr.wrong += before;
}
static void g_mtrr_bad(void) { wrmsr(mtrr.msr, mtrr.base | 2); }

static bool mtrr_pair(void)
{
    u32 count = cpuid(1, 0).d & 1u << 12 ? rdmsr(MSR_MTRRCAP) & 0xff : 0;
    for (u32 i = 0; i < count; i++) {
        mtrr.msr = MSR_MTRR_PHYSBASE0 + 2 * i;
        if (!(rdmsr(mtrr.msr + 1) & MTRR_VALID))
            return true;
    }
    test_skip("no MTRR pair to spare");
    return false;
}

/* One page of a large one becomes uncacheable, by the nested guest and then by its hypervisor, and all show what they did. */
static void mtrrs(void)
{
    struct nest *n = guest_with_msrs(g_mtrr);
    if (!n || !nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") || !mtrr_pair())
        return;
    u64 old_base = rdmsr(mtrr.msr), old_mask = rdmsr(mtrr.msr + 1);
    mtrr.base = (REGION + ODD_PAGE * PAGE) | MTRR_UC;
    mtrr.mask = ((BIT(maxphyaddr()) - 1) & ~(u64)(PAGE - 1)) | MTRR_VALID;
    for (u32 i = 0; i < REGION_PAGES; i++)
        *(volatile u32 *)(ulong)(REGION + (u64)i * PAGE) = i + 1;
    nest_ept(n, ept_new(2 * MIB));
    if (nest_expect(n, REASON_VMCALL)) {
        check_eq("base as the nested guest reads it", mtrr.read_base, mtrr.base);
        check_eq("mask as the nested guest reads it", mtrr.read_mask, mtrr.mask);
        check_eq("base as its hypervisor reads it", rdmsr(mtrr.msr), mtrr.base);
        check_eq("mask as its hypervisor reads it", rdmsr(mtrr.msr + 1), mtrr.mask);
        check_eq("pages that show something else", mtrr.wrong, 0);
    }
    nest_restart(n, g_mtrr_bad);
    nest_event(n, VEC_GP, 0);
    check_eq("base after #GP", rdmsr(mtrr.msr), mtrr.base);
    for (u32 i = 0; i < 4; i++) {
        wrmsr(mtrr.msr + 1, i & 1 ? mtrr.mask : old_mask);
        nest_restart(n, g_look);
        nest_expect(n, REASON_VMCALL);
        check_eq("pages that show something else after a change by the hypervisor", mtrr.wrong, 0);
    }
    wrmsr(mtrr.msr + 1, old_mask);
    wrmsr(mtrr.msr, old_base);
}

// clang-format off
const struct test exit_msr_tests[] = {
    { "tsc-deadline", deadline_delivered },
    { "tsc-deadline-exit", deadline_exits },
    { "tsc-deadline-offset", deadline_offset },
    { "tsc-deadline-cleared", deadline_cleared },
    { "mtrr-nested", mtrrs },
    { NULL, NULL },
};
// clang-format on
