/*
 * External interrupts, NMIs and their windows, virtual NMIs, the preemption timer.
 * Interrupts are IPIs of this CPU to itself, so that their moment is exact.
 */
#include "exits.h"

enum { VECTOR = 0x51, SPIN = 20000 };
static volatile u32 spins;

static void self_ipi(void) { apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | VECTOR); }
static void self_nmi(void) { apic_icr(this_cpu()->apic_id, ICR_NMI | ICR_ASSERT); }

static void g_spin(void)
{
    for (spins = 0; spins < SPIN; spins++)
        pause();
}
static void g_sti_spin(void)
{
    spins = 0;
    irq_on();
    g_spin();
    irq_off();
}
/* The APIC timer is started by the nested guest itself: how long an entry takes must not matter. */
static void timer_start(void)
{
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_TIMER_INIT, SPIN);
}
static void g_timer_spin(void)
{
    timer_start();
    g_sti_spin();
}
static void g_timer_hlt(void)
{
    timer_start();
    asm volatile("sti\nhlt\ncli");
}
GUEST(g_hlt, "hlt")
static void g_nmi_spin(void)
{
    spins = 0;
    self_nmi();
    g_spin();
}

static struct nest *guest_with(u32 pin, void (*fn)(void))
{
    return nest_need(pin_msr(), pin, "a pin-based control") ? nest_new(NEST_SAME, fn) : NULL;
}

static bool in_service(u32 vector) { return apic_read(APIC_ISR + vector / 32 * 16) >> vector % 32 & 1; }
static bool requested(u32 vector) { return apic_read(APIC_IRR + vector / 32 * 16) >> vector % 32 & 1; }

/* The pending interrupt is taken by the host's own handler, once. */
static void take_here(u32 vector)
{
    u32 before = this_cpu()->irqs[vector];
    irq_on();
    irq_off();
    check_eq("interrupts the host takes itself", this_cpu()->irqs[vector] - before, 1);
}

static void ext_int_exit(void)
{
    struct nest *n = guest_with(PIN_EXT_INT, g_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, 0, EXIT_ACK_INT);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    u64 rip = vmget(GUEST_RIP);
    self_ipi();
    NEST_RUN(n, REASON_EXT_INT);
    check_eq("RIP", vmget(GUEST_RIP), rip);
    check_eq("interruption information without acknowledge", vmget(EXIT_INTR_INFO) & INTR_VALID, 0);
    check(requested(VECTOR) && !in_service(VECTOR), "the interrupt is not pending any more");
    take_here(VECTOR);
    NEST_RUN(n, REASON_VMCALL);
}

static void ext_int_acknowledge(void)
{
    struct nest *n = guest_with(PIN_EXT_INT, g_spin);
    if (!n || !nest_need(exit_msr(), EXIT_ACK_INT, "acknowledge on exit"))
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, EXIT_ACK_INT, 0);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    self_ipi();
    NEST_RUN(n, REASON_EXT_INT);
    check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_EXT | VECTOR);
    check(in_service(VECTOR) && !requested(VECTOR), "the interrupt is not in service");
    apic_eoi();
    NEST_RUN(n, REASON_VMCALL);
}

static void ext_int_if_clear(void) /* external-interrupt exiting does not look at RFLAGS.IF */
{
    struct nest *n = guest_with(PIN_EXT_INT, g_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    self_ipi();
    if (nest_expect(n, REASON_EXT_INT)) {
        take_here(VECTOR);
        NEST_RUN(n, REASON_VMCALL);
    } else {
        irq_on();
        irq_off();
    }
}

static void ext_int_while_running(void) /* arrives after the entry */
{
    struct nest *n = guest_with(PIN_EXT_INT, g_timer_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    NEST_RUN(n, REASON_EXT_INT);
    check(spins > 0 && spins < SPIN, "exit after %u of %u rounds", spins, (u32)SPIN);
    take_here(VECTOR);
    apic_write(APIC_LVT_TIMER, 0x10000);
    NEST_RUN(n, REASON_VMCALL);
}

static void ext_int_delivered(void) /* no exiting: through the nested guest's IDT, when IF allows */
{
    struct nest *n = nest_new(NEST_SAME, g_sti_spin);
    if (!n)
        return;
    self_ipi();
    if (!nest_event(n, VECTOR, 0))
        return;
    check(spins == 0, "taken after %u rounds", spins);
    check(in_service(VECTOR), "the interrupt is not in service");
    check_masked("pushed RFLAGS", nest_frame()->flags, RFLAGS_IF, RFLAGS_IF);
    apic_eoi();
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    check_eq("rounds", spins, SPIN);
}

static void ext_int_held(void) /* no exiting, IF = 0: stays pending through the nested guest */
{
    struct nest *n = nest_new(NEST_SAME, g_spin);
    if (!n)
        return;
    self_ipi();
    NEST_RUN(n, REASON_VMCALL);
    check(requested(VECTOR), "the interrupt is gone");
    take_here(VECTOR);
}

static void ext_int_hlt(void)
{
    struct nest *n = guest_with(PIN_EXT_INT, g_timer_hlt);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    NEST_RUN(n, REASON_EXT_INT);
    check_eq("activity state", vmget(GUEST_ACTIVITY), ACTIVITY_HLT);
    take_here(VECTOR);
    apic_write(APIC_LVT_TIMER, 0x10000);
    vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    NEST_RUN(n, REASON_VMCALL);
}

static void int_window(void)
{
    struct nest *n = nest_need(proc_msr(), PROC_INT_WINDOW, "interrupt window") ? nest_new(NEST_SAME, g_sti_spin)
                                                                                : NULL;
    if (!n)
        return;
    nest_control(PROC_CONTROLS, PROC_INT_WINDOW, 0);
    NEST_RUN(n, REASON_INT_WINDOW); /* after STI and the instruction that it shadows */
    check_masked("RFLAGS.IF", vmget(GUEST_RFLAGS), RFLAGS_IF, RFLAGS_IF);
    check_eq("interruptibility", vmget(GUEST_INTERRUPTIBILITY), 0);
    check_eq("rounds", spins, 0);
    u64 rip = vmget(GUEST_RIP);
    NEST_RUN(n, REASON_INT_WINDOW); /* open already: exits before any instruction */
    check_eq("RIP", vmget(GUEST_RIP), rip);
    vmset(GUEST_INTERRUPTIBILITY, BLOCK_MOVSS);
    NEST_RUN(n, REASON_INT_WINDOW); /* one instruction later */
    check(vmget(GUEST_RIP) != rip, "exit while blocked by MOV SS");
    nest_control(PROC_CONTROLS, 0, PROC_INT_WINDOW);
    NEST_RUN(n, REASON_VMCALL);
}

static void int_window_hlt(void) /* interrupt-window exits wake HLT (SDM 3, "Activity State") */
{
    struct nest *n = nest_need(proc_msr(), PROC_INT_WINDOW, "interrupt window") ? nest_new(NEST_SAME, g_spin) : NULL;
    if (!n || !nest_need(pin_msr(), PIN_TIMER, "preemption timer"))
        return;
    nest_control(PROC_CONTROLS, PROC_INT_WINDOW, 0);
    nest_control(PIN_CONTROLS, PIN_TIMER, 0); /* so that a miss is no hang */
    vmset(PREEMPTION_TIMER, 100000);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    vmset(GUEST_ACTIVITY, ACTIVITY_HLT);
    NEST_RUN(n, REASON_INT_WINDOW);
}

/* ---- NMIs ---- */

static void nmi_unblock(void) /* IRET ends blocking by NMI */
{
#ifdef __x86_64__
    asm volatile("mov %%rsp,%%rax\npush %0\npush %%rax\npushf\npush %1\npush $1f\niretq\n1:"
                 :
                 : "i"(SEL_DATA), "i"(SEL_CODE)
                 : "rax", "memory", "cc");
#else
    asm volatile("pushf\npush %0\npush $1f\niretl\n1:" : : "i"(SEL_CODE) : "memory", "cc");
#endif
}

static void nmi_exit(void)
{
    struct nest *n = guest_with(PIN_NMI, g_nmi_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_NMI, 0);
    u32 before = this_cpu()->irqs[VEC_NMI];
    NEST_RUN(n, REASON_EXCEPTION);
    check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_NMI | VEC_NMI);
    check_eq("interruptibility", vmget(GUEST_INTERRUPTIBILITY), 0);
    check(spins < SPIN, "the NMI did not exit at once");
    self_nmi(); /* blocked until IRET: SDM 3, "Updating Non-Register State" */
    delay(10);
    check_eq("NMIs the host takes before IRET", this_cpu()->irqs[VEC_NMI] - before, 0);
    nmi_unblock();
    delay(10);
    check_eq("NMIs the host takes after IRET", this_cpu()->irqs[VEC_NMI] - before, 1);
    vmset(GUEST_INTERRUPTIBILITY, 0);
    NEST_RUN(n, REASON_VMCALL);
}

static void nmi_delivered(void)
{
    struct nest *n = nest_new(NEST_SAME, g_nmi_spin);
    if (!n)
        return;
    if (!nest_event(n, VEC_NMI, 0))
        return;
    check_eq("interruptibility in the handler", vmget(GUEST_INTERRUPTIBILITY), BLOCK_NMI);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    check_eq("interruptibility after IRET", vmget(GUEST_INTERRUPTIBILITY), 0);
    nmi_unblock();
}

static void
nmi_blocked_guest(void) /* blocking by NMI in the guest state holds a real NMI back when it is not to exit */
{
    struct nest *n = nest_new(NEST_SAME, g_nmi_spin);
    if (!n)
        return;
    u32 before = this_cpu()->irqs[VEC_NMI];
    vmset(GUEST_INTERRUPTIBILITY, BLOCK_NMI);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("rounds", spins, SPIN);
    check_eq("interruptibility", vmget(GUEST_INTERRUPTIBILITY), BLOCK_NMI);
    nmi_unblock();
    delay(10);
    check_eq("NMIs the host takes", this_cpu()->irqs[VEC_NMI] - before, 1);
}

static void virtual_nmi(void)
{
    struct nest *n = guest_with(PIN_NMI | PIN_VIRTUAL_NMI, g_spin);
    if (!n || !nest_need(proc_msr(), PROC_NMI_WINDOW, "NMI window"))
        return;
    nest_control(PIN_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMI, 0);
    vmset(ENTRY_INTR_INFO, INTR_VALID | INTR_NMI | VEC_NMI);
    if (!nest_event(n, VEC_NMI, 0))
        return;
    check_eq("entry interruption information, valid bit", vmget(ENTRY_INTR_INFO) & INTR_VALID, 0);
    check_eq("virtual-NMI blocking in the handler", vmget(GUEST_INTERRUPTIBILITY), BLOCK_NMI);
    nest_control(PROC_CONTROLS, PROC_NMI_WINDOW, 0);
    nest_skip();
    NEST_RUN(n, REASON_NMI_WINDOW); /* after the handler's IRET */
    check_eq("virtual-NMI blocking after IRET", vmget(GUEST_INTERRUPTIBILITY), 0);
    u64 rip = vmget(GUEST_RIP);
    NEST_RUN(n, REASON_NMI_WINDOW);
    check_eq("RIP at the open window", vmget(GUEST_RIP), rip);
    nest_control(PROC_CONTROLS, 0, PROC_NMI_WINDOW);
    NEST_RUN(n, REASON_VMCALL);
}

static void virtual_nmi_real(void) /* with virtual NMIs a real NMI exits even while they are blocked */
{
    struct nest *n = guest_with(PIN_NMI | PIN_VIRTUAL_NMI, g_nmi_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMI, 0);
    vmset(GUEST_INTERRUPTIBILITY, BLOCK_NMI);
    NEST_RUN(n, REASON_EXCEPTION);
    check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_NMI | VEC_NMI);
    check_eq("interruptibility", vmget(GUEST_INTERRUPTIBILITY), BLOCK_NMI);
    nmi_unblock();
    NEST_RUN(n, REASON_VMCALL);
}

/* ---- preemption timer ---- */

static void timer_zero(void)
{
    struct nest *n = guest_with(PIN_TIMER, g_spin);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_TIMER, 0);
    vmset(PREEMPTION_TIMER, 0);
    u64 rip = vmget(GUEST_RIP);
    for (u32 i = 0; i < 3; i++) {
        NEST_RUN(n, REASON_TIMER);
        check_eq("RIP", vmget(GUEST_RIP), rip);
    }
}

static void timer_runs(void)
{
    struct nest *n = guest_with(PIN_TIMER, g_spin);
    if (!n)
        return;
    u32 value = (u32)((SPIN * 2) >> (rdmsr(MSR_VMX_MISC) & 31));
    nest_control(PIN_CONTROLS, PIN_TIMER, 0);
    vmset(PREEMPTION_TIMER, value);
    NEST_RUN(n, REASON_TIMER);
    check(spins > 0 && spins < SPIN, "exit after %u of %u rounds", spins, (u32)SPIN);
    check_eq("timer field without save", vmget(PREEMPTION_TIMER), value);
    vmset(PREEMPTION_TIMER, ~0u);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("timer field without save", vmget(PREEMPTION_TIMER), ~0u);
}

static void timer_save(void)
{
    struct nest *n = guest_with(PIN_TIMER, g_spin);
    if (!n || !nest_need(exit_msr(), EXIT_SAVE_TIMER, "saving the timer"))
        return;
    u32 rate = rdmsr(MSR_VMX_MISC) & 31, value = (u32)(SPIN * 2) >> rate;
    nest_control(PIN_CONTROLS, PIN_TIMER, 0);
    nest_control(EXIT_CONTROLS, EXIT_SAVE_TIMER, 0);
    vmset(PREEMPTION_TIMER, value);
    NEST_RUN(n, REASON_TIMER);
    check_eq("timer field after it ran out", vmget(PREEMPTION_TIMER), 0);
    vmset(PREEMPTION_TIMER, 0x1000000);
    u64 before = rdtsc();
    NEST_RUN(n, REASON_VMCALL);
    u64 most = (rdtsc() - before) >> rate, used = 0x1000000 - vmget(PREEMPTION_TIMER);
    check(used > 0 && used <= most + 1, "timer used %llu of at most %llu", used, most);
}

static void timer_hlt(void)
{
    struct nest *n = guest_with(PIN_TIMER, g_hlt);
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_TIMER, 0);
    vmset(PREEMPTION_TIMER, 1000);
    NEST_RUN(n, REASON_TIMER);
    check_eq("activity state", vmget(GUEST_ACTIVITY), ACTIVITY_HLT);
}

// clang-format off
const struct test exit_event_tests[] = {
    { "ext-int-exit", ext_int_exit },
    { "ext-int-acknowledge", ext_int_acknowledge },
    { "ext-int-if-clear", ext_int_if_clear },
    { "ext-int-while-running", ext_int_while_running },
    { "ext-int-delivered", ext_int_delivered },
    { "ext-int-held", ext_int_held },
    { "ext-int-hlt", ext_int_hlt },
    { "int-window", int_window },
    { "int-window-hlt", int_window_hlt },
    { "nmi-exit", nmi_exit },
    { "nmi-delivered", nmi_delivered },
    { "nmi-blocked-guest", nmi_blocked_guest },
    { "virtual-nmi", virtual_nmi },
    { "virtual-nmi-real", virtual_nmi_real },
    { "timer-zero", timer_zero },
    { "timer-runs", timer_runs },
    { "timer-save", timer_save },
    { "timer-hlt", timer_hlt },
    { NULL, NULL },
};
// clang-format on
