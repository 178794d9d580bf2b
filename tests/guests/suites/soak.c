/*
 * Random EPT: edits, INVEPTs and nested accesses on two CPUs in an order that a seed gives, each access compared with
 * what the SDM allows (soak_oracle.c). Any stale or excess access fails and names seed and step.
 * Words on the command line: soak-seed=N, soak-steps=N.
 */
#include "soak.h"

enum { SEED = 1, STEPS = 600, RECENT = 5, ROOM = 8192, STAGES = 6, TRIES = 8 };

/* Who writes the tables: a hypervisor may rely on hearing of some, not of others. */
enum writers {
    WRITERS_HOST,   /* the guest hypervisor alone */
    WRITERS_MAPPED, /* nested guests where an edit has let them: a region of tables becomes writable */
    WRITERS_ALL,    /* nested guests anywhere: they make edits, too */
};

static struct {
    u32 seed, step, token;
    enum writers writers;
    struct spot recent[RECENT];
    u32 through, refused, misconfigured, ambiguous, outdated, astray, stored, invepts, chases, chased;
} soak;
static const char *const op_names[] = { "read", "write", "fetch", "store" };

static u32 number(const char *name, u32 otherwise)
{
    const char *p = option(name);
    u32 n = 0;
    for (; p && *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (u32)(*p - '0');
    return n ? n : otherwise;
}

static u32 random_cpu(void) { return cpu_count > 1 ? random_below(SOAK_CPUS) : 0; }

static void random_spot(struct spot *s)
{
    struct spot *slot = &soak.recent[random_below(RECENT)];
    if (!random_below(12))
        spot_random(slot);
    *s = *slot;
    if (!random_below(8))
        s->root = random_below(SOAK_ROOTS);
}

static void failed(u32 cpu, u32 root, const char *op, u64 at, const char *got, const struct outcomes *allowed)
{
    static const char *const names[] = { "page", "nothing", "misconfiguration" };
    char list[160] = "";
    for (u32 i = 0; i < allowed->count; i++) {
        size_t n = strlen(list);
        const struct outcome *o = &allowed->row[i];
        format(list + n, sizeof list - n, " %s %llx/%x", names[o->meets], o->page, o->rights);
    }
    test_failed("seed %u step %u: CPU %u root %u %s at %llx: %s; allowed:%s", soak.seed, soak.step, cpu, root, op, at,
                got, list);
}

/* ---- one access ---- */
static const u32 needs[] = { EPT_R, EPT_W, EPT_X };

/* Whether row o explains what a has met. */
static bool explains(const struct access *a, const struct outcome *o)
{
    bool may = o->meets == MEETS_PAGE && o->rights & needs[a->op];
    const u64 *page = (const u64 *)(ulong)o->page;
    if (a->reason == REASON_EPT_MISCONFIG)
        return o->meets == MEETS_MISCONFIG;
    if (a->reason == REASON_EPT_VIOLATION)
        return !may && o->meets != MEETS_MISCONFIG && a->rights == o->rights;
    if (a->reason != REASON_VMCALL || !may)
        return false;
    switch (a->op) {
    case SOAK_READ:
        return (ulong)a->value == *(const ulong *)page;
    case SOAK_WRITE:
        return (ulong)a->value == *(const ulong *)&page[SLOT];
    default:
        return a->value == (u32)memory_index(o->page);
    }
}

static bool explained(const struct access *a, const struct outcomes *allowed)
{
    for (u32 i = 0; i < allowed->count; i++)
        if (explains(a, &allowed->row[i]))
            return true;
    return false;
}

static bool can_fetch(const struct outcomes *allowed)
{
    for (u32 i = 0; i < allowed->count; i++)
        if (allowed->row[i].meets == MEETS_PAGE && !memory_is_data(allowed->row[i].page))
            return false;
    return true;
}

static void count_access(const struct access *a, const struct outcomes *allowed)
{
    struct outcomes current;
    soak.through += a->reason == REASON_VMCALL;
    soak.refused += a->reason == REASON_EPT_VIOLATION;
    soak.misconfigured += a->reason == REASON_EPT_MISCONFIG;
    soak.ambiguous += allowed->count > 1;
    oracle_walk(soak_root[a->root], a->at, memory_time(), memory_time(), &current);
    soak.outdated += !explained(a, &current);
}

static void access_judge(const struct access *a, const struct outcomes *allowed, u64 first)
{
    char got[100];
    format(got, sizeof got, "reason %u value %llx rights %x physical %llx", a->reason, a->value, a->rights,
           a->physical);
    if (!explained(a, allowed))
        failed(a->cpu, a->root, op_names[a->op], a->at, got, allowed);
    else if (a->reason != REASON_VMCALL && a->physical != first)
        failed(a->cpu, a->root, op_names[a->op], a->at, got, allowed);
    else
        count_access(a, allowed);
}

static void access(const struct spot *s, u32 cpu, enum soak_op op)
{
    static const u32 offset[] = { 0, SLOT * sizeof(u64), sizeof(u64) };
    static struct outcomes allowed;
    static u64 before[OUTCOMES_MAX];
    struct access a = { .cpu = cpu, .root = s->root, .op = op, .at = spot_address(s) };
    const struct ept *root = soak_root[a.root];
    oracle_walk(root, a.at, oracle_since(a.cpu, root, a.at), memory_time(), &allowed);
    if (allowed.astray || (a.op == SOAK_EXECUTE && !can_fetch(&allowed))) {
        soak.astray++;
        return;
    }
    for (u32 i = 0; i < allowed.count; i++)
        before[i] = allowed.row[i].meets == MEETS_PAGE ? ((u64 *)(ulong)allowed.row[i].page)[SLOT] : 0;
    a.value = a.op == SOAK_WRITE ? ++soak.token << 3 : 0; /* as an EPT entry: not present */
    if (!guest_access(&a))
        return;
    access_judge(&a, &allowed, a.at + offset[a.op]);
    for (u32 i = 0; i < allowed.count; i++)
        if (allowed.row[i].meets == MEETS_PAGE && ((u64 *)(ulong)allowed.row[i].page)[SLOT] != before[i]) {
            memory_wrote(&((u64 *)(ulong)allowed.row[i].page)[SLOT], before[i]);
            break; /* rows of one page with different rights are the same memory */
        }
    if (a.reason == REASON_EPT_VIOLATION)
        oracle_violated(a.cpu, root, a.at);
}

static void step_access(void)
{
    struct spot s;
    random_spot(&s);
    access(&s, random_cpu(), random_below(3));
}

/* ---- edits and invalidations ---- */
static void store_nested(u64 *at, u64 value) /* through the 1:1 part of the nested guest's memory */
{
    struct access a = {
        .cpu = random_cpu(), .root = random_below(SOAK_ROOTS), .op = SOAK_STORE, .value = value, .store_at = at
    };
    if (guest_access(&a))
        check(a.reason == REASON_VMCALL && *at == value, "seed %u step %u: the nested guest's store to %lx: reason %u",
              soak.seed, soak.step, (ulong)at, a.reason);
    soak.stored++;
}

static void step_edit(void)
{
    struct spot s;
    random_spot(&s);
    memory_writer = soak.writers == WRITERS_ALL && !random_below(6) ? store_nested : NULL;
    edit_random(&s);
    memory_writer = NULL;
}

static void step_invept(void)
{
    guest_invept(random_cpu(), random_below(3) ? soak_root[random_below(SOAK_ROOTS)] : NULL);
    soak.invepts++;
}

/*
 * A page table becomes a nested guest's page, which writes the entry (SLOT) through which it reads: after INVEPT, before or
 * after the write, it must not read any more.
 */
static void step_self(void)
{
    struct spot s, window;
    u32 cpu = random_cpu(), writer = random_cpu();
    random_spot(&s);
    s.table = SLOT;
    random_spot(&window);
    edit_map(&s, phys(memory_page(random_below(SOAK_PAGES))));
    edit_map(&window, phys(spot_entry(&s, 1)) & ~(u64)(PAGE - 1));
    access(&s, cpu, SOAK_READ);
    if (random_below(2)) /* before the edit: it counts until the next entry, if the writer is not that */
        guest_invept(cpu, random_below(2) ? soak_root[s.root] : NULL);
    access(&window, writer, SOAK_WRITE);
    if (random_below(2))
        guest_invept(cpu, random_below(2) ? soak_root[s.root] : NULL);
    access(&s, cpu, SOAK_READ);
}

static void step_vpid(void) { guest_vpid(random_cpu(), random_below(3)); }

/* ---- CPU 1 reads while CPU 0 edits ---- */
static struct {
    u32 since, began;
} stages[STAGES + 1];

static bool value_allowed(const struct spot *s, u32 stage, ulong value, struct outcomes *allowed)
{
    oracle_walk(soak_root[s->root], spot_address(s), stages[stage].since, stages[stage].began, allowed);
    if (allowed->astray)
        return true;
    for (u32 i = 0; i < allowed->count; i++) {
        const struct outcome *o = &allowed->row[i];
        const u64 *word = (const u64 *)(ulong)o->page;
        struct past p;
        if (o->meets != MEETS_PAGE || !(o->rights & EPT_R))
            continue;
        for (past_first(word, &p); past_next(word, stages[stage].began, &p);)
            if ((ulong)p.value == value)
                return true;
    }
    return false;
}

static void chase_judge(const struct spot *s, const struct access *end, u32 seen, u32 reached)
{
    static struct outcomes allowed;
    char got[60];
    for (u32 i = 0; i < seen && test_ok(); i++) {
        format(got, sizeof got, "saw %lx in stage %u", chase_seen[i].value, chase_seen[i].stage);
        if (!value_allowed(s, chase_seen[i].stage, chase_seen[i].value, &allowed))
            failed(1, s->root, "chase", end->at, got, &allowed);
    }
    soak.chased += seen;
    if (end->reason == REASON_VMCALL)
        return;
    oracle_walk(soak_root[s->root], end->at, stages[reached].since, stages[reached].began, &allowed);
    format(got, sizeof got, "reason %u rights %x", end->reason, end->rights);
    if (!allowed.astray && !explained(end, &allowed))
        failed(1, s->root, "chase", end->at, got, &allowed);
}

static void stage_note(const struct spot *s, u32 stage)
{
    stages[stage].since = oracle_since(1, soak_root[s->root], spot_address(s));
    stages[stage].began = memory_time();
}

static bool readable(const struct spot *s)
{
    struct outcomes now;
    oracle_walk(soak_root[s->root], spot_address(s), memory_time(), memory_time(), &now);
    return now.row[0].meets == MEETS_PAGE && now.row[0].rights & EPT_R;
}

static void step_chase(void)
{
    struct spot s;
    struct access end;
    u32 reached;
    for (u32 i = 0; i < TRIES; i++) {
        random_spot(&s);
        if (readable(&s))
            break;
    }
    stage_note(&s, 0);
    stage_note(&s, 1);
    bool running = chase_start(s.root, spot_address(&s));
    for (u32 stage = 2; running && stage <= STAGES; stage++) {
        edit_random(&s);
        if (random_below(2)) {
            const struct ept *root = random_below(2) ? soak_root[s.root] : NULL;
            u32 when = memory_time();
            if (!chase_invept(root))
                break;
            oracle_invept(1, root);
            if (!root || root == soak_root[s.root])
                oracle_flushed(1, soak_root[s.root], when); /* it goes on at once */
        }
        stage_note(&s, stage);
        running = chase_stage(stage);
    }
    u32 seen = chase_stop(&end, &reached);
    if (test_ok())
        chase_judge(&s, &end, seen, reached);
    soak.chases++;
}

/* ---- all of it ---- */
static void forget(void) /* nobody has anything cached, so the past does not matter */
{
    for (u32 cpu = 0; cpu < SOAK_CPUS && cpu < cpu_count; cpu++)
        guest_invept(cpu, NULL);
    memory_forget();
}

static void step(void)
{
    static const struct {
        void (*run)(void);
        u32 weight;
    } steps[] = {
        { step_edit, 40 }, { step_access, 46 }, { step_invept, 10 },
        { step_vpid, 1 },  { step_self, 2 },    { step_chase, 3 },
    };
    u32 all = 0, i;
    if (memory_room() < ROOM)
        forget();
    for (i = 0; i < COUNT(steps); i++)
        all += steps[i].weight;
    u32 pick = random_below(all);
    for (i = 0; pick >= steps[i].weight; i++)
        pick -= steps[i].weight;
    if ((steps[i].run == step_chase && cpu_count == 1) || (steps[i].run == step_self && soak.writers == WRITERS_HOST))
        return;
    steps[i].run();
}

static void report(void)
{
    print("note soak: seed %u: %u accesses went through, %u violations, %u misconfigurations; %u may have met "
          "more "
          "than one thing, %u met what was outdated, %u left out\n",
          soak.seed, soak.through, soak.refused, soak.misconfigured, soak.ambiguous, soak.outdated, soak.astray);
    print("note soak: %u stores by nested guests, %u INVEPTs, %u chases that saw %u values\n", soak.stored,
          soak.invepts, soak.chases, soak.chased);
}

/* Roots that map everything 1:1 but for the windows, and the tables' region only for reading unless all may write it. */
static void roots_init(void)
{
    for (u32 r = 0; r < SOAK_ROOTS; r++) {
        soak_root[r] = ept_new(2 * MIB);
        for (u32 w = WINDOW_FIRST; w <= WINDOW_LAST; w++)
            ept_set(soak_root[r], w * GIB, GIB, 0);
        if (soak.writers != WRITERS_ALL)
            *ept_entry(soak_root[r], SOAK_AREA, 2 * MIB) &= ~(u64)EPT_W;
    }
}

static void run(enum writers writers)
{
    u32 steps = number("soak-steps", STEPS);
    memset(&soak, 0, sizeof soak);
    soak.seed = number("soak-seed", SEED);
    soak.writers = writers;
    if (!nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        return;
    random_seed(soak.seed);
    roots_init();
    memory_init();
    oracle_init();
    edit_init(writers != WRITERS_HOST);
    for (u32 i = 0; i < RECENT; i++)
        spot_random(&soak.recent[i]);
    if (!guests_start())
        return;
    forget();
    for (soak.step = 0; soak.step < steps && test_ok(); soak.step++)
        step();
    report();
    check(steps < STEPS || (soak.through && soak.refused && soak.ambiguous), "some kind of outcome never came up");
    guests_stop();
}

static void watched(void) { run(WRITERS_HOST); }
static void mapped(void) { run(WRITERS_MAPPED); }
static void unwatched(void) { run(WRITERS_ALL); }

static const struct test tests[] = {
    { "watched", watched },
    { "mapped", mapped },
    { "unwatched", unwatched },
    { NULL, NULL },
};
const struct suite suite_soak = { "soak", tests, NULL, true, true };
