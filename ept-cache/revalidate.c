/*
 * The first entry after INVEPT: ept02 is made to agree with ept12 again, in place. Only tables of ept12 that may have been
 * written since they were read last are compared; only entries that differ are composed again. What was mapped before is
 * mapped again at once. The processor is told in any case: its combined mappings depend on more than ept12.
 */
#include "core/lib/hw.h"
#include "core/memory/mem.h"
#include "ept-cache/table.h"

#define WRITTEN_BATCH 32 /* reports taken at once */
/* A table that was split becomes one large page again when so many entries change: not when one goes back and forth. */
#define COALESCE_AGAIN (EPT_ENTRIES / 4)

/* True when a coalesced table is dealt with: it is one large page as before, or another, or gone. */
static bool coalesced_revalidate(struct ept02 *ept, struct ept_table *t)
{
    bool other = !table_agrees(t, 0, table_entries12(t)[0]);
    if ((other && table_coalesce(ept, t)) || (!t->page && table_agrees_all(t))) {
        ept->counters.rewritten += other;
        return true;
    }
    if (t->page || table_uncoalesce(ept, t, MAP_REBUILD))
        return false;
    slot_clear(ept, table_at(ept, t->parent), t->index);
    return true;
}

/* A table that has become another altogether, perhaps neighbouring pages: true if one large page stands for it now. */
static bool replaced_revalidate(struct ept02 *ept, struct ept_table *t, const volatile uint64_t *entries12)
{
    bool large_page = entries12[0] != table_slots(t)[0] && table_coalesce_later(ept, t, EPT_ENTRIES / 2);
    ept->counters.rewritten += large_page;
    return large_page;
}

static void page_table_revalidate(struct ept02 *ept, struct ept_table *t)
{
    unsigned last = 0;
    uint64_t written = ept->written;
    const volatile uint64_t *entries12 = table_entries12(t);
    if (t->flags & TABLE_COALESCED ? coalesced_revalidate(ept, t) : replaced_revalidate(ept, t, entries12))
        return;
    bool changed = table_compare(ept, t, entries12, &last);
    written = ept->written - written;
    ept->counters.rewritten += written;
    if (changed && (t->flags & TABLE_COALESCED))
        table_uncoalesce(ept, t, MAP_REBUILD);
    else if (changed && (t->splits == 0 || written >= COALESCE_AGAIN))
        table_coalesce_later(ept, t, last);
}

/* The address that the first entry of t maps. */
static gpa2_t table_gpa2(const struct ept02 *ept, const struct ept_table *t)
{
    uint64_t addr = 0;
    for (; t->parent; t = table_at(ept, t->parent))
        addr += t->index * ept_span(t->level + 1);
    return gpa2(addr);
}

/* Maps anew what entry index of t mapped before; GiBs are left to the caller. */
static void entry_rebuild(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12,
                          enum ept12_kind kind)
{
    if (kind == EPT12_LEAF && leaf_fits(ept, entry12, t->level)) {
        leaf_set(ept, t, index, entry12);
        return;
    }
    if (t->level != 2 || (kind != EPT12_LEAF && kind != EPT12_TABLE))
        return;
    struct ept_table *child = work_left(ept) ? table_child(ept, t, index, entry12, kind == EPT12_LEAF, MAP_REBUILD)
                                             : NULL;
    if (child && !table_open(ept, child, MAP_REBUILD))
        table_drop(ept, child);
}

/*
 * Entry index of a table above page tables, whose original is entry12 now. True when what was below is gone and has to be
 * rebuilt from history.
 */
static bool entry_revalidate(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12)
{
    enum ept12_kind kind = ept12_classify(&ept->view.rules, entry12, t->level);
    uint64_t old = table_slots(t)[index];
    struct ept_table *child = slot_child(ept, old, t->level);
    if (child && (kind == EPT12_LEAF || kind == EPT12_TABLE) && table_same(child, entry12, kind == EPT12_LEAF)) {
        ept->counters.rewritten += ((child->entry12 ^ entry12) & EPT_RWX) != 0;
        table_relink(ept, child, entry12);
        return false;
    }
    if (!child && kind == EPT12_LEAF && leaf_fits(ept, entry12, t->level)) {
        leaf_set(ept, t, index, entry12);
        ept->counters.rewritten += ((old ^ table_slots(t)[index]) & EPT_MEANING_MASK) != 0;
        return false;
    }
    slot_clear(ept, t, index);
    ept->counters.rewritten++;
    entry_rebuild(ept, t, index, entry12, kind);
    return kind != EPT12_ABSENT && t->level == 3 && table_slots(t)[index] == 0;
}

/* A free entry that ept12 uses now. True when a GiB has to be mapped from history. */
static bool entry_returns(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12, gpa2_t addr)
{
    enum ept12_kind kind = ept12_classify(&ept->view.rules, entry12, t->level);
    if (!ept->config.history || t->level == EPT_LEVELS || (kind != EPT12_LEAF && kind != EPT12_TABLE))
        return false;
    if (t->level == 3)
        return true;
    if (history_touched(&ept->shared->history, ept->roots[t->root].eptp12, addr)) {
        entry_rebuild(ept, t, index, entry12, kind);
        ept->counters.history_hits++;
    }
    return false;
}

/* Compares an upper table. Sets the bits of those entries whose GiB has to be mapped from history. */
static bool upper_compare(struct ept02 *ept, struct ept_table *t, gpa2_t base, uint64_t rebuild[EPT_ENTRIES / 64])
{
    const volatile uint64_t *entries12 = table_entries12(t);
    bool first_time = !t->seen, any = false;
    if (first_time && (memory_spare(ept) || ept->lists[LIST_SPARE].first))
        t->seen = table_page_alloc(ept, MAP_REBUILD).v;
    uint64_t *seen = t->seen ? hpa_ptr(hpa(t->seen)) : NULL;
    for (unsigned i = first_time ? 0 : entries_differ(entries12, seen, 0); i < EPT_ENTRIES;
         i = first_time ? i + 1 : entries_differ(entries12, seen, i + 1)) {
        uint64_t entry12 = entries12[i];
        bool again = false;
        if (seen)
            seen[i] = entry12;
        uint64_t slot = table_slots(t)[i];
        const struct ept_table *child = slot_child(ept, slot, t->level);
        if (child && child->entry12 == entry12)
            continue;
        if (slot)
            again = entry_revalidate(ept, t, i, entry12);
        else if (!first_time)
            again = entry_returns(ept, t, i, entry12, gpa2(base.v + i * ept_span(t->level)));
        if (again)
            rebuild[i / 64] |= BIT(i % 64);
        any |= again;
    }
    return any;
}

static void upper_revalidate(struct ept02 *ept, struct ept02_root *root, struct ept_table *t)
{
    uint64_t rebuild[EPT_ENTRIES / 64] = { 0 };
    gpa2_t base = table_gpa2(ept, t);
    if ((t->flags & TABLE_COALESCED) && coalesced_revalidate(ept, t))
        return;
    bool any = upper_compare(ept, t, base, rebuild);
    /* From here on t may be gone. */
    for (unsigned i = 0; any && i < EPT_ENTRIES; i++)
        if (rebuild[i / 64] & BIT(i % 64))
            ept02_replay(ept, root, gpa2(base.v + i * HISTORY_BLOCK));
}

/* The first of the dirty tables of its level is dealt with. */
static void dirty_pop(struct ept02 *ept, struct ept02_root *root, struct ept_table *t)
{
    root->dirty[t->level] = t->dirty_next;
    if (t->dirty_next)
        table_at(ept, t->dirty_next)->dirty_prev = 0;
    t->flags &= (uint8_t)~TABLE_DIRTY;
}

static void table_revalidate(struct ept02 *ept, struct ept02_root *root, struct ept_table *t)
{
    dirty_pop(ept, root, t);
    if (!work_left(ept) && t->parent) { /* nobody has said that it is still right */
        slot_clear(ept, table_at(ept, t->parent), t->index);
        ept->counters.evictions++;
        return;
    }
    if (t->flags & TABLE_ALWAYS) {
        table_mark_always(ept, t);
        ept->always_compared++;
    }
    uint64_t written = ept->written;
    ept->counters.revalidated += EPT_ENTRIES;
    if (t->level == 1)
        page_table_revalidate(ept, t);
    else
        upper_revalidate(ept, root, t);
    ept->work += 1 + (uint32_t)((ept->written - written) / WORK_ENTRIES);
}

static void root_revalidate(struct ept02 *ept, struct ept02_root *root)
{
    ept->busy_root = root->index;
    ept->path = (struct table_path){ 0 };
    while (root->always) {
        struct ept_table *t = table_at(ept, root->always);
        table_unmark_dirty(ept, t);
        table_mark_dirty(ept, t);
    }
    /* From above: what is not used any more is not compared. */
    while (root->dirty_levels) {
        int level = 31 - __builtin_clz(root->dirty_levels);
        if (root->dirty[level])
            table_revalidate(ept, root, table_at(ept, root->dirty[level]));
        else
            root->dirty_levels &= ~(1u << level);
    }
    if (!root->always)
        ept->dirty_roots &= ~BIT(root->index);
}

/* Every table's original may have changed. */
static void all_mark_dirty(struct ept02 *ept)
{
    for (unsigned id = 1; id < ept->slab_count * TABLES_PER_SLAB; id++) {
        struct ept_table *t = table_at(ept, (uint16_t)id);
        if ((t->flags & (TABLE_USED | TABLE_SPLIT)) == TABLE_USED)
            table_mark_dirty(ept, t);
    }
}

/* Puts the tables whose originals may have been written onto the dirty lists. */
static void written_collect(struct ept02 *ept)
{
    gpa1_t pages[WRITTEN_BATCH];
    unsigned count, rounds = 0, rounds_max = ept->slab_count * TABLES_PER_SLAB / WRITTEN_BATCH + 1;
    uint32_t generation = writable_generation(&ept->shared->writable);
    if (generation != ept->writable_seen) {
        ept->writable_seen = generation;
        always_review(ept);
    }
    if (!ept->config.watch)
        return;
    do {
        count = watch_take(ept->config.watch, pages, WRITTEN_BATCH);
        if (count > WRITTEN_BATCH || rounds++ > rounds_max || !work_left(ept)) {
            all_mark_dirty(ept);
            return;
        }
        for (unsigned i = 0; i < count; i++)
            table_page_written(ept, pages[i]);
    } while (count == WRITTEN_BATCH);
}

void ept02_invept(struct ept02 *ept, enum invept_type type, uint64_t eptp12)
{
    ept->counters.invepts++;
    if (type == INVEPT_GLOBAL) {
        ept->looks++;
        return;
    }
    struct ept02_root *root = ept02_is_recent(ept, eptp12) ? &ept->roots[ept->recent_root]
                                                           : ept02_root_find(ept, eptp12);
    if (root)
        root->looked = 0;
}

OUT_OF_LINE void ept02_look(struct ept02 *ept, struct ept02_root *root)
{
    uint64_t bit = BIT(root->index);
    ept->work = 0;
    written_collect(ept);
    if (!ept->config.history)
        root_empty(ept, root); /* nothing is kept: what is touched again is mapped again */
    if (ept->dirty_roots & bit)
        root_revalidate(ept, root);
    root->looked = ept->looks;
    if ((ept->config.hw_ept_caps & EPT_CAP_INVEPT_SINGLE) && !(ept->flush_now & ~bit)) { /* nearly always */
        ept->flush_now = 0;
        hw_invept(INVEPT_SINGLE, root->eptp02);
        ept->counters.hw_invepts++;
    } else {
        ept02_flush(ept, bit | ept->flush_now);
    }
    if (ept->config.watch && (ept->tidy_next || ept->always_compared > ept->always_limit))
        always_tidy(ept);
}
