/* sources: core/cpu/barrier.c checks tests/host/machine/fake_hw.c */
/*
 * Which barriers a processor needs, by what it says of itself: processors as they are sold, and each bit that decides alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "tests/host/machine/fake_hw.h"

#define RTM BIT(11)
#define MD_CLEAR BIT(10)
#define IBRS BIT(26)
#define L1D BIT(28)
#define HAS_CAPS BIT(29)

struct machine machine;
struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;

/* Bits of IA32_ARCH_CAPABILITIES: 0 RDCL_NO, 1 IBRS_ALL, 3 SKIP_L1DFL, 5 MDS_NO, 8 TAA_NO, 13-15 MMIO, 17 FB_CLEAR, 27 RFDS_NO, 28 CLEAR. */
// clang-format off
static const struct { const char *name; uint64_t ebx, edx, caps; uint32_t barriers; } processors[] = {
    { "without any microcode update",         RTM, 0,                              0,                          0 },
    { "Skylake server",                       RTM, MD_CLEAR | IBRS | L1D,          0,                          BARRIER_IBPB | BARRIER_VERW | BARRIER_L1D },
    { "Skylake server, updated",              0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, BIT(17),                  BARRIER_IBPB | BARRIER_VERW | BARRIER_L1D },
    { "Cascade Lake, transactions on",        RTM, MD_CLEAR | IBRS | L1D | HAS_CAPS, 0x2b,                     BARRIER_IBPB | BARRIER_VERW },
    { "Cascade Lake, transactions off",       0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, 0x2b,                     BARRIER_IBPB },
    { "Cascade Lake, updated",                0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, 0x2b | BIT(17),           BARRIER_IBPB | BARRIER_VERW },
    { "Ice Lake server",                      0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, 0x12b | BIT(17),          BARRIER_IBPB | BARRIER_VERW },
    { "Sapphire Rapids",                      RTM, MD_CLEAR | IBRS | L1D | HAS_CAPS, 0xe16b | BIT(27),         BARRIER_IBPB },
    { "Alder Lake",                           0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, 0xe16b | BIT(28),         BARRIER_IBPB | BARRIER_VERW },
    { "a machine below that flushes itself",  0,   MD_CLEAR | IBRS | L1D | HAS_CAPS, BIT(3) | BIT(5),          BARRIER_IBPB },
};
// clang-format on

static void by_processor(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(processors); i++) {
        struct barrier_facts facts = { (uint32_t)processors[i].ebx, (uint32_t)processors[i].edx, processors[i].caps };
        uint32_t want = processors[i].barriers;
        if (barrier_decide(facts, MITIGATIONS_AUTO) != want)
            fail_msg("%s: %x", processors[i].name, barrier_decide(facts, MITIGATIONS_AUTO));
        assert_int_equal(barrier_decide(facts, MITIGATIONS_ON), want | (want & BARRIER_L1D ? BARRIER_L1D_ALWAYS : 0));
        assert_int_equal(barrier_decide(facts, MITIGATIONS_OFF), 0);
    }
}

/* The three kinds of MMIO data are one barrier, which all three make needless. */
static void each_immunity(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 8; bits++) {
        struct barrier_facts facts = { 0, 0, BIT(17) | (uint64_t)bits << 13 };
        assert_int_equal(barrier_decide(facts, MITIGATIONS_AUTO), bits == 7 ? 0 : BARRIER_VERW);
    }
}

static void facts_of_this_processor(void **state)
{
    (void)state;
    fake_hw_reset(1 * MIB);
    struct barrier_facts facts = barrier_facts_read();
    assert_int_equal(facts.cpuid7_ebx | facts.cpuid7_edx | facts.arch_capabilities, 0);
    fake_cpuid_set(0, 0, (struct cpuid_regs){ .eax = 7 });
    fake_cpuid_set(7, 0, (struct cpuid_regs){ .ebx = 5, .edx = (uint32_t)(HAS_CAPS | L1D) });
    facts = barrier_facts_read();
    assert_int_equal(facts.cpuid7_ebx, 5);
    assert_int_equal(facts.cpuid7_edx, HAS_CAPS | L1D);
    assert_int_equal(facts.arch_capabilities, 0); /* announced, but it raises #GP */
    fake_msr_set(MSR_ARCH_CAPABILITIES, 0x2b);
    assert_int_equal(barrier_facts_read().arch_capabilities, 0x2b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_processor),
        cmocka_unit_test(each_immunity),
        cmocka_unit_test(facts_of_this_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
