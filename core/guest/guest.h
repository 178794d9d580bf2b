/*
 * What handlers of exits do to the guest that exited: skip the instruction, raise an exception, redo an event.
 * All of it works on the current VMCS, be it vmcs01 or vmcs02.
 */
#ifndef STRATA_GUEST_H
#define STRATA_GUEST_H

#include "core/cpu/cpu.h"

#define NO_ERROR_CODE (-1)

#define PDPTES 4

/* A page-directory-pointer-table entry of PAE paging has no reserved bits set. SDM 3, "PDPTE Registers". */
static inline bool pdpte_valid(uint64_t pdpte, unsigned maxphyaddr)
{
    return !(pdpte & 1) || !(pdpte & (0x1e6 | ~(BIT(maxphyaddr) - 1)));
}
/*
 * Loads the PDPTEs of PAE paging from the guest hypervisor's memory into the current VMCS, as MOV to CR3 does. False: one has
 * reserved bits set, and nothing has changed.
 */
bool guest_load_pdptes(uint64_t cr3, unsigned maxphyaddr);

/* Moves RIP behind the instruction that exited and ends what it ends (blocking by STI and MOV SS; single-step trap). */
void guest_skip(void);
/* The same for an instruction of `length` bytes, where the processor did not say. */
void guest_skip_bytes(uint64_t length);
/* The same where RFLAGS and whether the guest is in 64-bit mode are known already. */
void guest_skip_known(uint64_t length, uint64_t rflags, bool mode_64);
/* Injects a fault at the next entry. error: NO_ERROR_CODE or the code. #PF: CR2 is set by the caller. */
void guest_fault(enum vector vector, int64_t error);
/*
 * An exit that came while an event was being delivered: delivers it again at the next entry. SDM 3,
 * "Information for VM Exits During Event Delivery". True if there was one.
 */
bool guest_redeliver(struct cpu *cpu);
/* Outside SMM nothing blocks SMIs, and an entry that says so fails. SDM 3, "Checks on Guest Non-Register State". */
void guest_unblock_smi(void);
/* CPL: DPL of SS. */
unsigned guest_cpl(void);
bool guest_is_64bit(void);

#endif
