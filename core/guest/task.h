/*
 * Task switches as the processor makes them, on values: the registers and the request in, the registers and what is left
 * to do out. SDM 3, "Task Switching". Pure but for the guest's memory, which is reached through guest_memory; what
 * is found there is believed in nothing.
 *
 * Not modelled: shadow stacks (SSP of a 32-bit TSS), as in guest_walk.h.
 */
#ifndef STRATA_TASK_H
#define STRATA_TASK_H

#include "core/guest/guest_walk.h"
#include "core/lib/types.h"
#include "core/lib/x86.h"

/* As bits 31:30 of the exit qualification. SDM 3, "Exit Qualification for Task Switches". */
enum task_source { TASK_CALL = 0, TASK_IRET = 1, TASK_JMP = 2, TASK_GATE = 3 /* in the IDT */ };

struct task_segment {
    uint64_t base;
    uint32_t limit;  /* bytes - 1, whatever the descriptor's G says */
    uint32_t rights; /* AR_ bits of vmx.h */
    uint16_t selector;
};

#define TASK_GPRS 8 /* EAX .. EDI; a TSS has them in the order of enum gpr */

/* What a task switch reads and changes. */
struct task_state {
    uint32_t gpr[TASK_GPRS]; /* by enum gpr, ESP included */
    uint32_t eip, eflags;
    uint64_t dr7;
    struct task_segment segment[SEG_COUNT];
    uint64_t gdt_base;
    uint32_t gdt_limit;
    struct guest_paging paging; /* CR0, CR3, PDPTE registers; CPL and RFLAGS follow SS and eflags */
};

struct task_request {
    enum task_source source;
    uint16_t selector; /* of the new TSS */
    uint64_t event;    /* TASK_GATE: IDT-vectoring information; else 0 */
    uint32_t error;    /* error code of the event, if it has one */
    uint32_t length;   /* bytes of the instruction, if it is one that asked */
};

enum task_kind {
    TASK_SWITCHED,
    TASK_FAULTED,  /* vector and error are to be injected; in the new task if it is committed, else in the old one */
    TASK_SHUTDOWN, /* a fault while a double fault was delivered: a triple fault */
    TASK_RETRY,    /* another processor changed what this one looked at: let the guest try again */
};

struct task_result {
    enum task_kind kind;
    bool committed;   /* the state is the new task's; else it is unchanged */
    bool cr3_changed; /* translations have to be invalidated, PDPTE registers are new */
    bool debug_trap;  /* the T flag of the new TSS: #DB with DR6.BT before the first instruction */
    bool page_fault;  /* CR2 becomes linear, also where the page fault became a double fault */
    uint64_t linear;
    enum vector vector;
    uint32_t error; /* every fault of a task switch has an error code */
};

struct task_result task_run(struct task_state *state, const struct task_request *request,
                            const struct guest_memory *memory);

#endif
