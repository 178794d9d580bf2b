/*
 * exit-cost: what the round trips of a nested guest cost, measured by the guest itself with the TSC. Runs on a bare
 * machine and under any hypervisor; where Strata is below, its counters' differences are added to each item.
 *
 * One line per item on the serial port:
 *   bench-json: {"item":"nested.cpuid","unit":"ticks","samples":[...],"per":32,"counters":{"L1":{"exit.l3.cpuid":32}}}
 * samples are ticks from just before to just after, the pair of RDTSCs included (item "empty" says what that is);
 * counters are the differences over `per` round trips, less what starting and stopping the guest and reading cost;
 * "batch" says how many repetitions one sample holds, where that is not one.
 */
#ifndef BENCH_COST_H
#define BENCH_COST_H
#include "vmx.h"

enum { SAMPLES_MAX = 64, WARM_UP = 8, REPEATS = 32 };

/* ---- measure.c: samples and lines ---- */
struct samples {
    u32 count;
    u32 batch; /* repetitions in one sample; 0: one */
    u64 ticks[SAMPLES_MAX];
};
extern struct samples samples; /* of the item being measured; the nested guest fills it, too */
void sample(u64 from, u64 to); /* one more; silently none past SAMPLES_MAX */
void item_print(const char *item, const char *counters); /* counters: a JSON object or NULL; empties samples */
void item_skip(const char *item, const char *why);
/* True if the word `name=` on the command line is missing or lists this item by its first word (before the dot). */
bool item_wanted(const char *item);
/* True if the word `trace=` is this item. */
bool item_traced(const char *item);

extern volatile bool trace_now; /* the next run is to be traced: from one magic break to the next (bench/trace) */
#define MAGIC_BREAK() asm volatile("xchg %%bx,%%bx" : : : "memory")
/* Value of one instruction or statement, REPEATS times after WARM_UP. */
#define SAMPLE(n, ...)                                                                                                 \
    if (trace_now) {                                                                                                   \
        MAGIC_BREAK();                                                                                                 \
        __VA_ARGS__;                                                                                                   \
        MAGIC_BREAK();                                                                                                 \
    }                                                                                                                  \
    for (u32 i_ = 0; i_ < (n); i_++) {                                                                                 \
        u64 from_ = rdtsc();                                                                                           \
        __VA_ARGS__;                                                                                                   \
        sample(from_, rdtsc());                                                                                        \
    }

/* ---- strata.c: counters of every Strata below ---- */
void strata_open(void);                            /* finds them; without any the rest does nothing */
void strata_calibrate(void (*nothing)(u32 count)); /* what reading, and an empty run of an item, add */
void strata_begin(void);
void strata_end(u32 per);      /* round trips since */
const char *strata_json(void); /* of the differences between begin and end, less the calibration; NULL without Strata */

/* Warms up, measures, counts and prints one item; run(n) makes n round trips and samples each. */
void item_run(const char *item, void (*run)(u32 count));

/* ---- lean.S: the least that a guest hypervisor can do ---- */
/*
 * On an exit with reason `expect` the guest goes on behind the instruction, after three VMREADs (reason, RIP, length)
 * and one VMWRITE (RIP). Other exits end lean_run, with the guest's registers kept here.
 */
struct lean {
    ulong regs[15]; /* rax rbx rcx rdx rsi rdi rbp r8..r15; first: lean.S knows the layout */
    ulong launched;
    ulong expect;
    ulong rsp; /* host RSP as it is in the VMCS */
};
enum { LEAN_REFUSED = -1 };
int lean_run(struct lean *l); /* the exit reason, or LEAN_REFUSED */
extern char lean_exit[];      /* host RIP */

/* ---- tables.c: EPT tables in memory that the nested guest does not see ---- */
enum {
    HIDDEN_AT = 32 * MIB,
    HIDDEN_END = 44 * MIB,
    BACKING_AT = 64 * MIB,
    BACKING = 64 * MIB,
    MEMORY_END = BACKING_AT + BACKING
};
bool hidden_present(void); /* the machine has the memory from HIDDEN_AT to MEMORY_END */
void *hidden_alloc(u32 pages);
struct ept *hidden_ept(void);                        /* 1:1 in 2 MiB pages, starts the hidden memory afresh */
u64 *hidden_entry(struct ept *e, u64 gpa, u64 size); /* the entry for a page of that size; makes the tables above it */

/* ---- nested.c: one nested guest that does jobs ---- */
struct worker {
    struct lean lean; /* first */
    struct nest *nest;
};
extern struct worker worker;
bool worker_new(void);             /* EPT 1:1 in 2 MiB pages; HLT ends a job; false: cannot be had here */
void worker_do(void (*job)(void)); /* runs job in the nested guest; exits other than lean.expect go to worker_exit */
extern bool (*worker_exit)(int reason); /* handles what is not expected; false: give up */
extern volatile u32 job_count;          /* how many round trips a job makes */

/* ---- smp.c: the second CPU, with interrupts on, until it is told to stop ---- */
void listener_start(void);
void listener_stop(void);

void items_guest(void);
void items_nested(void);
void items_vmx(void);
void items_invept(void);
void items_smp(void);
void items_x2apic(void);
void items_calibrate(void);
#endif
