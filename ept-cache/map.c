/*
 * Mapping one address: down the tables of ept02 along what a walk of ept12 has found, making, replacing and splitting
 * tables on the way. What is found in ept02 and does not agree with the walk is replaced.
 */
#include "ept-cache/table.h"

bool table_same(const struct ept_table *t, uint64_t entry12, bool split)
{
    uint64_t same = split ? EPT_MEANING_MASK : EPT_ADDR_MASK;
    return split == (bool)(t->flags & TABLE_SPLIT) && ((t->entry12 ^ entry12) & same) == 0;
}

void table_relink(struct ept02 *ept, struct ept_table *t, uint64_t entry12)
{
    bool differs = (t->entry12 ^ entry12) & EPT_RWX;
    t->entry12 = entry12;
    if (differs)
        table_link(ept, t);
}

/*
 * When the access that entry12 gives grows, what is below is not taken over: an entry there may be outdated without the
 * guest hypervisor having had to execute INVEPT, because what it allowed was never allowed from above.
 */
struct ept_table *table_child(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12, bool split,
                              enum map_mode mode)
{
    struct ept_table *child = slot_child(ept, table_slots(t)[index], t->level);
    bool grows = child && (entry12 & ~child->entry12 & EPT_RWX);
    if (child && !grows && table_same(child, entry12, split)) {
        table_relink(ept, child, entry12);
        return child;
    }
    if (table_slots(t)[index]) {
        slot_clear(ept, t, index);
        flush_mark(&ept->flush_now, t);
    }
    return table_new(ept, t, index, entry12, split ? TABLE_SPLIT : 0, &ept->roots[t->root], mode);
}

void leaf_set(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12)
{
    if (slot_child(ept, table_slots(t)[index], t->level)) {
        slot_clear(ept, t, index);
        flush_mark(&ept->flush_now, t);
    }
    slot_write(t, index, leaf_compose(ept, entry12, t->level));
}

#define AROUND 8 /* entries of a page table that are looked at together; a power of 2 */

/* Entries around index that ept12 allows and that are missing as well: they are added with it. */
static void around_add(struct ept02 *ept, struct ept_table *t, unsigned index)
{
    const volatile uint64_t *entries12 = table_entries12(t);
    const uint64_t *slots = table_slots(t);
    unsigned first = index & ~(AROUND - 1u);
    for (unsigned i = first; i < first + AROUND; i++) {
        if (slots[i] == 0 && ept_present(table_entry12(t, entries12, i))) {
            table_sync(ept, t, first, first + AROUND);
            return;
        }
    }
}

/* A page that was missing from an existing table. */
static void leaf_add(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12, enum map_mode mode)
{
    table_touch(ept, t);
    leaf_set(ept, t, index, entry12);
    if (!ept->config.coalesce)
        return;
    if (t->level == 1) {
        /* ept12 maps more than was known: the more often, the rarer it is looked at as a whole. */
        bool whole = mode == MAP_VIOLATION && (t->repairs & (t->repairs + 1u)) == 0;
        if (mode == MAP_VIOLATION && t->repairs < REPAIRS_MAX)
            t->repairs++;
        if (whole)
            table_sync(ept, t, 0, EPT_ENTRIES);
        else
            around_add(ept, t, index);
    }
    table_coalesce_later(ept, t, index);
}

/* Gives a new child its contents. False: no memory, and the child is gone. */
static bool child_open(struct ept02 *ept, struct ept_table *child, enum map_mode mode)
{
    if (child->page || (child->flags & TABLE_COALESCED))
        return true;
    ept->path.id[child->level] = child->id;
    if (table_open(ept, child, mode))
        return true;
    ept->path.id[child->level] = 0;
    table_drop(ept, child);
    return false;
}

bool ept02_map(struct ept02 *ept, struct ept02_root *root, gpa2_t addr, const struct ept12_walk *walk,
               enum map_mode mode)
{
    struct ept_table *t = table_at(ept, root->table);
    bool fresh = false;
    for (int level = EPT_LEVELS;; level--) {
        unsigned index = ept_index(addr.v, level);
        bool leaf = walk->result == EPT12_LEAF && level <= walk->level;
        uint64_t entry12 = level >= walk->level ? walk->entry[level] : table_entry12(t, NULL, index);
        ept->path.id[level] = t->id;
        if (t->flags & TABLE_COALESCED) {
            if (walk->result != EPT12_LEAF || (leaf && table_agrees(t, index, entry12)))
                return true;
            if (!table_uncoalesce(ept, t, mode))
                return false;
        }
        /* The walk read a new table before it was watched: what changed in between nobody will report. */
        if (fresh && !(t->flags & TABLE_SPLIT) && table_entries12(t)[index] != entry12)
            table_mark_dirty(ept, t);
        if (t->seen)
            ((uint64_t *)hpa_ptr(hpa(t->seen)))[index] = entry12;
        struct ept_table *child = slot_child(ept, table_slots(t)[index], level);
        bool known = child && child->entry12 == entry12 && leaf == (bool)(child->flags & TABLE_SPLIT);
        if (leaf && !known && leaf_fits(ept, entry12, level)) {
            if (fresh)
                leaf_set(ept, t, index, entry12);
            else
                leaf_add(ept, t, index, entry12, mode);
            return true;
        }
        if (level == 1)
            return true;
        if (!known)
            child = table_child(ept, t, index, entry12, leaf, mode);
        fresh = child && !child->page && !(child->flags & TABLE_COALESCED);
        if (!child || !child_open(ept, child, mode))
            return false;
        t = child;
    }
}

void ept02_unmap(struct ept02 *ept, struct ept02_root *root, gpa2_t addr)
{
    struct ept_table *t = table_at(ept, root->table);
    for (int level = EPT_LEVELS; level > 0; level--) {
        unsigned index = ept_index(addr.v, level);
        struct ept_table *child = slot_child(ept, table_slots(t)[index], level);
        if (!child || (child->flags & TABLE_COALESCED)) {
            slot_clear(ept, t, index);
            return;
        }
        t = child;
    }
}

void ept02_replay(struct ept02 *ept, struct ept02_root *root, gpa2_t addr)
{
    uint64_t touched[HISTORY_WORDS];
    struct ept_history *history = &ept->shared->history;
    gpa2_t block = gpa2(align_down(addr.v, HISTORY_BLOCK));
    if (!ept->config.history || !history_block(history, root->eptp12, addr, touched))
        return;
    for (unsigned i = 0; i < HISTORY_WORDS * 64 && memory_spare(ept) && work_left(ept); i++) {
        gpa2_t region = gpa2(block.v + i * HISTORY_REGION);
        struct ept12_walk walk;
        if (!(touched[i / 64] & BIT(i % 64)) || region.v == align_down(addr.v, HISTORY_REGION))
            continue;
        ept->work++;
        ept12_walk(&ept->view.rules, gpa1(root->eptp12 & EPT_ADDR_MASK), region, &walk);
        if (walk.result == EPT12_LEAF || (walk.result == EPT12_ABSENT && walk.level == 1)) {
            if (!ept02_map(ept, root, region, &walk, MAP_REBUILD))
                return;
            ept->counters.history_hits++;
        } else {
            history_forget(history, root->eptp12, region);
            ept->counters.history_waste++;
        }
    }
}
