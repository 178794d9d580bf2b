/*
 * The format of EPT entries and of the EPT-violation exit qualification.
 * SDM 3, "The Extended Page Table Mechanism (EPT)" and "Exit Qualification for EPT Violations".
 */
#ifndef STRATA_EPT_H
#define STRATA_EPT_H

#include "core/lib/types.h"

#define EPT_R BIT(0)
#define EPT_W BIT(1)
#define EPT_X BIT(2)
#define EPT_RWX (EPT_R | EPT_W | EPT_X)
#define EPT_MEMTYPE_SHIFT 3
#define EPT_MEMTYPE_MASK (7ull << EPT_MEMTYPE_SHIFT)
#define EPT_IGNORE_PAT BIT(6)
#define EPT_LARGE BIT(7)
#define EPT_ACCESSED BIT(8)
#define EPT_DIRTY BIT(9)
#define EPT_SUPPRESS_VE BIT(63)
/* Physical address bits 51:12 of any entry; bits from the processor's MAXPHYADDR up are reserved. */
#define EPT_ADDR_MASK 0x000ffffffffff000ull

/* Memory types, as in MTRRs, PAT and EPT leaves. */
enum memtype {
    MEMTYPE_UC = 0,
    MEMTYPE_WC = 1,
    MEMTYPE_WT = 4,
    MEMTYPE_WP = 5,
    MEMTYPE_WB = 6,
    MEMTYPE_UC_MINUS = 7 /* PAT only */
};

/* EPTP: SDM 3, "Extended-Page-Table Pointer (EPTP)". */
#define EPTP_MEMTYPE_MASK 7ull
#define EPTP_WALK_4 (3ull << 3)
#define EPTP_WALK_MASK (7ull << 3)
#define EPTP_AD_ENABLE BIT(6)

/* Exit qualification for EPT violations. */
#define EPT_QUAL_READ BIT(0)
#define EPT_QUAL_WRITE BIT(1)
#define EPT_QUAL_FETCH BIT(2)
#define EPT_QUAL_ACCESS (EPT_QUAL_READ | EPT_QUAL_WRITE | EPT_QUAL_FETCH)
#define EPT_QUAL_PERM_SHIFT 3 /* bits 5:3: permissions R/W/X that the translation had */
#define EPT_QUAL_PERM_MASK (7ull << EPT_QUAL_PERM_SHIFT)
#define EPT_QUAL_LINEAR_VALID BIT(7)
#define EPT_QUAL_LINEAR_TRANSLATION BIT(8) /* the access was to the page itself, not to a guest paging structure */
#define EPT_QUAL_NMI_UNBLOCK BIT(12)

#define EPT_LEVELS 4
#define EPT_ENTRIES 512

/* Bytes mapped by one entry of a table of this level: 1 = 4 KiB (page table) .. 4 = 512 GiB (PML4). */
static inline uint64_t ept_span(int level) { return 1ull << (PAGE_SHIFT + 9 * (level - 1)); }
static inline unsigned ept_index(uint64_t addr, int level)
{
    return (unsigned)(addr >> (PAGE_SHIFT + 9 * (level - 1))) & 511;
}
static inline bool ept_present(uint64_t entry) { return (entry & EPT_RWX) != 0; }
static inline bool ept_is_leaf(uint64_t entry, int level) { return level == 1 || (entry & EPT_LARGE); }

/* What an EPT walk found for one address. */
struct ept_leaf {
    uint64_t base;    /* physical address (of the target space) of the first byte of the page */
    uint64_t size;    /* bytes: PAGE_SIZE, PAGE_2M or PAGE_1G; 0 = nothing mapped */
    uint32_t perm;    /* EPT_R | EPT_W | EPT_X, intersection over the walk */
    uint32_t memtype; /* enum memtype of the leaf */
    bool ignore_pat;
};

#endif
