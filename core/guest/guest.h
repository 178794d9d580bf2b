/*
 * What handlers of exits do to the guest that exited: end the instruction, raise an exception, redo an event.
 * All of it works on the current VMCS, be it vmcs01 or vmcs02. While the nested guest runs, the guest hypervisor may want the outcome as
 * an exit of its own: then vmcs01 is current afterwards. So each of these is the last thing that a handler does.
 */
#ifndef STRATA_GUEST_H
#define STRATA_GUEST_H

#include "core/cpu/cpu.h"
#include "core/guest/fault.h"
#include "core/guest/guest_walk.h"

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
/* The same without looking at them: VM entry will. */
void guest_copy_pdptes(uint64_t cr3);

/*
 * Ends the instruction that exited as the processor ends one: RIP behind it, RF cleared, blocking by STI and MOV SS over, a single
 * step's trap pending, and for the monitor trap flag an exit to the guest hypervisor.
 */
void guest_skip(struct cpu *cpu);
/* The same for an instruction of `length` bytes, where the processor did not say. */
void guest_skip_bytes(struct cpu *cpu, uint64_t length);
/*
 * What all ends of instructions have in common; for those who have written RFLAGS, without RF, and know that it is no instruction of the
 * nested guest (or see to its monitor trap flag: nested_retired).
 */
void guest_retire(uint64_t length, uint64_t rflags, bool mode_64);
/* The instruction has accessed memory, `size` bytes: data breakpoints that this meets trap at its end. Before guest_skip. */
void guest_note_access(uint64_t linear, unsigned size, enum guest_use use);

/*
 * The instruction that exited, or the delivery of the event that the exit interrupted, raises an exception: it goes to whom it belongs,
 * which may be the guest hypervisor, or to a double fault, or to shutdown. error: NO_ERROR_CODE or the code.
 */
void guest_fault(struct cpu *cpu, enum vector vector, int64_t error);
void guest_page_fault(struct cpu *cpu, uint64_t linear, uint32_t error);
/*
 * An exit that nobody asked for, with a reason that nobody knows: what was being delivered comes again, else it was an instruction, and
 * the guest's processor does not have that.
 */
void guest_refuse(struct cpu *cpu);
/* Injects an exception at the next entry, whoever intercepts what. */
void guest_inject(enum vector vector, int64_t error);
/* A triple fault: of the guest hypervisor, and the machine resets; or of the nested guest, and the guest hypervisor gets the exit. */
void guest_shutdown(struct cpu *cpu);
/*
 * An exit that came while an event was being delivered: delivers it again at the next entry. SDM 3,
 * "Information for VM Exits During Event Delivery". True if there was one.
 */
bool guest_redeliver(struct cpu *cpu);
/*
 * After an exit in the middle of an instruction or a delivery whose reason is gone (an EPT violation, a full log; the qualification is
 * the exit's): goes on as if it had not come.
 */
void guest_continue(struct cpu *cpu, uint64_t qualification);
/* Outside SMM nothing blocks SMIs, and an entry that says so fails. SDM 3, "Checks on Guest Non-Register State". */
void guest_unblock_smi(void);
/* CPL: DPL of SS. */
unsigned guest_cpl(void);
bool guest_is_64bit(void);

#endif
