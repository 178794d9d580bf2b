/*
 * What of the x2APIC the guest sees. The APIC itself is the guest's: with x2APIC it needs no page that a hypervisor would
 * have to protect. x2apic=off hides it, as older thin hypervisors do.
 */
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"

/* lapic=trap is about the xAPIC page: with x2APIC nobody would touch it. */
static bool hidden(void) { return machine.options.x2apic == OPTION_OFF || machine.options.lapic == LAPIC_TRAP; }

void x2apic_cpuid(uint32_t leaf, struct cpuid_regs *regs)
{
    if (leaf == 1 && hidden())
        regs->ecx &= (uint32_t)~CPUID1_ECX_X2APIC;
}

/*
 * Modes change as the processor allows. The page stays where it is: ept01 (and Strata's own APIC accesses while the start of
 * CPUs is watched) know it there.
 */
bool x2apic_base_write(uint64_t value)
{
    if (hidden() && (value & APIC_BASE_X2APIC))
        return false;
    if ((value ^ hw_rdmsr(MSR_APIC_BASE)) & ~(PAGE_SIZE - 1))
        return false;
    return hw_wrmsr_try(MSR_APIC_BASE, value);
}
