/*
 * Random edits of the EPT tables: leaves of each size, tables freed and used again as data or as other tables, tables
 * shared between roots, links to tables of the wrong level, rights, memory types, misconfigurations. An edit may leave
 * anything behind that the oracle understands: entries that lead nowhere or into the area.
 */
#include "soak.h"

enum { TABLES = SOAK_TABLES, CAP_EXECUTE_ONLY = 0, CAP_1G = 17 };
#define ENTRY_ADDRESS 0xffffffffff000ull
static bool in_use[TABLES];
static bool gigabytes, execute_only, writable;

/* Few, so that edits and accesses meet. 48.. lie over the area in a 1-GiB page; SLOT is written by nested guests. */
static const u16 directories[] = { 48, 49, 50, 0, SLOT };
static const u16 entries[] = { 0, 1, 2, 100, 511 };

u64 spot_address(const struct spot *s) { return (u64)s->window << 30 | s->directory << 21 | s->table << 12; }

void spot_random(struct spot *s)
{
    s->root = random_below(SOAK_ROOTS);
    s->window = WINDOW_FIRST + random_below(WINDOW_LAST - WINDOW_FIRST + 1);
    s->directory = directories[random_below(COUNT(directories))];
    s->table = random_below(8) ? entries[random_below(COUNT(entries))] : random_below(512);
}

static u64 *table_of(u64 entry, u32 level)
{
    bool table = oracle_kind(entry, level) == ENTRY_TABLE && memory_index(entry & ENTRY_ADDRESS) >= 0;
    return table ? (u64 *)(ulong)(entry & ENTRY_ADDRESS) : NULL;
}

u64 *spot_entry(const struct spot *s, u32 level)
{
    u64 *table = table_of(soak_root[s->root]->root[0], 4);
    u64 *entry = table + s->window;
    if (level < 3) {
        table = table_of(*entry, 3);
        entry = table + s->directory;
    }
    if (level < 2 && table) {
        table = table_of(*entry, 2);
        entry = table + s->table;
    }
    return table ? entry : NULL;
}

void edit_init(bool tables_writable)
{
    writable = tables_writable;
    memset(in_use, 0, sizeof in_use);
    gigabytes = ept_has(CAP_1G);
    execute_only = ept_has(CAP_EXECUTE_ONLY);
}

static u32 random_rights(void)
{
    static const u32 some[] = { EPT_R, EPT_R | EPT_W, EPT_R | EPT_X, EPT_X };
    u32 r = random_below(16);
    if (r < 9)
        return EPT_RWX;
    if (r < 13)
        return some[r - 9] == EPT_X && !execute_only ? EPT_R : some[r - 9];
    if (r < 15)
        return 0;
    return random_below(4) ? EPT_R : EPT_W; /* W alone: a misconfiguration */
}

static u64 random_type(void)
{
    static const u32 types[] = { 6, 6, 6, 6, 6, 6, 0, 1, 4, 5 };
    return random_below(64) ? (u64)types[random_below(COUNT(types))] << 3 : 7 << 3;
}

/* The flags of a leaf at pa. Whoever watches for writes may do so by 2 MiB: the whole region is spared. */
static u64 spare_tables(u64 pa, u64 flags)
{
    bool tables = pa < SOAK_AREA + 2 * MIB;
    return !writable && tables && flags & EPT_R ? flags & ~(u64)EPT_W : flags;
}

static u64 random_leaf(u32 level)
{
    u64 flags = random_rights() | random_type() | (level > 1 ? EPT_LARGE : 0), pa = 0;
    if (level == 1)
        pa = phys(memory_page(random_below(random_below(8) ? SOAK_PAGES : TABLES)));
    if (level == 2)
        pa = SOAK_AREA + random_below(SOAK_REGIONS) * (u64)(2 * MIB);
    return pa | spare_tables(pa, flags); /* level 3: the machine's first GiB, the area is in it */
}

/* All 512 entries from `first` on, `step` apart; 0: none is present. */
static void table_fill(u64 *table, u64 first, u64 step)
{
    void (*writer)(u64 *, u64) = memory_writer;
    memory_writer = NULL; /* too many to be written one by one by a nested guest */
    for (u32 i = 0; i < 512; i++)
        memory_write(&table[i], first + i * step);
    memory_writer = writer;
}

/* A page for a table, empty. Sometimes one that is in use: what still leads there now leads to something else. */
static u64 *table_take(void)
{
    u32 page = random_below(TABLES);
    for (u32 i = 0; i < TABLES && in_use[page] && random_below(32); i++)
        page = (page + 1) % TABLES;
    in_use[page] = true;
    table_fill(memory_page(page), 0, 0);
    return memory_page(page);
}

/* The table below an entry; made if there is none, and then a leaf is split. */
static u64 *table_below(u64 *entry, u32 level)
{
    u64 *table = table_of(*entry, level), old = *entry;
    if (table && random_below(16))
        return table;
    table = table_take();
    if (oracle_kind(old, level) == ENTRY_LEAF)
        table_fill(table, level == 2 ? old & ~(u64)EPT_LARGE : old, (u64)PAGE << 9 * (level - 2));
    memory_write(entry, phys(table) | EPT_RWX);
    return table;
}

static u64 *directory(const struct spot *s) { return table_below(spot_entry(s, 3), 3); }
static u64 *page_table(const struct spot *s) { return table_below(&directory(s)[s->directory], 2); }

/* An entry that is there, at any level. */
static u64 *random_entry(const struct spot *s, u32 *level)
{
    u64 *entry = NULL;
    for (*level = 1 + random_below(3); !entry; ++*level)
        entry = spot_entry(s, *level);
    --*level;
    return entry;
}

static void map_4k(const struct spot *s) { memory_write(&page_table(s)[s->table], random_leaf(1)); }
void edit_map(const struct spot *s, u64 pa) { memory_write(&page_table(s)[s->table], pa | EPT_RWX | EPT_WB); }
static void map_2m(const struct spot *s) { memory_write(&directory(s)[s->directory], random_leaf(2)); }
static void map_1g(const struct spot *s)
{
    if (gigabytes)
        memory_write(spot_entry(s, 3), random_leaf(3));
}

static void unmap(const struct spot *s)
{
    u32 level;
    memory_write(random_entry(s, &level), 0);
}

static void change_rights(const struct spot *s)
{
    u32 level;
    u64 *entry = random_entry(s, &level);
    u64 flags = (*entry & ~(u64)EPT_RWX) | random_rights();
    if (level == 1 || *entry & EPT_LARGE)
        flags = spare_tables(flags & ENTRY_ADDRESS, flags);
    memory_write(entry, flags);
}

static void change_type(const struct spot *s)
{
    u32 level;
    u64 *entry = random_entry(s, &level);
    if (oracle_kind(*entry, level) == ENTRY_LEAF)
        memory_write(entry, (*entry & ~0x38ull) | random_type());
}

static void change_ignored(const struct spot *s) /* bits that are the guest hypervisor's own */
{
    u32 level;
    u64 *entry = random_entry(s, &level);
    memory_write(entry, *entry ^ BIT(random_below(2) ? 11 : 52 + random_below(4)));
}

/* Leads to the same table or page as another place does, in this root or another. */
static void share(const struct spot *s)
{
    struct spot other;
    u32 level = 2 + random_below(2);
    spot_random(&other);
    u64 *to = spot_entry(s, level), *from = spot_entry(&other, level);
    if (to && from)
        memory_write(to, *from);
}

/* A link to any table: a page table where a directory should be, a table below itself. */
static void link_any(const struct spot *s)
{
    u32 level;
    u64 *entry = random_entry(s, &level);
    memory_write(entry, phys(memory_page(random_below(TABLES))) | (writable || level > 1 ? EPT_RWX : EPT_R));
}

static void free_table(const struct spot *s) /* without a look at who leads there */
{
    (void)s;
    u32 page = random_below(TABLES);
    void (*writer)(u64 *, u64) = memory_writer;
    memory_writer = NULL;
    memory_data(page);
    memory_writer = writer;
    in_use[page] = false;
}

static void fill_row(const struct spot *s) /* 512 neighbours that could be one large page */
{
    u64 first = (random_leaf(2) & ~(u64)EPT_LARGE);
    table_fill(page_table(s), first, PAGE);
}

static void swap(const struct spot *s)
{
    u64 *table = page_table(s), *other = &table[entries[random_below(COUNT(entries))]], value = *other;
    memory_write(other, table[s->table]);
    memory_write(&table[s->table], value);
}

void edit_random(const struct spot *s)
{
    static const struct {
        void (*edit)(const struct spot *s);
        u32 weight;
    } edits[] = {
        { map_4k, 24 },       { map_2m, 6 },      { map_1g, 1 },         { unmap, 4 },
        { change_rights, 8 }, { change_type, 3 }, { change_ignored, 2 }, { share, 4 },
        { link_any, 1 },      { free_table, 1 },  { fill_row, 2 },       { swap, 4 },
    };
    u32 all = 0, i;
    for (i = 0; i < COUNT(edits); i++)
        all += edits[i].weight;
    u32 pick = random_below(all);
    for (i = 0; pick >= edits[i].weight; i++)
        pick -= edits[i].weight;
    edits[i].edit(s);
}
