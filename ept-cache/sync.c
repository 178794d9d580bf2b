/*
 * Composing page tables by the run: what one entry has taught is used for those that follow as long as they are like it.
 * These loops are what a changed table costs; every instruction in them counts 512 times.
 *
 * leaf_compose alone judges what an entry of ept12 may become. A loop may write an entry only where that judgement, made for an
 * entry shortly before, must come out the same: every bit that it depends on is in the pattern's mask (access, type, size, and the
 * address down to the smallest of ept01's page and the writable region). A pattern lives for one table in one exit, during which
 * ept01 is not looked up differently. Entries are read once each: the guest hypervisor may write them meanwhile, and what was
 * judged must be what is used.
 */
#include "ept-cache/table.h"

#define STRIDE 4   /* entries composed at once; run_stride is written for it */
#define RUN_GROW 8 /* so many times more entries are composed at once as long as neighbours differ */

/*
 * What a run of similar entries has in common: an entry with (entry & mask) == value becomes entry + delta, because
 * access, memory type, ept01's page and the writable region are those of an entry already judged.
 */
struct pattern {
    uint64_t mask, value, delta;
};

/* What the next entries of the table are expected to be like. */
enum run {
    RUN_SAME,   /* as they should be already */
    RUN_NEW,    /* free */
    RUN_GROWTH, /* present with less access */
    RUN_ANY,    /* anything: that something was lost is known already */
};

/* What is known about the page table at hand. */
struct sync {
    const volatile uint64_t *entries12; /* NULL: pieces of a large page */
    volatile uint64_t *slots;
    struct pattern pattern;
    enum run run;
    uint64_t growth;  /* RUN_GROWTH: new entry minus old one */
    uint64_t meaning; /* bits that changed */
    unsigned written; /* entries */
    bool shrinks;     /* some entry lost access or moved: more of that is no news */
    bool fill;        /* also entries that are free */
};

/* Judges one entry, and says which others the judgement holds for. Addition carries the address over: within reach they are neighbours. */
static uint64_t pattern_learn(struct ept02 *ept, struct pattern *pattern, uint64_t entry12)
{
    uint64_t entry = leaf_compose(ept, entry12, 1);
    const struct ept01_window *window = ept01_window(&ept->view, entry12 & EPT_ADDR_MASK);
    uint64_t reach = window && window->size < WRITABLE_REGION ? window->size : WRITABLE_REGION;
    /* An entry that gives nothing: only the very same one gives nothing again. */
    pattern->mask = entry ? EPT_LOW_MASK | SLOT_COALESCED | (EPT_ADDR_MASK & ~(reach - 1)) : ~0ull;
    pattern->value = entry12 & pattern->mask;
    pattern->delta = entry - entry12;
    return entry;
}

/* What a loop over a run needs, in registers. */
struct loop {
    const volatile uint64_t *entry12;
    volatile uint64_t *slot;
    uint64_t mask, value, delta, growth;
};

/*
 * One entry, if it follows the pattern and the old one is what `run` says. The old one is looked at because a change that takes
 * access away must not pass unnoticed: a run that expects free entries, or entries that grow, stops at any other.
 */
static inline __attribute__((always_inline)) bool run_step(const struct loop *l, enum run run)
{
    uint64_t entry12 = *l->entry12, new = entry12 + l->delta;
    if ((entry12 & l->mask) != l->value)
        return false;
    if ((run == RUN_SAME && *l->slot != new) || (run == RUN_NEW && *l->slot != 0) ||
        (run == RUN_GROWTH && *l->slot != new - l->growth))
        return false;
    if (run != RUN_SAME)
        *l->slot = new;
    return true;
}

/* STRIDE entries at once: all of them or none. */
static inline __attribute__((always_inline)) bool run_stride(const struct loop *l, enum run run)
{
    uint64_t a = l->entry12[0], b = l->entry12[1], c = l->entry12[2], d = l->entry12[3];
    uint64_t odd = ((a ^ l->value) | (b ^ l->value) | (c ^ l->value) | (d ^ l->value)) & l->mask;
    uint64_t old = run == RUN_GROWTH ? l->delta - l->growth : l->delta;
    if (run == RUN_NEW)
        odd |= l->slot[0] | l->slot[1] | l->slot[2] | l->slot[3];
    else if (run != RUN_ANY)
        odd |= ((a + old) ^ l->slot[0]) | ((b + old) ^ l->slot[1]) | ((c + old) ^ l->slot[2]) |
               ((d + old) ^ l->slot[3]);
    if (odd)
        return false;
    if (run != RUN_SAME) {
        l->slot[0] = a + l->delta;
        l->slot[1] = b + l->delta;
        l->slot[2] = c + l->delta;
        l->slot[3] = d + l->delta;
    }
    return true;
}

/* Composes entries as long as they follow the pattern and nothing new is to be decided. Returns the first that was not. */
static inline __attribute__((always_inline)) unsigned run_compose(struct sync *sync, unsigned from, unsigned to,
                                                                  enum run run)
{
    const struct pattern *p = &sync->pattern;
    struct loop l = { sync->entries12 + from, sync->slots + from, p->mask, p->value, p->delta, sync->growth };
    const volatile uint64_t *last = sync->entries12 + to;
    const volatile uint64_t *last_stride = to - from < STRIDE ? l.entry12 : last - (STRIDE - 1);
    for (; l.entry12 < last_stride && run_stride(&l, run); l.entry12 += STRIDE)
        l.slot += STRIDE;
    for (; l.entry12 < last && run_step(&l, run); l.entry12++)
        l.slot++;
    unsigned end = (unsigned)(l.entry12 - sync->entries12);
    sync->written += run == RUN_SAME ? 0 : end - from;
    return end;
}

/* One entry that is not known to be like the one before. */
static void entry_compose(struct ept02 *ept, struct sync *sync, uint64_t entry12, volatile uint64_t *slot)
{
    uint64_t old = *slot, new = entry12 + sync->pattern.delta;
    if ((entry12 & sync->pattern.mask) != sync->pattern.value)
        new = pattern_learn(ept, &sync->pattern, entry12);
    /* Until something is lost each kind of change is looked at by itself; afterwards they are all alike. */
    sync->run = sync->shrinks && sync->fill ? RUN_ANY : RUN_SAME;
    if (old == new || (old == 0 && !sync->fill))
        return;
    *slot = new;
    sync->written++;
    sync->meaning |= old ^ new;
    sync->shrinks |= ept_shrinks(old, new);
    sync->growth = ((old ^ new) & ~EPT_RWX) == 0 ? new - old : 0;
    if (sync->shrinks && sync->fill)
        sync->run = RUN_ANY;
    else if (old == 0)
        sync->run = RUN_NEW;
    else if (sync->growth && !sync->shrinks)
        sync->run = RUN_GROWTH;
}

/* Alternates: one entry by judgement, then as many as follow from it. Pieces of a large page (no entries12) are all judged. */
static void entries_compose(struct ept02 *ept, const struct ept_table *t, struct sync *sync, unsigned from, unsigned to)
{
    while (from < to) {
        entry_compose(ept, sync, table_entry12(t, sync->entries12, from), &sync->slots[from]);
        from++;
        if (from == to || !sync->entries12)
            continue;
        if (sync->run == RUN_ANY)
            from = run_compose(sync, from, to, RUN_ANY);
        else if (sync->run == RUN_NEW)
            from = run_compose(sync, from, to, RUN_NEW);
        else if (sync->run == RUN_GROWTH)
            from = run_compose(sync, from, to, RUN_GROWTH);
        else
            from = run_compose(sync, from, to, RUN_SAME);
    }
}

static void sync_begin(const struct ept02 *ept, const struct ept_table *t, struct sync *sync)
{
    sync->entries12 = table_entries12(t);
    sync->slots = table_slots(t);
    sync->pattern.mask = 0; /* fits no entry */
    sync->pattern.value = 1;
    sync->pattern.delta = 0;
    sync->growth = sync->meaning = 0;
    sync->written = 0;
    sync->shrinks = false;
    sync->fill = ept->config.coalesce || ept->config.history;
}

static bool sync_end(struct ept02 *ept, const struct sync *sync)
{
    ept->written += sync->written;
    return sync->meaning & EPT_MEANING_MASK;
}

bool table_sync(struct ept02 *ept, struct ept_table *t, unsigned from, unsigned to)
{
    struct sync sync;
    sync_begin(ept, t, &sync);
    entries_compose(ept, t, &sync, from, to);
    return sync_end(ept, &sync);
}

/*
 * Where ept01 is the identity a table of ept02 equals its original, so that comparing memory finds what has changed. Elsewhere each entry
 * differs and is composed again, which is slower and as right.
 */
unsigned entries_differ(const volatile uint64_t *a, const volatile uint64_t *b, unsigned index)
{
    uint64_t count = EPT_ENTRIES - index;
    bool differ;
    if (count == 0) /* the instruction would leave the flags alone */
        return EPT_ENTRIES;
    a += index;
    b += index;
    __asm__ volatile("repe cmpsq" : "+S"(a), "+D"(b), "+c"(count), "=@ccne"(differ) : : "memory");
    return differ ? (unsigned)(EPT_ENTRIES - 1 - count) : EPT_ENTRIES;
}

/* The entry at index differs, no other does: the usual case, by itself. */
static bool entry_sync(struct ept02 *ept, uint64_t entry12, volatile uint64_t *slot)
{
    uint64_t old = *slot, new = leaf_compose(ept, entry12, 1);
    if (old == new || (old == 0 && !ept->config.coalesce && !ept->config.history))
        return false;
    *slot = new;
    ept->written++;
    return (old ^ new) & EPT_MEANING_MASK;
}

/* Entries from index on, which differs. */
static bool entries_sync(struct ept02 *ept, const struct ept_table *t, unsigned index, unsigned *last)
{
    struct sync sync;
    unsigned end = 0, run = 1;
    sync_begin(ept, t, &sync);
    while (index < EPT_ENTRIES) {
        /* More and more at once as long as neighbours differ. */
        run = index > end ? 1 : run * RUN_GROW;
        end = index + run < EPT_ENTRIES ? index + run : EPT_ENTRIES;
        entries_compose(ept, t, &sync, index, end);
        *last = end - 1;
        index = entries_differ(sync.entries12, sync.slots, end);
    }
    return sync_end(ept, &sync);
}

/* From the cheapest on: nothing differs, one entry does, many do. */
bool table_compare(struct ept02 *ept, struct ept_table *t, const volatile uint64_t *entries12, unsigned *last)
{
    volatile uint64_t *slots = table_slots(t);
    unsigned first = entries_differ(entries12, slots, 0);
    if (first == EPT_ENTRIES)
        return false;
    *last = first;
    if (entries_differ(entries12, slots, first + 1) < EPT_ENTRIES)
        return entries_sync(ept, t, first, last);
    return entry_sync(ept, entries12[first], &slots[first]);
}
