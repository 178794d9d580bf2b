/*
 * The local APIC through x2APIC MSRs, from a nested guest that its hypervisor lets use them (an MSR bitmap of
 * zeroes): TPR, timer, self-IPI with its EOI, IPI to another CPU and its answer. Comes last: Bochs cannot go back to
 * xAPIC.
 */
#include "cost.h"
#include "verdict.h"

enum { APIC_BASE_X2 = 1 << 10, X2_SELF_IPI = 0x83f, SELF = 0x5a, PING = 0x5b };
static void enable(void *unused)
{
    (void)unused;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2);
    apic_init_cpu();
}

static u32 taken(u32 cpu, u32 vector) { return *(volatile u32 *)&cpus[cpu].irqs[vector]; }

static void ping(void)
{
    u32 before = taken(1, PING);
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | PING);
    while (taken(1, PING) == before)
        pause();
}

static void self(void)
{
    u32 before = taken(0, SELF);
    wrmsr(X2_SELF_IPI, SELF);
    while (taken(0, SELF) == before)
        pause();
}

static void job_empty(void) { SAMPLE(job_count, barrier()) }
static void job_tpr(void) { SAMPLE(job_count, apic_write(APIC_TPR, 0x10)) }
static void job_timer(void) { SAMPLE(job_count, apic_write(APIC_TIMER_INIT, 0)) }
static void job_ping(void) { SAMPLE(job_count, ping()) }
static void job_self(void)
{
    irq_on();
    SAMPLE(job_count, self())
    irq_off();
}

static void (*current)(void);
static void go(u32 count)
{
    job_count = count;
    worker_do(current);
}

void items_x2apic(void)
{
    static const struct {
        const char *name;
        void (*job)(void);
    } items[] = {
        { "x2apic.tpr", job_tpr },
        { "x2apic.timer", job_timer },
        { "x2apic.self-ipi", job_self },
        { "x2apic.ipi", job_ping },
    };
    if (!(cpuid(1, 0).c & 1u << 21)) {
        item_skip("x2apic", "no x2APIC");
        return;
    }
    for (u32 i = 1; i < cpu_count; i++) { /* the wake-up is an xAPIC interrupt: the others go first */
        cpu_call(i, enable, NULL);
        check(cpu_wait(i, 1000), "CPU %u does not answer", i);
    }
    enable(NULL);
    if (!worker_new())
        return;
    struct table_ptr idtr = read_idtr();
    vmset(GUEST_IDTR_BASE, idtr.base); /* whose handler counts an interrupt and ends it, in the nested guest */
    vmset(GUEST_IDTR_LIMIT, idtr.limit);
    vmset(MSR_BITMAP, phys(page_alloc(1)));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    worker.lean.expect = ~0ul;
    if (cpu_count > 1)
        listener_start();
    current = job_empty;
    strata_calibrate(go);
    for (u32 i = 0; i < COUNT(items); i++) {
        current = items[i].job;
        if (current != job_ping || cpu_count > 1)
            item_run(items[i].name, go);
    }
    if (cpu_count > 1)
        listener_stop();
}
