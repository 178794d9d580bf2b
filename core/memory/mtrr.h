/*
 * The guest's memory-type range registers: one set for the whole machine, since software must keep them equal on
 * all processors, and the memory type that they give each physical address. SDM 3, "Memory Type Range Registers (MTRRs)".
 *
 * Writes are collected: types are those of the last mtrr_commit(). A sequence "disable, write dozens, enable" costs
 * one commit, and the other processors that repeat it cost none.
 */
#ifndef STRATA_MTRR_H
#define STRATA_MTRR_H

#include "core/memory/ept.h"
#include "core/lib/types.h"

#define MTRR_FIXED_COUNT 11 /* fixed-range registers of 8 ranges each */
#define MTRR_PAIRS_MAX 16   /* PHYSBASE/PHYSMASK pairs that have architectural addresses here: 200h-21Fh */

/* IA32_MTRRCAP */
#define MTRRCAP_VCNT_MASK 0xffull
#define MTRRCAP_FIX BIT(8)
#define MTRRCAP_WC BIT(10)
/* IA32_MTRR_DEF_TYPE */
#define MTRR_DEF_TYPE_MASK 0xffull
#define MTRR_DEF_FE BIT(10)
#define MTRR_DEF_E BIT(11)
/* IA32_MTRR_PHYSMASKn */
#define MTRR_MASK_VALID BIT(11)

/* The registers as software wrote them. */
struct mtrr_regs {
    uint64_t def_type;
    uint64_t fixed[MTRR_FIXED_COUNT];
    uint64_t base[MTRR_PAIRS_MAX], mask[MTRR_PAIRS_MAX];
};

struct mtrr {
    uint64_t cap;             /* IA32_MTRRCAP as the guest reads it */
    uint64_t address_mask;    /* bits of a page's physical address below MAXPHYADDR */
    struct mtrr_regs regs;    /* what reads return */
    struct mtrr_regs applied; /* what the types come from; registers that have no effect are 0 here */
    bool dirty;               /* regs changed since the last commit */
};

/*
 * An empty set: disabled, everything UC. cap is the processor's IA32_MTRRCAP (more pairs than MTRR_PAIRS_MAX and
 * features other than FIX and WC are not offered), maxphyaddr its physical-address width in bits (36..52).
 * Load the processor's values with mtrr_write, then commit.
 */
void mtrr_init(struct mtrr *mtrr, uint64_t cap, unsigned maxphyaddr);

/* The MSR belongs to this file: IA32_MTRRCAP, IA32_MTRR_DEF_TYPE, fixed and variable ranges (implemented or not). */
bool mtrr_is_msr(uint32_t msr);
/* RDMSR; false = #GP (not implemented). */
bool mtrr_read(const struct mtrr *mtrr, uint32_t msr, uint64_t *value);
/*
 * WRMSR; false = #GP: read-only or not implemented register, reserved bits, bits beyond MAXPHYADDR, undefined type.
 * SDM 3, "IA32_MTRR_DEF_TYPE MSR", "Fixed Range MTRRs", "Variable Range MTRRs".
 */
bool mtrr_write(struct mtrr *mtrr, uint32_t msr, uint64_t value);

/* True when MTRRs are enabled and give other types than the applied ones may be: call mtrr_commit. Cheap when not. */
bool mtrr_pending(struct mtrr *mtrr);
/* Applies the registers, enabled or not. True when types may differ from those before: ept01_retype. */
bool mtrr_commit(struct mtrr *mtrr);

/* Applied type of an address. SDM 3, "MTRR Precedences"; combinations that it leaves undefined are UC. */
enum memtype mtrr_type(const struct mtrr *mtrr, uint64_t addr);
/*
 * Applied type of addr and a range [*start, *end) around it that has this type throughout: the largest one when every
 * PHYSMASK is contiguous; a part of it, of at least 4 KiB, when some are not. Multiples of 4 KiB.
 */
enum memtype mtrr_range(const struct mtrr *mtrr, uint64_t addr, uint64_t *start, uint64_t *end);

#endif
