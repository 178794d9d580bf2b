/*
 * Watching the guest's interrupt command register until all its CPUs have been started: an INIT must not reach a CPU that waits
 * for its SIPI (it would stay pending on some processors), so it is kept from those and passed on to the others. Both forms
 * of the register are watched, the MSR by the MSR bitmap, the page by ept01; not an instruction longer than needed. Watched again
 * from a CPU's INIT to its SIPI: a SIPI is lost on a CPU that does not wait yet, so it is sent until it has arrived. (The MSR bitmap
 * counts at once. What another CPU has cached of the page does so until its next exit: the SIPI must then find the CPU waiting.)
 */
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/upcall.h"

#define XAPIC_BROADCAST 0xff
#define X2APIC_BROADCAST 0xffffffffu

/* How often a SIPI is sent again, and how long each is waited for: some milliseconds together. Who does not wait then never will. */
#define STARTUP_TRIES 1000
#define STARTUP_PAUSES 100

static bool watching;

void x2apic_watch_start(void)
{
    watching = cpu_count > 1;
    if (!watching)
        msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_TRAP)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), 0);
    else if (watching)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), EPT_R);
}

bool x2apic_watch_again(void)
{
    if (watching)
        return false;
    __atomic_store_n(&watching, true, __ATOMIC_RELEASE);
    msr_bitmap_take_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_NATIVE)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), EPT_R);
    ept01_announce_change();
    return true;
}

/* The ICR is the guest's from here on. */
bool x2apic_watch_end(void)
{
    if (!watching)
        return false;
    __atomic_store_n(&watching, false, __ATOMIC_RELEASE);
    msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    if (machine.options.lapic == LAPIC_NATIVE)
        ept01_protect(&memory01.ept01, gpa1(lapic_page()), EPT_RWX);
    ept01_announce_change();
    return true;
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

static bool init_taken(const struct cpu *cpu) { return __atomic_load_n(&cpu->init_taken, __ATOMIC_ACQUIRE); }

/* A SIPI to a CPU that has taken an INIT: it arrives, and starts the CPU once. One that runs already ignores it. */
static void send_startup(const struct cpu *to, uint32_t low)
{
    uint32_t sipi = (low & ICR_VECTOR_MASK) | (uint32_t)(ICR_MODE_STARTUP | ICR_ASSERT);
    for (unsigned tries = 0; tries < STARTUP_TRIES && init_taken(to); tries++) {
        for (unsigned i = 0; i < STARTUP_PAUSES && init_taken(to); i++)
            hw_pause();
        if (init_taken(to))
            lapic_icr_write(sipi, to->apic_id);
    }
}

/*
 * INIT goes to the CPUs that it names and that are not waiting; everything else as it is (a SIPI to a running CPU is
 * ignored by that CPU). An INIT that names only waiting CPUs is swallowed: they are where INIT would put them.
 */
void x2apic_icr_write(uint32_t low, uint32_t destination)
{
    struct cpu *self = (struct cpu *)hw_rdmsr(MSR_GS_BASE);
    count(self, COUNT_ICR_WATCHED);
    bool any_waiting = false;
    if ((low & ICR_MODE_MASK) == ICR_MODE_INIT && __atomic_load_n(&watching, __ATOMIC_ACQUIRE))
        for (unsigned i = 0; i < cpu_count; i++)
            any_waiting |= cpu_state(cpus[i]) == CPU_WAITING && destination_matches(self, cpus[i], low, destination);
    if (!any_waiting)
        lapic_icr_write(low, destination);
    if ((low & ICR_MODE_MASK) == ICR_MODE_STARTUP)
        for (unsigned i = 0; i < cpu_count; i++)
            if (destination_matches(self, cpus[i], low, destination))
                send_startup(cpus[i], low);
    if (!any_waiting)
        return;
    for (unsigned i = 0; i < cpu_count; i++)
        if (cpu_state(cpus[i]) != CPU_WAITING && destination_matches(self, cpus[i], low, destination))
            lapic_icr_write(low & ~(uint32_t)(ICR_SHORTHAND_MASK | ICR_LOGICAL), cpus[i]->apic_id);
}
