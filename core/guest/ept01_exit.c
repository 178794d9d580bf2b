/*
 * See ept01_exit.h. ept01 maps everything from the start but for addresses above RAM (filled on demand) and the xAPIC page
 * while its ICR is watched (stores to it are emulated: x2apic/page.c).
 */
#include "core/guest/ept01_exit.h"

#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
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

void ept01_handle_violation(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    gpa1_t addr = gpa1(vmread(GUEST_PHYSICAL_ADDR));
    if (ept01_make_present(cpu, addr)) {
        guest_continue(cpu, vmread(EXIT_QUALIFICATION));
        return;
    }
    if (x2apic_page_access(cpu, addr))
        return;
    /* No processor answers there: code in Strata's place (not executable), an access to the APIC page that stores nothing. */
    guest_fault(cpu, VECTOR_GP, 0);
}
