/*
 * Exceptions as values: what becomes of one that arises while an event is delivered, and what the processor does for it. Pure.
 */
#ifndef STRATA_FAULT_H
#define STRATA_FAULT_H

#include "core/lib/types.h"
#include "core/lib/x86.h"

#define NO_ERROR_CODE (-1)
#define FAULT_ERROR_EXT 1u /* in an error code: the exception arose in delivering an event from outside the program */

struct fault {
    enum vector vector;
    int64_t error;   /* or NO_ERROR_CODE */
    uint64_t linear; /* #PF: the address, for CR2 */
    bool shutdown;   /* no exception any more: the third fault */
};

/*
 * What is delivered when `fault` arises in the delivery of the event with this IDT-vectoring information (of any value: there need be
 * none). linear is kept where a page fault becomes a double fault. SDM 3, "Conditions for Generating a Double Fault".
 */
struct fault fault_combine(uint64_t event, struct fault fault);

/* Error codes of exceptions in its delivery have EXT set. SDM 3, "Error Code". INT1 counts as external there. */
bool fault_event_external(uint64_t event);

/* The flags saved at its delivery have RF set. SDM 3, "Instruction-Breakpoint Exception Condition"; #DB here is never one of those. */
bool fault_sets_rf(enum vector vector);

/* The breakpoint that DR7 and an address register describe is one of data and met by an access to [linear, linear + size). */
bool fault_breakpoint_met(uint64_t dr7, unsigned number, uint64_t address, uint64_t linear, unsigned size, bool write);

#endif
