/*
 * Starting CPUs. Strata's own: INIT-SIPI-SIPI from the CPU that booted, one CPU at a time, each of which then waits for the
 * guest's SIPI in VMX non-root operation (activity state wait-for-SIPI). The guest's: its SIPI arrives as a VM exit on the
 * waiting CPU itself. Until all of them have been started, writes to the guest's interrupt command register are watched,
 * because an INIT must not reach a waiting CPU; after that the APIC is the guest's alone.
 */
#include "core/boot/start.h"

#include "core/guest/dispatch.h"
#include "core/guest/ept01_exit.h"
#include "core/cpu/lapic.h"
#include "core/lib/log.h"
#include "core/boot/lowpage.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmxon.h"

#define INIT_WAIT_US 10000
#define SIPI_WAIT_US 200
#define START_WAIT_US 1000000
#define XAPIC_BROADCAST 0xff
#define X2APIC_BROADCAST 0xffffffffu

#define PIT_FREQUENCY 1193182u
#define PIT_CHANNEL2 0x42
#define PIT_COMMAND 0x43
#define PIT_CHANNEL2_ONE_SHOT 0xb0 /* channel 2, low and high byte, mode 0 */
#define PORT_B 0x61
#define PORT_B_GATE2 0x01
#define PORT_B_SPEAKER 0x02
#define PORT_B_OUT2 0x20
#define PIT_LIMIT 10000000u /* polls; a machine without a PIT is not waited for */

extern _Noreturn void guest_start(struct cpu *cpu);

static bool watching, abandoned;

bool start_watching(void) { return __atomic_load_n(&watching, __ATOMIC_ACQUIRE); }

/* At most 50,000 microseconds at a time. */
static void wait_us(unsigned us)
{
    unsigned ticks = (unsigned)((uint64_t)us * PIT_FREQUENCY / 1000000u) + 1;
    uint8_t port_b = hw_inb(PORT_B);
    hw_outb(PORT_B, (uint8_t)((port_b & ~PORT_B_SPEAKER) | PORT_B_GATE2));
    hw_outb(PIT_COMMAND, PIT_CHANNEL2_ONE_SHOT);
    hw_outb(PIT_CHANNEL2, (uint8_t)ticks);
    hw_outb(PIT_CHANNEL2, (uint8_t)(ticks >> 8));
    for (unsigned i = 0; i < PIT_LIMIT && !(hw_inb(PORT_B) & PORT_B_OUT2); i++)
        hw_pause();
    hw_outb(PORT_B, port_b);
}

static uint32_t cpu_state(const struct cpu *cpu) { return __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE); }
static void cpu_set_state(struct cpu *cpu, enum cpu_state state)
{
    __atomic_store_n(&cpu->state, state, __ATOMIC_RELEASE);
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

static const char *start_cpu(struct cpu *cpu)
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

/* Strata gives up: CPUs that wait in its guest leave VMX and halt, for the firmware's successor to start. */
static void abandon(void)
{
    abandoned = true;
    for (unsigned i = 1; i < cpu_count; i++)
        if (cpu_state(cpus[i]) == CPU_WAITING)
            lapic_icr_write(ICR_MODE_INIT | ICR_LEVEL | ICR_ASSERT, cpus[i]->apic_id);
    wait_us(INIT_WAIT_US);
}

const char *start_cpus(void)
{
    for (unsigned i = 1; i < cpu_count; i++) {
        const char *failure = start_cpu(cpus[i]);
        if (!failure)
            continue;
        log_error("CPU %u (APIC id %u): %s", i, cpus[i]->apic_id, failure);
        abandon();
        return failure;
    }
    cpus[0]->state = CPU_STARTED;
    watching = cpu_count > 1;
    if (!watching)
        msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_TRAP)
        ept01_protect(&machine.ept01, gpa1(lapic_page()), 0);
    else if (watching)
        ept01_protect(&machine.ept01, gpa1(lapic_page()), EPT_R);
    return NULL;
}

/* All CPUs run: the ICR is the guest's. */
static void stop_watching(void)
{
    __atomic_store_n(&watching, false, __ATOMIC_RELEASE);
    msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_NATIVE)
        ept01_protect(&machine.ept01, gpa1(lapic_page()), EPT_RWX);
    ept01_announce_change();
}

static void cpu_started(struct cpu *cpu)
{
    machine_lock();
    bool first_time = cpu->state == CPU_WAITING, all = true;
    cpu_set_state(cpu, CPU_STARTED);
    for (unsigned i = 0; i < cpu_count; i++)
        all &= cpu_state(cpus[i]) == CPU_STARTED;
    if (first_time && all && watching)
        stop_watching();
    else
        first_time = false;
    machine_unlock();
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
