/*
 * Coalescing: when all 512 entries of an ept12 table map neighbouring pages alike, and ept01 is uniform there, one large
 * page of ept02 stands for the table. Its description stays, so that the original is still watched and compared; with
 * memory to spare the table's page stays as well, ready for the day when the entries differ again.
 */
#include "ept-cache/table.h"

#define LAST (EPT_ENTRIES - 1)
#define SPLITS_MAX 3 /* a table that was split so often stays a table */

/* Whether entry index of a table of this level continues what first begins. */
static bool entry_continues(uint64_t first, unsigned index, int level, uint64_t entry12)
{
    uint64_t expected = first + index * ept_span(level);
    return ((entry12 ^ expected) & EPT_MEANING_MASK) == 0 && ept_is_leaf(entry12, level);
}

bool table_agrees(const struct ept_table *t, unsigned index, uint64_t entry12)
{
    return entry_continues(t->first12, index, t->level, entry12);
}

hpa_t table_target(struct ept02 *ept, const struct ept_table *t)
{
    const struct ept01_window *window = ept01_window(&ept->view, t->first12 & EPT_ADDR_MASK);
    return hpa((t->first12 & EPT_ADDR_MASK) + (window ? window->delta : 0));
}

uint64_t table_large_page(struct ept02 *ept, const struct ept_table *t)
{
    const struct ept01_window *window = ept01_window(&ept->view, t->first12 & EPT_ADDR_MASK);
    uint64_t low = window ? window->low[t->first12 & EPT_LOW_MASK] : 0;
    uint64_t access = low & t->entry12 & EPT_RWX;
    return access ? table_target(ept, t).v | (low & ~EPT_RWX) | access | EPT_LARGE : EPT_LARGE;
}

static bool entries_continue(const volatile uint64_t *entries12, uint64_t first, int level)
{
    const volatile uint64_t *at = entries12, *end = entries12 + EPT_ENTRIES;
    uint64_t step = ept_span(level), exact = first; /* exact: with the bits that are ignored like the first's */
    for (; at < end; at++, exact += step) {
        while (at < end - 3 && at[0] == exact && at[1] == exact + step && at[2] == exact + 2 * step) {
            exact += 3 * step;
            at += 3;
        }
        uint64_t entry12 = *at;
        if (entry12 != exact && !entry_continues(first, (unsigned)(at - entries12), level, entry12))
            return false;
    }
    return true;
}

bool table_agrees_all(const struct ept_table *t) { return entries_continue(table_entries12(t), t->first12, t->level); }

/* Whether the first entry of the original can begin a large page. */
static bool first_suits(struct ept02 *ept, const struct ept_table *t, uint64_t first)
{
    uint64_t size = ept_span(t->level + 1);
    if (ept12_classify(&ept->view.rules, first, t->level) != EPT12_LEAF || (first & EPT_ADDR_MASK & (size - 1)))
        return false;
    if (!leaf_fits(ept, first, t->level + 1))
        return false;
    const struct ept01_window *window = ept01_window(&ept->view, first & EPT_ADDR_MASK);
    return window && (window->low[first & EPT_LOW_MASK] & t->entry12 & EPT_RWX);
}

static bool region_small(const struct ept02 *ept, hpa_t base, uint64_t size)
{
    for (uint64_t offset = 0; offset < size; offset += WRITABLE_REGION)
        if (region_marked(&ept->small, base.v + offset))
            return true;
    return false;
}

/* The entries for which the large page stands. */
static void entries_write(struct ept02 *ept, struct ept_table *t)
{
    uint64_t step = ept_span(t->level), entry = leaf_compose(ept, t->first12, t->level), *slots = table_slots(t);
    for (uint64_t *slot = slots; slot < slots + EPT_ENTRIES; slot += 4, entry += 4 * step) {
        slot[0] = entry;
        slot[1] = entry + step;
        slot[2] = entry + 2 * step;
        slot[3] = entry + 3 * step;
    }
}

/* The page of a table for which a large page stands now: kept if there is memory, and then it says the same. */
static void page_retire(struct ept02 *ept, struct ept_table *t)
{
    bool keep = t->level == 1 && memory_spare(ept);
    for (unsigned i = 0; t->page && t->level > 1 && i < EPT_ENTRIES; i++)
        slot_clear(ept, t, i);
    if (t->page && !keep) {
        pool_free(ept->pool, hpa(t->page));
        flush_mark(&ept->flush_now, t);
        t->page = 0;
    }
    if (!t->page && keep)
        t->page = table_page_alloc(ept, MAP_REBUILD).v;
    if (t->page)
        entries_write(ept, t);
    if (t->seen)
        pool_free(ept->pool, hpa(t->seen));
    t->seen = 0;
    table_touch(ept, t);
}

bool table_coalesce(struct ept02 *ept, struct ept_table *t)
{
    if (t->level > 2 || (t->flags & TABLE_SPLIT) || t->splits >= SPLITS_MAX)
        return false;
    const volatile uint64_t *entries12 = table_entries12(t);
    uint64_t first = entries12[0];
    if ((first & EPT_X) && !ept->config.coalesce_code)
        return false;
    if (!entry_continues(first, LAST, t->level, entries12[LAST]) || !first_suits(ept, t, first) ||
        !entries_continue(entries12, first, t->level))
        return false;
    t->first12 = first;
    if (region_small(ept, table_target(ept, t), ept_span(t->level + 1)))
        return false;
    if (first & EPT_W)
        writable_note(ept, table_target(ept, t), ept_span(t->level + 1));
    t->flags |= TABLE_COALESCED;
    table_link(ept, t);
    page_retire(ept, t);
    ept->counters.coalesced_2m += t->level == 1;
    ept->counters.coalesced_1g += t->level == 2;
    return true;
}

bool table_coalesce_later(struct ept02 *ept, struct ept_table *t, unsigned index)
{
    if (!ept->config.coalesce || t->level > 2 || (t->flags & TABLE_SPLIT))
        return false;
    const volatile uint64_t *entries12 = table_entries12(t);
    uint64_t first = entries12[0];
    return ept_present(first) && entry_continues(first, index, t->level, entries12[index]) &&
           entry_continues(first, index ^ 1, t->level, entries12[index ^ 1]) && table_coalesce(ept, t);
}

bool table_uncoalesce(struct ept02 *ept, struct ept_table *t, enum map_mode mode)
{
    if (!t->page) {
        t->page = table_page_alloc(ept, mode).v;
        if (!t->page)
            return false;
        entries_write(ept, t);
    }
    t->flags &= (uint8_t)~TABLE_COALESCED;
    t->splits++;
    table_link(ept, t);
    return true;
}

void ept02_keep_small(struct ept02 *ept, hpa_t page)
{
    if (region_marked(&ept->small, page.v))
        return;
    region_map_add(&ept->small, page, PAGE_SIZE);
    for (unsigned id = 1; id < ept->slab_count * TABLES_PER_SLAB; id++) {
        struct ept_table *t = table_at(ept, (uint16_t)id);
        bool coalesced = (t->flags & (TABLE_USED | TABLE_COALESCED)) == (TABLE_USED | TABLE_COALESCED);
        if (coalesced && region_small(ept, table_target(ept, t), ept_span(t->level + 1)))
            slot_clear(ept, table_at(ept, t->parent), t->index);
    }
    for (unsigned i = 0; i < EPT02_ROOTS; i++)
        ept->flush_now |= ept->roots[i].used ? BIT(i) : 0; /* large translations of it may be cached */
    ept02_flush_due(ept);
}
