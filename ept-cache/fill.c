/*
 * Composing entries: one leaf, a run of a page table, a whole new table. Entries of ept12 are read once and judged here;
 * what does not pass is not present in ept02.
 */
#include "ept-cache/table.h"

uint64_t leaf_compose(struct ept02 *ept, uint64_t entry12, int level)
{
    if (!ept_present(entry12) || (entry12 & ept->view.rules.leaf_reserved[level]))
        return 0;
    const struct ept01_window *window = ept01_window(&ept->view, entry12 & EPT_ADDR_MASK);
    uint64_t low = window ? window->low[entry12 & EPT_LOW_MASK] : 0;
    if (low == 0)
        return 0;
    if (low & EPT_W)
        writable_mark(&ept->shared->writable, &ept->writable, gpa1(entry12 & EPT_ADDR_MASK), ept_span(level));
    return ((entry12 & ~(EPT_LOW_MASK | SLOT_COALESCED)) + window->delta) | low;
}

bool leaf_fits(struct ept02 *ept, uint64_t entry12, int level)
{
    if (level == 1)
        return true;
    if (!ept->config.large || !(ept->config.hw_ept_caps & (level == 2 ? EPT_CAP_2M : EPT_CAP_1G)))
        return false;
    return ept01_uniform(&ept->view, entry12 & EPT_ADDR_MASK, ept_span(level));
}

/*
 * What a run of similar page-table entries has in common: an entry with (entry & mask) == value becomes entry + delta,
 * because access, memory type, ept01's page and the writable region are those of an entry already judged.
 */
struct pattern { uint64_t mask, value, delta; };

static uint64_t pattern_learn(struct ept02 *ept, struct pattern *pattern, uint64_t entry12)
{
    uint64_t entry = leaf_compose(ept, entry12, 1);
    if (entry == 0)
        return 0;
    uint64_t reach = ept->view.window.size < WRITABLE_REGION ? ept->view.window.size : WRITABLE_REGION;
    pattern->mask = EPT_LOW_MASK | SLOT_COALESCED | (EPT_ADDR_MASK & ~(reach - 1));
    pattern->value = entry12 & pattern->mask;
    pattern->delta = entry - entry12;
    return entry;
}

unsigned table_sync(struct ept02 *ept, struct ept_table *t, unsigned from, unsigned to)
{
    const volatile uint64_t *entries12 = table_entries12(t);
    volatile uint64_t *slots = table_slots(t);
    struct pattern pattern = { .mask = 0, .value = 1, .delta = 0 }; /* fits no entry */
    bool fill = ept->config.coalesce || ept->config.history, shrinks = false;
    unsigned changed = 0;
    for (unsigned i = from; i < to; i++) {
        uint64_t entry12 = table_entry12(t, entries12, i), old = slots[i], new = 0;
        if ((entry12 & pattern.mask) == pattern.value)
            new = entry12 + pattern.delta;
        else if (ept_present(entry12))
            new = pattern_learn(ept, &pattern, entry12);
        if (old == new || (old == 0 && !fill))
            continue;
        slots[i] = new;
        shrinks |= ept_shrinks(old, new);
        changed += ((old ^ new) & EPT_MEANING_MASK) != 0;
    }
    if (shrinks)
        flush_mark(&ept->flush_later, t);
    return changed;
}

/* All pages of a new table of 2-MiB pages. */
static void pages_fill(struct ept02 *ept, struct ept_table *t)
{
    const volatile uint64_t *entries12 = table_entries12(t);
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        uint64_t entry12 = table_entry12(t, entries12, i);
        if (ept12_classify(&ept->view.rules, entry12, t->level) == EPT12_LEAF && leaf_fits(ept, entry12, t->level))
            slot_write(t, i, leaf_compose(ept, entry12, t->level));
    }
}

bool table_open(struct ept02 *ept, struct ept_table *t, enum map_mode mode)
{
    bool whole = mode == MAP_VIOLATION ? ept->config.coalesce : mode == MAP_REBUILD && (ept->config.coalesce || ept->config.history);
    if (ept->config.coalesce && table_coalesce(ept, t))
        return true;
    t->page = table_page_alloc(ept, mode).v;
    if (t->page == 0)
        return false;
    ept->opened |= t->level == 2;
    if (whole && t->level == 1)
        table_sync(ept, t, 0, EPT_ENTRIES);
    if (whole && t->level == 2)
        pages_fill(ept, t);
    table_link(ept, t);
    return true;
}
