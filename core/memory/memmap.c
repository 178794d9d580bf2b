/*
 * The memory map: sorting, clipping, placement, and the answers of INT 15h. Pure; nothing is read from the
 * machine here. Invariant of every function: entries sorted by base, none empty, none overlapping, and two
 * that touch differ in type.
 */
#include "core/memory/memmap.h"

#include "core/memory/mem.h"

#define EXTENDED_START (1 * MIB)
#define ISA_HOLE (16 * MIB) /* E801 splits its answer here: some boards had a hole below */
#define E801_HIGH_UNIT (64 * KIB)
#define H88_END (64 * MIB)
#define INT15_WORD_MAX 0xffffull

static uint64_t entry_end(const struct memmap_entry *e) { return e->base + e->length; }

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* v, or the bound of [low, high] that it passes. */
static uint64_t clamp(uint64_t v, uint64_t low, uint64_t high) { return min_u64(max_u64(v, low), high); }

void memmap_init(struct memmap *map) { map->count = 0; }

/* Appends behind the last entry, merging with it where it touches; type 0 means nothing. False when full. */
static bool append(struct memmap *map, uint64_t base, uint64_t end, uint32_t type)
{
    if (base >= end || type == 0)
        return true;
    if (map->count) {
        struct memmap_entry *last = &map->entry[map->count - 1];
        if (entry_end(last) == base && last->type == type) {
            last->length += end - base;
            return true;
        }
    }
    if (map->count == MEMMAP_ENTRIES)
        return false;
    map->entry[map->count++] = (struct memmap_entry){ base, end - base, type };
    return true;
}

static void copy(struct memmap *to, const struct memmap *from)
{
    to->count = from->count;
    memcpy(to->entry, from->entry, from->count * sizeof(from->entry[0]));
}

/* The type of a byte that was of type old (0 = nothing) and over which type laid is laid. */
typedef uint32_t (*overlap_rule)(uint32_t old, uint32_t laid);

static uint32_t rule_higher(uint32_t old, uint32_t laid) { return old > laid ? old : laid; }

static uint32_t rule_ram_only(uint32_t old, uint32_t laid) { return old == MEMMAP_RAM ? laid : old; }

/*
 * Lays [base, end) of `type` over the map. One pass over the old entries: of each, what lies before base stays,
 * what lies inside is decided by the rule, what lies behind end stays; `at` is how far the range has been laid.
 */
static bool overlay(struct memmap *map, uint64_t base, uint64_t end, uint32_t type, overlap_rule rule)
{
    static struct memmap result; /* too large for a stack; used at boot only */
    result.count = 0;
    uint64_t at = base;
    bool fits = true;
    for (uint32_t i = 0; i < map->count; i++) {
        const struct memmap_entry *e = &map->entry[i];
        uint64_t inner_start = clamp(base, e->base, entry_end(e)), inner_end = clamp(end, e->base, entry_end(e));
        fits = append(&result, e->base, inner_start, e->type) && fits;
        fits = append(&result, at, min_u64(e->base, end), rule(0, type)) && fits;
        fits = append(&result, inner_start, inner_end, rule(e->type, type)) && fits;
        fits = append(&result, inner_end, entry_end(e), e->type) && fits;
        at = max_u64(at, inner_end);
    }
    fits = append(&result, at, end, rule(0, type)) && fits;
    if (fits)
        copy(map, &result);
    return fits;
}

static uint64_t range_end(uint64_t base, uint64_t length)
{
    return length > UINT64_MAX - base ? UINT64_MAX : base + length;
}

bool memmap_add(struct memmap *map, uint64_t base, uint64_t length, uint32_t type)
{
    return overlay(map, base, range_end(base, length), type, rule_higher);
}

bool memmap_hide(struct memmap *map, uint64_t start, uint64_t size)
{
    return overlay(map, start, range_end(start, size), MEMMAP_RESERVED, rule_ram_only);
}

/* The entry that holds addr, or NULL: binary search. */
static const struct memmap_entry *entry_at(const struct memmap *map, uint64_t addr)
{
    uint32_t low = 0, high = map->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct memmap_entry *e = &map->entry[middle];
        if (addr < e->base)
            high = middle;
        else if (addr >= entry_end(e))
            low = middle + 1;
        else
            return e;
    }
    return NULL;
}

bool memmap_is_ram(const struct memmap *map, uint64_t addr)
{
    const struct memmap_entry *e = entry_at(map, addr);
    return e && e->type == MEMMAP_RAM;
}

uint64_t memmap_ram_end(const struct memmap *map)
{
    for (uint32_t i = map->count; i > 0; i--)
        if (map->entry[i - 1].type == MEMMAP_RAM)
            return entry_end(&map->entry[i - 1]);
    return 0;
}

/* Highest place in [low, high) that touches no range of avoid; 0 = none. Each retry passes one of the ranges. */
static uint64_t place_between(uint64_t low, uint64_t high, uint64_t size, uint64_t align,
                              const struct memmap_range *avoid, unsigned avoid_count)
{
    for (;;) {
        if (high <= low || high - low < size)
            return 0;
        uint64_t start = align_down(high - size, align);
        if (start < low)
            return 0;
        unsigned i = 0;
        while (i < avoid_count && (avoid[i].start >= start + size || avoid[i].end <= start))
            i++;
        if (i == avoid_count)
            return start;
        high = avoid[i].start;
    }
}

static uint64_t place_above(const struct memmap *map, uint64_t lowest, uint64_t size, uint64_t align, uint64_t below,
                            const struct memmap_range *avoid, unsigned avoid_count)
{
    for (uint32_t i = map->count; i > 0; i--) {
        const struct memmap_entry *e = &map->entry[i - 1];
        if (e->type != MEMMAP_RAM)
            continue;
        uint64_t low = max_u64(e->base, lowest), high = min_u64(entry_end(e), below);
        uint64_t start = place_between(low, high, size, align, avoid, avoid_count);
        if (start)
            return start;
    }
    return 0;
}

uint64_t memmap_place(const struct memmap *map, uint64_t size, uint64_t align, uint64_t below,
                      const struct memmap_range *avoid, unsigned avoid_count)
{
    return place_above(map, EXTENDED_START, size, align, below, avoid, avoid_count);
}

uint64_t memmap_place_low(const struct memmap *map, uint64_t size, const struct memmap_range *avoid,
                          unsigned avoid_count)
{
    return place_above(map, PAGE_SIZE, size, PAGE_SIZE, LOW_MEMORY_END, avoid, avoid_count);
}

unsigned memmap_e820(const struct memmap *map, uint64_t low_end, struct e820_entry *out, unsigned max)
{
    static struct memmap clipped;
    copy(&clipped, map);
    if (low_end < LOW_MEMORY_END && !memmap_hide(&clipped, low_end, LOW_MEMORY_END - low_end))
        return 0;
    if (clipped.count > max)
        return 0;
    for (uint32_t i = 0; i < clipped.count; i++) {
        const struct memmap_entry *e = &clipped.entry[i];
        out[i] = (struct e820_entry){ e->base, e->length, e->type, E820_ATTRIBUTE_VALID };
    }
    return clipped.count;
}

uint64_t memmap_ram_run(const struct memmap *map, uint64_t start, uint64_t limit)
{
    const struct memmap_entry *e = entry_at(map, start);
    if (!e || e->type != MEMMAP_RAM)
        return start;
    return min_u64(entry_end(e), limit);
}

struct int15_memory memmap_int15(const struct memmap *map)
{
    uint64_t low_end = memmap_ram_run(map, EXTENDED_START, ISA_HOLE);
    uint64_t high_end = memmap_ram_run(map, ISA_HOLE, 4 * GIB);
    uint64_t h88_end = memmap_ram_run(map, EXTENDED_START, H88_END);
    return (struct int15_memory){
        .e801_low = (uint16_t)((low_end - EXTENDED_START) / KIB),
        .e801_high = (uint16_t)min_u64((high_end - ISA_HOLE) / E801_HIGH_UNIT, INT15_WORD_MAX),
        .h88 = (uint16_t)((h88_end - EXTENDED_START) / KIB),
    };
}
