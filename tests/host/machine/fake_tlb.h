/*
 * What processors have cached of translations, on a processor that uses every freedom that the SDM gives and none that it
 * does not: whatever is present may be cached while its mode is in use, by speculation too, and is forgotten only where
 * an operation must invalidate it. Each CPU for itself. SDM 3, "Caching Translation Information".
 *
 * EPT is walked in memory, level by level, with paging-structure caches. The guest's own paging is one function: what a
 * page table in memory would say at the moment.
 */
#ifndef STRATA_FAKE_TLB_H
#define STRATA_FAKE_TLB_H

#include "core/lib/hw.h"
#include "core/lib/types.h"
#include "core/memory/ept.h"

#define FAKE_GLOBAL BIT(9) /* in what a guest's paging gives: the translation is global */

/* Under which names a CPU caches while it runs a guest. */
struct fake_context {
    int cpu;
    uint16_t vpid, pcid;
    uint64_t eptp;                     /* 0: EPT is not in use */
    uint64_t (*paging)(uint64_t page); /* linear to guest-physical address, EPT_RWX, FAKE_GLOBAL; 0: nothing */
};

struct fake_met {
    uint64_t target; /* physical address; 0: not allowed */
    bool violation;  /* by EPT, at guest_physical */
    uint64_t guest_physical;
    uint64_t allowed; /* violation: access that EPT gives */
};

/* Nothing is cached by anybody. choose(n): a number below n, which decides what is cached and which of several is used. */
void fake_tlb_reset(uint64_t (*choose)(uint64_t limit));

/* The CPU translates a linear page ahead of time, or a guest-physical one: caches what it finds, perhaps. */
void fake_tlb_speculate(const struct fake_context *context, uint64_t linear);
void fake_tlb_speculate_physical(const struct fake_context *context, uint64_t guest_physical);
/* An access of a linear page, by anything cached that fits or by walking. A violation invalidates what it must. */
struct fake_met fake_tlb_access(const struct fake_context *context, uint64_t linear, uint64_t access);

/* Operations that invalidate. */
void fake_tlb_invept(int cpu, enum invept_type type, uint64_t eptp);
void fake_tlb_invvpid(int cpu, enum invvpid_type type, uint16_t vpid, uint64_t linear);
void fake_tlb_invlpg(const struct fake_context *context, uint64_t linear);
void fake_tlb_mov_cr3(const struct fake_context *context);
/* VM entry or exit without VPIDs: what is named VPID 0 goes. */
void fake_tlb_transition(int cpu);

/* How much is cached. */
unsigned fake_tlb_count(int cpu);

#endif
