/*
 * Sums and the JSON line of the counters of all CPUs.
 */
#include "core/guest/counter_report.h"

#include "core/cpu/cpu.h"
#include "core/lib/format.h"
#include "core/lib/log.h"
#include "core/upcall.h"

uint64_t counter_read(unsigned index, int cpu)
{
    if (cpu >= 0)
        return __atomic_load_n(&cpus[cpu]->counters[index], __ATOMIC_RELAXED);
    uint64_t sum = 0;
    for (unsigned i = 0; i < cpu_count; i++)
        sum += __atomic_load_n(&cpus[i]->counters[index], __ATOMIC_RELAXED);
    return sum;
}

#define PRINTED_CPUS 8 /* whose counters stand in the line one by one: its time is bounded */

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
        for (unsigned i = 0; i < cpu_count && i < PRINTED_CPUS; i++) {
            log_text(i ? "," : "");
            print_object((int)i);
        }
        log_text("]");
    }
    print_pages();
    log_text("}\n");
    log_unlock();
}
