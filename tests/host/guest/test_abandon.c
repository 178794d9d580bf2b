/* sources: machine */
/*
 * Strata gives up after its other CPUs have begun to wait in VMX: each leaves VMX, and none runs the guest's code. A CPU that
 * waits for a SIPI drops an INIT, so that it must be a SIPI that brings it out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/start.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define CPUS 2u
#define TARGET 1u
static const struct nested_machine_config two = { .cpus = CPUS };
static unsigned sipis, early;

/* The target's side: what is no SIPI is dropped, and so is a SIPI that comes before it waits. */
static void icr_sent(uint64_t icr)
{
    assert_int_equal(icr >> 32, cpus[TARGET]->apic_id);
    if ((icr & ICR_MODE_MASK) != ICR_MODE_STARTUP)
        return;
    sipis++;
    if (early) {
        early--;
        return;
    }
    nested_machine_select(TARGET);
    expect_assert_failure(
        nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_sipi })); /* halts for good */
    assert_int_equal(cpu_state(cpus[TARGET]), CPU_FAILED);
    expect_assert_failure(hw_vmread(VMCS_GUEST_RIP)); /* VMX is off */
    nested_machine_select(0);
}

static void test_waiting_cpus_leave_vmx(void **state)
{
    (void)state;
    nested_machine_start(&two);
    fake_msr_on_write(MSR_X2APIC_ICR, icr_sent);
    cpu_set_state(cpus[TARGET], CPU_WAITING);
    early = 2;
    for (unsigned i = 0; i < 5; i++)
        start_abandon();
    assert_int_equal(sipis, 3); /* and no more once it has left */
    assert_int_equal(cpu_state(cpus[TARGET]), CPU_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_waiting_cpus_leave_vmx) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
