/*
 * Composing page tables by the run: what one entry has taught is used for those that follow as long as they are like it.
 * These loops are what a changed table costs; every instruction in them counts 512 times.
 */
#include "ept-cache/table.h"

#define STRIDE 4     /* entries composed between two looks at the bound */
#define RUN_FIRST 8  /* entries composed after two neighbours that differ; doubles as long as more differ */

/*
 * What a run of similar entries has in common: an entry with (entry & mask) == value becomes entry + delta, because
 * access, memory type, ept01's page and the writable region are those of an entry already judged.
 */
struct pattern { uint64_t mask, value, delta; };

/* What the next entries of the table are expected to be like. */
enum run {
    RUN_SAME,   /* as they should be already */
    RUN_NEW,    /* free */
    RUN_GROWTH, /* present with less access */
    RUN_ANY,    /* anything: it is known already that the processor will be told */
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
    bool shrinks;
    bool fill; /* also entries that are free */
};

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

/* What a loop over a run needs, in registers. */
struct loop { const volatile uint64_t *entries12; volatile uint64_t *slots; uint64_t mask, value, delta, growth; };

static inline __attribute__((always_inline)) bool run_step(const struct loop *l, unsigned i, enum run run)
{
    uint64_t entry12 = l->entries12[i], new = entry12 + l->delta;
    if ((entry12 & l->mask) != l->value)
        return false;
    if ((run == RUN_SAME && l->slots[i] != new) || (run == RUN_NEW && l->slots[i] != 0) ||
        (run == RUN_GROWTH && l->slots[i] != new - l->growth))
        return false;
    if (run != RUN_SAME)
        l->slots[i] = new;
    return true;
}

/* Composes entries as long as they follow the pattern and nothing new is to be decided. Returns the first that was not. */
static inline __attribute__((always_inline)) unsigned run_compose(struct sync *sync, unsigned from, unsigned to, enum run run)
{
    const struct pattern *p = &sync->pattern;
    const struct loop l = { sync->entries12, sync->slots, p->mask, p->value, p->delta, sync->growth };
    unsigned i = from, done = STRIDE;
    for (; done == STRIDE && i + STRIDE <= to; i += done) {
        done = !run_step(&l, i, run)       ? 0
               : !run_step(&l, i + 1, run) ? 1
               : !run_step(&l, i + 2, run) ? 2
               : !run_step(&l, i + 3, run) ? 3
                                           : STRIDE;
    }
    while (done == STRIDE && i < to && run_step(&l, i, run))
        i++;
    sync->written += run == RUN_SAME ? 0 : i - from;
    return i;
}

/* One entry that is not known to be like the one before. */
static void entry_compose(struct ept02 *ept, struct sync *sync, uint64_t entry12, volatile uint64_t *slot)
{
    uint64_t old = *slot, new = entry12 + sync->pattern.delta;
    if ((entry12 & sync->pattern.mask) != sync->pattern.value)
        new = pattern_learn(ept, &sync->pattern, entry12);
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

static void entries_compose(struct ept02 *ept, const struct ept_table *t, struct sync *sync, unsigned from, unsigned to)
{
    while (from < to) {
        entry_compose(ept, sync, table_entry12(t, sync->entries12, from), &sync->slots[from]);
        from++;
        if (!sync->entries12)
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

static bool sync_end(struct ept02 *ept, const struct ept_table *t, const struct sync *sync)
{
    if (sync->shrinks)
        flush_mark(&ept->flush_later, t);
    ept->written += sync->written;
    return sync->meaning & EPT_MEANING_MASK;
}

bool table_sync(struct ept02 *ept, struct ept_table *t, unsigned from, unsigned to)
{
    struct sync sync;
    sync_begin(ept, t, &sync);
    entries_compose(ept, t, &sync, from, to);
    return sync_end(ept, t, &sync);
}

/* The first entry from index on in which the tables differ; EPT_ENTRIES if there is none. */
static unsigned entries_differ(const struct sync *sync, unsigned index)
{
    const volatile uint64_t *a = sync->entries12 + index, *b = sync->slots + index;
    uint64_t count = EPT_ENTRIES - index;
    bool differ;
    if (count == 0) /* the instruction would leave the flags alone */
        return EPT_ENTRIES;
    __asm__ volatile("repe cmpsq" : "+S"(a), "+D"(b), "+c"(count), "=@ccne"(differ) : : "memory");
    return differ ? (unsigned)(EPT_ENTRIES - 1 - count) : EPT_ENTRIES;
}

bool table_compare(struct ept02 *ept, struct ept_table *t)
{
    struct sync sync;
    sync_begin(ept, t, &sync);
    unsigned index = entries_differ(&sync, 0), end = 0, run = 1;
    while (index < EPT_ENTRIES) {
        /* One entry, and many only when its neighbour differs as well. */
        run = index > end || end == 0 ? 1 : run == 1 ? RUN_FIRST : run * 2;
        end = index + run < EPT_ENTRIES ? index + run : EPT_ENTRIES;
        entries_compose(ept, t, &sync, index, end);
        index = entries_differ(&sync, end);
    }
    return sync_end(ept, t, &sync);
}
