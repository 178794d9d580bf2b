/*
 * INVEPT over memory that is mapped by 4 KiB entries of the guest hypervisor's EPT: nothing changed, one entry, one
 * table (512 entries), one entry in each table. For each size and kind three items:
 *   invept.SIZE.KIND.invept  the instruction alone
 *   invept.SIZE.KIND.entry   the next round trip (VMRESUME until the nested guest's HLT is here again)
 *   invept.SIZE.KIND.touch   the nested guest reads every 4 KiB page once more
 * invept.SIZE.first.touch is their first reading, before all that; invept.SIZE.return.touch the reading after OTHERS
 * other EPTPs were entered, as with many nested guests in turn: more than the hypervisor below may have kept.
 * KIND "none" is the same without INVEPT, to be subtracted; its counters likewise. Counters are with "touch" and
 * cover all three. The mapped addresses are those from 8 GiB on; behind them are the 64 MiB from 64 MiB on, again and
 * again, so that a small machine is enough.
 */
#include "cost.h"

enum { TURNS = 8, SIZE_MAX_MIB = 4096, OTHERS = 80 };
#define MAPPED_AT (8 * GIB)
extern u64 boot_tables[];
static u64 *directories, *tables; /* of the guest hypervisor; page tables one after the other */
static u64 *others;               /* roots with the same tables below */
static u64 linear[4 * 512] __attribute__((aligned(4096)));
static u64 mapped;      /* bytes */
static u64 touched_sum; /* keeps the reads */

static u64 backing(u64 offset) { return BACKING_AT + offset % BACKING; }

/* The linear addresses of the mapped part, in both guests' page tables; and its EPT tables. */
static void map(u64 size)
{
    mapped = size;
    memset(directories, 0, 4 * PAGE);
    for (u32 i = 0; i < 2048; i++)
        linear[i] = (MAPPED_AT + (u64)i * 2 * MIB) | 0xe7;
    for (u32 i = 0; i < 4; i++)
        boot_tables[512 + 8 + i] = phys(linear + 512 * i) | 7;
    write_cr3(read_cr3());
    for (u64 at = 0; at < size; at += PAGE)
        tables[at / PAGE] = backing(at) | EPT_RWX | EPT_WB;
    for (u64 at = 0; at < size; at += 2 * MIB)
        directories[at / (2 * MIB)] = phys(tables + at / PAGE) | EPT_RWX;
    for (u32 i = 0; i < 4; i++)
        *hidden_entry(worker.nest->ept, MAPPED_AT + i * GIB, GIB) = phys(directories + 512 * i) | EPT_RWX;
}

static void job_touch_all(void)
{
    u64 sum = 0;
    for (u64 at = 0; at < mapped; at += PAGE)
        sum += *(volatile u32 *)(ulong)(MAPPED_AT + at);
    touched_sum = sum;
}
static void job_nothing(void) {}
static void run_nothing(u32 count)
{
    (void)count;
    worker_do(job_nothing);
}

enum kind { NONE, NOTHING, ENTRY, TABLE, MANY, KINDS };
static const char *const kind_names[] = { "none", "nothing", "entry", "table", "many" };

/* Every other turn the change is undone. */
static void change(enum kind kind, u32 turn)
{
    u64 moved = turn & 1 ? 0 : 2 * MIB;
    u32 first = 512 * 3; /* the fourth table */
    if (kind == ENTRY)
        tables[first + 7] = backing((first + 7) * (u64)PAGE + moved) | EPT_RWX | EPT_WB;
    for (u32 i = 0; kind == TABLE && i < 512; i++)
        tables[first + i] = backing((first + i) * (u64)PAGE + moved) | EPT_RWX | EPT_WB;
    for (u64 at = 9 * PAGE; kind == MANY && at < mapped; at += 2 * MIB)
        tables[at / PAGE] = backing(at + moved) | EPT_RWX | EPT_WB;
}

static u64 turn_do(enum kind kind, u32 turn, u64 at[4])
{
    struct inv context = { worker.nest->ept->eptp, 0 };
    change(kind, turn);
    if (trace_now)
        MAGIC_BREAK();
    at[0] = rdtsc();
    if (kind != NONE)
        asm volatile("invept %0,%1" : : "m"(context), "r"(1ul) : "memory", "cc");
    at[1] = rdtsc();
    worker_do(job_nothing);
    at[2] = rdtsc();
    if (trace_now) /* of both: the hypervisor below may do its work in either */
        MAGIC_BREAK();
    worker_do(job_touch_all);
    at[3] = rdtsc();
    return touched_sum;
}

static void kind_run(u32 mib, enum kind kind)
{
    static const char *const parts[] = { "invept", "entry", "touch" };
    u64 at[TURNS][4];
    char name[60];
    for (u32 turn = 0; turn < TURNS; turn++)
        turn_do(kind, turn, at[turn]);
    format(name, sizeof name, "invept.%u.%s.%s", mib, kind_names[kind], parts[0]);
    strata_begin();
    u64 unused[4];
    trace_now = item_traced(name);
    turn_do(kind, 0, unused);
    trace_now = false;
    strata_end(1);
    for (u32 part = 0; part < COUNT(parts); part++) {
        for (u32 turn = 0; turn < TURNS; turn++)
            sample(at[turn][part], at[turn][part + 1]);
        format(name, sizeof name, "invept.%u.%s.%s", mib, kind_names[kind], parts[part]);
        item_print(name, part == 2 ? strata_json() : NULL);
    }
    turn_do(kind, 1, unused);
}

/* The nested guest reads every 4 KiB page, none of which may be mapped below: what that costs. */
static void touch_item(u32 mib, const char *kind)
{
    char name[60];
    strata_begin();
    u64 from = rdtsc();
    worker_do(job_touch_all);
    sample(from, rdtsc());
    strata_end(1);
    format(name, sizeof name, "invept.%u.%s.touch", mib, kind);
    item_print(name, strata_json());
}

static void other_guests(void)
{
    struct ept *own = worker.nest->ept;
    for (u32 i = 0; i < OTHERS; i++) {
        u64 *root = others + 512 * i;
        memcpy(root, own->root, PAGE);
        vmset(EPTP, phys(root) | (own->eptp & (PAGE - 1)));
        worker_do(job_nothing);
    }
    vmset(EPTP, own->eptp);
}

void items_invept(void)
{
    static const char *const standard = "64,256,1024,4096";
    const char *sizes = option("invept");
    if (!worker_new())
        return;
    if (maxphyaddr() < 36) {
        item_skip("invept", "physical addresses are too short");
        return;
    }
    directories = hidden_alloc(4);
    tables = hidden_alloc(SIZE_MAX_MIB / 2);
    others = hidden_alloc(OTHERS);
    run_nothing(0);
    worker.lean.expect = ~0ul;
    strata_calibrate(run_nothing);
    for (const char *p = sizes ? sizes : standard; *p && *p != ' ';) {
        u32 mib = 0;
        for (; *p >= '0' && *p <= '9'; p++)
            mib = mib * 10 + (u32)(*p - '0');
        if (mib < 8 || mib > SIZE_MAX_MIB)
            break;
        map((u64)mib * MIB);
        nest_flush(worker.nest);
        touch_item(mib, "first");
        for (enum kind kind = NONE; kind < KINDS; kind++)
            kind_run(mib, kind);
        other_guests();
        touch_item(mib, "return");
        p += *p == ',';
    }
}
