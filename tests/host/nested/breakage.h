/*
 * Breaking one rule of a valid vmcs12 at a time: a list of edits must make exactly one rule fail, and every rule of a
 * table must be broken by some list.
 */
#ifndef STRATA_BREAKAGE_H
#define STRATA_BREAKAGE_H

#include "tests/host/machine/sample_vmcs.h"

enum edit_op { EDIT_END, EDIT_PUT, EDIT_SET, EDIT_CLEAR, EDIT_IA32E, EDIT_WORD, EDIT_ALLOW };
struct edit {
    enum edit_op op;
    uint32_t where; /* row; of EDIT_WORD the address of a word, of EDIT_ALLOW a capability MSR to clear bits in */
    uint64_t value;
};

// clang-format off
#define PUT(row, v) { EDIT_PUT, FIELD_##row, (v) }
#define SET(row, v) { EDIT_SET, FIELD_##row, (v) }
#define CLEAR(row, v) { EDIT_CLEAR, FIELD_##row, (v) }
#define OUTSIDE_IA32E { EDIT_IA32E, 0, 0 }
#define WORD(address, v) { EDIT_WORD, (address), (v) }
#define WITHOUT(msr, bits) { EDIT_ALLOW, MSR_VMX_##msr, (bits) }
// clang-format on

#define MAX_EDITS 12
struct breakage {
    const char *rule; /* the one that fails; NULL: none does */
    enum sample kind;
    struct edit edits[MAX_EDITS];
};

/*
 * Applies each breakage to its sample and asserts that just its rule fails, of all rules there are, and that the
 * functions that the hypervisor and the fake processor call find it.
 */
void breakages_run(const struct breakage *breakages, size_t count);

/* Asserts that every rule of the table is broken by some breakage. */
void breakages_cover(const struct breakage *breakages, size_t count, const struct check_table *table);

#endif
