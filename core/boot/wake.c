/*
 * Strata's own start on the other CPUs: INIT-SIPI-SIPI from the CPU that booted, one CPU at a time, each of which enters VMX
 * and waits in its guest for a SIPI (core/guest/start.h).
 */
#include "core/boot/wake.h"

#include "core/boot/lowpage.h"
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmxon.h"
#include "core/guest/start.h"
#include "core/lib/log.h"
#include "core/upcall.h"

#define INIT_WAIT_US 10000
#define SIPI_WAIT_US 200
#define START_WAIT_US 1000000

#define PIT_FREQUENCY 1193182u
#define PIT_CHANNEL2 0x42
#define PIT_COMMAND 0x43
#define PIT_CHANNEL2_ONE_SHOT 0xb0 /* channel 2, low and high byte, mode 0 */
#define PORT_B 0x61
#define PORT_B_GATE2 0x01
#define PORT_B_SPEAKER 0x02
#define PORT_B_OUT2 0x20
#define PIT_LIMIT 10000000u /* polls */
#define TICKS_A_US                                                                                                     \
    10000u /* of the time-stamp counter, more than any has: how long a PIT that is missing or gated is waited for */

extern _Noreturn void guest_start(struct cpu *cpu);

/* At most 50,000 microseconds at a time. */
static void wait_us(unsigned us)
{
    unsigned ticks = (unsigned)((uint64_t)us * PIT_FREQUENCY / 1000000u) + 1;
    uint8_t port_b = hw_inb(PORT_B);
    hw_outb(PORT_B, (uint8_t)((port_b & ~PORT_B_SPEAKER) | PORT_B_GATE2));
    hw_outb(PIT_COMMAND, PIT_CHANNEL2_ONE_SHOT);
    hw_outb(PIT_CHANNEL2, (uint8_t)ticks);
    hw_outb(PIT_CHANNEL2, (uint8_t)(ticks >> 8));
    uint64_t begin = hw_rdtsc();
    for (unsigned i = 0;
         i < PIT_LIMIT && hw_rdtsc() - begin < (uint64_t)us * TICKS_A_US && !(hw_inb(PORT_B) & PORT_B_OUT2); i++)
        hw_pause();
    hw_outb(PORT_B, port_b);
}

/* Where another CPU of Strata arrives in 64-bit mode, on its own stack, with Strata's page tables. */
static _Noreturn void ap_main(struct cpu *cpu)
{
    cpu_load(cpu);
    cpu->failure = vmxon_cpu(cpu);
    if (cpu->failure) {
        cpu_set_state(cpu, CPU_FAILED);
        hw_halt();
    }
    vmcs01_create(cpu);
    vmcs01_init_state(cpu, ACTIVITY_WAIT_SIPI);
    nested_cpu_init(cpu);
    cpu_set_state(cpu, CPU_WAITING);
    guest_start(cpu);
}

static const char *wake_cpu(struct cpu *cpu)
{
    struct low_page *low = hpa_ptr(hpa(machine.low_page));
    low->ap_cpu = (uint64_t)cpu;
    low->ap_stack = (uint64_t)&cpu->regs[0];
    low->ap_entry = (uint64_t)ap_main;
    low->ap_cr3 = (uint32_t)machine.cr3;
    uint32_t sipi = ICR_MODE_STARTUP | ICR_ASSERT | machine.low_page >> PAGE_SHIFT;

    lapic_icr_write(ICR_MODE_INIT | ICR_LEVEL | ICR_ASSERT, cpu->apic_id);
    wait_us(INIT_WAIT_US);
    lapic_icr_write(sipi, cpu->apic_id);
    for (unsigned waited = 0; cpu_state(cpu) == CPU_ABSENT && waited < START_WAIT_US; waited += SIPI_WAIT_US) {
        wait_us(SIPI_WAIT_US);
        if (waited == SIPI_WAIT_US && cpu_state(cpu) == CPU_ABSENT)
            lapic_icr_write(sipi, cpu->apic_id);
    }
    switch (cpu_state(cpu)) {
    case CPU_ABSENT:
        return "it does not answer a start-up IPI";
    case CPU_FAILED:
        return cpu->failure;
    default:
        return NULL;
    }
}

/*
 * Strata gives up: CPUs in its guest leave VMX, then all are put where INIT puts a CPU, executing nothing: Strata's memory is
 * about to be somebody else's.
 */
static void stop_cpus(void)
{
    unsigned waiting = 1;
    for (unsigned waited = 0; waiting && waited < START_WAIT_US; waited += SIPI_WAIT_US) {
        start_abandon(); /* again: one may have been too early */
        wait_us(SIPI_WAIT_US);
        waiting = 0;
        for (unsigned i = 1; i < cpu_count; i++)
            waiting += cpu_state(cpus[i]) == CPU_WAITING;
    }
    for (unsigned i = 1; i < cpu_count; i++)
        lapic_icr_write(ICR_MODE_INIT | ICR_LEVEL | ICR_ASSERT, cpus[i]->apic_id);
    wait_us(INIT_WAIT_US);
}

const char *wake_cpus(void)
{
    for (unsigned i = 1; i < cpu_count; i++) {
        const char *failure = wake_cpu(cpus[i]);
        if (!failure)
            continue;
        log_error("CPU %u (APIC id %u): %s", i, cpus[i]->apic_id, failure);
        stop_cpus();
        return failure;
    }
    cpus[0]->state = CPU_STARTED;
    x2apic_watch_start();
    return NULL;
}
