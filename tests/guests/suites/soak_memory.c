/*
 * The memory of suite soak: pages that are data or EPT tables, and every value that an entry has had since it was last
 * forgotten, with the time. Time counts writes. Nothing but memory_write and memory_wrote may change these pages.
 */
#include "soak.h"

enum { LOG_MAX = 16384, PAGES_ALL = SOAK_PAGES + SOAK_ROOTS, NONE = 0 };
static struct record {
    u64 value; /* before the write */
    u32 when;
    u16 entry, older; /* older: the record before this one in the same page; NONE: there is none */
} records[LOG_MAX];
static u16 newest[PAGES_ALL];
static bool is_data[SOAK_PAGES];
static u32 used, time, state;
struct ept *soak_root[SOAK_ROOTS];
void (*memory_writer)(u64 *at, u64 value);

void random_seed(u32 seed) { state = seed * 2654435761u | 1; }

u32 random_below(u32 n)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (u32)((u64)state * n >> 32);
}

u64 *memory_page(u32 page) { return (u64 *)(ulong)(SOAK_AREA + (u64)page * PAGE); }

static const u64 *pointers(const struct ept *root) { return (const u64 *)(ulong)(root->root[0] & ~(u64)(PAGE - 1)); }

int memory_index(u64 pa)
{
    if (pa - SOAK_AREA < (u64)SOAK_PAGES * PAGE)
        return (int)((pa - SOAK_AREA) / PAGE);
    for (u32 r = 0; r < SOAK_ROOTS; r++)
        if (phys(pointers(soak_root[r])) == (pa & ~(u64)(PAGE - 1)))
            return SOAK_PAGES + (int)r;
    return -1;
}

bool memory_is_data(u64 pa)
{
    int i = memory_index(pa);
    return i >= 0 && i < SOAK_PAGES && is_data[i];
}

u32 memory_time(void) { return time; }
u32 memory_room(void) { return LOG_MAX - used; }

void memory_forget(void)
{
    memset(newest, 0, sizeof newest);
    used = 1; /* record 0 is NONE */
}

void memory_wrote(const u64 *at, u64 past)
{
    int page = memory_index(phys(at));
    if (page < 0 || used == LOG_MAX)
        test_fault("(a write to memory that is not remembered)");
    records[used] = (struct record){ past, ++time, (u16)(phys(at) / 8 % 512), newest[page] };
    newest[page] = (u16)used++;
}

/* Whole in the 32-bit build, too: the other CPU may be walking this table. */
static void store(u64 *at, u64 value)
{
#if IS64
    *(volatile u64 *)at = value;
#else
    __sync_val_compare_and_swap(at, *at, value);
#endif
}

void memory_write(u64 *at, u64 value)
{
    u64 past = *at;
    int page = memory_index(phys(at));
    if (past == value)
        return;
    if (page >= 0 && page < SOAK_PAGES)
        is_data[page] = false;
    if (memory_writer)
        memory_writer(at, value);
    else
        store(at, value);
    memory_wrote(at, past);
}

/*
 * A data page: [0] is its mark, [1] a function that returns its number, [SLOT] is written by nested guests. Read as an
 * EPT entry, the mark is none, a leaf or a table, in the area behind the region of the tables; the other words are not present.
 */
static u64 data_mark(u32 page)
{
    static const u64 flags[] = { 0, EPT_RWX, EPT_RWX | EPT_WB, EPT_R };
    return (SOAK_AREA + (u64)(512 + page * 37 % (SOAK_PAGES - 512)) * PAGE) | flags[page % COUNT(flags)];
}
static u64 data_code(u32 page) { return 0xb8 | (u64)page << 8 | 0xc3ull << 40; } /* MOV EAX, page; RET */

void memory_data(u32 page)
{
    u64 *p = memory_page(page);
    for (u32 i = SLOT; i < 512; i++)
        memory_write(&p[i], 0);
    memory_write(&p[0], data_mark(page));
    memory_write(&p[1], data_code(page));
    is_data[page] = true;
}

void memory_init(void)
{
    for (u32 page = 0; page < SOAK_PAGES; page++) {
        volatile u64 *p = memory_page(page);
        for (u32 i = SLOT; i < 512; i++)
            p[i] = 0;
        p[0] = data_mark(page);
        p[1] = data_code(page);
        is_data[page] = true;
    }
    time = 0;
    memory_writer = NULL;
    memory_forget();
}

void past_first(const u64 *at, struct past *p)
{
    *p = (struct past){ .value = *at, .until = time + 1, .record = newest[memory_index(phys(at))] };
}

bool past_next(const u64 *at, u32 since, struct past *p)
{
    u16 entry = (u16)(phys(at) / 8 % 512);
    if (p->last)
        return false;
    if (p->given) {
        p->until = p->from;
        p->value = records[p->record].value;
        p->record = records[p->record].older;
    }
    p->given = true;
    while (p->record != NONE && records[p->record].when > since && records[p->record].entry != entry)
        p->record = records[p->record].older;
    p->last = p->record == NONE || records[p->record].when <= since;
    p->from = p->last ? since : records[p->record].when;
    return true;
}
