/*
 * What a processor may do with an address, by the SDM: it may have cached any entry that was present at some time since
 * the last INVEPT, it reads entries from the root down, and it never caches one that is not present or misconfigured.
 * SDM 3, "Caching Translation Information" and "Operations that Invalidate Cached Mappings".
 */
#include "soak.h"

enum { VIOLATIONS = 32, CAP_EXECUTE_ONLY = 0, CAP_1G = 17, LEVEL_POINTERS = 3 };
#define EPT_ADDRESS 0xffffffffff000ull
static struct {
    const struct ept *root;
    u64 page;
    u32 when;
} violated[SOAK_CPUS][VIOLATIONS];
static u32 violations[SOAK_CPUS];
static u32 flushed[SOAK_CPUS][SOAK_ROOTS];
static bool invepted[SOAK_CPUS][SOAK_ROOTS]; /* since the last entry there with the root */
static bool execute_only, gigabytes;
static u64 reserved;

struct query {
    u64 at;
    u32 since, began;
    struct outcomes *out;
};

void oracle_init(void)
{
    execute_only = ept_has(CAP_EXECUTE_ONLY);
    gigabytes = ept_has(CAP_1G);
    reserved = EPT_ADDRESS & ~(BIT(maxphyaddr()) - 1);
    memset(violated, 0, sizeof violated);
    memset(invepted, 0, sizeof invepted);
}

static u64 size_at(u32 level) { return (u64)PAGE << 9 * (level - 1); }

enum entry_kind oracle_kind(u64 entry, u32 level)
{
    u32 rights = entry & EPT_RWX, type = entry >> 3 & 7;
    bool leaf = level == 1 || (level == 2 && entry & EPT_LARGE) || (level == 3 && gigabytes && entry & EPT_LARGE);
    if (!rights)
        return ENTRY_NONE;
    if ((rights & (EPT_R | EPT_W)) == EPT_W || (rights == EPT_X && !execute_only) || entry & reserved)
        return ENTRY_BAD;
    if (!leaf)
        return entry & (EPT_LARGE | 0x78) ? ENTRY_BAD : ENTRY_TABLE;
    return type == 2 || type == 3 || type == 7 || entry & EPT_ADDRESS & (size_at(level) - 1) ? ENTRY_BAD : ENTRY_LEAF;
}

void oracle_flushed(u32 cpu, const struct ept *root, u32 when)
{
    for (u32 r = 0; r < SOAK_ROOTS; r++)
        if (!root || root == soak_root[r]) {
            flushed[cpu][r] = when;
            invepted[cpu][r] = false;
        }
}

void oracle_invept(u32 cpu, const struct ept *root)
{
    for (u32 r = 0; r < SOAK_ROOTS; r++)
        invepted[cpu][r] |= !root || root == soak_root[r];
}

void oracle_enter(u32 cpu, u32 root)
{
    if (invepted[cpu][root])
        oracle_flushed(cpu, soak_root[root], memory_time());
}

void oracle_violated(u32 cpu, const struct ept *root, u64 gpa)
{
    u32 i = violations[cpu]++ % VIOLATIONS;
    violated[cpu][i].root = root;
    violated[cpu][i].page = gpa / PAGE;
    violated[cpu][i].when = memory_time();
}

static void add(struct query *q, enum meets meets, u32 rights, u64 page)
{
    struct outcomes *out = q->out;
    for (u32 i = 0; i < out->count; i++)
        if (out->row[i].meets == meets && out->row[i].rights == rights && out->row[i].page == page)
            return;
    if (out->count == OUTCOMES_MAX)
        out->astray = true;
    else
        out->row[out->count++] = (struct outcome){ meets, rights, page };
}

/* `after`: when the entry above was read. What is below was read then or later. */
static void walk(struct query *q, const u64 *entry, u32 level, u32 after, u32 rights)
{
    struct past p;
    past_first(entry, &p);
    while (!q->out->astray && past_next(entry, q->since, &p)) {
        enum entry_kind kind = oracle_kind(p.value, level);
        u32 read = p.from > after ? p.from : after, have = rights & (u32)p.value;
        u64 target = p.value & EPT_ADDRESS;
        if (read >= p.until)
            continue;
        if (kind == ENTRY_NONE || kind == ENTRY_BAD) {
            if (p.until > q->began)
                add(q, kind == ENTRY_BAD ? MEETS_MISCONFIG : MEETS_NOTHING, 0, 0);
        } else if (kind == ENTRY_LEAF) {
            target = (target | (q->at & (size_at(level) - 1))) & EPT_ADDRESS;
            q->out->astray |= target - SOAK_AREA >= (u64)SOAK_PAGES * PAGE;
            add(q, MEETS_PAGE, have, target);
        } else if (memory_index(target) < 0) {
            q->out->astray = true;
        } else {
            u32 index = (u32)(q->at >> (12 + 9 * (level - 2))) % 512;
            walk(q, (const u64 *)(ulong)target + index, level - 1, read, have);
        }
    }
}

u32 oracle_since(u32 cpu, const struct ept *root, u64 gpa)
{
    u32 since = 0;
    for (u32 r = 0; r < SOAK_ROOTS; r++)
        if (root == soak_root[r])
            since = invepted[cpu][r] ? memory_time() : flushed[cpu][r];
    for (u32 i = 0; i < VIOLATIONS; i++)
        if (violated[cpu][i].root == root && violated[cpu][i].page == gpa / PAGE && violated[cpu][i].when > since)
            since = violated[cpu][i].when;
    return since;
}

void oracle_walk(const struct ept *root, u64 gpa, u32 since, u32 began, struct outcomes *out)
{
    struct query q = { gpa, since, began, out };
    const u64 *pointers = (const u64 *)(ulong)(root->root[0] & EPT_ADDRESS);
    out->count = 0;
    out->astray = false;
    walk(&q, pointers + (gpa >> 30), LEVEL_POINTERS, since, EPT_RWX);
}
