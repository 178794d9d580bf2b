/*
 * See ept01_exit.h. ept01 maps everything from the start but for addresses above RAM (filled on demand) and the xAPIC page
 * while its ICR is watched (stores to it are emulated).
 */
#include "core/guest/ept01_exit.h"

#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/cpu/lapic.h"
#include "core/guest/lapic_store.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/watch_log.h"

OUT_OF_LINE void ept01_catch_up(struct cpu *cpu)
{
    uint64_t epoch = __atomic_load_n(&memory01.flush_epoch, __ATOMIC_ACQUIRE);
    uint32_t content = __atomic_load_n(&memory01.ept01_content, __ATOMIC_ACQUIRE);
    hw_invept(INVEPT_SINGLE, ept01_eptp(&memory01.ept01));
    if (content != cpu->ept01_content)
        nested_ept01_changed(cpu);
    cpu->ept01_content = content;
    __atomic_store_n(&cpu->flush_epoch, epoch, __ATOMIC_RELEASE);
}

bool ept01_make_present(struct cpu *cpu, gpa1_t addr)
{
    memory_lock();
    enum ept01_fill result = ept01_fill(&memory01.ept01, addr);
    memory_unlock();
    count(cpu, COUNT_EPT01_FILL);
    return result == EPT01_FILLED || watch_write_fault(addr);
}

static void lapic_open(uint32_t perm)
{
    memory_lock();
    ept01_protect(&memory01.ept01, gpa1(lapic_page()), perm);
    memory_unlock();
    hw_invept(INVEPT_SINGLE, ept01_eptp(&memory01.ept01));
}

/*
 * An access to the protected xAPIC page. lapic=trap does what older thin hypervisors do to get past it: map the page and
 * invalidate, have the access done, take the page away and invalidate again.
 */
static bool lapic_access(struct cpu *cpu)
{
    bool trap = machine.options.lapic == LAPIC_TRAP;
    if (trap)
        lapic_open(EPT_RWX);
    bool done = lapic_store_emulate(cpu, &guest_memory1);
    if (trap)
        lapic_open(0);
    return done;
}

void ept01_handle_violation(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    gpa1_t addr = gpa1(vmread(GUEST_PHYSICAL_ADDR));
    if (ept01_make_present(cpu, addr)) {
        guest_redeliver(cpu);
        return;
    }
    if (!lapic_is_x2apic() && align_down(addr.v, PAGE_SIZE) == lapic_page() && lapic_access(cpu))
        return;
    /* No processor answers there: code in Strata's place (not executable), an access to the APIC page that stores nothing. */
    guest_fault(VECTOR_GP, 0);
}
