/*
 * The history of touched regions: a set-associative table of 1-GiB blocks. CPUs write it without locks: a block that is
 * given to another key while somebody still marks it can end up with bits too many or too few, which history may have.
 * Pure.
 */
#include "ept-cache/history.h"

#include "core/memory/ept.h"

#define GIB_BITS 18 /* of the number of a GiB below 2^48 */
#define GIB_SHIFT 1 /* bit 0 of a key is 1, so that no key is 0 */

static uint64_t history_key(uint64_t eptp12, gpa2_t addr)
{
    uint64_t gib = addr.v / HISTORY_BLOCK & (BIT(GIB_BITS) - 1);
    return (eptp12 & EPT_ADDR_MASK) >> PAGE_SHIFT << (GIB_BITS + GIB_SHIFT) | gib << GIB_SHIFT | 1;
}

static unsigned history_set(uint64_t key)
{
    return (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 32) % HISTORY_SETS; /* 2^64 divided by the golden ratio */
}

static unsigned region_index(gpa2_t addr) { return (unsigned)(addr.v % HISTORY_BLOCK / HISTORY_REGION); }

static const struct history_block *block_find(const struct ept_history *history, uint64_t key)
{
    const struct history_block *set = history->sets[history_set(key)];
    for (unsigned way = 0; way < HISTORY_WAYS; way++)
        if (__atomic_load_n(&set[way].key, __ATOMIC_ACQUIRE) == key)
            return &set[way];
    return NULL;
}

/* A block for the key: a free one, or that of another. */
static struct history_block *block_claim(struct ept_history *history, uint64_t key)
{
    struct history_block *set = history->sets[history_set(key)];
    unsigned way = 0;
    while (way < HISTORY_WAYS && __atomic_load_n(&set[way].key, __ATOMIC_RELAXED))
        way++;
    if (way == HISTORY_WAYS)
        way = __atomic_fetch_add(&history->victim, 1, __ATOMIC_RELAXED) % HISTORY_WAYS;
    for (unsigned i = 0; i < HISTORY_WORDS; i++)
        __atomic_store_n(&set[way].touched[i], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&set[way].key, key, __ATOMIC_RELEASE);
    return &set[way];
}

bool history_touch(struct ept_history *history, uint64_t eptp12, gpa2_t addr)
{
    uint64_t key = history_key(eptp12, addr);
    struct history_block *block = (struct history_block *)block_find(history, key);
    unsigned index = region_index(addr);
    if (!block)
        block = block_claim(history, key);
    else if (__atomic_load_n(&block->touched[index / 64], __ATOMIC_RELAXED) & BIT(index % 64))
        return false;
    __atomic_fetch_or(&block->touched[index / 64], BIT(index % 64), __ATOMIC_RELAXED);
    return true;
}

void history_forget(struct ept_history *history, uint64_t eptp12, gpa2_t addr)
{
    struct history_block *block = (struct history_block *)block_find(history, history_key(eptp12, addr));
    unsigned index = region_index(addr);
    if (block)
        __atomic_fetch_and(&block->touched[index / 64], ~BIT(index % 64), __ATOMIC_RELAXED);
}

bool history_touched(const struct ept_history *history, uint64_t eptp12, gpa2_t addr)
{
    const struct history_block *block = block_find(history, history_key(eptp12, addr));
    unsigned index = region_index(addr);
    return block && (__atomic_load_n(&block->touched[index / 64], __ATOMIC_RELAXED) & BIT(index % 64));
}

bool history_block(const struct ept_history *history, uint64_t eptp12, gpa2_t addr, uint64_t touched[HISTORY_WORDS])
{
    const struct history_block *block = block_find(history, history_key(eptp12, addr));
    for (unsigned i = 0; block && i < HISTORY_WORDS; i++)
        touched[i] = __atomic_load_n(&block->touched[i], __ATOMIC_RELAXED);
    return block != NULL;
}
