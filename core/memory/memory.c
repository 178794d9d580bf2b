/*
 * Pointers to physical memory, as pure code asks for them: Strata maps all of it at its physical address. What a
 * guest supplies goes through gpa1_ptr, which lets nothing but the guest's own RAM be reached.
 */
#include "core/cpu/machine.h"
#include "core/lib/mem.h"

struct machine machine;
static uint32_t machine_locked;

void machine_lock(void)
{
    while (__atomic_exchange_n(&machine_locked, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

void machine_unlock(void) { __atomic_store_n(&machine_locked, 0, __ATOMIC_RELEASE); }

void *hpa_ptr(hpa_t addr) { return (void *)addr.v; }

static OUT_OF_LINE void *gpa1_ptr_by_map(uint64_t addr)
{
    bool hidden = addr >= machine.hidden_start && addr < machine.hidden_end;
    if (!hidden && memmap_is_ram(&machine.memmap, addr))
        return (void *)addr;
    return (uint8_t *)machine.junk.v + (addr & (PAGE_SIZE - 1));
}

void *gpa1_ptr(gpa1_t addr)
{
    return addr.v - machine.plain_start < machine.plain_size ? (void *)addr.v : gpa1_ptr_by_map(addr.v);
}

void memory_find_plain(void)
{
    for (uint32_t i = 0; i < machine.memmap.count; i++) {
        const struct memmap_entry *e = &machine.memmap.entry[i];
        if (e->type != MEMMAP_RAM || e->length < machine.plain_size)
            continue;
        machine.plain_start = align_up(e->base, PAGE_SIZE);
        machine.plain_size = align_down(e->base + e->length, PAGE_SIZE) - machine.plain_start;
    }
}
