/*
 * x2APIC: switched on by the guest hypervisor itself on every CPU, then used by it and by nested guests through MSRs that
 * do not exit. Comes last but for INIT: Bochs cannot go back to xAPIC.
 */
#include "suites.h"

enum {
    APIC_BASE_X2 = 1 << 10,
    APIC_BASE_EN = 1 << 11,
    VECTOR = 0x54,
    X2_ID = 0x802,
    X2_LDR = 0x80d,
    X2_SELF_IPI = 0x83f
};

static bool have(void)
{
    if (cpuid(1, 0).c & 1u << 21)
        return true;
    test_skip("no x2APIC");
    return false;
}

static void enable_here(void *arg)
{
    (void)arg;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2 | APIC_BASE_EN);
    apic_init_cpu();
}

static void enable(void)
{
    if (!have())
        return;
    u64 id = this_cpu()->apic_id;
    u64 v;
    check_eq("x2APIC MSR in xAPIC mode raises", (u32)rdmsr_try(X2_ID, &v), VEC_GP);
    for (u32 i = 1; i < cpu_count; i++) { /* the wake-up is an xAPIC interrupt: the others go first */
        cpu_call(i, enable_here, NULL);
        check(cpu_wait(i, 1000), "CPU %u does not answer", i);
    }
    enable_here(NULL);
    check_masked("IA32_APIC_BASE", rdmsr(MSR_APIC_BASE), APIC_BASE_X2 | APIC_BASE_EN, APIC_BASE_X2 | APIC_BASE_EN);
    check_eq("x2APIC ID", rdmsr(X2_ID), id);
    check_eq("write of the ID raises", (u32)wrmsr_try(X2_ID, 1), VEC_GP);
    check_eq("a reserved MSR of the x2APIC raises", (u32)rdmsr_try(0x80e, &v), VEC_GP);
    check_eq("CPUID leaf 0Bh EDX", cpuid(0xb, 0).d, id);
}

static bool on(void)
{
    if (rdmsr(MSR_APIC_BASE) & APIC_BASE_X2)
        return true;
    test_skip("x2APIC not on");
    return false;
}

static void ldr(void) /* by the hardware: cluster in the high half, a bit per CPU in the low half */
{
    if (!on())
        return;
    u32 id = this_cpu()->apic_id;
    check_eq("x2APIC LDR", rdmsr(X2_LDR), (id >> 4) << 16 | 1u << (id & 15));
}

static void here(void)
{
    if (!on())
        return;
    u32 before = this_cpu()->irqs[VECTOR];
    wrmsr(X2_SELF_IPI, VECTOR);
    apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | (VECTOR + 1));
    irq_on();
    irq_off();
    check_eq("self-IPIs taken", this_cpu()->irqs[VECTOR] - before, 1);
    check(this_cpu()->irqs[VECTOR + 1] > 0, "an interrupt by the ICR is not taken");
}

static void count(void *arg) { (*(u32 *)arg)++; }
static void others(void)
{
    u32 counted = 0;
    if (!on())
        return;
    for (u32 i = 1; i < cpu_count; i++) {
        cpu_call(i, count, &counted);
        check(cpu_wait(i, 1000), "CPU %u does not answer", i);
    }
    check_eq("calls by x2APIC interrupt", counted, cpu_count - 1);
}

static u64 nest_id;
static void g_x2apic(void)
{
    nest_id = rdmsr(X2_ID);
    wrmsr(X2_SELF_IPI, VECTOR);
    irq_on();
}

static void nested(void) /* an MSR bitmap of zeroes: nothing of it exits */
{
    struct nest *n = on() ? nest_new(NEST_SAME, g_x2apic) : NULL;
    if (!n || !nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps"))
        return;
    vmset(MSR_BITMAP, phys(page_alloc(1)));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    if (!nest_event(n, VECTOR, 0))
        return;
    check_eq("x2APIC ID in the nested guest", nest_id, this_cpu()->apic_id);
    apic_eoi();
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
}

static void intercepted(void) /* the guest hypervisor wants one MSR of it */
{
    struct nest *n = on() ? nest_new(NEST_SAME, g_x2apic) : NULL;
    if (!n || !nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps"))
        return;
    u8 *map = page_alloc(1);
    map[2048 + X2_SELF_IPI / 8] = (u8)(1u << X2_SELF_IPI % 8);
    vmset(MSR_BITMAP, phys(map));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    NEST_RUN(n, REASON_WRMSR);
    check_eq("ECX", (u32)n->regs.cx, X2_SELF_IPI);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
}

// clang-format off
static const struct test tests[] = {
    { "enable", enable }, { "ldr", ldr },       { "here", here },
    { "others", others }, { "nested", nested }, { "intercepted", intercepted },
    { NULL, NULL },
};
// clang-format on
const struct suite suite_x2apic = { "x2apic", tests, NULL, true, true };
