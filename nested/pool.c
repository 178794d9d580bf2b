/*
 * See pool.h.
 */
#include "nested/pool.h"

struct nested_slot *pool_find(struct nested *n, gpa1_t region)
{
    for (unsigned i = 0; i < NESTED_SLOTS; i++)
        if (n->slots[i].v.region.v == region.v)
            return &n->slots[i];
    return NULL;
}

void pool_release(struct nested_slot *slot)
{
    slot->v.region.v = VMCS12_NONE;
    bitmap_forget(slot);
}

struct nested_slot *pool_take(struct cpu *cpu, struct nested *n)
{
    struct nested_slot *oldest = NULL;
    for (unsigned i = 0; i < NESTED_SLOTS; i++) {
        struct nested_slot *slot = &n->slots[i];
        if (slot->v.region.v == VMCS12_NONE)
            return slot;
        if (slot != n->current && (!oldest || slot->v.last_use < oldest->v.last_use))
            oldest = slot;
    }
    vmcs12_store(cpu, &oldest->v);
    pool_release(oldest);
    count(cpu, COUNT_VMCS12_EVICTED);
    return oldest;
}
