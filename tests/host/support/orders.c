/*
 * See orders.h. A CPU in the middle of an operation is a context of its own (ucontext); the processes share counters and the table of
 * states. One process runs at a time: who has made another waits for it.
 */
#include "tests/host/support/orders.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_SIZE (256 * 1024)
#define TABLE_SIZE (1u << 22)
#define TRAIL_MAX 256
#define LEFT_MASK 0xffull /* in an entry of the table: operations that were left */

struct shared {
    struct orders_seen seen;
    uint64_t table[TABLE_SIZE];
};

static const struct orders *orders;
static struct shared *shared;

static struct {
    bool busy;
    unsigned op, yields;
    ucontext_t context;
} cpus[ORDERS_CPUS];
static char stacks[ORDERS_CPUS][STACK_SIZE] __attribute__((aligned(64)));
static ucontext_t scheduler;
static int running = -1; /* CPU whose context runs */
static unsigned ops_left;

static struct {
    uint8_t cpu, op;
    bool goes_on;
} trail[TRAIL_MAX];
static unsigned trail_length;

void orders_fail(const char *format, ...)
{
    if (!orders || !orders->quiet) {
        va_list args;
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fprintf(stderr, "\n");
        for (unsigned i = 0; orders && i < trail_length; i++)
            fprintf(stderr, "  CPU %u %s%s\n", trail[i].cpu, trail[i].goes_on ? "... " : "",
                    orders->names[trail[i].op]);
    }
    if (shared)
        shared->seen.failed = true;
    fflush(NULL);
    _exit(1);
}

void orders_yield(void)
{
    if (running < 0)
        return;
    cpus[running].yields++;
    swapcontext(&cpus[running].context, &scheduler);
}

unsigned orders_cpu(void) { return (unsigned)running; }

static void operation(void)
{
    orders->run((unsigned)running, cpus[running].op);
    cpus[running].busy = false; /* uc_link leads back */
}

static void step(unsigned cpu, int op)
{
    bool starts = op >= 0;
    if (starts) {
        cpus[cpu].op = (unsigned)op;
        cpus[cpu].busy = true;
        cpus[cpu].yields = 0;
        ops_left--;
        shared->seen.operations++;
        getcontext(&cpus[cpu].context);
        cpus[cpu].context.uc_stack.ss_sp = stacks[cpu];
        cpus[cpu].context.uc_stack.ss_size = STACK_SIZE;
        cpus[cpu].context.uc_link = &scheduler;
        makecontext(&cpus[cpu].context, operation, 0);
    }
    if (trail_length == TRAIL_MAX)
        orders_fail("more than %u steps", TRAIL_MAX);
    trail[trail_length].cpu = (uint8_t)cpu;
    trail[trail_length].op = (uint8_t)cpus[cpu].op;
    trail[trail_length++].goes_on = !starts;
    shared->seen.steps++;
    running = (int)cpu;
    orders->resume(cpu);
    swapcontext(&scheduler, &cpus[cpu].context);
    running = -1;
    orders->check();
}

/* False: this state was followed already, with as many operations left. */
static bool state_is_new(void)
{
    uint64_t hash = orders->hash();
    for (unsigned i = 0; i < orders->cpus; i++)
        hash = orders_mix(hash, cpus[i].busy ? 1 + cpus[i].op * 64u + cpus[i].yields : 0);
    hash |= 1ull << 63; /* no entry is 0 */
    uint64_t i = (hash >> 8) % TABLE_SIZE;
    while (shared->table[i] && ((shared->table[i] ^ hash) & ~LEFT_MASK))
        i = (i + 1) % TABLE_SIZE;
    if (!shared->table[i] && ++shared->seen.states > TABLE_SIZE / 2)
        orders_fail("more states than the table has room for");
    if (shared->table[i] && (shared->table[i] & LEFT_MASK) >= ops_left)
        return false;
    shared->table[i] = (hash & ~LEFT_MASK) | ops_left;
    return true;
}

struct choice {
    unsigned cpu;
    int op; /* GOES_ON: with what the CPU is at */
};
#define NOTHING (-2)
#define GOES_ON (-1)

/* The choice after this one; false: there is none. */
static bool next_choice(struct choice *c)
{
    for (; c->cpu < orders->cpus; c->cpu++, c->op = NOTHING) {
        if (cpus[c->cpu].busy) {
            if (c->op == NOTHING) {
                c->op = GOES_ON;
                return true;
            }
            continue;
        }
        for (c->op = c->op < 0 ? 0 : c->op + 1; ops_left && c->op < (int)orders->op_count; c->op++)
            if (orders->enabled(c->cpu, (unsigned)c->op))
                return true;
    }
    return false;
}

/* True in a process of its own; false once that has ended. */
static bool branch(void)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return true;
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        shared->seen.failed = true;
        _exit(1);
    }
    return false;
}

/* All orders from here on. The last choice needs no process of its own. */
static _Noreturn void follow(void)
{
    do {
        struct choice c = { 0, NOTHING };
        if (!next_choice(&c))
            break;
        for (struct choice later = c; next_choice(&later); c = later)
            if (branch())
                break;
        step(c.cpu, c.op);
    } while (state_is_new());
    shared->seen.orders++;
    _exit(0);
}

struct orders_seen orders_explore(const struct orders *what)
{
    orders = what;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ops_left = what->ops;
        what->start();
        follow();
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        shared->seen.failed = true;
    struct orders_seen seen = shared->seen;
    munmap(shared, sizeof(*shared));
    shared = NULL;
    return seen;
}
