/*
 * Several CPUs: the library's own start of them, starting a nested guest on another CPU through wait-for-SIPI, nested
 * guests on all CPUs at once that talk by memory and by interrupt.
 * The wait-for-SIPI tests come last, for on Bochs they leave NMI and SMI masked on their CPU; after suite init CPU 1 is
 * gone.
 */
#include "suites.h"

enum { SIPI_VECTOR = 0x9a, ROUNDS = 300, VECTOR = 0x53 };

static struct {
    struct nest *nest;
    outcome_t outcome;
    u32 reason, interruptibility, activity;
    u64 qualification;
    volatile bool ready;
    bool again; /* the second entry, as active guest, came out by VMCALL */
} there;
static volatile u32 turn, finished[CPUS];

static void g_nothing(void) {}

static bool others(void)
{
    if (cpu_count < 2)
        test_skip("one CPU");
    return cpu_count >= 2;
}

static void started(void)
{
    check_eq("CPUs that run", cpu_count, cpus_present);
    for (u32 i = 0; i < cpu_count; i++)
        for (u32 k = 0; k < i; k++)
            check(cpus[i].apic_id != cpus[k].apic_id, "CPUs %u and %u have APIC ID %u", i, k, cpus[i].apic_id);
}

static void count_up(void *arg) { __atomic_fetch_add((u32 *)arg, 1, __ATOMIC_SEQ_CST); }
static void calls(void)
{
    u32 count = 0;
    for (u32 round = 0; round < 3; round++)
        for (u32 i = 1; i < cpu_count; i++) {
            cpu_call(i, count_up, &count);
            check(cpu_wait(i, 1000), "CPU %u does not answer", i);
        }
    check_eq("calls done", count, 3 * (cpu_count - 1));
}

/* ---- wait-for-SIPI ---- */

/* On the other CPU: enters a guest that waits for a SIPI, notes the exit, goes on with the guest as an active one. */
static void wait_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    struct nest *n = there.nest = nest_new(NEST_SAME, g_nothing);
    if (n) {
        vmset(GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI);
        there.ready = true;
        there.outcome = nest_run(n);
        there.reason = n->reason;
        there.qualification = vmget(EXIT_QUALIFICATION);
        there.interruptibility = (u32)vmget(GUEST_INTERRUPTIBILITY);
        there.activity = (u32)vmget(GUEST_ACTIVITY);
        nest_restart(n, g_nothing);
        there.again = nest_run(n) == VMX_OK && n->reason == REASON_VMCALL;
    }
    vmx_leave_operation();
}

static bool wait_start(void)
{
    if (!others() || !(rdmsr(MSR_VMX_MISC) & BIT(8))) {
        test_skip("one CPU, or no wait-for-SIPI");
        return false;
    }
    there.ready = there.again = false;
    there.reason = ~0u;
    cpu_call(1, wait_there, NULL);
    for (u32 i = 0; i < 1000 && !there.ready; i++)
        delay(100);
    delay(20000); /* on its way from `ready` into the guest, which takes long with hypervisors below */
    return check(there.ready, "the other CPU is not ready");
}

static void wait_end(void)
{
    if (!check(cpu_wait(1, 2000), "no exit there"))
        return;
    check_outcome("VM entry there", there.outcome, VMX_OK);
    check_eq("exit reason there", there.reason, REASON_SIPI);
    check_eq("vector as qualification", there.qualification, SIPI_VECTOR);
    check(there.again, "the guest does not go on as an active one");
}

static void send_sipi(void) { apic_icr(cpus[1].apic_id, ICR_SIPI | ICR_ASSERT | SIPI_VECTOR); }

static void sipi(void)
{
    if (!wait_start())
        return;
    send_sipi();
    wait_end();
}

static void sipi_state(void) /* what the exit saves: waiting, and nothing blocked */
{
    if (!wait_start())
        return;
    send_sipi();
    wait_end();
    check_eq("activity state", there.activity, ACTIVITY_WAIT_SIPI);
    check_eq("interruptibility state", there.interruptibility, 0);
}

static void sipi_from_nested(void) /* a nested guest here starts the one there */
{
    if (!wait_start())
        return;
    struct nest *n = nest_new(NEST_SAME, send_sipi);
    if (!n)
        return;
    NEST_RUN(n, REASON_VMCALL);
    wait_end();
}

static void waits_for_sipi_only(void) /* interrupts and NMIs do not end the wait */
{
    if (!wait_start())
        return;
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | VECTOR);
    apic_icr(cpus[1].apic_id, ICR_NMI | ICR_ASSERT);
    delay(500);
    check_eq("exit reason so far", there.reason, ~0u);
    send_sipi();
    check(cpu_wait(1, 2000), "no exit there");
    check_eq("exit reason there", there.reason, REASON_SIPI);
}

/* ---- running at once ---- */

/* Nested guests take turns through memory, with no exit in between. */
static void g_take_turns(void)
{
    u32 me = this_cpu()->index;
    for (u32 i = 0; i < ROUNDS; i++) {
        while (turn % cpu_count != me)
            pause();
        turn++;
    }
    finished[me]++;
}

static void turns_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    struct nest *n = nest_new(NEST_SAME, g_take_turns);
    if (n)
        nest_expect(n, REASON_VMCALL);
    vmx_leave_operation();
}

static void take_turns(void)
{
    if (!others())
        return;
    turn = 0;
    memset((void *)finished, 0, sizeof finished);
    struct nest *n = nest_new(NEST_SAME, g_take_turns);
    if (!n)
        return;
    for (u32 i = 1; i < cpu_count; i++)
        cpu_call(i, turns_there, NULL);
    NEST_RUN(n, REASON_VMCALL);
    for (u32 i = 1; i < cpu_count; i++)
        check(cpu_wait(i, 2000), "CPU %u does not finish", i);
    check_eq("turns taken", turn, ROUNDS * cpu_count);
    for (u32 i = 0; i < cpu_count; i++)
        check_eq("nested guests finished", finished[i], 1);
}

/* Each exit round trip on one CPU while the others do the same: nothing is shared that should not be. */
static void g_count(void)
{
    for (;;)
        asm volatile("inc %%ebx\nxor %%eax,%%eax\nxor %%ecx,%%ecx\npush %%" REG_BX "\ncpuid\npop %%" REG_BX
                     :
                     :
                     : "eax", "ebx", "ecx", "edx");
}

static bool count_rounds(void)
{
    struct nest *n = nest_new(NEST_SAME, g_count);
    u32 leaf0 = cpuid(0, 0).b;
    if (!n)
        return false;
    for (u32 i = 0; i < ROUNDS; i++) {
        if (!nest_expect(n, REASON_CPUID))
            return false;
        n->regs.bx = leaf0;
        nest_skip();
        turn++;
    }
    return true;
}

static void count_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    finished[this_cpu()->index] = count_rounds();
    vmx_leave_operation();
}

static void round_trips(void)
{
    if (!others())
        return;
    memset((void *)finished, 0, sizeof finished);
    for (u32 i = 1; i < cpu_count; i++)
        cpu_call(i, count_there, NULL);
    check(count_rounds(), "here");
    for (u32 i = 1; i < cpu_count; i++) {
        check(cpu_wait(i, 5000), "CPU %u does not finish", i);
        check_eq("finished there", finished[i], 1);
    }
}

/* An interrupt sent by the nested guest here, taken through the IDT of the nested guest there, out of HLT. */
static void g_wait_irq(void)
{
    turn = 1;
    asm volatile("sti\nhlt\ncli");
    turn = 2;
}
static void g_send_irq(void)
{
    while (turn != 1)
        pause();
    for (u32 i = 0; i < 200; i++)
        pause();
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | VECTOR);
}

static void irq_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    struct nest *n = nest_new(NEST_SAME, g_wait_irq);
    there.again = n && nest_event(n, VECTOR, 0);
    if (there.again) {
        apic_eoi();
        nest_skip();
        there.again = nest_expect(n, REASON_VMCALL);
    }
    vmx_leave_operation();
}

static void irq_between(void)
{
    struct nest *n = others() ? nest_new(NEST_SAME, g_send_irq) : NULL;
    if (!n)
        return;
    turn = 0;
    cpu_call(1, irq_there, NULL);
    NEST_RUN(n, REASON_VMCALL);
    check(cpu_wait(1, 2000), "the interrupt does not arrive");
    check(there.again, "the nested guest there took no such interrupt");
    check_eq("steps there", turn, 2);
}

/* An external interrupt that the guest hypervisor there asked to exit on. */
static void g_spin(void)
{
    turn = 1;
    irq_on();
    while (turn != 3)
        pause();
}
static void exit_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    struct nest *n = nest_new(NEST_SAME, g_spin);
    if (n) {
        nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
        nest_control(EXIT_CONTROLS, control_supported(exit_msr(), EXIT_ACK_INT) ? EXIT_ACK_INT : 0, 0);
        there.outcome = nest_run(n);
        there.reason = n->reason;
        there.qualification = vmget(EXIT_INTR_INFO);
        apic_eoi();
        turn = 3;
        there.again = nest_expect(n, REASON_VMCALL);
    }
    vmx_leave_operation();
}
static void irq_exit_there(void)
{
    if (!others())
        return;
    turn = 0;
    cpu_call(1, exit_there, NULL);
    for (u32 i = 0; i < 1000 && turn != 1; i++)
        delay(100);
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | VECTOR);
    check(cpu_wait(1, 2000), "no exit there");
    check_eq("exit reason there", there.reason, REASON_EXT_INT);
    check_eq("interruption information there", there.qualification, INTR_VALID | INTR_EXT | VECTOR);
    check(there.again, "the guest there does not go on");
}

/* ---- INIT: these leave CPU 1 behind ---- */

static void init_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    struct nest *n = nest_new(NEST_SAME, g_spin);
    if (n) {
        there.outcome = nest_run(n);
        there.reason = n->reason;
        turn = 3;
        nest_run(n);
        there.again = n->reason == REASON_VMCALL; /* the INIT was taken by the exit: no second one */
    }
}

static void init_exit(void) /* an INIT exits from a running guest, once */
{
    if (!others())
        return;
    turn = 0;
    there.reason = ~0u;
    cpu_call(1, init_there, NULL);
    for (u32 i = 0; i < 1000 && turn != 1; i++)
        delay(100);
    apic_icr(cpus[1].apic_id, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
    check(cpu_wait(1, 2000), "no exit there");
    check_eq("exit reason there", there.reason, REASON_INIT);
    cpu_count = 1;
}
static void init_exit_once(void)
{
    if (there.reason != REASON_INIT) {
        test_skip("no INIT exit before");
        return;
    }
    check(there.again, "the INIT is still there after its exit");
}

// clang-format off
static const struct test tests[] = {
    { "started", started },
    { "calls", calls },
    { "take-turns", take_turns },
    { "round-trips", round_trips },
    { "irq-between", irq_between },
    { "irq-exit-there", irq_exit_there },
    { "sipi", sipi },
    { "sipi-state", sipi_state },
    { "sipi-from-nested", sipi_from_nested },
    { "waits-for-sipi-only", waits_for_sipi_only },
    { NULL, NULL },
};
// clang-format on
const struct suite suite_smp = { "smp", tests, NULL, true, true };

// clang-format off
static const struct test init_tests[] = {
    { "init-exit", init_exit },
    { "init-exit-once", init_exit_once },
    { NULL, NULL },
};
// clang-format on
const struct suite suite_init = { "init", init_tests, NULL, true, true };
