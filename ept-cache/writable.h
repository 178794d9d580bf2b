/*
 * Which machine memory nested guests may write through ept02, in 2-MiB regions, and where ept12 tables are that somebody
 * relies on not having changed. Writes through ept02 leave no trace in ept01's dirty flags: a page in a region that
 * appears in both sets counts as changed at any time. Each CPU marks its own map; all CPUs read all maps. Pure.
 */
#ifndef STRATA_EPT_WRITABLE_H
#define STRATA_EPT_WRITABLE_H

#include "core/lib/types.h"

#define WRITABLE_CPUS 64
#define WRITABLE_REGION PAGE_2M
#define WRITABLE_REGIONS 65536 /* 128 GiB; what lies above shares bits with what lies below */
#define WRITABLE_WORDS (WRITABLE_REGIONS / 64)

/* One bit a region. All-zero is empty. */
struct region_map {
    uint64_t words[WRITABLE_WORDS];
};

/* Shared by all CPUs. All-zero is empty. */
struct writable_shared {
    struct region_map *maps[WRITABLE_CPUS]; /* what each CPU's ept02 lets nested guests write; NULL = no such CPU */
    uint32_t cpus;
    uint32_t generation;      /* changes when a region with tables becomes writable */
    struct region_map tables; /* where watched pages are */
};

/* Adds a CPU. map is zeroed and stays. *index is for writable_publish. False: there are WRITABLE_CPUS already. */
bool writable_join(struct writable_shared *shared, struct region_map *map, uint32_t *index);

/*
 * Another map takes the place of this CPU's, with fewer regions: nothing outside them can be written any more, neither by
 * ept02 nor by what the processor has cached. The old one may be used for the next exchange, not before.
 */
void writable_publish(struct writable_shared *shared, uint32_t index, struct region_map *map);

/* Marks regions in a map that is not published. size as in writable_mark. */
void region_map_add(struct region_map *map, hpa_t base, uint64_t size);

/* Slow part of writable_mark. */
void writable_mark_new(struct writable_shared *shared, struct region_map *map, hpa_t base, uint64_t size);

static inline bool region_marked(const struct region_map *map, uint64_t addr)
{
    uint64_t region = addr / WRITABLE_REGION % WRITABLE_REGIONS;
    return __atomic_load_n(&map->words[region / 64], __ATOMIC_RELAXED) & BIT(region % 64);
}

/*
 * Before an entry of ept02 that allows writing [base, base+size) becomes visible on this CPU. size is 4 KiB, 2 MiB or
 * 1 GiB and base a multiple of it.
 */
static inline void writable_mark(struct writable_shared *shared, struct region_map *map, hpa_t base, uint64_t size)
{
    if (size > WRITABLE_REGION || !region_marked(map, base.v))
        writable_mark_new(shared, map, base, size);
}

/*
 * A page is about to be relied upon as long as nobody reports a write: true when nested guests may write it unreported.
 * If not, the generation will change before they can.
 */
bool writable_page(struct writable_shared *shared, hpa_t page);

/* Changes when what writable_page said may have become outdated. */
static inline uint32_t writable_generation(const struct writable_shared *shared)
{
    return __atomic_load_n(&shared->generation, __ATOMIC_ACQUIRE);
}

#endif
