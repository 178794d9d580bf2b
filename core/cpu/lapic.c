/*
 * Access to the local APIC, see lapic.h.
 */
#include "core/cpu/lapic.h"

#include "core/lib/hw.h"
#include "core/lib/x86.h"

#define X2APIC_ID 0x802
#define DELIVERY_LIMIT 1000000u /* polls of the delivery status */
#define XAPIC_ID_SHIFT 24
#define XAPIC_DESTINATION_SHIFT 24

uint64_t lapic_page(void) { return hw_rdmsr(MSR_APIC_BASE) & 0x000ffffffffff000ull; }
bool lapic_is_x2apic(void) { return hw_rdmsr(MSR_APIC_BASE) & APIC_BASE_X2APIC; }

static volatile uint32_t *reg(uint32_t offset) { return (volatile uint32_t *)(lapic_page() + offset); }

/* A plain MOV each way: what an outer hypervisor that emulates the access understands. */
uint32_t lapic_read(uint32_t offset) { return *reg(offset); }
void lapic_write(uint32_t offset, uint32_t value) { *reg(offset) = value; }

uint32_t lapic_id(void)
{
    if (lapic_is_x2apic())
        return (uint32_t)hw_rdmsr(X2APIC_ID);
    return lapic_read(APIC_ID) >> XAPIC_ID_SHIFT;
}

void lapic_icr_write(uint32_t low, uint32_t destination)
{
    if (lapic_is_x2apic()) {
        hw_wrmsr(MSR_X2APIC_ICR, (uint64_t)destination << 32 | low);
        return;
    }
    lapic_write(APIC_ICR_HIGH, destination << XAPIC_DESTINATION_SHIFT);
    lapic_write(APIC_ICR_LOW, low);
    for (unsigned i = 0; i < DELIVERY_LIMIT && (lapic_read(APIC_ICR_LOW) & ICR_PENDING); i++)
        hw_pause();
}
