/*
 * The maps of what nested guests may write. Pure. One CPU marks "writable" and then looks for tables; another marks
 * "tables" and then looks for writable: each with a full barrier between, so at least one of them sees the other.
 */
#include "ept-cache/writable.h"

bool writable_join(struct writable_shared *shared, struct region_map *map, uint32_t *index)
{
    *index = __atomic_fetch_add(&shared->cpus, 1, __ATOMIC_SEQ_CST);
    if (*index >= WRITABLE_CPUS)
        return false;
    __atomic_store_n(&shared->maps[*index], map, __ATOMIC_SEQ_CST);
    return true;
}

void writable_publish(struct writable_shared *shared, uint32_t index, struct region_map *map)
{
    __atomic_store_n(&shared->maps[index], map, __ATOMIC_SEQ_CST);
}

void region_map_add(struct region_map *map, hpa_t base, uint64_t size)
{
    for (uint64_t offset = 0; offset < size; offset += WRITABLE_REGION) {
        uint64_t region = (base.v + offset) / WRITABLE_REGION % WRITABLE_REGIONS;
        map->words[region / 64] |= BIT(region % 64);
    }
}

static void region_mark(struct region_map *map, uint64_t addr)
{
    uint64_t region = addr / WRITABLE_REGION % WRITABLE_REGIONS;
    __atomic_fetch_or(&map->words[region / 64], BIT(region % 64), __ATOMIC_SEQ_CST);
}

void writable_mark_new(struct writable_shared *shared, struct region_map *map, hpa_t base, uint64_t size)
{
    for (uint64_t offset = 0; offset < size; offset += WRITABLE_REGION) {
        if (region_marked(map, base.v + offset))
            continue;
        region_mark(map, base.v + offset);
        if (region_marked(&shared->tables, base.v + offset))
            __atomic_fetch_add(&shared->generation, 1, __ATOMIC_SEQ_CST);
    }
}

#define EXCHANGES_MAX 4 /* of a map while it is looked at, before the answer is the careful one */

/* Whether one CPU's map has the page. The map may be exchanged meanwhile, and its old one cleared. */
static bool map_has(struct writable_shared *shared, uint32_t index, hpa_t page)
{
    for (unsigned tries = 0; tries < EXCHANGES_MAX; tries++) {
        const struct region_map *map = __atomic_load_n(&shared->maps[index], __ATOMIC_SEQ_CST);
        bool marked = map && region_marked(map, page.v);
        if (__atomic_load_n(&shared->maps[index], __ATOMIC_SEQ_CST) == map)
            return marked;
    }
    return true;
}

bool writable_page(struct writable_shared *shared, hpa_t page)
{
    if (!region_marked(&shared->tables, page.v))
        region_mark(&shared->tables, page.v);
    uint32_t cpus = __atomic_load_n(&shared->cpus, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < WRITABLE_CPUS && i < cpus; i++)
        if (map_has(shared, i, page))
            return true;
    return false;
}
