/*
 * The machine that tests of ept-cache run on; see ept_world.h.
 */
#include "tests/host/ept-cache/ept_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory/mem.h"
#include "ept-cache/table.h"
#include "tests/host/ept-cache/ept_oracle.h"
#include "tests/host/cpu/fake_watch.h"
#include "tests/host/support/support.h"

#define TABLES_AT (64 * KIB)
#define POOLS_AT MIB
#define WIDTH 40
#define ALLOWED_MAX 12
#define TLB_SIZE 128
#define WALKS_MAX 64

struct allowed {
    unsigned count;
    uint64_t values[ALLOWED_MAX];
};
struct tlb {
    uint64_t root, page, value;
};
struct walk_cache {
    uint64_t root, region, table, access;
};

static struct world_config config;
static struct test_random generator;
static uint64_t (*choices)(uint64_t limit);
static uint64_t ept01_root;
static struct ept_shared shared;
static struct {
    struct ept02 ept;
    struct page_pool pool;
    uint32_t pool_total;
    struct ept02_root *roots[WORLD_EPTPS];
    uint32_t serials[WORLD_EPTPS];
    struct allowed allowed[WORLD_EPTPS][WORLD_PAGES];
    bool invept[WORLD_EPTPS]; /* the guest hypervisor has executed it since the last entry */
    bool told[WORLD_EPTPS];   /* and the processor has, too */
    struct tlb tlb[TLB_SIZE];
    struct walk_cache walks[WALKS_MAX];
} cpus[WORLD_CPUS];
static uint64_t pages[WORLD_PAGES];
static uint64_t latest[WORLD_EPTPS][WORLD_PAGES];
static unsigned running, invepts, tables_used, page_count, checks;

uint64_t world_choose(uint64_t limit) { return choices(limit); }
static uint64_t generator_choose(uint64_t limit) { return test_random_below(&generator, limit); }
void world_choices(uint64_t (*choose)(uint64_t limit)) { choices = choose; }
static bool one_in(uint64_t n) { return world_choose(n) == 0; }

uint64_t world_table(unsigned index) { return TABLES_AT + index * PAGE_SIZE; }
uint64_t world_eptp(unsigned eptp) { return world_table(eptp) | MEMTYPE_WB | EPTP_WALK_4; }
unsigned world_page_count(void) { return page_count; }
uint64_t world_page(unsigned index) { return pages[index]; }
struct ept02 *world_ept02(unsigned cpu) { return &cpus[cpu].ept; }
bool world_tables_reachable(void) { return !config.out_of_reach; }
bool world_one_root(void) { return config.one_root; }
unsigned world_invepts(void) { return invepts; }

/* ---- The processor ---- */

static bool root_valid(unsigned cpu, unsigned eptp)
{
    const struct ept02_root *root = cpus[cpu].roots[eptp];
    return root && root->serial == cpus[cpu].serials[eptp];
}

struct ept02_root *world_root(unsigned cpu, unsigned eptp)
{
    running = cpu;
    if (!root_valid(cpu, eptp)) {
        cpus[cpu].roots[eptp] = ept02_root_get(&cpus[cpu].ept, world_eptp(eptp));
        cpus[cpu].serials[eptp] = cpus[cpu].roots[eptp]->serial;
    }
    return cpus[cpu].roots[eptp];
}

uint64_t world_mapped(unsigned cpu, unsigned eptp, uint64_t addr, uint64_t *size)
{
    struct walk_end end;
    if (!root_valid(cpu, eptp))
        return 0;
    uint64_t value = hardware_walk(cpus[cpu].roots[eptp]->eptp02 & EPT_ADDR_MASK, 4, 7, addr, &end);
    if (size)
        *size = end.size;
    return value;
}

void world_hw_invept(enum invept_type type, uint64_t eptp)
{
    invepts++;
    if (type == INVEPT_SINGLE && !config.hw_single)
        world_fail("INVEPT of a type that the processor does not have");
    for (unsigned i = 0; i < TLB_SIZE; i++)
        if (type == INVEPT_GLOBAL || cpus[running].tlb[i].root == (eptp & EPT_ADDR_MASK))
            cpus[running].tlb[i].root = 0;
    for (unsigned i = 0; i < WALKS_MAX; i++)
        if (type == INVEPT_GLOBAL || cpus[running].walks[i].root == (eptp & EPT_ADDR_MASK))
            cpus[running].walks[i].root = 0;
    for (unsigned i = 0; i < WORLD_EPTPS; i++)
        if (root_valid(running, i) && (type == INVEPT_GLOBAL || cpus[running].roots[i]->eptp02 == eptp))
            cpus[running].told[i] = true;
}

static struct tlb *tlb_find(unsigned cpu, uint64_t root, uint64_t page)
{
    for (unsigned i = 0; i < TLB_SIZE; i++)
        if (cpus[cpu].tlb[i].root == root && cpus[cpu].tlb[i].page == page)
            return &cpus[cpu].tlb[i];
    return NULL;
}

static struct walk_cache *walk_find(unsigned cpu, uint64_t root, uint64_t region)
{
    for (unsigned i = 0; i < WALKS_MAX; i++)
        if (cpus[cpu].walks[i].root == root && cpus[cpu].walks[i].region == region)
            return &cpus[cpu].walks[i];
    return NULL;
}

/* The translation that the processor uses for addr: cached, or walked from what is cached, or walked. */
static uint64_t processor_translate(unsigned cpu, uint64_t root, uint64_t addr, uint64_t access)
{
    uint64_t page = addr & PAGE_MASK, region = addr / PAGE_2M, value;
    struct walk_end end;
    struct tlb *tlb = tlb_find(cpu, root, page);
    struct walk_cache *walk = walk_find(cpu, root, region);
    if (tlb && (access & ~tlb->value) == 0 && !one_in(8))
        return tlb->value;
    if (walk && !one_in(3))
        value = hardware_walk(walk->table, 1, walk->access, addr, &end);
    else
        value = hardware_walk(root, 4, 7, addr, &end);
    if (value == 0 || (access & ~value))
        return 0;
    if (!tlb)
        tlb = &cpus[cpu].tlb[world_choose(TLB_SIZE)];
    *tlb = (struct tlb){ root, page, value };
    if (end.size == PAGE_SIZE && !walk)
        cpus[cpu].walks[world_choose(WALKS_MAX)] = (struct walk_cache){ root, region, end.table, end.access };
    return value;
}

/* What the processor itself forgets at an EPT violation. */
static void processor_violation(unsigned cpu, uint64_t root, uint64_t addr)
{
    struct tlb *tlb = tlb_find(cpu, root, addr & PAGE_MASK);
    struct walk_cache *walk = walk_find(cpu, root, addr / PAGE_2M);
    if (tlb)
        tlb->root = 0;
    if (walk)
        walk->root = 0;
}

/* ---- What is allowed ---- */

static unsigned page_index(uint64_t addr)
{
    for (unsigned i = 0; i < page_count; i++)
        if (pages[i] == (addr & PAGE_MASK))
            return i;
    return page_count;
}

static bool value_allowed(const struct allowed *allowed, uint64_t value)
{
    if (value == 0)
        return true;
    for (unsigned i = 0; i < allowed->count; i++)
        if (((allowed->values[i] ^ value) & ~7ull) == 0 && (value & 7 & ~allowed->values[i]) == 0)
            return true;
    return false;
}

static void allowed_reset(unsigned cpu, unsigned eptp, unsigned page)
{
    cpus[cpu].allowed[eptp][page].count = 1;
    cpus[cpu].allowed[eptp][page].values[0] = latest[eptp][page];
}

void world_notice(void)
{
    bool full[WORLD_CPUS] = { false };
    for (unsigned eptp = 0; eptp < WORLD_EPTPS; eptp++) {
        for (unsigned i = 0; i < page_count; i++) {
            uint64_t value = world_expected(eptp, pages[i]);
            if (value == latest[eptp][i])
                continue;
            latest[eptp][i] = value;
            for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
                struct allowed *allowed = &cpus[cpu].allowed[eptp][i];
                allowed->values[allowed->count++] = value;
                full[cpu] |= allowed->count == ALLOWED_MAX;
            }
        }
    }
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++)
        if (full[cpu])
            world_flush(cpu, INVEPT_GLOBAL, 0);
}

static const char *value_wrong(unsigned cpu, unsigned eptp, unsigned page, uint64_t value, const char *where)
{
    static char text[160];
    if (value_allowed(&cpus[cpu].allowed[eptp][page], value))
        return NULL;
    snprintf(text, sizeof(text), "%s of CPU %u, EPTP %u: %llx is mapped as %llx, allowed is %llx", where, cpu, eptp,
             (unsigned long long)pages[page], (unsigned long long)value, (unsigned long long)latest[eptp][page]);
    return text;
}

const char *world_wrong(void)
{
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
        for (unsigned eptp = 0; eptp < WORLD_EPTPS; eptp++) {
            for (unsigned i = 0; i < page_count && root_valid(cpu, eptp); i++) {
                const char *wrong = value_wrong(cpu, eptp, i, world_mapped(cpu, eptp, pages[i], NULL), "ept02");
                if (wrong)
                    return wrong;
            }
        }
    }
    return NULL;
}

void world_check(void)
{
    if (++checks % config.check_every)
        return;
    const char *wrong = world_wrong();
    if (wrong)
        world_fail(wrong);
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
        for (unsigned i = 0; i < TLB_SIZE; i++) {
            const struct tlb *tlb = &cpus[cpu].tlb[i];
            unsigned page = page_index(tlb->page);
            for (unsigned eptp = 0; tlb->root && page < page_count && eptp < WORLD_EPTPS; eptp++) {
                if (!root_valid(cpu, eptp) || (cpus[cpu].roots[eptp]->eptp02 & EPT_ADDR_MASK) != tlb->root)
                    continue;
                wrong = value_wrong(cpu, eptp, page, tlb->value, "the processor's cache");
                if (wrong)
                    world_fail(wrong);
            }
        }
    }
}

/* ---- Actions ---- */

void world_write_quiet(uint64_t table, unsigned index, uint64_t entry)
{
    oracle_table(table)[index] = entry;
    fake_watch_written(gpa1(table & EPT_ADDR_MASK));
}

void world_write(uint64_t table, unsigned index, uint64_t entry)
{
    world_write_quiet(table, index, entry);
    world_notice();
}

uint64_t world_read(uint64_t table, unsigned index) { return oracle_table(table)[index]; }

void world_set(unsigned eptp, uint64_t addr, int level, uint64_t entry)
{
    uint64_t table = world_table(eptp);
    for (int l = 4; l > level; l--)
        table = world_read(table, (unsigned)(addr >> (12 + 9 * (l - 1))) & 511) & EPT_ADDR_MASK;
    world_write(table, (unsigned)(addr >> (12 + 9 * (level - 1))) & 511, entry);
}

uint64_t world_page_table(unsigned eptp, uint64_t addr)
{
    uint64_t table = world_table(eptp);
    for (int level = 4; level > 1; level--) {
        unsigned index = (unsigned)(addr >> (12 + 9 * (level - 1))) & 511;
        if ((world_read(table, index) & 7) == 0) {
            if (tables_used == WORLD_TABLES)
                world_fail("the test uses too many tables");
            world_write_quiet(table, index, world_table(tables_used++) | 7);
        }
        table = world_read(table, index) & EPT_ADDR_MASK;
    }
    world_notice();
    return table;
}

uint64_t world_fill(unsigned eptp, uint64_t addr, uint64_t first, uint64_t step)
{
    uint64_t table = world_page_table(eptp, addr);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        world_write_quiet(table, i, first + i * step);
    world_notice();
    return table;
}

uint64_t world_run(unsigned eptp, uint64_t addr, uint64_t target, uint64_t access)
{
    return world_fill(eptp, addr, world_leaf(target, access, MEMTYPE_WB), PAGE_SIZE);
}

static void violation_check(unsigned cpu, unsigned eptp, uint64_t addr, uint64_t access, enum ept02_outcome outcome,
                            const struct ept02_report *report)
{
    uint64_t permissions;
    enum ept02_outcome expected = oracle_outcome(eptp, addr, access, &permissions);
    if (outcome != expected)
        world_fail("another outcome than the oracle's");
    if (outcome == EPT02_REPAIRED && (access & ~world_mapped(cpu, eptp, addr, NULL)))
        world_fail("repaired, but not mapped");
    uint64_t qualification = access | EPT_QUAL_LINEAR_VALID | permissions << EPT_QUAL_PERM_SHIFT;
    if ((outcome == EPT02_VIOLATION12 || outcome == EPT02_FAULT01) && report->qualification != qualification)
        world_fail("another qualification than the oracle's");
}

enum ept02_outcome world_access(unsigned cpu, unsigned eptp, uint64_t addr, uint64_t access)
{
    struct ept02_report report;
    unsigned page = page_index(addr);
    for (unsigned tries = 0; tries < 3; tries++) {
        struct ept02_root *root = world_enter(cpu, eptp);
        if (processor_translate(cpu, root->eptp02 & EPT_ADDR_MASK, addr, access)) {
            world_check();
            return EPT02_REPAIRED;
        }
        processor_violation(cpu, root->eptp02 & EPT_ADDR_MASK, addr);
        enum ept02_outcome outcome = ept02_violation(&cpus[cpu].ept, root, gpa2(addr),
                                                     access | EPT_QUAL_LINEAR_VALID | BIT(3) | BIT(11), &report);
        if (page < page_count)
            allowed_reset(cpu, eptp, page);
        violation_check(cpu, eptp, addr, access, outcome, &report);
        world_check();
        if (outcome != EPT02_REPAIRED)
            return outcome;
    }
    world_fail("repaired again and again");
}

void world_nested_write(unsigned cpu, unsigned eptp, uint64_t addr, unsigned index, uint64_t entry)
{
    struct ept02_root *root = world_enter(cpu, eptp);
    uint64_t value = processor_translate(cpu, root->eptp02 & EPT_ADDR_MASK, addr, EPT_W);
    uint64_t target = value & EPT_ADDR_MASK;
    if (!value || target < TABLES_AT || target >= world_table(WORLD_TABLES))
        return;
    oracle_table(target)[index] = entry; /* nobody hears of it */
    world_notice();
}

void world_prefill(unsigned cpu, unsigned eptp, uint64_t addr)
{
    struct ept02_root *root = world_enter(cpu, eptp);
    ept02_prefill(&cpus[cpu].ept, root, gpa2(addr));
    if (config.prefill && (world_expected(eptp, addr) & ~world_mapped(cpu, eptp, addr, NULL) & 7))
        world_fail("not prefilled");
    world_check();
}

struct ept02_root *world_enter(unsigned cpu, unsigned eptp)
{
    bool known = root_valid(cpu, eptp);
    struct ept02_root *root = world_root(cpu, eptp);
    ept02_enter(&cpus[cpu].ept, root);
    if (!cpus[cpu].invept[eptp])
        return root;
    if (known && !cpus[cpu].told[eptp])
        world_fail("INVEPT does not reach the processor before the entry");
    cpus[cpu].invept[eptp] = false;
    for (unsigned i = 0; i < page_count; i++)
        allowed_reset(cpu, eptp, i);
    world_check();
    return root;
}

void world_entry_fails(unsigned cpu, unsigned eptp, uint64_t addr)
{
    struct ept02_root *root = world_root(cpu, eptp);
    ept02_enter(&cpus[cpu].ept, root);
    ept02_prefill(&cpus[cpu].ept, root, gpa2(addr));
    ept02_entry_failed(root);
    world_check();
}

void world_invept(unsigned cpu, enum invept_type type, unsigned eptp)
{
    running = cpu;
    ept02_invept(&cpus[cpu].ept, type, world_eptp(eptp));
    for (unsigned other = 0; other < WORLD_EPTPS; other++) {
        if (type != INVEPT_GLOBAL && other != eptp)
            continue;
        cpus[cpu].invept[other] = true;
        cpus[cpu].told[other] = false;
    }
    world_check();
}

void world_flush(unsigned cpu, enum invept_type type, unsigned eptp)
{
    world_invept(cpu, type, eptp);
    for (unsigned other = 0; other < WORLD_EPTPS; other++) {
        if (type != INVEPT_GLOBAL && other != eptp)
            continue;
        if (root_valid(cpu, other))
            world_enter(cpu, other);
        else
            for (unsigned i = 0; i < page_count; i++)
                allowed_reset(cpu, other, i); /* what is not there is not stale */
    }
}

void world_other_root(unsigned cpu, unsigned number)
{
    running = cpu;
    ept02_root_get(&cpus[cpu].ept, (ept_oracle.memory + number * PAGE_SIZE) | MEMTYPE_WB | EPTP_WALK_4);
    world_check();
}

/* ---- ept01 ---- */

void world_ept01(unsigned region, enum world_kind kind)
{
    unsigned small = 0;
    for (unsigned i = 0; i < WORLD_REGIONS; i++)
        small += oracle_kind_small((enum world_kind)ept_oracle.kinds[i]);
    ept_oracle.kinds[region] = (uint8_t)(small < ORACLE_SMALL_MAX || !oracle_kind_small(kind) ? kind : KIND_IDENTITY);
    ept01_root = oracle_ept01();
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
        running = cpu;
        ept02_ept01_changed(&cpus[cpu].ept);
    }
    world_notice();
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++)
        for (unsigned eptp = 0; eptp < WORLD_EPTPS; eptp++)
            for (unsigned i = 0; i < page_count; i++)
                allowed_reset(cpu, eptp, i);
    world_check();
}

/* ---- Begin and end ---- */

void world_pages_grid(unsigned rows, uint64_t step)
{
    for (unsigned i = 0; i < page_count; i++)
        pages[i] = i % rows * step + i / rows * PAGE_SIZE;
    world_notice();
}

void world_pages_in(uint64_t base)
{
    for (unsigned i = 0; i < page_count; i++)
        pages[i] = base + (i < 96    ? i * 4 * PAGE_SIZE
                           : i < 128 ? PAGE_2M + (i - 96) * 3 * PAGE_SIZE
                                     : (i - 127) * 8 * PAGE_2M + (i & 1) * PAGE_SIZE);
    world_notice();
}

static void pages_spread(void)
{
    static const uint64_t bases[] = { 0,         PAGE_2M,  2 * PAGE_2M, 511 * PAGE_2M, PAGE_1G, PAGE_1G + 3 * PAGE_2M,
                                      512 * GIB, 513 * GIB };
    static const unsigned indexes[] = { 0, 1, 2, 3, 7, 8, 9, 63, 64, 255, 256, 509, 510, 511 };
    for (unsigned i = 0; i < page_count; i++) {
        unsigned n = i / ARRAY_SIZE(bases);
        unsigned index = n < ARRAY_SIZE(indexes) ? indexes[n] : (unsigned)world_choose(512);
        pages[i] = bases[i % ARRAY_SIZE(bases)] + index * PAGE_SIZE;
    }
}

struct world_config world_all_on(unsigned pool_pages)
{
    return (struct world_config){ .seed = 1,
                                  .large = true,
                                  .coalesce = true,
                                  .history = true,
                                  .prefill = true,
                                  .watch = true,
                                  .hw_single = true,
                                  .exec_only = true,
                                  .pages_1g = true,
                                  .pool_pages = pool_pages };
}

void world_reset_all_on(unsigned pool_pages)
{
    struct world_config all_on = world_all_on(pool_pages);
    world_reset(&all_on);
}

void world_reset(const struct world_config *wanted)
{
    config = *wanted;
    page_count = config.pages ? config.pages : WORLD_PAGES;
    config.check_every += config.check_every == 0;
    checks = 0;
    generator.state = config.seed | 1;
    choices = generator_choose;
    memset(&ept_oracle, 0, sizeof(ept_oracle));
    ept_oracle.exec_only = config.exec_only;
    ept_oracle.pages_1g = config.pages_1g;
    ept_oracle.pools = POOLS_AT;
    ept_oracle.memory = POOLS_AT + WORLD_CPUS * config.pool_pages * PAGE_SIZE;
    test_memory_reset(ept_oracle.memory);
    memset(&shared, 0, sizeof(shared));
    memset(cpus, 0, sizeof(cpus));

    memset(latest, 0, sizeof(latest));
    fake_watch_reset(config.watch_moody ? world_choose : NULL);
    invepts = 0;
    tables_used = WORLD_EPTPS;
    ept01_root = oracle_ept01();
    pages_spread();
    uint64_t caps = EPT_CAP_WALK_4 | EPT_CAP_UC | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_INVEPT | EPT_CAP_INVEPT_GLOBAL |
                    (config.exec_only ? EPT_CAP_EXEC_ONLY : 0) | (config.pages_1g ? EPT_CAP_1G : 0);
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
        struct ept02_config c = {
            .ept01_root = hpa(ept01_root),
            .maxphyaddr = WIDTH,
            .offered_ept_caps = caps | EPT_CAP_INVEPT_SINGLE,
            .hw_ept_caps = caps | (config.hw_single ? EPT_CAP_INVEPT_SINGLE : 0),
            .large = config.large,
            .coalesce = config.coalesce,
            .coalesce_code = !config.no_coalesce_code,
            .history = config.history,
            .prefill = config.prefill,
            .watch = config.watch ? fake_watch_client(cpu) : NULL,
        };
        running = cpu;
        pool_add(&cpus[cpu].pool, hpa(POOLS_AT + cpu * config.pool_pages * PAGE_SIZE), config.pool_pages * PAGE_SIZE);
        cpus[cpu].pool_total = config.pool_pages;
        ept02_init(&cpus[cpu].ept, &c, &cpus[cpu].pool, &shared);
    }
    world_notice();
}

void world_end(void)
{
    for (unsigned cpu = 0; cpu < WORLD_CPUS; cpu++) {
        struct ept02 *ept = &cpus[cpu].ept;
        running = cpu;
        if (cpus[cpu].pool.free_count + ept02_pages(ept) != cpus[cpu].pool_total)
            world_fail("pages belong neither to the pool nor to ept02");
        for (unsigned i = 0; i < EPT02_ROOTS; i++)
            if (ept->roots[i].used)
                root_drop(ept, &ept->roots[i]);
        if (cpus[cpu].pool.free_count + ept->slab_count != cpus[cpu].pool_total)
            world_fail("pages are missing from the pool");
        if (fake_watch_count(cpu))
            world_fail("pages are still watched");
        for (unsigned i = 0; i < LIST_COUNT; i++)
            if (ept->lists[i].first || ept->lists[i].last)
                world_fail("a list is not empty");
        unsigned free_tables = 0;
        for (uint16_t id = ept->free_table; id; id = table_at(ept, id)->hash_next)
            free_tables++;
        if (ept->slab_count && free_tables != ept->slab_count * TABLES_PER_SLAB - 1)
            world_fail("descriptions are missing");
    }
}
