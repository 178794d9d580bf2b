/*
 * Every order of events of a few CPUs: each CPU executes one operation after another, gives up the processor where another CPU could
 * see or change something, and all choices of who goes on, and with what, are tried. A choice is tried in a process of its own, so
 * that nothing has to be taken back. States that were seen before are not followed again.
 */
#ifndef STRATA_TEST_ORDERS_H
#define STRATA_TEST_ORDERS_H

#include <stdbool.h>
#include <stdint.h>

#define ORDERS_CPUS 3

struct orders {
    unsigned cpus, op_count;
    unsigned ops; /* executed by all CPUs together */
    const char *const *names;
    void (*start)(void); /* makes the machine, in a process of its own */
    bool (*enabled)(unsigned cpu, unsigned op);
    void (*run)(unsigned cpu, unsigned op); /* calls orders_yield */
    void (*resume)(unsigned cpu);           /* the CPU is about to go on */
    void (*check)(void);                    /* between any two steps */
    uint64_t (*hash)(void); /* all that decides about what comes; what CPUs are in the middle of is added */
    bool quiet;             /* a failure is what is wanted: not printed */
};

struct orders_seen {
    uint64_t states; /* different ones */
    uint64_t steps;  /* from one point where others can see it to the next */
    uint64_t operations;
    uint64_t orders; /* ended: all operations done, or a state seen before */
    bool failed;
};

struct orders_seen orders_explore(const struct orders *orders);

/* In an operation: another CPU may go on here. Outside orders_explore: nothing. */
void orders_yield(void);
/* In an operation: the CPU that executes it. */
unsigned orders_cpu(void);
/* Ends the exploration; prints what led here. */
_Noreturn void orders_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline uint64_t orders_mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 29;
}

#endif
