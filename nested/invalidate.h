/*
 * INVEPT and INVVPID by the guest hypervisor, and the VPIDs that its nested guests get. vmcs01 is current.
 */
#ifndef STRATA_INVALIDATE_H
#define STRATA_INVALIDATE_H

#include "core/cpu/cpu.h"

void invalidate_ept(struct cpu *cpu, uint32_t reason);
void invalidate_vpid(struct cpu *cpu, uint32_t reason);

/*
 * The VPID under which a nested guest runs whose hypervisor gave it vpid12 (0: none). Distinct ones stay distinct, except that the two
 * highest share one with those that have none: *shared is set, and every entry must flush it.
 */
uint16_t vpid02_of(uint16_t vpid12, bool *shared);
#define VPID02_SHARED 0xffff

#endif
