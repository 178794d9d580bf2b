/*
 * The start of the guest's CPUs. Each waits for the guest's SIPI in VMX non-root operation (activity state wait-for-SIPI); the
 * SIPI arrives as a VM exit on the waiting CPU itself. Until all of them have been started, writes to the guest's interrupt
 * command register are watched, because an INIT must not reach a waiting CPU; after that the APIC is the guest's alone.
 */
#include "core/guest/start.h"

#include "core/guest/dispatch.h"
#include "core/guest/ept01_exit.h"
#include "core/cpu/lapic.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"

#define XAPIC_BROADCAST 0xff
#define X2APIC_BROADCAST 0xffffffffu

static bool watching, abandoned;

bool start_watching(void) { return __atomic_load_n(&watching, __ATOMIC_ACQUIRE); }

void start_abandon(void)
{
    abandoned = true;
    for (unsigned i = 1; i < cpu_count; i++)
        if (cpu_state(cpus[i]) == CPU_WAITING)
            lapic_icr_write(ICR_MODE_INIT | ICR_LEVEL | ICR_ASSERT, cpus[i]->apic_id);
}

void start_watch(void)
{
    watching = cpu_count > 1;
    if (!watching)
        msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_TRAP)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), 0);
    else if (watching)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), EPT_R);
}

/* All CPUs run: the ICR is the guest's. */
static void stop_watching(void)
{
    __atomic_store_n(&watching, false, __ATOMIC_RELEASE);
    msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_NATIVE)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), EPT_RWX);
    ept01_announce_change();
}

static void cpu_started(struct cpu *cpu)
{
    memory_lock();
    bool first_time = cpu->state == CPU_WAITING, all = true;
    cpu_set_state(cpu, CPU_STARTED);
    for (unsigned i = 0; i < cpu_count; i++)
        all &= cpu_state(cpus[i]) == CPU_STARTED;
    if (first_time && all && watching)
        stop_watching();
    else
        first_time = false;
    memory_unlock();
    if (first_time)
        log_info("all CPUs started");
}

static bool destination_matches(const struct cpu *from, const struct cpu *to, uint32_t low, uint32_t destination)
{
    switch (low & ICR_SHORTHAND_MASK) {
    case ICR_SHORTHAND_SELF:
        return from == to;
    case ICR_SHORTHAND_ALL:
        return true;
    case ICR_SHORTHAND_OTHERS:
        return from != to;
    default:
        break;
    }
    if (destination == (lapic_is_x2apic() ? X2APIC_BROADCAST : XAPIC_BROADCAST))
        return true;
    if (low & ICR_LOGICAL) /* a waiting CPU has no logical id yet: nothing of it can match */
        return false;
    return to->apic_id == destination;
}

/*
 * INIT goes to the CPUs that it names and that are not waiting; everything else as it is (a SIPI to a running CPU is
 * ignored by that CPU). An INIT that names only waiting CPUs is swallowed: they are where INIT would put them.
 */
void start_icr_write(uint32_t low, uint32_t destination)
{
    struct cpu *self = (struct cpu *)hw_rdmsr(MSR_GS_BASE);
    count(self, COUNT_ICR_WATCHED);
    bool any_waiting = false;
    if ((low & ICR_MODE_MASK) == ICR_MODE_INIT && start_watching())
        for (unsigned i = 0; i < cpu_count; i++)
            any_waiting |= cpu_state(cpus[i]) == CPU_WAITING && destination_matches(self, cpus[i], low, destination);
    if (!any_waiting) {
        lapic_icr_write(low, destination);
        return;
    }
    for (unsigned i = 0; i < cpu_count; i++)
        if (cpu_state(cpus[i]) != CPU_WAITING && destination_matches(self, cpus[i], low, destination))
            lapic_icr_write(low & ~(uint32_t)(ICR_SHORTHAND_MASK | ICR_LOGICAL), cpus[i]->apic_id);
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
