/*
 * What the rest of Strata calls: roots, violations, prefill. INVEPT is in revalidate.c.
 */
#include "ept-cache/ept02.h"

#include "ept-cache/table.h"

void ept02_init(struct ept02 *ept, const struct ept02_config *config, struct page_pool *pool, struct ept_shared *shared)
{
    if (pool->free_count < EPT02_PAGES_MIN)
        panic("ept02: a pool of %u pages", pool->free_count);
    if (config->offered_ept_caps & EPT_CAP_AD)
        panic("ept02: accessed and dirty flags of ept12 are offered");
    memset(ept, 0, sizeof(*ept));
    ept->config = *config;
    ept->pool = pool;
    ept->shared = shared;
    ept->next_serial = 1;
    ept->looks = 1;
    ept->always_limit = ALWAYS_LIMIT_FIRST;
    ept->busy_root = EPT02_ROOTS;
    ept->view.root = config->ept01_root;
    ept->view.hw_exec_only = config->hw_ept_caps & EPT_CAP_EXEC_ONLY;
    ept_rules_init(&ept->view.rules, config->offered_ept_caps, config->maxphyaddr);
    for (unsigned i = 0; i < EPT02_ROOTS; i++)
        ept->roots[i].index = (uint16_t)i;
    ept->writable = &ept->maps[0];
    if (!writable_join(&shared->writable, ept->writable, &ept->writable_index))
        panic("ept02: too many CPUs");
}

struct ept02_root *ept02_root_find(struct ept02 *ept, uint64_t eptp12)
{
    struct ept02_root *recent = &ept->roots[ept->recent_root];
    if (recent->used && ((recent->eptp12 ^ eptp12) & EPT_ADDR_MASK) == 0)
        return recent;
    for (unsigned i = 0; i < EPT02_ROOTS; i++)
        if (ept->roots[i].used && ((ept->roots[i].eptp12 ^ eptp12) & EPT_ADDR_MASK) == 0) {
            ept->recent_root = (uint16_t)i;
            return &ept->roots[i];
        }
    return NULL;
}

/* A root that is free, if need be the one used least recently. */
static struct ept02_root *root_free(struct ept02 *ept)
{
    struct ept02_root *oldest = &ept->roots[0];
    for (unsigned i = 0; i < EPT02_ROOTS; i++)
        if (ept->roots[i].used < oldest->used)
            oldest = &ept->roots[i];
    if (oldest->used)
        root_drop(ept, oldest);
    return oldest;
}

struct ept02_root *ept02_root_get(struct ept02 *ept, uint64_t eptp12)
{
    struct ept02_root *root = ept02_root_find(ept, eptp12);
    if (!root) {
        ept->path = (struct table_path){ 0 };
        root = root_free(ept);
        ept->busy_root = root->index;
        struct ept_table *table = table_new(ept, NULL, 0, eptp12, 0, root, MAP_VIOLATION);
        if (table)
            table->page = table_page_alloc(ept, MAP_VIOLATION).v;
        if (!table || !table->page)
            panic("ept02: nothing left to evict");
        root->table = table->id;
        root->eptp12 = eptp12;
        root->eptp02 = table->page | MEMTYPE_WB | EPTP_WALK_4;
        root->looked = ept->looks; /* nothing is cached for a new table */
        root->serial = ept->next_serial++;
        ept->next_serial += ept->next_serial == 0;
        ept02_flush_due(ept);
    }
    root->used = ++ept->clock;
    return root;
}

static void work_begin(struct ept02 *ept, const struct ept02_root *root)
{
    ept->busy_root = root->index;
    ept->path = (struct table_path){ 0 };
    ept->work = 0;
}

static void walk_root(struct ept02 *ept, const struct ept02_root *root, gpa2_t addr, struct ept12_walk *walk)
{
    ept12_walk(&ept->view.rules, gpa1(root->eptp12 & EPT_ADDR_MASK), addr, walk);
}

/* What ept01 allows of a page that ept12 maps. */
static uint32_t access_remaining(struct ept02 *ept, const struct ept12_walk *walk)
{
    const struct ept01_window *window = ept01_window(&ept->view, walk->target.v);
    return window ? window->low[walk->entry[walk->level] & EPT_LOW_MASK] & EPT_RWX & walk->perm : 0;
}

/* Maps addr, and what else history knows if the GiB around it is new here. */
static void map_touched(struct ept02 *ept, struct ept02_root *root, gpa2_t addr, const struct ept12_walk *walk,
                        enum map_mode mode)
{
    ept->opened = false;
    if (!ept02_map(ept, root, addr, walk, mode))
        panic("ept02: nothing left to evict");
    if (!ept->config.history)
        return;
    history_touch(&ept->shared->history, root->eptp12, addr);
    if (ept->opened)
        ept02_replay(ept, root, addr);
}

static enum ept02_outcome violation_outcome(struct ept02 *ept, const struct ept12_walk *walk, uint32_t access,
                                            uint32_t *remaining)
{
    if (walk->result == EPT12_MISCONFIG)
        return EPT02_MISCONFIG12;
    if (walk->result == EPT12_ABSENT || (access & ~walk->perm))
        return EPT02_VIOLATION12;
    *remaining = access_remaining(ept, walk);
    return *remaining == 0 || (access & ~*remaining) ? EPT02_FAULT01 : EPT02_REPAIRED;
}

enum ept02_outcome ept02_violation(struct ept02 *ept, struct ept02_root *root, gpa2_t addr, uint64_t qualification,
                                   struct ept02_report *report)
{
    struct ept12_walk walk;
    uint32_t remaining = 0;
    work_begin(ept, root);
    walk_root(ept, root, addr, &walk);
    enum ept02_outcome outcome = violation_outcome(ept, &walk, qualification & EPT_QUAL_ACCESS, &remaining);
    if (remaining) {
        map_touched(ept, root, addr, &walk, MAP_VIOLATION);
        ept->counters.fills++;
    } else {
        /* The guest hypervisor may change this page without INVEPT now. */
        ept02_unmap(ept, root, addr);
    }
    report->gpa1 = walk.target;
    report->qualification = ept_qualification12(qualification, outcome == EPT02_VIOLATION12 ? walk.perm : remaining);
    ept->counters.outcome[outcome]++;
    ept02_flush_due(ept);
    return outcome;
}

enum ept02_outcome ept02_misconfig(struct ept02 *ept, struct ept02_root *root, gpa2_t addr)
{
    struct ept12_walk walk;
    work_begin(ept, root);
    walk_root(ept, root, addr, &walk);
    ept02_unmap(ept, root, addr);
    ept02_flush_due(ept);
    enum ept02_outcome outcome = walk.result == EPT12_MISCONFIG ? EPT02_MISCONFIG12 : EPT02_REPAIRED;
    ept->counters.outcome[outcome]++;
    return outcome;
}

void ept02_prefill(struct ept02 *ept, struct ept02_root *root, gpa2_t addr)
{
    struct ept12_walk walk;
    if (!ept->config.prefill)
        return;
    work_begin(ept, root);
    walk_root(ept, root, addr, &walk);
    if (walk.result == EPT12_LEAF && access_remaining(ept, &walk)) {
        map_touched(ept, root, addr, &walk, MAP_PREFILL);
        ept->counters.prefilled++;
    }
    ept02_flush_due(ept);
}

void root_empty(struct ept02 *ept, const struct ept02_root *root)
{
    for (unsigned slot = 0; slot < EPT_ENTRIES; slot++)
        slot_clear(ept, table_at(ept, root->table), slot);
}

void ept02_ept01_grew(struct ept02 *ept) { ept01_view_reset(&ept->view); }

void ept02_ept01_changed(struct ept02 *ept)
{
    ept01_view_reset(&ept->view);
    for (unsigned i = 0; i < EPT02_ROOTS; i++) {
        if (!ept->roots[i].used)
            continue;
        root_empty(ept, &ept->roots[i]);
        ept02_flush(ept, BIT(i));
    }
}

uint32_t ept02_pages(const struct ept02 *ept)
{
    uint32_t pages = ept->slab_count;
    for (unsigned slab = 0; slab < ept->slab_count; slab++) {
        const struct ept_table *tables = __atomic_load_n(&ept->slabs[slab], __ATOMIC_RELAXED);
        for (unsigned i = 0; tables && i < TABLES_PER_SLAB; i++)
            if (tables[i].flags & TABLE_USED)
                pages += (tables[i].page ? 1u : 0u) + (tables[i].seen ? 1u : 0u);
    }
    return pages;
}
