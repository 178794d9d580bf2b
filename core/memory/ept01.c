/*
 * ept01's tables: building, splitting, lazy parts, memory types. Pure.
 * Invariants: no entry ever leads to a hidden page; the shared junk table is linked, never edited or freed; entries in
 * linked tables change by one atomic operation, because processors and other CPUs' software walk them all the time.
 */
#include "core/memory/ept01.h"

#define EAGER_MIN (4 * GIB)
#define EPT_ADDRESS_BITS 48 /* of a guest-physical address, with a 4-level walk */
#define LEVEL_PT 1
#define LEVEL_PD 2
#define LEVEL_PDPT 3
#define LEVEL_PML4 4
/* Bound on what retyping may take from the pool over the life of ept01: guests choose their MTRRs. */
#define RETYPE_SPLITS_MAX 128

enum visibility { VISIBLE, HIDDEN, MIXED };

/* The last answer of mtrr_range, so that a sweep over the tables asks once per range. */
struct type_range {
    uint64_t start, end;
    enum memtype type;
};

static uint64_t *table_entries(hpa_t table) { return hpa_ptr(table); }

static uint64_t entry_read(const uint64_t *entry) { return __atomic_load_n(entry, __ATOMIC_RELAXED); }

static void entry_write(uint64_t *entry, uint64_t value) { __atomic_store_n(entry, value, __ATOMIC_RELEASE); }

/* False when the entry no longer holds old (a processor has set an accessed or dirty flag). */
static bool entry_replace(uint64_t *entry, uint64_t old, uint64_t value)
{
    return __atomic_compare_exchange_n(entry, &old, value, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static uint64_t table_link(hpa_t table) { return table.v | EPT_RWX; }

static hpa_t entry_table(uint64_t entry) { return hpa(entry & EPT_ADDR_MASK); }

static uint64_t type_bits(enum memtype type) { return (uint64_t)type << EPT_MEMTYPE_SHIFT; }

/* Flags are set from the start: only what watch.c cleared is ever logged as modified. */
static uint64_t flag_bits(const struct ept01 *e) { return e->config.accessed_dirty ? EPT_ACCESSED | EPT_DIRTY : 0; }

static enum visibility range_visibility(const struct ept01 *e, uint64_t base, uint64_t size)
{
    uint64_t hidden = 0;
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++) {
        const struct memmap_range *r = &e->config.hidden[i];
        uint64_t start = r->start > base ? r->start : base;
        uint64_t end = r->end < base + size ? r->end : base + size;
        hidden += end > start ? end - start : 0;
    }
    return hidden == 0 ? VISIBLE : hidden >= size ? HIDDEN : MIXED;
}

/* True when [base, base+size) has one memory type throughout, which range then holds. */
static bool type_uniform(const struct ept01 *e, uint64_t base, uint64_t size, struct type_range *range)
{
    if (base < range->start || base >= range->end)
        range->type = mtrr_range(e->config.mtrr, base, &range->start, &range->end);
    return base + size <= range->end;
}

/* True when one entry does for the whole chunk of a table of this level: a page, or a link to the junk table. */
static bool chunk_single(const struct ept01 *e, int level, uint64_t base, struct type_range *range, uint64_t *entry)
{
    enum visibility visibility = range_visibility(e, base, ept_span(level));
    if (visibility == HIDDEN && level == LEVEL_PT) {
        *entry = e->config.junk.v | EPT_R | EPT_W | type_bits(MEMTYPE_WB) | flag_bits(e);
        return true;
    }
    if (visibility == HIDDEN && level == LEVEL_PD) {
        *entry = table_link(e->junk_table);
        return true;
    }
    if (e->config.small && level > LEVEL_PT && base < e->config.top)
        return false;
    if (visibility != VISIBLE || level > LEVEL_PDPT || (level == LEVEL_PDPT && !e->config.pages_1g))
        return false;
    if (!type_uniform(e, base, ept_span(level), range) && level > LEVEL_PT)
        return false;
    *entry = base | EPT_RWX | type_bits(range->type) | flag_bits(e) | (level > LEVEL_PT ? EPT_LARGE : 0);
    return true;
}

/* A complete table of this level for the eager part of what lies from base on; .v == 0: pool empty. Recursion: 3 deep. */
static hpa_t table_build(struct ept01 *e, int level, uint64_t base, struct type_range *range)
{
    hpa_t table = pool_alloc(e->config.pool);
    for (unsigned i = 0; table.v && i < EPT_ENTRIES; i++) {
        uint64_t chunk = base + i * ept_span(level), entry;
        if (chunk >= e->eager_end)
            break;
        if (!chunk_single(e, level, chunk, range, &entry)) {
            hpa_t below = table_build(e, level - 1, chunk, range);
            if (below.v == 0)
                return below;
            entry = table_link(below);
        }
        entry_write(&table_entries(table)[i], entry);
    }
    return table;
}

static bool junk_table_build(struct ept01 *e)
{
    e->junk_table = pool_alloc(e->config.pool);
    if (e->junk_table.v == 0)
        return false;
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        table_entries(e->junk_table)[i] = e->config.junk.v | EPT_R | EPT_W | type_bits(MEMTYPE_WB) | flag_bits(e);
    return true;
}

/* Strata's own placement: a part of a page could be neither hidden nor shown. */
static void hidden_check(const struct ept01_config *config)
{
    for (unsigned i = 0; i < EPT01_HIDDEN_MAX; i++)
        if ((config->hidden[i].start | config->hidden[i].end) % PAGE_SIZE)
            panic("ept01: hidden range %u is not made of pages", i);
}

bool ept01_init(struct ept01 *ept01, const struct ept01_config *config)
{
    hidden_check(config);
    memset(ept01, 0, sizeof(*ept01));
    ept01->config = *config;
    unsigned bits = config->maxphyaddr < EPT_ADDRESS_BITS ? config->maxphyaddr : EPT_ADDRESS_BITS;
    ept01->limit = BIT(bits);
    uint64_t top = config->top > EAGER_MIN ? align_up(config->top, PAGE_1G) : EAGER_MIN;
    ept01->eager_end = top < ept01->limit ? top : ept01->limit;
    struct type_range range = { 0 };
    if (!junk_table_build(ept01))
        return false;
    ept01->root = table_build(ept01, LEVEL_PML4, 0, &range);
    return ept01->root.v != 0;
}

uint64_t ept01_eptp(const struct ept01 *ept01)
{
    return ept01->root.v | MEMTYPE_WB | EPTP_WALK_4 | (ept01->config.accessed_dirty ? EPTP_AD_ENABLE : 0);
}

struct ept_leaf ept01_lookup(hpa_t root, gpa1_t addr)
{
    struct ept_leaf leaf = { 0 };
    if (addr.v >> EPT_ADDRESS_BITS)
        return leaf;
    leaf.perm = EPT_RWX;
    hpa_t table = root;
    for (int level = EPT_LEVELS;; level--) {
        uint64_t entry = entry_read(&table_entries(table)[ept_index(addr.v, level)]);
        leaf.perm &= (uint32_t)(entry & EPT_RWX);
        if (!ept_present(entry))
            return leaf;
        if (ept_is_leaf(entry, level)) {
            leaf.size = ept_span(level);
            leaf.base = align_down(entry & EPT_ADDR_MASK, leaf.size);
            leaf.memtype = (uint32_t)((entry & EPT_MEMTYPE_MASK) >> EPT_MEMTYPE_SHIFT);
            leaf.ignore_pat = entry & EPT_IGNORE_PAT;
            return leaf;
        }
        table = entry_table(entry);
    }
}

bool ept01_table_uniform(hpa_t root, gpa1_t addr)
{
    const uint64_t meaning = EPT_ADDR_MASK | EPT_RWX | EPT_MEMTYPE_MASK | EPT_IGNORE_PAT;
    hpa_t table = root;
    for (int level = EPT_LEVELS; level > LEVEL_PT; level--) {
        uint64_t entry = entry_read(&table_entries(table)[ept_index(addr.v, level)]);
        if (!ept_present(entry) || ept_is_leaf(entry, level) || (entry & EPT_RWX) != EPT_RWX)
            return false;
        table = entry_table(entry);
    }
    const uint64_t *entries = table_entries(table);
    uint64_t expected = entry_read(entries) & meaning, differ = expected & (PAGE_2M - 1) & PAGE_MASK;
    for (unsigned i = 0; i < EPT_ENTRIES; i++, expected += PAGE_SIZE)
        differ |= (entry_read(&entries[i]) & meaning) ^ expected;
    return !differ && ept_present(expected);
}

/*
 * Replaces a large leaf of a table of this level by a table of pages with the same rights, types and flags. The dirty
 * flag may be set by a processor at any time: then the table is filled again.
 */
static bool leaf_split(struct ept01 *e, uint64_t *entry, int level)
{
    hpa_t table = pool_alloc(e->config.pool);
    if (table.v == 0)
        return false;
    uint64_t old;
    do {
        old = entry_read(entry);
        uint64_t first = level - 1 == LEVEL_PT ? old & ~EPT_LARGE : old;
        for (unsigned i = 0; i < EPT_ENTRIES; i++)
            table_entries(table)[i] = first + i * ept_span(level - 1);
    } while (!entry_replace(entry, old, table_link(table)));
    return true;
}

uint64_t *ept01_leaf(struct ept01 *ept01, gpa1_t addr, uint64_t page_size)
{
    if (addr.v >= ept01->eager_end || range_visibility(ept01, addr.v & PAGE_MASK, PAGE_SIZE) != VISIBLE)
        return NULL;
    hpa_t table = ept01->root;
    for (int level = EPT_LEVELS;; level--) {
        uint64_t *entry = &table_entries(table)[ept_index(addr.v, level)];
        bool leaf = ept_is_leaf(entry_read(entry), level);
        if (leaf && ept_span(level) <= page_size)
            return entry;
        if (leaf && !leaf_split(ept01, entry, level))
            return NULL;
        table = entry_table(entry_read(entry));
    }
}

/* Sets the bits of mask to value; a flag that a processor sets meanwhile is kept. True when that changed something. */
static bool entry_modify(uint64_t *entry, uint64_t mask, uint64_t value)
{
    uint64_t old;
    do {
        old = entry_read(entry);
        if ((old & mask) == value)
            return false;
    } while (!entry_replace(entry, old, (old & ~mask) | value));
    return true;
}

bool ept01_protect(struct ept01 *ept01, gpa1_t page, uint32_t perm)
{
    if ((perm & EPT_W) && !(perm & EPT_R))
        panic("ept01: write-only page %llx", (unsigned long long)page.v);
    uint64_t *entry = ept01_leaf(ept01, page, PAGE_SIZE);
    if (entry)
        entry_modify(entry, EPT_RWX, perm);
    return entry != NULL;
}

/*
 * Corrects the type of one leaf: in place, or by splitting it where types differ inside. A lazy page is unmapped instead
 * of split: the next access maps it again. True when it changed.
 */
static bool leaf_retype(struct ept01 *e, uint64_t *entry, int level, uint64_t base, struct type_range *range)
{
    if (type_uniform(e, base, ept_span(level), range))
        return entry_modify(entry, EPT_MEMTYPE_MASK, type_bits(range->type));
    if (base >= e->eager_end) {
        entry_write(entry, 0);
        return true;
    }
    if (e->retype_splits < RETYPE_SPLITS_MAX && leaf_split(e, entry, level)) {
        e->retype_splits++;
        return true;
    }
    return entry_modify(entry, EPT_MEMTYPE_MASK, type_bits(MEMTYPE_UC));
}

/* Recursion: 3 deep. */
static bool table_retype(struct ept01 *e, hpa_t table, int level, uint64_t base, struct type_range *range)
{
    bool changed = false;
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        uint64_t *entry = &table_entries(table)[i], chunk = base + i * ept_span(level), value = entry_read(entry);
        if (value == 0 || range_visibility(e, chunk, ept_span(level)) == HIDDEN)
            continue;
        if (ept_is_leaf(value, level))
            changed |= leaf_retype(e, entry, level, chunk, range);
        value = entry_read(entry);
        if (value && !ept_is_leaf(value, level))
            changed |= table_retype(e, entry_table(value), level - 1, chunk, range);
    }
    return changed;
}

bool ept01_retype(struct ept01 *ept01)
{
    struct type_range range = { 0 };
    return table_retype(ept01, ept01->root, LEVEL_PML4, 0, &range);
}

static hpa_t lazy_alloc(struct ept01 *e)
{
    if (e->lazy_count == EPT01_LAZY_MAX || e->config.pool->free_count <= EPT01_LAZY_SPARE)
        return hpa(0);
    hpa_t table = pool_alloc(e->config.pool);
    e->lazy_count += table.v != 0;
    return table;
}

/* Types differ in the chunk and there is no table: one page of the type that is right with any. */
static bool chunk_uncached(const struct ept01 *e, int level, uint64_t base, uint64_t *entry)
{
    if (level > LEVEL_PDPT || (level == LEVEL_PDPT && !e->config.pages_1g))
        return false;
    *entry = base | EPT_RWX | type_bits(MEMTYPE_UC) | flag_bits(e) | (level > LEVEL_PT ? EPT_LARGE : 0);
    return true;
}

enum ept01_fill ept01_fill(struct ept01 *ept01, gpa1_t addr)
{
    if (addr.v >= ept01->limit)
        return EPT01_OUTSIDE;
    if (addr.v < ept01->eager_end)
        return EPT01_REFUSED;
    struct type_range range = { 0 };
    hpa_t table = ept01->root;
    for (int level = EPT_LEVELS;; level--) {
        uint64_t *entry = &table_entries(table)[ept_index(addr.v, level)], value = entry_read(entry);
        uint64_t base = align_down(addr.v, ept_span(level));
        if (ept_present(value) && ept_is_leaf(value, level))
            return (value & EPT_RWX) == EPT_RWX ? EPT01_FILLED : EPT01_REFUSED;
        if (!ept_present(value)) {
            bool leaf = chunk_single(ept01, level, base, &range, &value);
            hpa_t below = leaf ? hpa(0) : lazy_alloc(ept01);
            if (!leaf && below.v == 0 && !chunk_uncached(ept01, level, base, &value))
                return EPT01_NO_MEMORY;
            entry_write(entry, below.v ? table_link(below) : value);
            if (below.v == 0)
                return EPT01_FILLED;
            value = table_link(below);
        }
        table = entry_table(value);
    }
}
