/*
 * Suite hostile: runs its tests step by step and prints each step's outcome. Words on the command line: hostile=NAMES which tests,
 * hostile-seed=N, hostile-steps=N, hostile-out=A-B,C steps that are left out.
 */
#include "hostile.h"

enum { SEED = 1, STEPS = 300, A_LINE = 16 };

static const struct hostile *const hostiles[] = { &hostile_insn, &hostile_vmcs,  &hostile_code,
                                                  &hostile_ept,  &hostile_state, &hostile_race };
static const struct hostile *now;
static u64 state;

/* ---- random numbers ---- */

/* SplitMix64: neighbouring seeds give unlike numbers. */
u64 dice(void)
{
    u64 z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

u32 dice_below(u32 n) { return (u32)((dice() >> 32) * n >> 32); }
bool dice_one_in(u32 n) { return !dice_below(n); }

u64 dice_value(void)
{
    u64 any = dice();
    switch (dice_below(6)) {
    case 0:
        return 0;
    case 1:
        return ~0ull;
    case 2:
        return BIT(any & 63);
    case 3:
        return any & 0xfff;
    case 4:
        return any >> (any & 63);
    default:
        return any;
    }
}

u64 dice_odd_address(void)
{
    u64 page = (u64)dice_below(256) * PAGE;
    switch (dice_below(7)) {
    case 0:
        return 0xa0000; /* VGA */
    case 1:
        return 0xf0000 + page % 0x10000; /* ROM */
    case 2:
        return 0xe0000000 + page; /* nothing, below 4 GiB */
    case 3:
        return HIGH_RAM_END + page;
    case 4:
        return 1ull << 39 | page; /* nothing, far up */
    case 5:
        return BIT(maxphyaddr()) | page;
    default:
        return page + 1 + dice_below(PAGE - 1);
    }
}

/* ---- steps ---- */

static u32 number_at(const char **p)
{
    u32 n = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++)
        n = n * 10 + (u32)(**p - '0');
    return n;
}

static u32 number(const char *name, u32 otherwise)
{
    const char *p = option(name);
    u32 n = p ? number_at(&p) : 0;
    return n ? n : otherwise;
}

static bool left_out(u32 step)
{
    const char *p = option("hostile-out");
    while (p && *p >= '0' && *p <= '9') {
        u32 first = number_at(&p), last = first;
        if (*p == '-') {
            p++;
            last = number_at(&p);
        }
        if (step >= first && step <= last)
            return true;
        p += *p == ',';
    }
    return false;
}

static void outcome_print(u32 step, u32 outcome)
{
    if (step % A_LINE == 0)
        print("outcome %s %u:", now->name, step);
    if (outcome == OUTCOME_OPEN)
        put(" ?");
    else
        print(" %x", outcome);
    if (step % A_LINE == A_LINE - 1)
        put("\n");
}

static void run(void)
{
    u32 seed = number("hostile-seed", SEED), steps = number("hostile-steps", STEPS) / A_LINE * A_LINE + A_LINE;
    if (!now->begin())
        return;
    for (u32 step = 0; step < steps; step++) {
        u32 outcome = OUTCOME_OPEN;
        state = (u64)seed << 32 ^ step;
        if (!left_out(step) && test_ok())
            outcome = now->step();
        outcome_print(step, outcome);
    }
}

static bool wanted(const char *name)
{
    const char *list = option("hostile");
    size_t n = strlen(name);
    for (const char *p = list; p && *p && *p != ' '; p++)
        if ((p == list || p[-1] == ',') && memcmp(p, name, n) == 0 && (p[n] == ',' || p[n] == ' ' || !p[n]))
            return true;
    return !list;
}

/* The emulator's debugger looks at the memory of the hypervisors below, before and after. A processor does nothing. */
static void look_from_outside(void) { asm volatile("xchg %bx,%bx"); }

static void run_all(void)
{
    look_from_outside();
    for (u32 i = 0; i < COUNT(hostiles); i++) {
        now = hostiles[i];
        if (wanted(now->name))
            test_run(now->name, run, true);
    }
    look_from_outside();
}

const struct suite suite_hostile = { "hostile", NULL, run_all, true, true };
