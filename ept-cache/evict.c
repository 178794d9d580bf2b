/*
 * What is given up when memory is short: first what is only kept for speed, then the root used least recently, then the
 * oldest tables of the root at work. Nothing is lost but time: what was mapped is composed again when it is touched.
 */
#include "ept-cache/table.h"

#define EVICT_BATCH 8 /* tables at once: each batch costs one INVEPT */

void root_drop(struct ept02 *ept, struct ept02_root *root)
{
    uint64_t bit = BIT(root->index);
    table_drop(ept, table_at(ept, root->table));
    ept02_flush(ept, bit);
    ept->dirty_roots &= ~bit;
    root->used = 0;
    root->serial = 0;
    ept->counters.evictions++;
}

static bool reclaim_root(struct ept02 *ept)
{
    struct ept02_root *oldest = NULL;
    for (unsigned i = 0; i < EPT02_ROOTS; i++) {
        struct ept02_root *root = &ept->roots[i];
        if (root->used && root->index != ept->busy_root && (!oldest || root->used < oldest->used))
            oldest = root;
    }
    if (oldest)
        root_drop(ept, oldest);
    return oldest != NULL;
}

static bool on_path(const struct ept02 *ept, const struct ept_table *t) { return ept->path.id[t->level] == t->id; }

/* The oldest of a list that is not being worked on, with all that hangs on it. At most EPT_LEVELS of a list are. */
static bool reclaim_oldest(struct ept02 *ept, enum table_list_id list)
{
    for (uint16_t id = ept->lists[list].first; id; id = table_at(ept, id)->newer) {
        const struct ept_table *t = table_at(ept, id);
        if (on_path(ept, t))
            continue;
        slot_clear(ept, table_at(ept, t->parent), t->index);
        ept->counters.evictions++;
        return true;
    }
    return false;
}

static bool reclaim_batch(struct ept02 *ept, enum table_list_id list)
{
    unsigned n = 0;
    while (n < EVICT_BATCH && reclaim_oldest(ept, list))
        n++;
    return n != 0;
}

/* The page that a coalesced table keeps for the day when it must be split. */
static bool reclaim_spare(struct ept02 *ept)
{
    uint16_t id = ept->lists[LIST_SPARE].first;
    if (id == 0)
        return false;
    struct ept_table *t = table_at(ept, id);
    pool_free(ept->pool, hpa(t->page));
    t->page = 0;
    table_touch(ept, t);
    return true;
}

bool table_reclaim(struct ept02 *ept, enum reclaim what)
{
    if (what == RECLAIM_SPARE)
        return reclaim_spare(ept);
    if (what == RECLAIM_PAGE && reclaim_spare(ept))
        return true;
    if (reclaim_root(ept))
        return true;
    if (what == RECLAIM_TABLE && (reclaim_batch(ept, LIST_BARE) || reclaim_batch(ept, LIST_SPARE)))
        return true;
    return reclaim_batch(ept, LIST_PAGE_TABLES) || reclaim_batch(ept, LIST_UPPER);
}
