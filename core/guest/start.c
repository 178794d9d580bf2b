/*
 * The start of the guest's CPUs. Each waits for the guest's SIPI in VMX non-root operation (activity state wait-for-SIPI); the
 * SIPI arrives as a VM exit on the waiting CPU itself. Until all of them have been started, an INIT must not reach one that
 * waits: x2apic/icr.c watches the guest's interrupt command register. After that the APIC is the guest's alone, until an INIT
 * puts a CPU back to waiting: a SIPI that finds it still in Strata is lost, so the register is watched again until it has come.
 */
#include "core/guest/start.h"

#include "core/guest/dispatch.h"
#include "core/cpu/lapic.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"

static bool abandoned;

/* A CPU in wait-for-SIPI drops an INIT (SDM 3, "Activity State"): a SIPI brings it out. */
void start_abandon(void)
{
    __atomic_store_n(&abandoned, true, __ATOMIC_RELEASE);
    for (unsigned i = 1; i < cpu_count; i++)
        if (cpu_state(cpus[i]) == CPU_WAITING)
            lapic_icr_write(ICR_MODE_STARTUP | ICR_ASSERT, cpus[i]->apic_id);
}

/* From here on an INIT does to this CPU what it does without VMX. */
static _Noreturn void stop_cpu(struct cpu *cpu)
{
    hw_vmxoff();
    cpu_set_state(cpu, CPU_FAILED);
    hw_halt();
}

static bool starts(const struct cpu *cpu)
{
    return cpu_state(cpu) != CPU_STARTED || __atomic_load_n(&cpu->init_taken, __ATOMIC_ACQUIRE);
}

static void cpu_started(struct cpu *cpu)
{
    static bool said;
    memory_lock();
    cpu_set_state(cpu, CPU_STARTED);
    __atomic_store_n(&cpu->init_taken, 0, __ATOMIC_RELEASE);
    bool all = true;
    for (unsigned i = 0; i < cpu_count; i++)
        all &= !starts(cpus[i]);
    bool say = all && x2apic_watch_end() && !said;
    said |= say;
    memory_unlock();
    if (say)
        log_info("all CPUs started");
}

/* A CPU that left wait-for-SIPI by a VM exit may save "blocking by SMI" from then on (Bochs 2.7 does; processors do not). */
void start_note_sipi(struct cpu *cpu)
{
    cpu->smi_blocked |= (vmread(GUEST_INTERRUPTIBILITY) & BLOCKING_SMI) != 0;
    cpu_started(cpu);
}

void start_note_init(struct cpu *cpu)
{
    __atomic_store_n(&cpu->init_taken, 1, __ATOMIC_RELEASE);
    memory_lock();
    if (x2apic_watch_again())
        nested_take_icr();
    memory_unlock();
}

/* SDM 3, "Processor State Following Power-up, Reset, or INIT". */
static void reset(struct cpu *cpu)
{
    nested_reset(cpu);
    vmcs01_init_state(cpu, ACTIVITY_ACTIVE);
    hw_invvpid(INVVPID_SINGLE, VPID01, 0);
}

/* The guest's SIPI: real mode at vector * 4 KiB. SDM 3, "Typical AP Initialization Sequence". */
void start_handle_sipi(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if (__atomic_load_n(&abandoned, __ATOMIC_ACQUIRE))
        stop_cpu(cpu);
    uint16_t vector = (uint16_t)(vmread(EXIT_QUALIFICATION) & 0xff);
    start_note_sipi(cpu);
    reset(cpu);
    vmcs01_real_mode((uint16_t)(vector << 8), 0);
}

/* What the processor does when it enters wait-for-SIPI, as little as an entry needs: the sooner it waits, the better. The rest: at the SIPI. */
static void wait_for_sipi(struct cpu *cpu)
{
    cpu_set_state(cpu, CPU_WAITING);
    start_note_init(cpu);
    if (cpu->nmi_virtual)
        event_close_window(cpu);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    vmwrite(GUEST_PENDING_DEBUG, 0);
    vmwrite(ENTRY_INTR_INFO, 0);
}

/* INIT to a running CPU: it waits for a SIPI again; the CPU that booted starts at the reset vector. */
void start_handle_init(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if (nested_init_signal(cpu))
        return;
    if (hw_rdmsr(MSR_APIC_BASE) & APIC_BASE_BSP)
        reset(cpu);
    else
        wait_for_sipi(cpu);
}
