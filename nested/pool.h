/*
 * The vmcs12s that a CPU keeps cached: found by region, evicted (least recently used) to the guest's memory.
 */
#ifndef STRATA_NESTED_POOL_H
#define STRATA_NESTED_POOL_H

#include "nested/nested.h"

/* The slot of an active VMCS, or NULL. */
struct nested_slot *pool_find(struct nested *n, gpa1_t region);
/* A slot to load a VMCS into. Evicts if all are in use; never the current VMCS. vmcs01 is current. */
struct nested_slot *pool_take(struct cpu *cpu, struct nested *n);
void pool_release(struct nested_slot *slot);

#endif
