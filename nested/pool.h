/*
 * The vmcs12s that a CPU keeps cached: found by region, evicted (least recently used) to the guest's memory.
 */
#ifndef STRATA_NESTED_POOL_H
#define STRATA_NESTED_POOL_H

#include "nested/nested.h"

/* The slot of the VMCS at region, made active (VMPTRLD): found, taken over from another CPU, or loaded. vmcs01 is current. */
struct nested_slot *pool_activate(struct cpu *cpu, gpa1_t region);
/*
 * VMCLEAR of the VMCS at region, which is not the guest hypervisor's current one. Its values are durable afterwards: kept by a slot
 * from which any CPU can take them, or in the guest's memory. vmcs01 is current.
 */
void pool_clear(struct cpu *cpu, gpa1_t region);
/*
 * The slot of a VMCS made a shadow VMCS that a link pointer may name; launch state, which such a one has no use for, is lost. NULL:
 * it is the guest hypervisor's current VMCS. vmcs01 is current, or the vmcs02 that will link to it.
 */
struct nested_slot *pool_shadow(struct cpu *cpu, gpa1_t region);

#endif
