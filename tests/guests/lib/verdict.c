/*
 * Runs suites and tests, keeps the score, prints the verdict lines the runner reads.
 * A fault nobody expected ends its test, not the run.
 */
#include "verdict.h"
#include "vmx.h"

static struct {
    const char *suite, *test;
    enum { PASSED, FAILED, SKIPPED } state;
    char why[300];
    struct context end;
    u32 total[3];
} now;

static void note(const char *why)
{
    if (now.state == FAILED) {
        print("note %s.%s: also %s\n", now.suite, now.test, why);
        return;
    }
    now.state = FAILED;
    format(now.why, sizeof now.why, "%s", why);
}

void test_failed(const char *fmt, ...)
{
    char why[300];
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vformat(why, sizeof why, fmt, ap);
    __builtin_va_end(ap);
    note(why);
}

void test_skip(const char *fmt, ...)
{
    if (now.state == FAILED)
        return;
    now.state = SKIPPED;
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vformat(now.why, sizeof now.why, fmt, ap);
    __builtin_va_end(ap);
}

bool test_ok(void) { return now.state == PASSED; }

bool check_eq(const char *what, u64 got, u64 want)
{
    if (got == want)
        return true;
    test_failed("%s: got %llx, expected %llx", what, got, want);
    return false;
}

bool check_masked(const char *what, u64 got, u64 want, u64 mask)
{
    if (((got ^ want) & mask) == 0)
        return true;
    test_failed("%s: got %llx, expected %llx in bits %llx", what, got, want, mask);
    return false;
}

bool check(bool ok, const char *fmt, ...)
{
    if (ok)
        return true;
    char why[300];
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vformat(why, sizeof why, fmt, ap);
    __builtin_va_end(ap);
    note(why);
    return false;
}

void test_fault(const char *what)
{
    if (!now.test) {
        print("FAIL lib.start: unexpected fault %s\n", what);
        now.total[FAILED]++;
        verdict_print();
    }
    test_failed("unexpected fault %s", what);
    if (this_cpu()->index != 0) /* no way out of another CPU's job but to stop there */
        for (;;)
            asm volatile("cli\nhlt");
    context_jump(&now.end);
}

static bool selected(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p; p++) {
        if (memcmp(p, name, n) == 0 && (p[n] == ',' || p[n] == ' ' || !p[n]))
            return true;
        while (*p && *p != ',' && *p != ' ')
            p++;
        if (*p != ',')
            return false;
    }
    return false;
}

void test_run(const char *name, void (*run)(void), bool vmx)
{
    static const char *const words[] = { "PASS", "FAIL", "SKIP" };
    const char *only = option("only");
    char full[80];
    format(full, sizeof full, "%s.%s", now.suite, name);
    if (only && !selected(only, name))
        return;
    now.test = name;
    now.state = PASSED;
    page_reset();
    this_cpu()->rescue = &now.end;
    if (selected(option("skip"), full)) { /* the runner's word for a test that would end the machine */
        test_skip("told to");
    } else if (context_save(&now.end) == 0) {
        if (vmx)
            vmx_enter_operation();
        run();
    }
    if (context_save(&now.end) == 0)
        vmx_leave_operation();
    irq_off();
    print(now.state == PASSED ? "%s %s.%s\n" : "%s %s.%s: %s\n", words[now.state], now.suite, now.test, now.why);
    now.total[now.state]++;
    now.test = NULL;
}

void suite_run(const struct suite *s)
{
    const char *list = option("suites");
    if (list && !selected(list, s->name))
        return;
    now.suite = s->name;
    if (s->smp)
        cpus_start();
    if (s->run) {
        s->run();
        return;
    }
    for (const struct test *t = s->tests; t->name; t++)
        test_run(t->name, t->run, s->vmx);
}

void verdict_print(void)
{
    print("guest-verdict: %u passed, %u failed, %u skipped\n", now.total[PASSED], now.total[FAILED],
          now.total[SKIPPED]);
    machine_off();
}
