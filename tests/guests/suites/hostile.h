/*
 * The parts of suite hostile: guests that do what no guest should, in an order that a seed gives. Each kind of thing (a struct hostile)
 * is a test whose steps do not depend on each other's random numbers, so that any of them can be left out. A step's outcome is a
 * number that the SDM determines, the same on every machine, or OUTCOME_OPEN.
 */
#ifndef GUESTS_HOSTILE_H
#define GUESTS_HOSTILE_H
#include "suites.h"

#define OUTCOME_OPEN 0xffffffffu

struct hostile {
    const char *name;
    bool (*begin)(void); /* false: not on this machine; test_skip was called, or the test has failed */
    u32 (*step)(void);
};
extern const struct hostile hostile_insn, hostile_vmcs, hostile_code, hostile_ept, hostile_state, hostile_race;

/* ---- random numbers: of this step ---- */
u64 dice(void);
u32 dice_below(u32 n);
bool dice_one_in(u32 n);
u64 dice_value(void); /* one that is likely to matter */

/* ---- addresses ---- */
/* RAM that nobody uses, or that belongs to the hypervisors below: which, depends on the machine. */
enum { HIGH_RAM = 200 * MIB, HIGH_RAM_END = 256 * MIB };
u64 dice_odd_address(void); /* of no RAM of this guest's: device memory, ROM, nothing, beyond the width, unaligned */

/* ---- nested guests that can do no harm ---- */
enum { FENCED_MODES = 4 };
struct ept *fence_new(void); /* the image of this guest, for reading and executing; nothing else */
struct nest *fenced_new(enum nest_mode mode, void (*fn)(void));
/* Puts back what keeps a nested guest from harm, whatever its VMCS holds. */
void fence(const struct nest *n);

#endif
