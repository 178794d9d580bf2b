/*
 * The end of Strata: one of its own invariants does not hold.
 */
#ifndef STRATA_PANIC_H
#define STRATA_PANIC_H

#include "core/lib/types.h"

/* A broken invariant of Strata itself; never for anything that a guest does. */
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on a panic shows this, too. It may run on any CPU, in any state. */
void panic_show(void (*page)(void));

/* A line on the serial port, past all locks: for the panic page alone. */
void panic_print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
