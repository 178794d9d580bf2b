/*
 * Random steps; see ept_steps.h.
 */
#include "tests/host/ept_steps.h"

#include "tests/host/ept_world.h"

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

static uint64_t any_table(void) { return world_table((unsigned)pick(WORLD_TABLES)); }

/* Memory that pages lead to: data, tables of ept12, nothing. Aligned to 2 MiB mostly. */
static uint64_t any_target(void)
{
    switch (pick(8)) {
    case 0:
        return any_table();
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
    uint64_t entry = 0;
    switch (pick(8)) {
    case 0:
        return 0;
    case 1:
    case 2:
    case 3:
        entry = any_table() | any_access();
        break;
    default:
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

static uint64_t any_page(void) { return world_page((unsigned)pick(WORLD_PAGES)); }
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
        table = any_table();
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
    uint64_t n = eptp * 16 + (level == 3   ? addr / (512 * GIB)
                              : level == 2 ? 2 + addr / GIB % 4
                                           : 6 + addr / PAGE_2M % 8);
    return world_table(WORLD_EPTPS + (unsigned)(n % (WORLD_TABLES - WORLD_EPTPS)));
}

/* Sane tables again, so that there is something to lose. */
static void heal(void)
{
    unsigned eptp = any_eptp();
    uint64_t addr = any_page();
    for (int level = EPT_LEVELS; level > 1; level--)
        if (!table_for(eptp, addr, level - 1))
            world_write(table_for(eptp, addr, level), ept_index(addr, level), home(eptp, addr, level - 1) | EPT_RWX);
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
    for (unsigned eptp = 0; eptp < WORLD_EPTPS; eptp++) {
        for (unsigned i = 0; i < 8; i++) {
            uint64_t table = world_page_table(eptp, world_page(i));
            if (pick(2))
                fill(table, 1);
        }
    }
}

void steps_one(void)
{
    switch (pick(32)) {
    case 0:
        if (pick(2))
            world_ept01((unsigned)pick(pick(2) ? 8 : WORLD_REGIONS), (enum world_kind)pick(KIND_COUNT));
        break;
    case 1:
        if (pick(4) == 0)
            fill(any_table(), pick(4) ? 1 : 2);
        break;
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
        heal();
        break;
    case 12:
    case 13:
    case 14:
    case 15:
        edit();
        break;
    default:
        access();
    }
}
