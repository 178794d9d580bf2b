/*
 * Descriptions of ept02's tables: allocation, links, the hash by original page, dirty lists, watching. Decides nothing
 * about what is mapped.
 * Invariant: a table that was taken out is on record in flush_now, and no function that others call returns before the
 * processor has been told: nested guests do not run meanwhile, so its page may be used again at once.
 */
#include "ept-cache/table.h"

#include "core/lib/hw.h"

#define SLAB_SHARE 4 /* at most one page in so many of the pool holds descriptions */

void ept02_flush(struct ept02 *ept, uint64_t roots)
{
    enum invept_type type = ept->config.hw_ept_caps & EPT_CAP_INVEPT_SINGLE ? INVEPT_SINGLE : INVEPT_GLOBAL;
    if (type == INVEPT_GLOBAL && roots)
        roots = ~0ull;
    ept->flush_now &= ~roots;
    for (; roots; roots &= roots - 1) {
        const struct ept02_root *root = &ept->roots[__builtin_ctzll(roots)];
        hw_invept(type, type == INVEPT_GLOBAL ? 0 : root->eptp02);
        ept->counters.hw_invepts++;
        if (type == INVEPT_GLOBAL)
            return;
    }
}

void ept02_flush_due(struct ept02 *ept)
{
    if (ept->flush_now)
        ept02_flush(ept, ept->flush_now);
}

hpa_t table_page_alloc(struct ept02 *ept, enum map_mode mode)
{
    while (ept->pool->free_count == 0)
        if (!table_reclaim(ept, mode == MAP_REBUILD ? RECLAIM_SPARE : RECLAIM_PAGE))
            return hpa(0);
    return pool_alloc(ept->pool);
}

/* Lists by age */

static void list_remove(struct ept02 *ept, struct ept_table *t)
{
    struct table_list *list = &ept->lists[t->list];
    if (t->list == LIST_NONE)
        return;
    *(t->older ? &table_at(ept, t->older)->newer : &list->first) = t->newer;
    *(t->newer ? &table_at(ept, t->newer)->older : &list->last) = t->older;
    t->list = LIST_NONE;
}

static void list_append(struct ept02 *ept, struct ept_table *t, enum table_list_id id)
{
    struct table_list *list = &ept->lists[id];
    t->list = (uint8_t)id;
    t->older = list->last;
    t->newer = 0;
    *(list->last ? &table_at(ept, list->last)->newer : &list->first) = t->id;
    list->last = t->id;
}

void table_touch(struct ept02 *ept, struct ept_table *t)
{
    enum table_list_id id = t->level > 1 ? LIST_UPPER : LIST_PAGE_TABLES;
    if (t->flags & TABLE_COALESCED)
        id = t->page ? LIST_SPARE : LIST_BARE;
    if (t->parent == 0 || (t->list == id && t->newer == 0))
        return;
    list_remove(ept, t);
    list_append(ept, t, id);
}

/* Dirty lists */

static void dirty_insert(struct ept02 *ept, struct ept_table *t, uint16_t *head)
{
    t->flags |= TABLE_DIRTY;
    t->dirty_prev = 0;
    t->dirty_next = *head;
    if (*head)
        table_at(ept, *head)->dirty_prev = t->id;
    *head = t->id;
    flush_mark(&ept->dirty_roots, t);
}

void table_mark_dirty(struct ept02 *ept, struct ept_table *t)
{
    struct ept02_root *root = &ept->roots[t->root];
    if (t->flags & TABLE_DIRTY)
        return;
    root->dirty_levels |= 1u << t->level;
    dirty_insert(ept, t, &root->dirty[t->level]);
}

void table_unmark_dirty(struct ept02 *ept, struct ept_table *t)
{
    struct ept02_root *root = &ept->roots[t->root];
    if (!(t->flags & TABLE_DIRTY))
        return;
    uint16_t *head = root->always == t->id ? &root->always : &root->dirty[t->level];
    *(t->dirty_prev ? &table_at(ept, t->dirty_prev)->dirty_next : head) = t->dirty_next;
    if (t->dirty_next)
        table_at(ept, t->dirty_next)->dirty_prev = t->dirty_prev;
    t->flags &= (uint8_t)~TABLE_DIRTY;
}

void table_mark_always(struct ept02 *ept, struct ept_table *t)
{
    table_unmark_dirty(ept, t);
    t->flags |= TABLE_ALWAYS;
    dirty_insert(ept, t, &ept->roots[t->root].always);
}

/* The hash by original, and watching */

static uint16_t *hash_head(struct ept02 *ept, uint64_t table12)
{
    uint64_t page = table12 >> PAGE_SHIFT;
    return &ept->hash[(page ^ page / EPT02_HASH) % EPT02_HASH];
}

/* The first of those with this original. */
static struct ept_table *hash_find(struct ept02 *ept, uint64_t table12)
{
    uint16_t id = *hash_head(ept, table12);
    unsigned steps = 0;
    for (; id && table_at(ept, id)->table12 != table12; steps++)
        id = table_at(ept, id)->hash_next;
    ept->work += steps / WORK_STEPS;
    return id ? table_at(ept, id) : NULL;
}

static bool same_original(const struct ept02 *ept, uint16_t id, uint64_t table12)
{
    return id && table_at(ept, id)->table12 == table12;
}

void table_page_written(struct ept02 *ept, gpa1_t page)
{
    struct ept_table *t = hash_find(ept, page.v);
    unsigned marked = 0;
    for (; t; marked++) {
        table_mark_dirty(ept, t);
        t = same_original(ept, t->hash_next, page.v) ? table_at(ept, t->hash_next) : NULL;
    }
    ept->work += marked / WORK_STEPS;
}

/* Behind prev, or as the first where prev is NULL. */
static void hash_link(struct ept02 *ept, struct ept_table *t, struct ept_table *prev)
{
    uint16_t *link = prev ? &prev->hash_next : hash_head(ept, t->table12);
    t->hash_prev = prev ? prev->id : 0;
    t->hash_next = *link;
    if (*link)
        table_at(ept, *link)->hash_prev = t->id;
    *link = t->id;
}

static void hash_insert(struct ept02 *ept, struct ept_table *t)
{
    struct ept_table *twin = hash_find(ept, t->table12);
    bool always = false;
    if (twin) {
        t->flags |= twin->flags & TABLE_WATCHED;
        always = twin->flags & TABLE_ALWAYS;
    } else if (ept->config.watch && watch_add(ept->config.watch, gpa1(t->table12))) {
        t->flags |= TABLE_WATCHED;
        always = table_original_writable(ept, t);
    } else {
        always = true;
    }
    hash_link(ept, t, twin);
    if (always)
        table_mark_always(ept, t);
}

static void hash_remove(struct ept02 *ept, struct ept_table *t)
{
    *(t->hash_prev ? &table_at(ept, t->hash_prev)->hash_next : hash_head(ept, t->table12)) = t->hash_next;
    if (t->hash_next)
        table_at(ept, t->hash_next)->hash_prev = t->hash_prev;
    bool alone = !same_original(ept, t->hash_prev, t->table12) && !same_original(ept, t->hash_next, t->table12);
    if ((t->flags & TABLE_WATCHED) && alone)
        watch_remove(ept->config.watch, gpa1(t->table12));
}

/* Descriptions */

static void slab_add(struct ept02 *ept, enum map_mode mode)
{
    if (ept->slab_count == EPT02_SLABS || (ept->slab_count && ept->slab_count >= ept->pool->total / SLAB_SHARE))
        return;
    hpa_t page = table_page_alloc(ept, ept->slab_count ? MAP_REBUILD : mode);
    if (page.v == 0)
        return;
    unsigned slab = ept->slab_count++;
    ept->slabs[slab] = hpa_ptr(page);
    for (unsigned i = TABLES_PER_SLAB; i-- > (slab ? 0u : 1u);) {
        uint16_t id = (uint16_t)(slab * TABLES_PER_SLAB + i);
        table_at(ept, id)->hash_next = ept->free_table;
        ept->free_table = id;
    }
}

static struct ept_table *description_alloc(struct ept02 *ept, enum map_mode mode)
{
    if (!ept->free_table)
        slab_add(ept, mode);
    while (!ept->free_table)
        if (mode == MAP_REBUILD || !table_reclaim(ept, RECLAIM_TABLE))
            return NULL;
    struct ept_table *t = table_at(ept, ept->free_table);
    uint16_t id = ept->free_table;
    ept->free_table = t->hash_next;
    memset(t, 0, sizeof(*t));
    t->id = id;
    return t;
}

struct ept_table *table_new(struct ept02 *ept, struct ept_table *parent, unsigned index, uint64_t entry12,
                            uint8_t flags, struct ept02_root *root, enum map_mode mode)
{
    struct ept_table *t = description_alloc(ept, mode);
    if (!t)
        return NULL;
    t->flags = (uint8_t)(flags | TABLE_USED);
    t->parent = parent ? parent->id : 0;
    t->level = (uint8_t)(parent ? parent->level - 1 : EPT_LEVELS);
    t->index = (uint16_t)index;
    t->root = (uint8_t)root->index;
    t->entry12 = entry12;
    t->table12 = entry12 & EPT_ADDR_MASK;
    if (!(flags & TABLE_SPLIT))
        hash_insert(ept, t);
    return t;
}

void table_link(struct ept02 *ept, struct ept_table *t)
{
    struct ept_table *parent = table_at(ept, t->parent);
    uint64_t old = table_slots(parent)[t->index], new;
    if (t->flags & TABLE_COALESCED)
        new = table_large_page(ept, t) | SLOT_COALESCED;
    else
        new = t->page | (t->flags & TABLE_SPLIT ? EPT_RWX : t->entry12 & EPT_RWX);
    slot_write(parent, t->index, new | slot_tag(t->id));
    /* At once even if the access only shrank: a processor may combine the old entry with new ones below it. */
    if (ept_present(old) && (ept_shrinks(old, new) || ((old ^ new) & EPT_LARGE)))
        flush_mark(&ept->flush_now, t);
    table_touch(ept, t);
}

void table_drop(struct ept02 *ept, struct ept_table *t)
{
    bool linked = t->page && !(t->flags & TABLE_COALESCED);
    for (unsigned i = 0; linked && t->level > 1 && i < EPT_ENTRIES; i++) {
        struct ept_table *child = slot_child(ept, table_slots(t)[i], t->level);
        if (child)
            table_drop(ept, child);
    }
    table_unmark_dirty(ept, t);
    list_remove(ept, t);
    if (!(t->flags & TABLE_SPLIT))
        hash_remove(ept, t);
    if (t->page)
        pool_free(ept->pool, hpa(t->page));
    if (t->seen)
        pool_free(ept->pool, hpa(t->seen));
    if (linked)
        flush_mark(&ept->flush_now, t);
    t->flags = 0;
    t->hash_next = ept->free_table;
    ept->free_table = t->id;
}

void slot_clear(struct ept02 *ept, struct ept_table *t, unsigned index)
{
    uint64_t old = table_slots(t)[index];
    struct ept_table *child = slot_child(ept, old, t->level);
    if (old == 0)
        return;
    slot_write(t, index, 0);
    if (child)
        table_drop(ept, child);
}
