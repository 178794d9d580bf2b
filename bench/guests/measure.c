/*
 * Samples of one item and the lines that report them. Owns the form of those lines; knows nothing of what is measured.
 */
#include "cost.h"

enum { MARK_TICKS = 4000000 };

struct samples samples;
volatile bool trace_now;

void sample(u64 from, u64 to)
{
    if (samples.count < SAMPLES_MAX)
        samples.ticks[samples.count++] = to - from;
}

void item_print(const char *item, const char *counters)
{
    print("bench-json: {\"item\":\"%s\",\"unit\":\"ticks\",\"samples\":[", item);
    for (u32 i = 0; i < samples.count; i++)
        print(i ? ",%u" : "%u", (u32)samples.ticks[i]);
    put("]");
    if (samples.batch)
        print(",\"batch\":%u", samples.batch);
    if (counters) {
        put(",\"counters\":");
        put(counters);
    }
    put("}\n");
    samples = (struct samples){ 0 };
}

void item_skip(const char *item, const char *why)
{
    print("bench-json: {\"item\":\"%s\",\"skipped\":\"%s\"}\n", item, why);
    samples.count = 0;
}

bool item_wanted(const char *item)
{
    const char *list = option("items");
    size_t length = 0;
    while (item[length] && item[length] != '.')
        length++;
    for (const char *p = list; p && *p && *p != ' '; p++) {
        if (memcmp(p, item, length) == 0 && (p[length] == ',' || p[length] == ' ' || !p[length]))
            return true;
        while (*p && *p != ',' && *p != ' ')
            p++;
        if (*p != ',')
            break;
    }
    return !list;
}

bool item_traced(const char *item)
{
    const char *traced = option("trace");
    return traced && memcmp(traced, item, strlen(item)) == 0 && (traced[strlen(item)] & ~' ') == 0;
}

/* A line behind which KVM as the machine below notes its counts (tests/linux/below/relay.c), and time for that. */
static void mark(const char *item, u32 round_trips)
{
    print("bench-mark: %s %u\n", item, round_trips);
    for (u64 from = rdtsc(); rdtsc() - from < MARK_TICKS;)
        ;
}

/* Word marks=1: what the machine below counts of REPEATS round trips. */
static void item_mark(const char *item, void (*run)(u32 count))
{
    if (!option("marks"))
        return;
    mark(item, 0);
    mark(item, 0);
    run(REPEATS);
    mark(item, REPEATS);
    samples.count = 0;
}

void item_run(const char *item, void (*run)(u32 count))
{
    run(WARM_UP);
    if (item_traced(item)) {
        trace_now = true;
        run(0);
        trace_now = false;
    }
    samples.count = 0;
    run(REPEATS);
    struct samples kept = samples;
    strata_begin();
    run(REPEATS);
    strata_end(REPEATS);
    samples = kept;
    item_print(item, strata_json());
    item_mark(item, run);
}
