/*
 * The arithmetic of composition: what an ept12 entry means, which ept12 entries are misconfigured, and which access and
 * memory type remain when ept12 and ept01 are applied one after the other. Pure; values in, decision out.
 */
#ifndef STRATA_EPT_COMPOSE_H
#define STRATA_EPT_COMPOSE_H

#include "core/memory/ept.h"
#include "core/lib/types.h"

/* Bits of a leaf that composition changes besides the address: access, memory type, ignore PAT. */
#define EPT_LOW_MASK (EPT_RWX | EPT_MEMTYPE_MASK | EPT_IGNORE_PAT)
#define EPT_LOW_VALUES 128
/* What makes two leaves mean the same. The remaining bits are ignored by the processor. */
#define EPT_MEANING_MASK (EPT_ADDR_MASK | EPT_LOW_MASK)

/* What ept12 entries may contain, by level (index 1 to 4). Follows from what is offered to the guest hypervisor. */
struct ept_rules {
    uint64_t table_reserved[EPT_LEVELS + 1]; /* bits that must be 0 in an entry that refers to a table */
    uint64_t leaf_reserved[EPT_LEVELS +
                           1]; /* ... that maps a page. Contains EPT_LARGE where no page of that size is offered */
    bool exec_only;            /* execute-only translations are offered */
};

enum ept12_kind { EPT12_ABSENT, EPT12_MISCONFIG, EPT12_TABLE, EPT12_LEAF };

/* offered: IA32_VMX_EPT_VPID_CAP as the guest hypervisor sees it; maxphyaddr in bits (32 to 52). */
void ept_rules_init(struct ept_rules *rules, uint64_t offered, unsigned maxphyaddr);

/* What an entry of a table of this level (1 to 4) is. SDM 3, "EPT Misconfigurations". */
enum ept12_kind ept12_classify(const struct ept_rules *rules, uint64_t entry, int level);

/* One memory type out of two. SDM 3, "MTRR Precedences"; a mix that is undefined there becomes UC. */
enum memtype memtype_combine(enum memtype a, enum memtype b);

/*
 * The bits EPT_LOW_MASK of an ept02 leaf, from those of an ept12 leaf and the page of ept01 that it leads to. 0: no
 * access remains (or the ept12 bits are misconfigured). hw_exec_only: the processor has execute-only translations.
 */
uint64_t ept_compose_low(const struct ept_rules *rules, uint64_t low12, const struct ept_leaf *leaf01,
                         bool hw_exec_only);

/*
 * The exit qualification that the guest hypervisor is to see: the access as the processor reported it, with the
 * permissions that ept12 gave (the logical AND over its entries). SDM 3, "Exit Qualification for EPT Violations".
 */
uint64_t ept_qualification12(uint64_t qualification, uint32_t perm12);

/* True when a translation that was cached for old must not be used once the entry is new. */
static inline bool ept_shrinks(uint64_t old, uint64_t new)
{
    uint64_t differ = old ^ new;
    return ept_present(old) && ((differ & (EPT_MEANING_MASK & ~EPT_RWX)) || (old & ~new &EPT_RWX));
}

#endif
