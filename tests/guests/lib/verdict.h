/*
 * Tests and their verdicts: one line per test on the serial port, a total at the end.
 * A test calls check_* as often as it likes; the first that fails is its verdict, the others are notes.
 */
#ifndef GUESTS_VERDICT_H
#define GUESTS_VERDICT_H
#include "cpu.h"

struct test {
    const char *name;
    void (*run)(void);
};
struct suite {
    const char *name;
    const struct test *tests; /* ends with a NULL name */
    void (*run)(void);        /* instead of tests: makes its own through test_run */
    bool vmx;                 /* each test starts in VMX operation, else outside */
    bool smp;                 /* needs the other CPUs running */
};
extern const struct suite *const suites[];

void suite_run(const struct suite *s);
void test_run(const char *name, void (*run)(void), bool vmx);
void verdict_print(void);
void test_fault(const char *what) __attribute__((noreturn)); /* ends the running test as failed */

void test_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool check_eq(const char *what, u64 got, u64 want);
bool check_masked(const char *what, u64 got, u64 want, u64 mask); /* compares the bits of mask */
bool check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool test_ok(void); /* nothing failed so far in this test */

#endif
