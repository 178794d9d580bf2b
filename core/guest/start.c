/*
 * The start of the guest's CPUs. Each waits for the guest's SIPI in VMX non-root operation (activity state wait-for-SIPI); the
 * SIPI arrives as a VM exit on the waiting CPU itself. Until all of them have been started, an INIT must not reach one that
 * waits: x2apic/icr.c watches the guest's interrupt command register. After that the APIC is the guest's alone.
 */
#include "core/guest/start.h"

#include "core/guest/dispatch.h"
#include "core/cpu/lapic.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"

static bool abandoned;

void start_abandon(void)
{
    abandoned = true;
    for (unsigned i = 1; i < cpu_count; i++)
        if (cpu_state(cpus[i]) == CPU_WAITING)
            lapic_icr_write(ICR_MODE_INIT | ICR_LEVEL | ICR_ASSERT, cpus[i]->apic_id);
}

static void cpu_started(struct cpu *cpu)
{
    memory_lock();
    bool first_time = cpu->state == CPU_WAITING, all = true;
    cpu_set_state(cpu, CPU_STARTED);
    for (unsigned i = 0; i < cpu_count; i++)
        all &= cpu_state(cpus[i]) == CPU_STARTED;
    bool ended = first_time && all && x2apic_watch_end();
    memory_unlock();
    if (ended)
        log_info("all CPUs started");
}

/* A CPU that left wait-for-SIPI by a VM exit may save "blocking by SMI" from then on (Bochs 2.7 does; processors do not). */
void start_note_sipi(struct cpu *cpu) { cpu->smi_blocked |= (vmread(GUEST_INTERRUPTIBILITY) & BLOCKING_SMI) != 0; }

/* The guest's SIPI: real mode at vector * 4 KiB. SDM 3, "Typical AP Initialization Sequence". */
void start_handle_sipi(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    start_note_sipi(cpu);
    uint16_t vector = (uint16_t)(vmread(EXIT_QUALIFICATION) & 0xff);
    vmcs01_init_state(cpu, ACTIVITY_ACTIVE);
    vmcs01_real_mode((uint16_t)(vector << 8), 0);
    cpu_started(cpu);
}

/* INIT to a running CPU: it waits for a SIPI again; the CPU that booted starts at the reset vector. */
void start_handle_init(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if (abandoned) {
        hw_vmxoff();
        hw_halt();
    }
    if (nested_init_signal(cpu))
        return;
    bool bsp = hw_rdmsr(MSR_APIC_BASE) & APIC_BASE_BSP;
    nested_reset(cpu);
    vmcs01_init_state(cpu, bsp ? ACTIVITY_ACTIVE : ACTIVITY_WAIT_SIPI);
    hw_invvpid(INVVPID_SINGLE, VPID01, 0);
}
