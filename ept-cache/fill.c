/*
 * Composing one leaf, and a whole new table. Entries of ept12 are read once and judged here; what does not pass is not
 * present in ept02. Runs of page-table entries are in sync.c.
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
    uint64_t target = (entry12 & EPT_ADDR_MASK) + window->delta;
    if (low & EPT_W)
        writable_note(ept, hpa(target), ept_span(level));
    return (entry12 & ~(EPT_MEANING_MASK | SLOT_COALESCED)) | target | low;
}

bool leaf_fits(struct ept02 *ept, uint64_t entry12, int level)
{
    if (level == 1)
        return true;
    if (!ept->config.large || !(ept->config.hw_ept_caps & (level == 2 ? EPT_CAP_2M : EPT_CAP_1G)) || !work_left(ept))
        return false;
    uint64_t pieces = ept->view.pieces;
    bool uniform = ept01_uniform(&ept->view, entry12 & EPT_ADDR_MASK, ept_span(level));
    ept->work += (uint32_t)((ept->view.pieces - pieces) / WORK_PIECES);
    return uniform;
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
    bool whole = mode == MAP_VIOLATION ? ept->config.coalesce
                                       : mode == MAP_REBUILD && (ept->config.coalesce || ept->config.history);
    if (ept->config.coalesce && table_coalesce(ept, t))
        return true;
    t->page = table_page_alloc(ept, mode).v;
    if (t->page == 0)
        return false;
    ept->opened |= t->level == 2;
    ept->work += whole ? WORK_COMPOSED : 1;
    if (whole && t->level == 1)
        table_sync(ept, t, 0, EPT_ENTRIES);
    if (whole && t->level == 2)
        pages_fill(ept, t);
    table_link(ept, t);
    return true;
}
