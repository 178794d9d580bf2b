/*
 * Tables of ept12 that nested guests may write: nobody reports that, so they are compared at every INVEPT. What may be
 * written is known by region and only ever grows, until it is looked at as a whole and forgotten where it has ended.
 */
#include "core/memory/mem.h"
#include "ept-cache/table.h"

#define LIMIT_LAST (1u << 20)
#define TIDY_TABLES 256u /* looked at in one exit */

bool table_original_writable(struct ept02 *ept, const struct ept_table *t)
{
    const struct ept01_window *window = ept01_window(&ept->view, t->table12);
    return !window || writable_page(&ept->shared->writable, hpa(t->table12 + window->delta));
}

static struct ept_table *table_next(const struct ept02 *ept, unsigned *id)
{
    while (++*id < ept->slab_count * TABLES_PER_SLAB) {
        struct ept_table *t = table_at(ept, (uint16_t)*id);
        if (t->flags & TABLE_USED)
            return t;
    }
    return NULL;
}

void always_review(struct ept02 *ept)
{
    unsigned id = 0;
    for (struct ept_table *t = table_next(ept, &id); t; t = table_next(ept, &id))
        if (!(t->flags & (TABLE_SPLIT | TABLE_ALWAYS)) && table_original_writable(ept, t))
            table_mark_always(ept, t);
}

/* What t lets nested guests write, access from above left aside. */
static void table_add_writable(struct ept02 *ept, const struct ept_table *t, struct region_map *map)
{
    if (t->flags & TABLE_COALESCED) {
        if (t->first12 & EPT_W)
            region_map_add(map, table_target(ept, t), ept_span(t->level + 1));
        return;
    }
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        uint64_t slot = table_slots(t)[i];
        if ((slot & EPT_W) && ept_is_leaf(slot, t->level) && !slot_child(ept, slot, t->level))
            region_map_add(map, hpa(slot & EPT_ADDR_MASK), ept_span(t->level));
    }
}

static struct region_map *spare_map(struct ept02 *ept)
{
    return ept->writable == &ept->maps[0] ? &ept->maps[1] : &ept->maps[0];
}

OUT_OF_LINE void writable_note_spare(struct ept02 *ept, hpa_t base, uint64_t size)
{
    region_map_add(spare_map(ept), base, size);
}

/* Whether the tables that can be written shall be compared at each look no longer: all that was found is in the spare map. */
static void tidy_finish(struct ept02 *ept)
{
    uint64_t used = 0;
    unsigned id = 0, freed = 0;
    for (unsigned i = 0; i < EPT02_ROOTS; i++)
        used |= ept->roots[i].used ? BIT(i) : 0;
    /* What was unmapped before or since can still be written through what the processor has cached. */
    ept02_flush(ept, used);
    ept->writable = spare_map(ept);
    writable_publish(&ept->shared->writable, ept->writable_index, ept->writable);
    for (struct ept_table *t = table_next(ept, &id); t; t = table_next(ept, &id)) {
        if (!(t->flags & TABLE_ALWAYS) || !(t->flags & TABLE_WATCHED) || table_original_writable(ept, t))
            continue;
        /* Compared once more: it may have been written until now. */
        table_unmark_dirty(ept, t);
        t->flags &= (uint8_t)~TABLE_ALWAYS;
        table_mark_dirty(ept, t);
        freed++;
    }
    ept->always_compared = 0;
    ept->always_limit = freed                            ? ALWAYS_LIMIT_FIRST
                        : ept->always_limit < LIMIT_LAST ? ept->always_limit * 2
                                                         : LIMIT_LAST;
}

void always_tidy(struct ept02 *ept)
{
    unsigned id = ept->tidy_next;
    if (id == 0)
        memset(spare_map(ept), 0, sizeof(*spare_map(ept)));
    for (unsigned n = 0; n < TIDY_TABLES; n++) {
        const struct ept_table *t = table_next(ept, &id);
        if (!t) {
            ept->tidy_next = 0;
            tidy_finish(ept);
            return;
        }
        table_add_writable(ept, t, spare_map(ept));
    }
    ept->tidy_next = (uint16_t)id;
}
