/* sources: core/cpu/multihit.c core/cpu/barrier.c checks tests/host/machine/fake_hw.c */
/*
 * Which processors may take a machine check on page size change: as Linux decides.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/cpu/multihit.h"
#include "tests/host/machine/fake_hw.h"

#define SAYS_NO BIT(6)

struct machine machine;
struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;

static const struct cpuid_regs intel = { .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 };
static const struct cpuid_regs amd = { .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65 };

// clang-format off
static const struct { const char *name; uint32_t signature; uint64_t caps; bool affected; } rows[] = {
    { "Haswell",                        0x306c3, 0,                  true },
    { "Skylake server",                 0x50654, 0,                  true },
    { "Skylake server, other bits",     0x50654, ~SAYS_NO,           true },
    { "Cascade Lake",                   0x50657, 0x2b | SAYS_NO,     false },
    { "KVM below, which takes care",    0x50654, SAYS_NO,            false },
    { "Goldmont",                       0x506c9, 0,                  false },
    { "Knights Landing",                0x50671, 0,                  false },
    { "Tremont",                        0x906c0, 0,                  false },
    { "Goldmont's model, other family", 0x50fc9, 0,                  true },
};
// clang-format on

static void processors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct barrier_facts facts = { .arch_capabilities = rows[i].caps };
        if (multihit_affects(intel, rows[i].signature, facts) != rows[i].affected)
            fail_msg("%s", rows[i].name);
        assert_false(multihit_affects(amd, rows[i].signature, facts));
    }
}

/* The MSR counts only where CPUID says that there is one. */
static void this_processor(void **state)
{
    (void)state;
    fake_hw_reset(MIB);
    fake_cpuid_set(0, 0, (struct cpuid_regs){ .eax = 7, .ebx = intel.ebx, .ecx = intel.ecx, .edx = intel.edx });
    fake_cpuid_set(1, 0, (struct cpuid_regs){ .eax = 0x50654 });
    fake_msr_set(MSR_ARCH_CAPABILITIES, SAYS_NO);
    assert_true(multihit_here());
    fake_cpuid_set(7, 0, (struct cpuid_regs){ .edx = (uint32_t)BIT(29) });
    assert_false(multihit_here());
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(processors), cmocka_unit_test(this_processor) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
