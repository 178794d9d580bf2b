/*
 * Names, sums and the JSON line of the counters. All of it follows from the tables in counters.h and vmx.h.
 */
#include "core/lib/counters.h"

#include "core/cpu/cpu.h"
#include "core/lib/format.h"
#include "core/lib/log.h"
#include "core/lib/string.h"
#include "core/upcall.h"

static const char *const reason_names[REASON_COUNT] = {
#define X(name, number) [number] = #name,
    EXIT_REASONS(X)
#undef X
};

static const char *const row_names[] = {
#define X(identifier, name) name,
    COUNTERS(X)
#undef X
};
_Static_assert(ARRAY_SIZE(row_names) == COUNTER_COUNT - COUNT_FIRST_ROW - 1, "one name a row");

const char *exit_reason_name(unsigned reason) { return reason < REASON_COUNT ? reason_names[reason] : NULL; }

void counter_name(unsigned index, char out[COUNTER_NAME_SIZE])
{
    static const char *const groups[] = { "exit.l2", "exit.l3", "reflect" };
    memset(out, 0, COUNTER_NAME_SIZE);
    if (index > COUNT_FIRST_ROW)
        format(out, COUNTER_NAME_SIZE, "%s", row_names[index - COUNT_FIRST_ROW - 1]);
    else if (reason_names[index % REASON_COUNT])
        format(out, COUNTER_NAME_SIZE, "%s.%s", groups[index / REASON_COUNT], reason_names[index % REASON_COUNT]);
}

uint64_t counter_read(unsigned index, int cpu)
{
    if (cpu >= 0)
        return __atomic_load_n(&cpus[cpu]->counters[index], __ATOMIC_RELAXED);
    uint64_t sum = 0;
    for (unsigned i = 0; i < cpu_count; i++)
        sum += __atomic_load_n(&cpus[i]->counters[index], __ATOMIC_RELAXED);
    return sum;
}

/* {"name":value,...} of one CPU or of all (cpu < 0) */
static void print_object(int cpu)
{
    char name[COUNTER_NAME_SIZE], text[COUNTER_NAME_SIZE + 32];
    const char *separator = "{";
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        uint64_t value = counter_read(i, cpu);
        counter_name(i, name);
        if (!value || !name[0])
            continue;
        format(text, sizeof(text), "%s\"%s\":%llu", separator, name, (unsigned long long)value);
        log_text(text);
        separator = ",";
    }
    log_text(separator[0] == '{' ? "{}" : "}");
}

/* Of the pools of all CPUs: what has been taken and is not kept either is lost. */
static void print_pages(void)
{
    uint32_t free = 0, kept = 0;
    char text[64];
    for (unsigned i = 0; i < cpu_count; i++) {
        free += __atomic_load_n(&cpus[i]->pool.free_count, __ATOMIC_RELAXED);
        kept += nested_pages_kept(cpus[i]);
    }
    format(text, sizeof(text), ",\"pages\":{\"free\":%u,\"kept\":%u}", free, kept);
    log_text(text);
}

void counters_print(uint32_t marker, uint64_t tsc)
{
    char head[128];
    format(head, sizeof(head),
           "strata-json: {\"level\":%u,\"marker\":%u,\"tsc\":%llu,\"cpus\":%u,\"counters\":", log_strata_level(),
           marker, (unsigned long long)tsc, cpu_count);
    log_lock();
    log_text(head);
    print_object(-1);
    if (cpu_count > 1) {
        log_text(",\"per_cpu\":[");
        for (unsigned i = 0; i < cpu_count; i++) {
            log_text(i ? "," : "");
            print_object((int)i);
        }
        log_text("]");
    }
    print_pages();
    log_text("}\n");
    log_unlock();
}
