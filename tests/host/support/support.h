/*
 * Test doubles for what pure code may call: one arena stands for the machine's memory, and physical address x is its
 * byte x. Behind the guest's view everything outside the arena reads as all ones.
 */
#ifndef STRATA_TEST_SUPPORT_H
#define STRATA_TEST_SUPPORT_H

#include "core/lib/types.h"

/*
 * Machine memory becomes [0, bytes), zeroed; whatever was there is gone. bytes is a multiple of 4 KiB, 0 gives all
 * memory back. The arena is allocated anew, so that a sanitizer sees an access beyond its end.
 */
void test_memory_reset(size_t bytes);

/* Bytes of machine memory. */
size_t test_memory_size(void);

/*
 * What panic() does. The program that links support.c brings it: panic_cmocka.c turns it into a failed assertion
 * (expect_assert_failure() catches it), tests/fuzz/panic_abort.c ends the process.
 */
_Noreturn void test_panic(const char *text);

/* A small deterministic generator (xorshift64*), so that random tests fail the same way twice. */
struct test_random {
    uint64_t state; /* not 0 */
};
uint64_t test_random(struct test_random *random);

/* A number in [0, limit). limit is not 0. */
uint64_t test_random_below(struct test_random *random, uint64_t limit);

/* A value that is likely to matter: 0, all ones, one bit, an address near a limit, or anything. */
uint64_t test_random_value(struct test_random *random);

#endif
