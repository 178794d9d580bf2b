/*
 * The counters of all CPUs, for who asks through CPUID.
 */
#ifndef STRATA_COUNTER_REPORT_H
#define STRATA_COUNTER_REPORT_H

#include "core/lib/counters.h"

/* Sum over all CPUs (cpu < 0) or the value of one CPU. index < COUNTER_COUNT, cpu < number of CPUs. */
uint64_t counter_read(unsigned index, int cpu);
/* Prints the JSON line of this level: all counters that are not zero, as sums and of the first CPUs. */
void counters_print(uint32_t marker, uint64_t tsc);

#endif
