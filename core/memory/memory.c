/*
 * Pointers to physical memory, as pure code asks for them: Strata maps all of it at its physical address. What a
 * guest supplies goes through gpa1_ptr, which lets nothing but the guest's own RAM be reached.
 */
#include "core/memory/memory.h"

struct memory01 memory01;
static uint32_t locked;

void memory_lock(void)
{
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

void memory_unlock(void) { __atomic_store_n(&locked, 0, __ATOMIC_RELEASE); }

void ept01_announce_change(void)
{
    __atomic_add_fetch(&memory01.ept01_content, 1, __ATOMIC_RELEASE);
    __atomic_add_fetch(&memory01.flush_epoch, 1, __ATOMIC_RELEASE);
}

void *hpa_ptr(hpa_t addr) { return (void *)addr.v; }

static OUT_OF_LINE void *gpa1_ptr_by_map(uint64_t addr)
{
    bool hidden = addr >= memory01.hidden_start && addr < memory01.hidden_end;
    if (!hidden && memmap_is_ram(&memory01.memmap, addr))
        return (void *)addr;
    return (uint8_t *)memory01.junk.v + (addr & (PAGE_SIZE - 1));
}

void *gpa1_ptr(gpa1_t addr)
{
    return addr.v - memory01.plain_start < memory01.plain_size ? (void *)addr.v : gpa1_ptr_by_map(addr.v);
}

void memory_find_plain(void)
{
    for (uint32_t i = 0; i < memory01.memmap.count; i++) {
        const struct memmap_entry *e = &memory01.memmap.entry[i];
        if (e->type != MEMMAP_RAM || e->length < memory01.plain_size)
            continue;
        memory01.plain_start = align_up(e->base, PAGE_SIZE);
        memory01.plain_size = align_down(e->base + e->length, PAGE_SIZE) - memory01.plain_start;
    }
}
