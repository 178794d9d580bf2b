/*
 * Unit tests that run each in a process of its own: Strata keeps state that only a boot resets.
 */
#ifndef STRATA_TEST_ISOLATED_H
#define STRATA_TEST_ISOLATED_H

#include <stddef.h>

struct isolated_test {
    const char *name;
    void (*function)(void **state);
};
/* The number of tests that failed. */
int isolated_tests_run(const struct isolated_test *tests, size_t count);

#endif
