/*
 * The oracle; see ept_oracle.h. It shares no code with what is tested.
 */
#include "tests/host/ept-cache/ept_oracle.h"

#include <string.h>

#include "core/memory/mem.h"

#define EPT01_AT (512 * KIB)
#define WIDTH 40
#define JUNK (BIT(WIDTH) - PAGE_SIZE)
#define SHIFT (16 * GIB) /* machine address minus guest-physical address in KIND_SHIFTED */

struct ept_oracle ept_oracle;

uint64_t *oracle_table(uint64_t table) { return hpa_ptr(hpa(table & EPT_ADDR_MASK)); }

/* ept01 for one page: a 4-KiB leaf, or 0. */
static uint64_t oracle01(uint64_t page)
{
    uint64_t wb = MEMTYPE_WB << 3, index = page / PAGE_SIZE % 512;
    if (page < 1 * GIB || (page >= 2 * GIB && page < 3 * GIB))
        return page | 7 | wb;
    if (page >= 3 * GIB && page < 4 * GIB)
        return page | 7 | MEMTYPE_UC << 3;
    if (page >= 4 * GIB)
        return 0;
    switch ((enum world_kind)ept_oracle.kinds[(page - WORLD_DATA) / PAGE_2M]) {
    case KIND_UC:
        return page | 7;
    case KIND_WT:
        return page | 7 | MEMTYPE_WT << 3;
    case KIND_READ_ONLY:
        return page | 5 | wb;
    case KIND_HOLE:
        return 0;
    case KIND_MIXED:
        return index % 7 == 3 ? JUNK | 3 | wb : index % 11 == 5 ? 0 : page | 7 | wb;
    case KIND_SHIFTED:
        return (page + SHIFT) | 7 | wb;
    default:
        return page | 7 | wb;
    }
}

enum oracle_result { ORACLE_PAGE, ORACLE_ABSENT, ORACLE_MISCONFIG };

/* ept12 for one page, read entry by entry. *access: what all entries allow; *leaf: the target and the leaf's low bits. */
static enum oracle_result oracle12(unsigned eptp, uint64_t addr, uint64_t *access, uint64_t *leaf)
{
    static const uint64_t fixed_zero[] = { 0, 0, 0x78, 0x78, 0xf8 };
    uint64_t table = world_table(eptp);
    *access = 7;
    for (int level = 4; level >= 1; level--) {
        uint64_t entry = ~0ull, size = 4096ull << (9 * (level - 1));
        if (table < ept_oracle.memory)
            memcpy(&entry, hpa_ptr(hpa(table + addr / size % 512 * 8)), 8);
        bool large = level == 1 || (entry & 0x80);
        uint64_t type = entry >> 3 & 7, rwx = entry & 7, where = entry & 0xffffffffff000ull;
        *access &= rwx;
        if (rwx == 0)
            return ORACLE_ABSENT;
        if (rwx == 2 || rwx == 6 || (rwx == 4 && !ept_oracle.exec_only) || where >> WIDTH)
            return ORACLE_MISCONFIG;
        if (large && level > 1 && (level == 4 || (level == 3 && !ept_oracle.pages_1g) || where % size))
            return ORACLE_MISCONFIG;
        if (large && (type == 2 || type == 3 || type == 7))
            return ORACLE_MISCONFIG;
        if (!large && (entry & fixed_zero[level]))
            return ORACLE_MISCONFIG;
        if (large) {
            *leaf = (where + (addr & (size - 1) & PAGE_MASK)) | (entry & 0x7f);
            return ORACLE_PAGE;
        }
        table = where;
    }
    return ORACLE_ABSENT;
}

static uint64_t oracle_type(uint64_t a, uint64_t b)
{
    if (a == b)
        return a;
    return (a == MEMTYPE_WT && b == MEMTYPE_WB) || (a == MEMTYPE_WB && b == MEMTYPE_WT) ? MEMTYPE_WT : MEMTYPE_UC;
}

uint64_t world_expected(unsigned eptp, uint64_t addr)
{
    uint64_t access, leaf;
    if (oracle12(eptp, addr, &access, &leaf) != ORACLE_PAGE)
        return 0;
    uint64_t below = oracle01(leaf & EPT_ADDR_MASK);
    access &= below;
    if (access == EPT_X && !ept_oracle.exec_only)
        access = 0;
    if (access == 0)
        return 0;
    return (below & EPT_ADDR_MASK) | access | oracle_type(leaf >> 3 & 7, below >> 3 & 7) << 3 | (leaf & EPT_IGNORE_PAT);
}

enum ept02_outcome oracle_outcome(unsigned eptp, uint64_t addr, uint64_t access, uint64_t *permissions)
{
    uint64_t allowed, leaf;
    enum oracle_result result = oracle12(eptp, addr, &allowed, &leaf);
    *permissions = result == ORACLE_MISCONFIG ? 0 : allowed;
    if (result == ORACLE_MISCONFIG)
        return EPT02_MISCONFIG12;
    if (result == ORACLE_ABSENT || (access & ~allowed))
        return EPT02_VIOLATION12;
    *permissions = world_expected(eptp, addr) & 7;
    return access & ~*permissions ? EPT02_FAULT01 : EPT02_REPAIRED;
}

/* One page through a table of this level, below entries that allow access. */
uint64_t hardware_walk(uint64_t table, int level, uint64_t access, uint64_t addr, struct walk_end *end)
{
    for (;; level--) {
        uint64_t span = 4096ull << (9 * (level - 1));
        uint64_t entry = oracle_table(table)[addr / span % 512];
        *end = (struct walk_end){ span, table, access };
        access &= entry;
        if ((entry & 7) == 0)
            return 0;
        bool large = level == 1 || (entry & 0x80);
        uint64_t where = entry & EPT_ADDR_MASK, type = entry >> 3 & 7;
        if ((entry & 7) == 2 || (entry & 7) == 6 || ((entry & 7) == 4 && !ept_oracle.exec_only))
            world_fail("ept02: access bits");
        if (!large && (entry & (level == 4 ? 0xf8 : 0x78)))
            world_fail("ept02: reserved bits of a table entry");
        if (large && (level == 4 || where % span || type == 2 || type == 3 || type == 7))
            world_fail("ept02: large page or memory type");
        if (large && level == 3 && !ept_oracle.pages_1g)
            world_fail("ept02: 1-GiB page");
        if (large)
            return (access & 7) ? (where + (addr & (span - 1) & PAGE_MASK)) | (access & 7) | (entry & 0x78) : 0;
        if (where < ept_oracle.pools || where >= ept_oracle.memory)
            world_fail("ept02: a table outside the pool");
        table = where;
    }
}

static uint64_t ept01_next;

static uint64_t ept01_table(void)
{
    uint64_t table = ept01_next;
    ept01_next += PAGE_SIZE;
    memset(oracle_table(table), 0, PAGE_SIZE);
    return table;
}

bool oracle_kind_small(enum world_kind kind) { return kind == KIND_MIXED || kind == KIND_PAGES; }

static uint64_t ept01_region(uint64_t base, enum world_kind kind)
{
    if (kind == KIND_HOLE)
        return 0;
    if (!oracle_kind_small(kind))
        return oracle01(base) | EPT_LARGE;
    uint64_t table = ept01_table();
    for (unsigned i = 0; i < 512; i++)
        oracle_table(table)[i] = oracle01(base + i * PAGE_SIZE);
    return table | 7;
}

uint64_t oracle_ept01(void)
{
    ept01_next = EPT01_AT;
    uint64_t root = ept01_table();
    uint64_t pdpt = ept01_table(), data = ept01_table();
    oracle_table(root)[0] = pdpt | 7;
    oracle_table(pdpt)[0] = oracle01(0) | EPT_LARGE;
    oracle_table(pdpt)[1] = data | 7;
    oracle_table(pdpt)[2] = oracle01(2 * GIB) | EPT_LARGE;
    oracle_table(pdpt)[3] = oracle01(3 * GIB) | EPT_LARGE;
    for (unsigned i = 0; i < 512; i++)
        oracle_table(data)[i] = ept01_region(WORLD_DATA + i * PAGE_2M, (enum world_kind)ept_oracle.kinds[i]);
    return root;
}
