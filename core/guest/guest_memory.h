/*
 * What guest_walk.h needs to know of the guest that exited: how it translates, and the guest hypervisor's memory.
 */
#ifndef STRATA_GUEST_MEMORY_H
#define STRATA_GUEST_MEMORY_H

#include "core/guest/guest_walk.h"

/* How the guest that exited translates linear addresses. The PDPTE registers, too. */
struct guest_paging guest_paging_state(void);
/* The guest hypervisor's memory. A write to it is a write of the guest's to whoever watches. */
extern const struct guest_memory guest_memory1;

#endif
