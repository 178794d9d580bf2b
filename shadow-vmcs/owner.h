/*
 * Who owns a VMCS of the guest hypervisor: memory, or one CPU from VMPTRLD to VMCLEAR. Each change of owner is one function here.
 *
 *   in memory --VMPTRLD, use as shadow VMCS--> active on this CPU --VMCLEAR, eviction--> in memory
 *
 * The values of an active VMCS are in a slot of the CPU (most of them in the slot's vmcs02), and nobody else's business. From VMCLEAR on
 * they are in the guest's page, all of them, and nothing is written there any more. The slot is kept as well: it is found again by
 * region, and if memory still says what it said then, word for word, its vmcs02 is right without loading it. So a kept slot is a memory of
 * what a region's contents lead to, never the place of a value; no CPU looks into another's slots, and there is nothing to lock.
 */
#ifndef STRATA_OWNER_H
#define STRATA_OWNER_H

#include "shadow-vmcs/vmcs12.h"

#define OWNER_SLOTS 32 /* VMCSs that a CPU has active or kept */
#define OWNER_HINTS 64

struct vmcs_owner {
    struct vmcs12 *slots[OWNER_SLOTS];
    unsigned slot_count; /* at least 3: the current VMCS, its shadow VMCS, another */
    uint64_t clock;
    uint8_t hints[OWNER_HINTS]; /* where a region was last found, by its page number */
};

/* One more slot; its vmcs02 page is set. A VMCS is current. */
void owner_add(struct vmcs_owner *o, struct vmcs12 *slot);
/*
 * VMPTRLD: the VMCS at region is active on this CPU. May evict any but `current`, the guest hypervisor's current one or NULL. vmcs01
 * is current.
 */
struct vmcs12 *owner_activate(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region, const struct vmcs12 *current);
/*
 * VMPTRLD of another: the VMCS that was current until now goes to memory as it is, where the guest hypervisor may read and write it (a Strata
 * does: core/cpu/vmcs_image.h). Only where this machine does the same for Strata: elsewhere lending is cheaper. vmcs01 is current.
 */
void owner_leave_in_memory(struct cpu *cpu, struct vmcs12 *current);
/* VMCLEAR of the VMCS at region, which is not the guest hypervisor's current one (any more). vmcs01 is current. */
void owner_clear(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region);
/*
 * Use as a shadow VMCS, which makes it active: SDM 3, "VMCS Types: Ordinary and Shadow". NULL: it is `current`. vmcs01 is current, or the vmcs02
 * that will link to it.
 */
struct vmcs12 *owner_shadow(struct cpu *cpu, struct vmcs_owner *o, gpa1_t region, const struct vmcs12 *current);
/* The slot may serve as the shadow VMCS at region without further ado. */
static inline bool owner_is_shadow(const struct vmcs12 *slot, gpa1_t region)
{
    return slot && slot->region.v == region.v && slot->state == VMCS12_ACTIVE && slot->lent;
}
/* VMXOFF: what is active goes to memory as it is, so that nothing is written later. There is no current one. vmcs01 is current. */
void owner_leave(struct cpu *cpu, struct vmcs_owner *o);

#endif
