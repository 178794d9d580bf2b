/*
 * Pointers to physical memory, as pure code asks for them: Strata maps all of it at its physical address. What a
 * guest supplies goes through gpa1_ptr, which lets nothing but the guest's own RAM be reached.
 */
#include "core/machine.h"
#include "core/mem.h"

struct machine machine;
static uint32_t machine_locked;

void machine_lock(void)
{
    while (__atomic_exchange_n(&machine_locked, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

void machine_unlock(void) { __atomic_store_n(&machine_locked, 0, __ATOMIC_RELEASE); }

void *hpa_ptr(hpa_t addr) { return (void *)addr.v; }

/* RAM of the guest without looking at the map: extended memory below Strata, when it is one piece. */
void *gpa1_ptr(gpa1_t addr)
{
    bool hidden = addr.v >= machine.hidden_start && addr.v < machine.hidden_end;
    if (!hidden && memmap_is_ram(&machine.memmap, addr.v))
        return (void *)addr.v;
    return (uint8_t *)machine.junk.v + (addr.v & (PAGE_SIZE - 1));
}
