/* sources: machine */
/*
 * Watching pages for writes, against a model of processors that cache dirty translations: whatever is written, by whichever CPU, is in
 * the next answer; what is silent is silent for a reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/cpu/machine.h"
#include "core/cpu/watch_log.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define CPUS 2
#define PAGES 24
#define CLIENTS 2
#define PAGE(n) GUEST_PAGE(600 + 37 * (n)) /* in several 2-MiB regions */
#define ANSWER 8

static struct watch_client *clients[CLIENTS];
static bool cached[CPUS][PAGES]; /* the CPU has the translation cached as dirty */
static bool added[CLIENTS][PAGES], pending[CLIENTS][PAGES];
static bool waits[CPUS];
static struct test_random seed;
static bool log_off;
static bool log_late; /* other CPUs see a log entry when its writer exits, not before */
static unsigned held[CPUS][PAGES], held_count[CPUS];

static void start(const struct nested_machine_config *config)
{
    struct nested_machine_config two = *config;
    two.cpus = CPUS;
    nested_machine_start(&two);
    seed.state = 2026;
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = watch_client_new(cpus[i]);
}

/* The CPU is in Strata: whatever it has logged is there. */
static void in_strata(unsigned cpu)
{
    nested_machine_select(cpu);
    while (held_count[cpu])
        nested_machine_log(PAGE(held[cpu][--held_count[cpu]]));
}

/* The selected CPU's guest runs: it exits once, so that Strata invalidates what it has to. */
static void run(unsigned cpu)
{
    in_strata(cpu);
    uint64_t epoch = cpus[cpu]->flush_epoch;
    size_t invepts = fake_count(FAKE_INVEPT);
    nested_machine_exit_reason(REASON_cpuid, 0);
    if (cpus[cpu]->flush_epoch == epoch)
        return;
    assert_true(fake_count(FAKE_INVEPT) > invepts);
    memset(cached[cpu], 0, sizeof(cached[cpu]));
}

/* A guest's write on a CPU, which need not have exited for long: the processor looks at the dirty flag only if it has not cached the page as dirty. */
static void write_page(unsigned cpu, unsigned page)
{
    nested_machine_select(cpu);
    uint64_t epoch = cpus[cpu]->flush_epoch;
    if (!cached[cpu][page] && log_off && test_random_below(&seed, 2))
        nested_machine_wrote_unlogged(PAGE(page));
    else if (!cached[cpu][page] && log_late && held_count[cpu] < PAGES) {
        nested_machine_wrote_unlogged(PAGE(page));
        held[cpu][held_count[cpu]++] = page;
    } else if (!cached[cpu][page])
        nested_machine_wrote(PAGE(page));
    if (cpus[cpu]->flush_epoch != epoch) /* it exited for a full log */
        memset(cached[cpu], 0, sizeof(cached[cpu]));
    cached[cpu][page] = true;
    for (unsigned i = 0; i < CLIENTS; i++)
        pending[i][page] = added[i][page];
}

/* A whole question: until the answer is not full. */
static void take(unsigned cpu, unsigned max)
{
    gpa1_t answer[ANSWER];
    unsigned n;
    in_strata(cpu);
    do {
        n = watch_take(clients[cpu], answer, max);
        assert_true(n == WATCH_UNKNOWN || n <= max);
        if (n == WATCH_UNKNOWN)
            memset(pending[cpu], 0, sizeof(pending[cpu]));
        for (unsigned i = 0; n != WATCH_UNKNOWN && i < n; i++)
            for (unsigned page = 0; page < PAGES; page++)
                if (answer[i].v == PAGE(page))
                    pending[cpu][page] = false;
    } while (n == max);
    for (unsigned page = 0; page < PAGES; page++)
        if (pending[cpu][page])
            fail_msg("a write to page %u was not reported to client %u", page, cpu);
    run(cpu);
}

static void note_write(unsigned cpu, unsigned page)
{
    in_strata(cpu);
    watch_note_write(gpa1(PAGE(page) + test_random_below(&seed, PAGE_SIZE)));
    for (unsigned i = 0; i < CLIENTS; i++)
        pending[i][page] = added[i][page];
}

static void add(unsigned client, unsigned page)
{
    if (added[client][page])
        return;
    assert_true(watch_add(clients[client], gpa1(PAGE(page))));
    added[client][page] = true;
}

static void remove_page(unsigned client, unsigned page)
{
    if (!added[client][page])
        return;
    watch_remove(clients[client], gpa1(PAGE(page)));
    added[client][page] = pending[client][page] = false;
}

static void wake(unsigned cpu)
{
    waits[cpu] = false;
    nested_machine_select(cpu);
    __atomic_store_n(&cpus[cpu]->waits_in_nested, false, __ATOMIC_RELEASE);
    run(cpu);
}

/* Before the guest runs again on the CPU that did something in Strata, it catches up. */
static void step(void)
{
    unsigned cpu = (unsigned)test_random_below(&seed, CPUS), page = (unsigned)test_random_below(&seed, PAGES);
    unsigned client = (unsigned)test_random_below(&seed, CLIENTS);
    if (waits[cpu]) { /* it hears a SIPI, or goes on waiting */
        if (test_random_below(&seed, 4))
            return;
        wake(cpu);
    }
    switch (test_random_below(&seed, 16)) {
    case 0:
        add(client, page);
        run(cpu);
        break;
    case 1:
        if (test_random_below(&seed, 3) == 0)
            remove_page(client, page);
        run(cpu);
        break;
    case 2:
        note_write(cpu, page);
        run(cpu);
        break;
    case 3:
    case 4:
    case 5:
        take(cpu, 1 + (unsigned)test_random_below(&seed, ANSWER));
        break;
    case 6:
        run(cpu);
        break;
    case 7:
        if (cpu == 1) {
            in_strata(cpu);
            waits[cpu] = true;
            __atomic_store_n(&cpus[cpu]->waits_in_nested, true, __ATOMIC_RELEASE);
        }
        break;
    default:
        write_page(cpu, page);
        break;
    }
}

/* Nothing was written for a while and all CPUs have exited: no answer names anything. */
static void expect_silence(void)
{
    gpa1_t answer[ANSWER];
    if (waits[1])
        wake(1);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            take(cpu, ANSWER);
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(watch_take(clients[i], answer, ANSWER), 0);
}

static void every_write_is_reported(const struct nested_machine_config *config, bool unlogged)
{
    start(config);
    log_off = unlogged;
    if (unlogged)
        watch_unlogged();
    for (unsigned i = 0; i < 8000; i++) {
        step();
        if (i % 1000 == 999)
            expect_silence();
    }
}

static void writes_with_a_log(void **state)
{
    (void)state, every_write_is_reported(&(struct nested_machine_config){ 0 }, false);
}
/* No order is promised between another CPU's log entry and its later stores. */
static void writes_with_a_late_log(void **state)
{
    (void)state;
    log_late = true;
    every_write_is_reported(&(struct nested_machine_config){ 0 }, false);
}
static void writes_without_a_log(void **state)
{
    (void)state, every_write_is_reported(&(struct nested_machine_config){ .no_pml = true }, false);
}
/* A vmcs02 without EPT in vmcs12 writes through ept01 without logging. */
static void writes_of_nested_guests(void **state)
{
    (void)state, every_write_is_reported(&(struct nested_machine_config){ 0 }, true);
}

/* --- pages asked for alone --- */

static void versions(const struct nested_machine_config *config)
{
    start(config);
    struct watch_page *page = watch_page_get(gpa1(PAGE(3)));
    assert_non_null(page);
    uint32_t version = 0;
    bool written = true, was_quiet = false;
    unsigned quiet = 0;
    for (unsigned i = 0; i < 8000; i++) {
        unsigned cpu = (unsigned)test_random_below(&seed, CPUS);
        nested_machine_select(cpu);
        switch (test_random_below(&seed, 8)) {
        case 0:
            write_page(cpu, 3);
            written = true;
            break;
        case 1:
            write_page(cpu, (unsigned)test_random_below(&seed, 3));
            break;
        case 2:
            note_write(cpu, 3);
            run(cpu);
            written = true;
            break;
        case 3:
            version = watch_page_version(page);
            written = false;
            run(cpu);
            break;
        default:
            run(cpu);
            break;
        }
        was_quiet = version && watch_page_quiet(page, version);
        if (was_quiet && written)
            fail_msg("step %u: the page is quiet, but was written since version %u", i, version);
        quiet += was_quiet;
    }
    assert_true(quiet > 800);
    watch_page_put(page);
}

static void versions_with_a_log(void **state) { (void)state, versions(&(struct nested_machine_config){ 0 }); }
static void versions_without_a_log(void **state)
{
    (void)state, versions(&(struct nested_machine_config){ .no_pml = true });
}

/* Without dirty flags the page is write-protected until the first write. */
static void versions_by_write_protection(void **state)
{
    (void)state, versions(&(struct nested_machine_config){ .no_flags = true });
}

/* --- limits --- */

static void a_full_log(void **state)
{
    (void)state;
    start(&(struct nested_machine_config){ 0 });
    enum { MANY = 1200 };
    static bool seen[MANY];
    for (unsigned i = 0; i < MANY; i++)
        assert_true(watch_add(clients[0], gpa1(GUEST_PAGE(1000 + i))));
    gpa1_t answer[ANSWER];
    run(0);
    run(1);
    while (watch_take(clients[0], answer, ANSWER))
        ;
    run(0);
    run(1);
    uint64_t exits = nested_machine_cpu()->counters[COUNT_EXIT_L2 + REASON_pml_full];
    nested_machine_select(0);
    for (unsigned i = 0; i < MANY; i++)
        nested_machine_wrote(GUEST_PAGE(1000 + i));
    assert_int_equal(cpus[0]->counters[COUNT_EXIT_L2 + REASON_pml_full], exits + 2);
    unsigned n;
    while ((n = watch_take(clients[0], answer, ANSWER)) != 0) {
        assert_int_not_equal(n, WATCH_UNKNOWN);
        for (unsigned i = 0; i < n; i++)
            seen[(answer[i].v - GUEST_PAGE(1000)) / PAGE_SIZE] = true;
        if (n < ANSWER)
            break;
    }
    for (unsigned i = 0; i < MANY; i++)
        assert_true(seen[i]);
}

/* The ring of addresses is finite: who does not ask is told that anything may have been written. */
static void a_client_that_falls_behind(void **state)
{
    (void)state;
    start(&(struct nested_machine_config){ 0 });
    assert_true(watch_add(clients[0], gpa1(PAGE(1))));
    gpa1_t answer[ANSWER];
    nested_machine_select(0);
    while (watch_take(clients[0], answer, ANSWER) || watch_take(clients[1], answer, ANSWER))
        run(0), run(1);
    for (unsigned i = 0; i < 5000; i++) {
        watch_note_write(gpa1(PAGE(1)));
        if (i % 1000 == 0)
            while (watch_take(clients[1], answer, ANSWER) == ANSWER)
                ;
    }
    assert_int_equal(watch_take(clients[0], answer, ANSWER), WATCH_UNKNOWN);
    unsigned n = watch_take(clients[1], answer, 1);
    assert_int_equal(n, 1);
    assert_int_equal(answer[0].v, PAGE(1));
    run(0), run(1);
    while ((n = watch_take(clients[0], answer, ANSWER)) != 0) {
        assert_int_not_equal(n, WATCH_UNKNOWN);
        run(0), run(1);
    }
}

static void pages_that_cannot_be_watched(void **state)
{
    (void)state;
    start(&(struct nested_machine_config){ 0 });
    static const uint64_t pages[] = { HIDDEN_START,     NESTED_MACHINE_END - PAGE_SIZE, MMIO_PAGE, 0, BIT(39),
                                      ~0ull & PAGE_MASK };
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        assert_false(watch_add(clients[0], gpa1(pages[i])));
        assert_null(watch_page_get(gpa1(pages[i])));
    }
    start(&(struct nested_machine_config){ .no_flags = true });
    assert_null(watch_client_new(cpus[0]));
    assert_null(watch_page_get(gpa1(HIDDEN_START)));
    assert_null(watch_page_get(gpa1(MMIO_PAGE)));
    watch_note_write(gpa1(PAGE(1)));
}

/* The table of pages is finite, too; a page given back makes room. */
static void a_full_table(void **state)
{
    (void)state;
    start(&(struct nested_machine_config){ 0 });
    unsigned n = 0;
    while (watch_add(clients[0], gpa1(GUEST_PAGE(1000 + n))))
        n++;
    assert_in_range(n, 1000, 7000);
    assert_false(watch_add(clients[0], gpa1(GUEST_PAGE(999))));
    assert_true(watch_add(clients[1], gpa1(GUEST_PAGE(1000)))); /* one more user of a page is none more */
    watch_remove(clients[0], gpa1(GUEST_PAGE(1500)));
    assert_true(watch_add(clients[0], gpa1(GUEST_PAGE(999))));
    /* Still watched for the other client. */
    watch_remove(clients[0], gpa1(GUEST_PAGE(1000)));
    run(0), run(1);
    gpa1_t answer[ANSWER];
    while (watch_take(clients[1], answer, ANSWER))
        run(0), run(1);
    watch_note_write(gpa1(GUEST_PAGE(1000)));
    assert_int_equal(watch_take(clients[1], answer, ANSWER), 1);
    assert_int_equal(answer[0].v, GUEST_PAGE(1000));
    watch_remove(clients[1], gpa1(GUEST_PAGE(1000)));
    run(0), run(1);
    while (watch_take(clients[1], answer, ANSWER))
        run(0), run(1);
    watch_note_write(gpa1(GUEST_PAGE(1000)));
    assert_int_equal(watch_take(clients[1], answer, ANSWER), 0);
}

/* Silence costs next to nothing: no lock would be seen here, but no hardware is asked either. */
static void silence_is_cheap(void **state)
{
    (void)state;
    start(&(struct nested_machine_config){ 0 });
    assert_true(watch_add(clients[0], gpa1(PAGE(1))));
    gpa1_t answer[ANSWER];
    do
        run(0), run(1);
    while (watch_take(clients[0], answer, ANSWER));
    run(0), run(1);
    uint64_t epoch = memory01.flush_epoch;
    fake_journal_clear();
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(watch_take(clients[0], answer, ANSWER), 0);
    assert_int_equal(fake_journal_size(), 0);
    assert_int_equal(memory01.flush_epoch, epoch);
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(writes_with_a_late_log),       TEST(writes_with_a_log),   TEST(writes_without_a_log),
        TEST(writes_of_nested_guests),      TEST(versions_with_a_log), TEST(versions_without_a_log),
        TEST(versions_by_write_protection), TEST(a_full_log),          TEST(a_client_that_falls_behind),
        TEST(pages_that_cannot_be_watched), TEST(a_full_table),        TEST(silence_is_cheap),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
