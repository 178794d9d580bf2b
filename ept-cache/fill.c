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
    uint64_t reach = ept->view.window.size < WRITABLE_REGION ? ept->view.window.size : WRITABLE_REGION;
    /* An entry that gives nothing: only the very same one gives nothing again. */
    pattern->mask = entry ? EPT_LOW_MASK | SLOT_COALESCED | (EPT_ADDR_MASK & ~(reach - 1)) : ~0ull;
    pattern->value = entry12 & pattern->mask;
    pattern->delta = entry - entry12;
    return entry;
}

/* What the next entries are expected to be like. */
enum run {
    RUN_SAME,   /* as they should be already */
    RUN_NEW,    /* free */
    RUN_GROWTH, /* present with less access */
    RUN_ANY,    /* anything: it is known already that the processor will be told */
};

/* What is known about the page table at hand. */
struct sync {
    struct pattern pattern;
    enum run run;
    uint64_t growth;  /* RUN_GROWTH: new entry minus old one */
    uint64_t meaning; /* bits that changed */
    unsigned changed; /* entries */
    bool shrinks;
    bool fill; /* also entries that are free */
};

/*
 * Composes entries from index on as long as they follow the pattern and nothing new is to be decided. Returns the first
 * that was not composed. This loop is what a changed table costs: every instruction counts 512 times.
 */
static inline __attribute__((always_inline)) unsigned run_compose(const volatile uint64_t *entries12,
                                                                  volatile uint64_t *slots, unsigned index, unsigned to,
                                                                  struct sync *sync, enum run run)
{
    const struct pattern p = sync->pattern;
    uint64_t growth = sync->growth;
    unsigned i = index, same = 0;
#pragma GCC unroll 4
    for (; i < to; i++) {
        uint64_t entry12 = entries12[i], new = entry12 + p.delta;
        if ((entry12 & p.mask) != p.value)
            break;
        if ((run == RUN_NEW && slots[i] != 0) || (run == RUN_GROWTH && slots[i] != new - growth))
            break;
        if (run == RUN_SAME && slots[i] != new)
            break;
        if (run == RUN_ANY && slots[i] == new)
            same++;
        else if (run != RUN_SAME)
            slots[i] = new;
    }
    sync->changed += run == RUN_SAME ? 0 : i - index - same;
    return i;
}

/* One entry that is not like the one before. */
static void entry_compose(struct ept02 *ept, struct sync *sync, uint64_t entry12, volatile uint64_t *slot)
{
    uint64_t old = *slot, new = entry12 + sync->pattern.delta;
    if ((entry12 & sync->pattern.mask) != sync->pattern.value)
        new = pattern_learn(ept, &sync->pattern, entry12);
    if (old == new || (old == 0 && !sync->fill)) {
        sync->run = sync->shrinks && sync->fill ? RUN_ANY : RUN_SAME;
        return;
    }
    *slot = new;
    sync->changed++;
    sync->meaning |= old ^ new;
    sync->shrinks |= ept_shrinks(old, new);
    sync->growth = ((old ^ new) & ~EPT_RWX) == 0 ? new - old : 0;
    sync->run = sync->shrinks && sync->fill ? RUN_ANY : old == 0 ? RUN_NEW : sync->growth ? RUN_GROWTH : RUN_SAME;
}

/* Entries from index to (at most) to; returns the first that was not composed. */
static unsigned entries_compose(struct ept02 *ept, struct sync *sync, const volatile uint64_t *entries12,
                                volatile uint64_t *slots, unsigned index, unsigned to)
{
    entry_compose(ept, sync, entries12[index], &slots[index]);
    switch (sync->run) {
    case RUN_SAME:
        return run_compose(entries12, slots, index + 1, to, sync, RUN_SAME);
    case RUN_NEW:
        return run_compose(entries12, slots, index + 1, to, sync, RUN_NEW);
    case RUN_GROWTH:
        return run_compose(entries12, slots, index + 1, to, sync, RUN_GROWTH);
    default:
        return run_compose(entries12, slots, index + 1, to, sync, RUN_ANY);
    }
}

bool table_sync(struct ept02 *ept, struct ept_table *t, unsigned from, unsigned to)
{
    const volatile uint64_t *entries12 = table_entries12(t);
    volatile uint64_t *slots = table_slots(t);
    struct sync sync = { .pattern = { .mask = 0, .value = 1 } }; /* fits no entry */
    sync.fill = ept->config.coalesce || ept->config.history;
    for (unsigned i = from; i < to;) {
        if (entries12) {
            i = entries_compose(ept, &sync, entries12, slots, i, to);
            continue;
        }
        entry_compose(ept, &sync, table_entry12(t, entries12, i), &slots[i]);
        i++;
    }
    if (sync.shrinks)
        flush_mark(&ept->flush_later, t);
    ept->composed += sync.changed;
    return sync.meaning & EPT_MEANING_MASK;
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
