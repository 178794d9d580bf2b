/*
 * Stores of the guest to the xAPIC page while it is watched.
 */
#ifndef STRATA_LAPIC_STORE_H
#define STRATA_LAPIC_STORE_H

#include "core/cpu/cpu.h"
#include "core/guest/guest_walk.h"

/* How the guest that exited translates linear addresses. The PDPTE registers, too. */
struct guest_paging guest_paging_state(void);
/* The guest hypervisor's memory, for guest_walk. */
extern const struct guest_memory guest_memory1;

/*
 * Emulates the instruction at RIP of the guest whose VMCS is current, which stores to the page; memory reaches its
 * guest-physical memory. False: it is none that is understood.
 */
bool lapic_store_emulate(struct cpu *cpu, const struct guest_memory *memory);

#endif
