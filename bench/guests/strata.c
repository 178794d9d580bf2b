/*
 * The counters of every Strata below, through CPUID (core/guest/cpuid.h in Strata says the leaves). Reading costs exits of
 * its own: a calibration with an empty item is subtracted, so that what is left is the item's alone.
 */
#include "cost.h"

enum { LEAF = 0x40000100, LEAF_INFO, LEAF_READ, LEAF_NAME, LEVELS = 4, COUNTERS = 320, NAME = 64, CPU_ALL = 0xff };
struct level {
    u32 number, counters;
    char name[COUNTERS][NAME + 1];
    u64 before[COUNTERS], after[COUNTERS], nothing[COUNTERS];
};
static struct level levels[LEVELS];
static u32 level_count;
static char text[8192];
static u32 covered;

static u64 counter_read(u32 hop, u32 index)
{
    struct cpuid r = cpuid(LEAF_READ, index | CPU_ALL << 16 | hop << 24);
    return r.c & 1 ? (u64)r.b << 32 | r.a : 0;
}

static void names_read(u32 hop)
{
    struct level *l = &levels[hop];
    for (u32 i = 0; i < l->counters; i++)
        for (u32 chunk = 0; chunk < NAME / 16; chunk++) {
            struct cpuid r = cpuid(LEAF_NAME, i | chunk << 16 | hop << 24);
            memcpy(l->name[i] + 16 * chunk, &r, 16);
        }
}

void strata_open(void)
{
    struct cpuid r = cpuid(LEAF, 0);
    if (!(cpuid(1, 0).c & 1u << 31) || memcmp(&r.b, "StrataStrata", 12) != 0)
        return;
    for (u32 hop = 0; hop < LEVELS; hop++) {
        r = cpuid(LEAF_INFO, hop << 24);
        if (r.a != 1)
            break;
        levels[hop].number = r.b;
        levels[hop].counters = r.d < COUNTERS ? r.d : COUNTERS;
        names_read(hop);
        level_count = hop + 1;
    }
}

/* The lowest level last before, first after: between its two readings lies the item and as little as possible. */
void strata_begin(void)
{
    for (u32 hop = 0; hop < level_count; hop++)
        for (u32 i = 0; i < levels[hop].counters; i++)
            levels[hop].before[i] = counter_read(hop, i);
}

void strata_end(u32 per)
{
    covered = per;
    for (u32 hop = level_count; hop-- > 0;)
        for (u32 i = 0; i < levels[hop].counters; i++)
            levels[hop].after[i] = counter_read(hop, i);
}

void strata_calibrate(void (*nothing)(u32 count))
{
    nothing(0);
    strata_begin();
    nothing(0);
    strata_end(1);
    for (u32 hop = 0; hop < level_count; hop++)
        for (u32 i = 0; i < levels[hop].counters; i++)
            levels[hop].nothing[i] = levels[hop].after[i] - levels[hop].before[i];
}

static char *add(char *at, const char *string)
{
    while (*string && at < text + sizeof text - 1)
        *at++ = *string++;
    *at = 0;
    return at;
}

const char *strata_json(void)
{
    char *at = text, part[NAME + 40];
    if (!level_count)
        return NULL;
    for (u32 hop = 0; hop < level_count; hop++) {
        struct level *l = &levels[hop];
        const char *comma = "";
        format(part, sizeof part, "%s\"L%u\":{", hop ? "," : "{", l->number);
        at = add(at, part);
        for (u32 i = 0; i < l->counters; i++) {
            long difference = (long)(l->after[i] - l->before[i] - l->nothing[i]);
            if (!difference || !l->name[i][0])
                continue;
            format(part, sizeof part, "%s\"%s\":%d", comma, l->name[i], (int)difference);
            at = add(at, part);
            comma = ",";
        }
        at = add(at, "}");
    }
    format(part, sizeof part, "},\"per\":%u", covered);
    add(at, part);
    return text;
}
