/*
 * The local APIC (xAPIC or, when a test or the firmware switched to it, x2APIC) and the other CPUs.
 * Other CPUs sleep in HLT until cpu_call gives them a job; they never print.
 */
#include "cpu.h"

enum {
    TRAMPOLINE = 0x8000,
    X2APIC_ON = 0x400,
    /* Turns of 100 us for a CPU to come: after the first SIPI, and after the second, when it surely has one, however many levels it has
     * to come through. */
    FIRST_TURNS = 100,
    LAST_TURNS = 100000,
};

extern char trampoline_start[], trampoline_end[];
extern volatile u32 trampoline_index;
void smp_ap_main(u32 index) __attribute__((noreturn));

volatile u32 cpu_count = 1;

/* Remembered, not read each time: nested guests send IPIs too, and RDMSR may exit. */
static bool x2apic[CPUS];
static bool x2apic_on(void) { return x2apic[this_cpu()->index]; }
static volatile u32 *xapic(u32 reg) { return (volatile u32 *)(ulong)(0xfee00000 + reg); }

u32 apic_read(u32 reg) { return x2apic_on() ? (u32)rdmsr(MSR_X2APIC + reg / 16) : *xapic(reg); }

void apic_write(u32 reg, u32 v)
{
    if (x2apic_on())
        wrmsr(MSR_X2APIC + reg / 16, v);
    else
        *xapic(reg) = v;
}

void apic_icr(u32 dest, u32 low)
{
    if (x2apic_on()) {
        wrmsr(MSR_X2APIC + APIC_ICR / 16, (u64)dest << 32 | low);
        return;
    }
    *xapic(APIC_ICR_HIGH) = dest << 24;
    *xapic(APIC_ICR) = low;
    while (*xapic(APIC_ICR) & 0x1000)
        pause();
}

u32 apic_id(void) { return x2apic_on() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24; }
void apic_eoi(void) { apic_write(APIC_EOI, 0); }

void apic_init_cpu(void)
{
    x2apic[this_cpu()->index] = (rdmsr(MSR_APIC_BASE) & X2APIC_ON) != 0;
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_LINT0, 0x10000);
    apic_write(APIC_LVT_TIMER, 0x10000);
    this_cpu()->apic_id = apic_id();
}

/* Waits by reading a port: an access takes about a microsecond on a PC, and some emulated time everywhere. */
void delay(u32 us)
{
    u64 start = rdtsc();
    for (u32 i = 0; i < us && rdtsc() - start < (u64)us * 4000; i++)
        inb(0x80);
}

void smp_ap_main(u32 index)
{
    trap_init_cpu(index);
    apic_init_cpu();
    struct cpu *cpu = this_cpu();
    __atomic_fetch_add(&cpu_count, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        irq_off();
        if (cpu->job) {
            cpu->job(cpu->job_arg);
            barrier();
            cpu->job = NULL;
            continue;
        }
        asm volatile("sti\nhlt" : : : "memory");
    }
}

u32 cpus_start(void)
{
    if (cpu_count > 1 || cpus_present == 1)
        return cpu_count;
    memcpy((void *)TRAMPOLINE, trampoline_start, (size_t)(trampoline_end - trampoline_start));
    for (u32 id = 0; id < cpus_present; id++) { /* Bochs and every small PC number their APICs from 0 */
        if (id == cpus[0].apic_id)
            continue;
        u32 before = cpu_count;
        apic_icr(id, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
        delay(200);
        for (u32 i = 0; i < 2 && cpu_count == before; i++) {
            apic_icr(id, ICR_SIPI | ICR_ASSERT | TRAMPOLINE >> 12);
            for (u32 t = 0; t < (i ? LAST_TURNS : FIRST_TURNS) && cpu_count == before; t++)
                delay(100);
        }
    }
    return cpu_count;
}

void cpu_call(u32 index, void (*fn)(void *), void *arg)
{
    cpus[index].job_arg = arg;
    barrier();
    cpus[index].job = fn;
    apic_icr(cpus[index].apic_id, ICR_FIXED | ICR_ASSERT | VEC_CALL);
}

bool cpu_wait(u32 index, u32 ms)
{
    for (u32 t = 0; t < ms * 10 && cpus[index].job; t++)
        delay(100);
    return cpus[index].job == NULL;
}
