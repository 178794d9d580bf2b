/* sources: machine */
/*
 * Barriers against speculation stand where they are due and nowhere else: IBPB when an exit is handed up, VERW and the L1D flush before
 * the nested guest is entered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

static const struct nested_machine_config usual = { 0 };

static void start(uint32_t barriers)
{
    nested_machine_start(&usual);
    fake_msr_set(MSR_PRED_CMD, 0);
    fake_msr_set(MSR_FLUSH_CMD, 0);
    machine.barriers = barriers;
    fake_journal_clear();
}

static void expect(size_t ibpb, size_t verw, size_t l1d)
{
    assert_int_equal(fake_count_of(FAKE_WRMSR, MSR_PRED_CMD), ibpb);
    assert_int_equal(fake_count(FAKE_VERW), verw);
    assert_int_equal(fake_count_of(FAKE_WRMSR, MSR_FLUSH_CMD), l1d);
    fake_journal_clear();
}

/* Nothing is read between VERW and the entry. */
static void expect_last(void)
{
    size_t size = fake_journal_size();
    assert_int_equal(fake_journal(size - 1)->op, FAKE_ENTER);
    size_t at = size - 2;
    while (fake_journal(at)->op == FAKE_VMREAD || fake_journal(at)->op == FAKE_VMWRITE ||
           fake_journal(at)->op == FAKE_RDMSR)
        at--;
    assert_int_equal(at, size - 2);
    assert_int_equal(fake_journal(at)->op, FAKE_VERW);
}

static void exit_of(uint64_t reason) { nested_machine_exit_reason(reason, 0); }

static void miss(uint64_t page)
{
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation, .qualification = EPT_QUAL_READ, .gpa = GUEST_PAGE(page) });
    assert_true(nested_machine_in_l3());
}

/* always: with BARRIER_L1D_ALWAYS. */
static void walk(uint32_t barriers, size_t always)
{
    start(barriers);
    size_t ibpb = barriers & BARRIER_IBPB ? 1 : 0, verw = barriers & BARRIER_VERW ? 1 : 0,
           l1d = barriers & BARRIER_L1D ? 1 : 0;
    exit_of(REASON_cpuid); /* the guest hypervisor's own */
    expect(0, 0, 0);
    l3_start();
    expect(0, verw, l1d);
    exit_of(REASON_cpuid); /* handed up */
    expect(ibpb, 0, 0);
    exit_of(REASON_cpuid); /* the guest hypervisor's own */
    expect(0, 0, 0);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    if (verw)
        expect_last();
    expect(0, verw, always);
    miss(1000); /* Strata deals with it */
    if (verw)
        expect_last();
    expect(0, verw, l1d);
    miss(1600);
    expect(0, verw, l1d);
    exit_of(REASON_hlt);
    expect(ibpb, 0, 0);
    assert_int_equal(l2_enter(REASON_vmlaunch),
                     VMERR_VMLAUNCH_NOT_CLEAR); /* refused: the nested guest is not entered */
    expect(0, 0, 0);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_BARRIER_IBPB], 2 * ibpb);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_BARRIER_VERW], 4 * verw);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_BARRIER_L1D], 3 * l1d + always);
}

static void where_due(void **state)
{
    (void)state;
    for (uint32_t barriers = 0; barriers < 8; barriers++)
        walk(barriers, 0);
    walk(BARRIER_L1D | BARRIER_L1D_ALWAYS, 1);
    walk(BARRIER_IBPB | BARRIER_VERW | BARRIER_L1D | BARRIER_L1D_ALWAYS, 1);
}

/* An event that arrives at the last moment: what Strata did for it is covered as well. */
static void after_an_event(void **state)
{
    (void)state;
    start(BARRIER_IBPB | BARRIER_VERW);
    l3_start();
    fake_journal_clear();
    nested_machine_cpu()->nmi_pending = nested_machine_cpu()->event_pending = 1;
    nested_machine_exit_reason(REASON_ept_violation, 0);
    assert_false(nested_machine_in_l3()); /* the guest hypervisor wants NMIs */
    assert_int_equal(fake_count_of(FAKE_WRMSR, MSR_PRED_CMD), 1);
}

#define TEST(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

int main(void)
{
    static const struct isolated_test tests[] = { TEST(where_due), TEST(after_an_event) };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
