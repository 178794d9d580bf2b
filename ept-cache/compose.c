/*
 * The arithmetic of composition. Pure: no state, no memory but the arguments.
 */
#include "ept-cache/compose.h"

#include "core/memory/mem.h"
#include "core/lib/vmx.h"

/* Bits of an entry that refers to a table, below its address: SDM 3, "Format of an EPT PML4 Entry" and the two after it. */
#define PML4E_RESERVED 0xf8ull
#define TABLE_RESERVED 0x78ull

static bool memtype_valid(uint64_t type)
{
    return type == MEMTYPE_UC || type == MEMTYPE_WC || type == MEMTYPE_WT || type == MEMTYPE_WP || type == MEMTYPE_WB;
}

void ept_rules_init(struct ept_rules *rules, uint64_t offered, unsigned maxphyaddr)
{
    uint64_t beyond = EPT_ADDR_MASK & ~(BIT(maxphyaddr) - 1);
    memset(rules, 0, sizeof(*rules));
    rules->exec_only = offered & EPT_CAP_EXEC_ONLY;
    for (int level = 1; level <= EPT_LEVELS; level++) {
        uint64_t below = level > 1 ? (ept_span(level) - 1) & PAGE_MASK : 0;
        rules->table_reserved[level] = beyond | TABLE_RESERVED;
        rules->leaf_reserved[level] = beyond | below;
    }
    rules->table_reserved[4] = beyond | PML4E_RESERVED;
    rules->leaf_reserved[4] |= EPT_LARGE;
    rules->leaf_reserved[3] |= offered & EPT_CAP_1G ? 0 : EPT_LARGE;
    rules->leaf_reserved[2] |= offered & EPT_CAP_2M ? 0 : EPT_LARGE;
}

static bool access_valid(const struct ept_rules *rules, uint64_t entry)
{
    uint64_t access = entry & EPT_RWX;
    return (access & EPT_R) || (access == EPT_X && rules->exec_only);
}

enum ept12_kind ept12_classify(const struct ept_rules *rules, uint64_t entry, int level)
{
    if (!ept_present(entry))
        return EPT12_ABSENT;
    if (!access_valid(rules, entry))
        return EPT12_MISCONFIG;
    if (!ept_is_leaf(entry, level))
        return entry & rules->table_reserved[level] ? EPT12_MISCONFIG : EPT12_TABLE;
    if ((entry & rules->leaf_reserved[level]) || !memtype_valid((entry & EPT_MEMTYPE_MASK) >> EPT_MEMTYPE_SHIFT))
        return EPT12_MISCONFIG;
    return EPT12_LEAF;
}

enum memtype memtype_combine(enum memtype a, enum memtype b)
{
    if (a == b)
        return a;
    if ((a == MEMTYPE_WT && b == MEMTYPE_WB) || (a == MEMTYPE_WB && b == MEMTYPE_WT))
        return MEMTYPE_WT;
    return MEMTYPE_UC;
}

uint64_t ept_compose_low(const struct ept_rules *rules, uint64_t low12, const struct ept_leaf *leaf01,
                         bool hw_exec_only)
{
    uint64_t type12 = (low12 & EPT_MEMTYPE_MASK) >> EPT_MEMTYPE_SHIFT;
    uint64_t access = low12 & leaf01->perm & EPT_RWX;
    if (!access_valid(rules, low12) || !memtype_valid(type12))
        return 0;
    if (!(access & EPT_R))
        access &= hw_exec_only ? EPT_X : 0;
    if (access == 0)
        return 0;
    uint64_t type = memtype_combine((enum memtype)type12, (enum memtype)leaf01->memtype);
    return access | type << EPT_MEMTYPE_SHIFT | (low12 & EPT_IGNORE_PAT) | (leaf01->ignore_pat ? EPT_IGNORE_PAT : 0);
}

uint64_t ept_qualification12(uint64_t qualification, uint32_t perm12)
{
    uint64_t kept = qualification & (EPT_QUAL_ACCESS | EPT_QUAL_LINEAR_VALID | EPT_QUAL_NMI_UNBLOCK);
    if (qualification & EPT_QUAL_LINEAR_VALID)
        kept |= qualification & EPT_QUAL_LINEAR_TRANSLATION;
    return kept | (uint64_t)perm12 << EPT_QUAL_PERM_SHIFT;
}
