/*
 * A journal of writes to machine memory (the arena of support.h): while it is on, a check of the caller's runs after
 * every single store instruction, so that a test can prove that no intermediate state of a table is ever wrong.
 * The arena is write-protected; a store faults, is let through with the trap flag set, and is looked at afterwards.
 */
#ifndef STRATA_TEST_JOURNAL_H
#define STRATA_TEST_JOURNAL_H

#include "core/lib/types.h"

/*
 * Looks at the memory (reading only) after a store to the page at physical address `written`; NULL when it is right,
 * else a text that says what is wrong.
 */
typedef const char *(*journal_check)(uint64_t written);

void journal_begin(journal_check check);
/* Ends it and returns the first complaint, or NULL. *writes: number of stores seen. */
const char *journal_end(unsigned *writes);

#endif
