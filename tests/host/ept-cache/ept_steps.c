/*
 * Random steps; see ept_steps.h.
 */
#include "tests/host/ept-cache/ept_steps.h"

#include "tests/host/ept-cache/ept_world.h"

static uint64_t pick(uint64_t n) { return world_choose(n); }

static uint64_t any_access(void)
{
    static const uint64_t accesses[] = { 7, 7, 7, 7, 3, 5, 1, 4 };
    return accesses[pick(ARRAY_SIZE(accesses))];
}

static enum memtype any_type(void)
{
    static const enum memtype types[] = { MEMTYPE_WB, MEMTYPE_WB, MEMTYPE_WB, MEMTYPE_WB,
                                          MEMTYPE_UC, MEMTYPE_WT, MEMTYPE_WC, MEMTYPE_WP };
    return types[pick(ARRAY_SIZE(types))];
}

/*
 * Which pages are tables of which level. Where nested guests must not reach them, a page keeps its level, since a table
 * that is taken for one of another level maps tables as pages.
 */
static const struct level_tables {
    unsigned first, count;
} level_tables[EPT_LEVELS + 1] = { [1] = { 21, 27 }, [2] = { 9, 12 }, [3] = { 3, 6 }, [4] = { 0, 3 } };

static uint64_t any_table(int level)
{
    if (world_tables_reachable())
        return world_table((unsigned)pick(WORLD_TABLES));
    return world_table(level_tables[level].first + (unsigned)pick(level_tables[level].count));
}

/* Memory that pages lead to: data, tables of ept12, nothing. Aligned to 2 MiB mostly. */
static uint64_t any_target(void)
{
    uint64_t kind = world_tables_reachable() ? pick(8) : 2 + pick(6);
    switch (kind) {
    case 0:
        return any_table(1);
    case 1:
        return world_table(0);
    case 2:
        return 4 * GIB + pick(512) * PAGE_SIZE;
    case 3:
        return WORLD_DATA + pick(WORLD_REGIONS) * PAGE_2M + pick(512) * PAGE_SIZE;
    case 4:
        return (2 + pick(2)) * GIB + pick(4) * PAGE_2M;
    default:
        return WORLD_DATA + pick(8) * PAGE_2M;
    }
}

/* Bits that the processor ignores, as real hypervisors use them. */
static uint64_t any_ignored(void)
{
    return pick(4) ? 0
                   : BIT(57) | BIT(58) | (pick(2) ? BIT(62) : 0) | (pick(2) ? BIT(11) : 0) |
                         (pick(2) ? EPT_ACCESSED | EPT_DIRTY : 0);
}

static uint64_t broken(uint64_t entry)
{
    static const uint64_t breaks[] = { BIT(39) << 1, BIT(51),   EPT_LARGE, 2ull << 3,
                                       3ull << 3,    7ull << 3, BIT(12),   BIT(5) };
    return pick(4) ? (entry & ~7ull) | 2 | (pick(2) ? EPT_X : 0) : entry ^ breaks[pick(ARRAY_SIZE(breaks))];
}

static uint64_t any_entry(int level)
{
    uint64_t entry = 0, kind = pick(8);
    if (kind == 0)
        return 0;
    if (kind < 4 && (level > 1 || world_tables_reachable())) {
        entry = any_table(level > 1 ? level - 1 : 1) | any_access();
    } else {
        entry = world_leaf(any_target(), any_access(), any_type()) | (pick(8) ? 0 : EPT_IGNORE_PAT) | any_ignored();
        if (level > 1)
            entry = (entry & ~(EPT_ADDR_MASK & (ept_span(level) - 1))) | EPT_LARGE;
    }
    return pick(16) ? entry : broken(entry);
}

/* A whole page table, or a table of 2-MiB pages: one run, perhaps with a hole, perhaps of one page again and again. */
static void fill(uint64_t table, int level)
{
    uint64_t step = pick(4) ? ept_span(level) : 0;
    uint64_t first = world_leaf(any_target() & ~(ept_span(level + 1) - 1), any_access(), any_type()) | any_ignored();
    if (pick(4) == 0)
        first += pick(512) * PAGE_SIZE * (level == 1);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(table, i, first + i * step + (level > 1 ? EPT_LARGE : 0));
    if (pick(4) == 0)
        world_write_quiet(table, (unsigned)pick(512), any_entry(level));
    world_notice();
}

static uint64_t any_page(void) { return world_page((unsigned)pick(world_page_count())); }
static unsigned any_cpu(void) { return (unsigned)pick(WORLD_CPUS); }
static unsigned any_eptp(void) { return (unsigned)pick(world_one_root() ? 1 : WORLD_EPTPS); }

/* The table of this level for addr as the entries above say, if they lead to a table at all. */
static uint64_t table_for(unsigned eptp, uint64_t addr, int level)
{
    uint64_t table = world_table(eptp);
    for (int l = EPT_LEVELS; l > level; l--) {
        uint64_t entry = world_read(table, ept_index(addr, l));
        table = entry & EPT_ADDR_MASK;
        if (!ept_present(entry) || (entry & EPT_LARGE) || table < world_table(0) || table >= world_table(WORLD_TABLES))
            return 0;
    }
    return table;
}

/* An edit at a place where it matters. */
static void edit(void)
{
    uint64_t addr = any_page();
    int level = pick(32) ? (pick(8) ? 1 : 2) : 3 + (int)pick(2);
    uint64_t table = table_for(any_eptp(), addr, level);
    if (!table)
        table = any_table(level);
    unsigned index = ept_index(addr, level);
    uint64_t old = world_read(table, index);
    switch (pick(8)) {
    case 0:
        world_write(table, index, old ^ EPT_W);
        break;
    case 1:
        world_write(table, index, old & ~EPT_RWX);
        break;
    case 2:
        world_write(table, index, old | EPT_RWX);
        break;
    case 3:
        world_write(table, index, old ^ BIT(57));
        break;
    default:
        world_write(table, index, any_entry(level));
    }
}

/* A page where the table of this level for addr usually is: few enough for all, so some serve twice. */
static uint64_t home(unsigned eptp, uint64_t addr, int level)
{
    uint64_t n = eptp * 5 + addr / ept_span(level + 1);
    return world_table(level_tables[level].first + (unsigned)(n % level_tables[level].count));
}

/* Sane tables again for addr, so that there is something to lose. */
static void heal(unsigned eptp, uint64_t addr)
{
    for (int level = EPT_LEVELS; level > 1; level--)
        if (!table_for(eptp, addr, level - 1))
            world_write_quiet(table_for(eptp, addr, level), ept_index(addr, level),
                              home(eptp, addr, level - 1) | EPT_RWX);
    uint64_t table = table_for(eptp, addr, 1);
    if (pick(2) == 0)
        fill(table, 1);
    else
        world_write(table, ept_index(addr, 1), any_entry(1));
}

static void access(void)
{
    unsigned cpu = any_cpu(), eptp = any_eptp();
    uint64_t addr = any_page();
    enum ept02_outcome outcome = world_access(cpu, eptp, addr + pick(PAGE_SIZE), BIT(pick(3)));
    if (outcome != EPT02_VIOLATION12 && outcome != EPT02_MISCONFIG12)
        return;
    /* The guest hypervisor handles it, or not. */
    uint64_t table = table_for(eptp, addr, 1);
    if (table && pick(4))
        world_write(table, ept_index(addr, 1),
                    world_leaf(WORLD_DATA + pick(8) * PAGE_2M + ept_index(addr, 1) * PAGE_SIZE, EPT_RWX, MEMTYPE_WB));
    if (pick(4))
        world_prefill(cpu, eptp, addr);
}

void steps_begin(void)
{
    for (unsigned eptp = 0; eptp < WORLD_EPTPS; eptp++)
        for (unsigned i = 0; i < 8; i++)
            heal(eptp, world_page(i));
}

void steps_one(void)
{
    switch (pick(32)) {
    case 0:
        if (pick(2))
            world_ept01((unsigned)pick(pick(2) ? 8 : WORLD_REGIONS), (enum world_kind)pick(KIND_COUNT));
        break;
    case 1: {
        int level = pick(4) ? 1 : 2;
        if (pick(4) == 0)
            fill(any_table(level), level);
        break;
    }
    case 2:
        world_invept(any_cpu(), INVEPT_SINGLE, any_eptp());
        break;
    case 3: {
        uint64_t table = table_for(any_eptp(), any_page(), 1);
        if (table)
            fill(table, 1);
        break;
    }
    case 4:
    case 5:
        world_invept(any_cpu(), pick(2) ? INVEPT_GLOBAL : INVEPT_SINGLE, any_eptp());
        break;
    case 6:
        world_nested_write(any_cpu(), any_eptp(), any_page(), (unsigned)pick(512), any_entry(1 + (int)pick(4)));
        break;
    case 7:
        world_prefill(any_cpu(), any_eptp(), any_page());
        break;
    case 8:
        if (!world_one_root())
            world_other_root(any_cpu(), (unsigned)pick(100));
        break;
    case 9:
    case 10:
    case 11:
        heal(any_eptp(), any_page());
        break;
    case 12:
    case 13:
    case 14:
    case 15:
        edit();
        break;
    case 16:
        world_enter(any_cpu(), any_eptp());
        break;
    case 17:
        world_entry_fails(any_cpu(), any_eptp(), any_page());
        break;
    default:
        access();
    }
}
