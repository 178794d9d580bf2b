/*
 * An inter-processor interrupt and back: the first CPU sends, the second's handler writes a word that the first waits
 * for. From a plain guest, and from a nested guest with the APIC its own.
 */
#include "cost.h"
#include "verdict.h"

enum { PING = 0x59 };
static volatile u32 stop;

/* On the second CPU; trap_handle counts interrupts and ends them. */
static void wait_there(void *unused)
{
    (void)unused;
    irq_on();
    while (!stop)
        pause();
    irq_off();
}

void listener_start(void)
{
    stop = 0;
    cpu_call(1, wait_there, NULL);
}

void listener_stop(void)
{
    stop = 1;
    cpu_wait(1, 100);
}

static void ping(void)
{
    u32 before = *(volatile u32 *)&cpus[1].irqs[PING];
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | PING);
    while (*(volatile u32 *)&cpus[1].irqs[PING] == before)
        pause();
}

static void run_ping(u32 count) { SAMPLE(count, ping()) }
static void job_ping(void) { run_ping(job_count); }

static void nested_ping(u32 count)
{
    job_count = count;
    worker.lean.expect = ~0ul;
    worker_do(job_ping);
}

void items_smp(void)
{
    if (cpus_start() < 2) {
        item_skip("smp", "one CPU only");
        return;
    }
    listener_start();
    delay(100);
    strata_calibrate(run_ping);
    item_run("smp.ipi", run_ping);
    if (cpuid(1, 0).c & 1u << 5) {
        vmx_enter_operation();
        if (worker_new()) {
            strata_calibrate(nested_ping);
            item_run("smp.ipi-nested", nested_ping);
        }
    }
    listener_stop();
}
