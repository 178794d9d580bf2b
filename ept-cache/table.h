/*
 * The tables of ept02 and their descriptions: where each comes from in ept12, what it hangs on, what may be given up when
 * memory is short. Internal to ept-cache.
 *
 * Entries of ept02 carry the number of the table below them in bits that the processor ignores (52 to 61, 8, 9 and 11),
 * and bit 62 marks a large page that stands for a whole table of ept12. Other pages carry what ept12 has in ignored
 * bits, except bit 62, so that where ept01 is the identity a page table of ept02 equals its original byte for byte.
 * The bits are ignored only as long as vmcs02 and its EPTP switch on none of: accessed and dirty flags, mode-based
 * execute control, sub-page permissions, EPT-violation #VE, guest-paging verification, supervisor shadow-stack control.
 */
#ifndef STRATA_EPT_TABLE_H
#define STRATA_EPT_TABLE_H

#include "ept-cache/ept02.h"

enum table_flags {
    TABLE_SPLIT = 1,     /* no table of ept12 but the pieces of one large page, entry12 */
    TABLE_COALESCED = 2, /* one large page in the parent stands for it; page, if there is one, is kept for later */
    TABLE_ALWAYS = 4,    /* the original may change without notice */
    TABLE_DIRTY = 8,     /* on the root's list dirty (or always) */
    TABLE_WATCHED = 16,  /* watch_add was done for the original */
    TABLE_USED = 32,     /* describes a table */
};

struct ept_table {
    uint64_t table12;              /* the original's address in the guest hypervisor's memory; unless TABLE_SPLIT */
    uint64_t entry12;              /* the entry of ept12 that led here */
    uint64_t first12;              /* TABLE_COALESCED: the first entry; the others follow from it */
    uint64_t page;                 /* machine address of ept02's table, 0 = none */
    uint64_t seen;                 /* machine address of a copy of the original as last compared, 0 = none */
    uint16_t id, parent, index;    /* parent 0: a root's PML4 */
    uint16_t hash_next, hash_prev; /* with the same hash, those with the same original side by side; next free one */
    uint16_t older, newer;         /* in the list of that age */
    uint16_t dirty_prev, dirty_next;
    uint8_t repairs; /* violations in this table that ept12 had allowed already; at most REPAIRS_MAX */
    uint8_t level, root, flags, list, splits;
};
_Static_assert(sizeof(struct ept_table) <= 64, "a description is 64 bytes");

#define REPAIRS_MAX 254u
#define TABLES_PER_SLAB ((unsigned)(PAGE_SIZE / 64))
#define SLOT_COALESCED BIT(62)

/*
 * What one exit may do however much the guest hypervisor has changed, so that interrupts wait no longer than that. A unit is about what it
 * takes to find that one table has not changed. What is not done when it is spent is taken out, or left out: it is composed again when a
 * nested guest touches it, an exit each.
 */
#define WORK_MAX 4096u
#define WORK_COMPOSED 4u  /* a table composed as a whole */
#define WORK_ENTRIES 128u /* entries written, a unit */
#define WORK_PIECES 24u   /* pages of ept01 looked at, a unit */
#define WORK_STEPS 64u    /* tables with the same hash passed, a unit */

/* Why something is mapped. */
enum map_mode {
    MAP_VIOLATION, /* the nested guest needs it: evicts if it must; a new table is composed as a whole */
    MAP_PREFILL,   /* the nested guest will need it: evicts if it must, but ept12 has probably just this page */
    MAP_REBUILD,   /* the nested guest had it: only as long as memory is free */
};

static inline struct ept_table *table_at(const struct ept02 *ept, uint16_t id)
{
    return (struct ept_table *)((uint8_t *)ept->slabs[id / TABLES_PER_SLAB] + id % TABLES_PER_SLAB * 64);
}

static inline uint64_t *table_slots(const struct ept_table *t) { return hpa_ptr(hpa(t->page)); }

static inline uint64_t slot_tag(uint16_t id)
{
    return (id & 0x3ffull) << 52 | (id >> 10 & 3ull) << 8 | (id >> 12 & 1ull) << 11;
}

static inline uint16_t slot_id(uint64_t slot)
{
    return (uint16_t)((slot >> 52 & 0x3ff) | (slot >> 8 & 3) << 10 | (slot >> 11 & 1) << 12);
}

/* The table below an entry of a table of this level; NULL if it is free or a page of its own. */
static inline struct ept_table *slot_child(const struct ept02 *ept, uint64_t slot, int level)
{
    if (level == 1 || slot == 0 || (slot & (EPT_LARGE | SLOT_COALESCED)) == EPT_LARGE)
        return NULL;
    return table_at(ept, slot_id(slot));
}

static inline void slot_write(struct ept_table *t, unsigned index, uint64_t value)
{
    *(volatile uint64_t *)&table_slots(t)[index] = value;
}

static inline bool work_left(const struct ept02 *ept) { return ept->work < WORK_MAX; }

static inline void flush_mark(uint64_t *mask, const struct ept_table *t) { *mask |= BIT(t->root); }

/* Executes INVEPT for the roots in the mask. */
void ept02_flush(struct ept02 *ept, uint64_t roots);
/* Before returning to the caller: what must not wait for INVEPT. */
void ept02_flush_due(struct ept02 *ept);

/* A zeroed page, evicting if the mode says so; .v == 0: none. */
hpa_t table_page_alloc(struct ept02 *ept, enum map_mode mode);

/*
 * Describes a table of this level below parent (NULL: a root's PML4) at index. table12 is ignored with TABLE_SPLIT in
 * flags. It has no page yet and nothing leads to it. NULL: no memory.
 */
struct ept_table *table_new(struct ept02 *ept, struct ept_table *parent, unsigned index, uint64_t entry12,
                            uint8_t flags, struct ept02_root *root, enum map_mode mode);
/* Makes the parent's entry lead to t as t now is: a table, or one large page. */
void table_link(struct ept02 *ept, struct ept_table *t);
/* Frees the entry and all that is below it. What is cached of a page stays until the next look; a table's is noted. */
void slot_clear(struct ept02 *ept, struct ept_table *t, unsigned index);
/* Frees t with all that is below it; its parent's entry has been cleared. */
void table_drop(struct ept02 *ept, struct ept_table *t);
/* t is the youngest of its list. */
void table_touch(struct ept02 *ept, struct ept_table *t);

/* The original of t must be compared at the next look. */
void table_mark_dirty(struct ept02 *ept, struct ept_table *t);
void table_unmark_dirty(struct ept02 *ept, struct ept_table *t);
/* Marks all tables whose original is this page. */
void table_page_written(struct ept02 *ept, gpa1_t page);
/* always.c */
/* Nested guests may write the original through some CPU's ept02; if not, writable_generation() will tell when. */
#define ALWAYS_LIMIT_FIRST 4096u /* tables compared in vain that are worth looking at all of ept02 */
bool table_original_writable(struct ept02 *ept, const struct ept_table *t);
/* Nested guests may write more than before: looks which originals are among it. */
void always_review(struct ept02 *ept);
/*
 * If much was compared only because nested guests might have written it: looks whether they still may, a part of all tables at each call.
 * What becomes writable meanwhile is in both maps (writable_note).
 */
void always_tidy(struct ept02 *ept);
void writable_note_spare(struct ept02 *ept, hpa_t base, uint64_t size);
/* An entry that lets nested guests write is about to become visible. */
static inline void writable_note(struct ept02 *ept, hpa_t base, uint64_t size)
{
    writable_mark(&ept->shared->writable, ept->writable, base, size);
    if (ept->tidy_next)
        writable_note_spare(ept, base, size);
}

/* The original may change without notice from now on. */
void table_mark_always(struct ept02 *ept, struct ept_table *t);

/* Whether so much memory is free that it may be spent for speed. */
static inline bool memory_spare(const struct ept02 *ept) { return ept->pool->free_count * 8ull > ept->pool->total; }

/* evict.c: gives something up that is not on ept->path nor belongs to ept->busy_root's PML4. False: there is nothing. */
enum reclaim { RECLAIM_SPARE, RECLAIM_PAGE, RECLAIM_TABLE };
bool table_reclaim(struct ept02 *ept, enum reclaim what);
/* Takes everything out of a root's tables. */
void root_empty(struct ept02 *ept, const struct ept02_root *root);
/* The root of an EPTP, NULL if there is none. */
struct ept02_root *ept02_root_find(struct ept02 *ept, uint64_t eptp12);
/* Gives up a root with all its tables. */
void root_drop(struct ept02 *ept, struct ept02_root *root);

/* fill.c */
/* The ept02 entry for a leaf of a table of this level, 0 if nothing remains. Notes what becomes writable. */
uint64_t leaf_compose(struct ept02 *ept, uint64_t entry12, int level);
/* Whether one page of ept02 can stand for this leaf of ept12: the size is allowed and ept01 is uniform there. */
bool leaf_fits(struct ept02 *ept, uint64_t entry12, int level);
/* The entries of the original; NULL for TABLE_SPLIT. */
static inline const volatile uint64_t *table_entries12(const struct ept_table *t)
{
    return t->flags & TABLE_SPLIT ? NULL : ept12_entries(gpa1_ptr(gpa1(t->table12)));
}
/* Entry index of the table that t is composed from. entries12: from table_entries12; read once. */
static inline uint64_t table_entry12(const struct ept_table *t, const volatile uint64_t *entries12, unsigned index)
{
    if (entries12)
        return entries12[index];
    uint64_t piece = t->entry12 + index * ept_span(t->level);
    return t->level == 1 ? piece & ~EPT_LARGE : piece;
}
/* t has no page: composes it, or makes one large page of it if its entries agree, and links it. False: no memory. */
bool table_open(struct ept02 *ept, struct ept_table *t, enum map_mode mode);

/* sync.c */
/* The first entry from index (at most EPT_ENTRIES) on in which two tables differ; EPT_ENTRIES if there is none. */
unsigned entries_differ(const volatile uint64_t *a, const volatile uint64_t *b, unsigned index);
/*
 * Composes entries [from, to) of a page table. True if one got another meaning. Adds to ept->written how many entries
 * were written.
 */
bool table_sync(struct ept02 *ept, struct ept_table *t, unsigned from, unsigned to);
/*
 * The same for those entries of a page table that differ from their originals, entries12 (t is not TABLE_SPLIT). *last:
 * the last of them.
 */
bool table_compare(struct ept02 *ept, struct ept_table *t, const volatile uint64_t *entries12, unsigned *last);

/* coalesce.c */
/* One (or another) large page instead of the table if the entries of the original agree: true then. */
bool table_coalesce(struct ept02 *ept, struct ept_table *t);
/* The same, after entry index was filled: looks at a few entries first. */
bool table_coalesce_later(struct ept02 *ept, struct ept_table *t, unsigned index);
/* Gives a coalesced table its entries back. False: no memory. */
bool table_uncoalesce(struct ept02 *ept, struct ept_table *t, enum map_mode mode);
/* Whether all entries of the original of a coalesced table are still what they were. */
bool table_agrees_all(const struct ept_table *t);
/* Whether entry index of a coalesced table's original is still what it was when it was coalesced. */
bool table_agrees(const struct ept_table *t, unsigned index, uint64_t entry12);
/* Where the first entry of a coalesced table leads. */
hpa_t table_target(struct ept02 *ept, const struct ept_table *t);
/* The large page that stands for a coalesced table, without its tag. */
uint64_t table_large_page(struct ept02 *ept, const struct ept_table *t);

/* map.c */
/* Maps addr as the walk found it, or opens its page table if the walk ended there without a page. False: no memory. */
bool ept02_map(struct ept02 *ept, struct ept02_root *root, gpa2_t addr, const struct ept12_walk *walk,
               enum map_mode mode);
/* Removes the page at addr, if ept02 has one. */
void ept02_unmap(struct ept02 *ept, struct ept02_root *root, gpa2_t addr);
/* Whether entry12 leads to the table that t was composed from. */
bool table_same(const struct ept_table *t, uint64_t entry12, bool split);
/* entry12 still leads to t, but perhaps with another access. */
void table_relink(struct ept02 *ept, struct ept_table *t, uint64_t entry12);
/* The table below entry index of t for entry12, made if need be and then without a page. NULL: no memory. */
struct ept_table *table_child(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12, bool split,
                              enum map_mode mode);
/* Writes a page into entry index of t. */
void leaf_set(struct ept02 *ept, struct ept_table *t, unsigned index, uint64_t entry12);
/* Maps what history says was touched in the GiB of addr. */
void ept02_replay(struct ept02 *ept, struct ept02_root *root, gpa2_t addr);

#endif
