/* sources: core/cpu/vmxon.c core/cpu/vmcs_image.c core/cpu/vmx_probe.c core/cpu/vmx_require.c checks core/memory/page_pool.c core/lib/format.c tests/host/machine/fake_hw.c */
/*
 * The step into VMX operation: what firmware left on and the guest cannot switch off is off before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/cpu/vmx_probe.h"
#include "core/cpu/vmxon.h"
#include "tests/host/machine/fake_hw.h"

struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;
struct machine machine;
static struct cpu cpu;

static int start(void **state)
{
    (void)state;
    fake_hw_reset(1 * MIB);
    memset(&machine, 0, sizeof(machine));
    memset(&cpu, 0, sizeof(cpu));
    pool_add(&cpu.pool, hpa(0x10000), 0x10000);
    vmx_probe(&machine.hw);
    machine.cr4 = CR4_PAE | CR4_VMXE;
    return 0;
}

static void hidden_features_are_off(void **state)
{
    (void)state;
    static const uint32_t enables[] = { 0x570, 0x17d1, 0x3f1, 0x14ce };
    for (size_t i = 0; i < ARRAY_SIZE(enables); i++)
        fake_msr_set(enables[i], 1);
    assert_null(vmxon_cpu(&cpu));
    for (size_t i = 0; i < ARRAY_SIZE(enables); i++)
        assert_int_equal(fake_msr_get(enables[i]), 0);
    bool on = false;
    for (size_t i = 0; i < fake_journal_size(); i++) {
        on |= fake_journal(i)->op == FAKE_VMXON;
        if (fake_journal(i)->op == FAKE_WRMSR && fake_journal(i)->a == 0x570)
            assert_false(on); /* VMXON with a trace that runs raises #GP */
    }
    assert_true(on);
}

static void without_them_nothing_is_written(void **state)
{
    (void)state;
    fake_msr_set(0x570, 0);
    fake_journal_clear();
    assert_null(vmxon_cpu(&cpu));
    assert_int_equal(fake_count(FAKE_WRMSR), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(hidden_features_are_off, start),
        cmocka_unit_test_setup(without_them_nothing_is_written, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
