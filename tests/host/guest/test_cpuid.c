/* sources: core/guest/cpuid.c core/cpu/vmcs_image.c core/guest/cpuid_hide.c core/cpu/vmx_probe.c checks tests/host/machine/fake_hw.c */
/*
 * CPUID as the guest sees it: what is hidden is gone in every leaf that speaks of it, the machine below does not shine through, and
 * an address has as many bits as name memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/cpu.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmx_probe.h"
#include "core/guest/counter_report.h"
#include "core/guest/cpuid.h"
#include "core/guest/cpuid_hide.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "core/upcall.h"
#include "tests/host/machine/fake_hw.h"
#include "tests/host/support/support.h"

#define B(n) (1u << (n))

struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;
struct machine machine;
static struct cpu cpu;

static unsigned cpl, prints, marker_printed;

/* What is not linked. */
unsigned guest_cpl(void) { return cpl; }
unsigned log_strata_level(void) { return 1; }
void counter_name(unsigned index, char out[COUNTER_NAME_SIZE]) { (void)index, out[0] = 0; }
uint64_t counter_read(unsigned index, int of) { return index + (unsigned)of; }
void counters_print(uint32_t marker, uint64_t tsc)
{
    (void)tsc;
    prints++;
    marker_printed = marker;
}
void nested_counters(struct cpu *c) { (void)c; }
void x2apic_cpuid(uint32_t leaf, struct cpuid_regs *regs) { (void)leaf, (void)regs; }

static struct cpuid_regs ask(uint32_t leaf, uint32_t subleaf)
{
    cpu.regs[GPR_RAX] = leaf;
    cpu.regs[GPR_RCX] = subleaf;
    cpuid_emulate(&cpu);
    return (struct cpuid_regs){ (uint32_t)cpu.regs[GPR_RAX], (uint32_t)cpu.regs[GPR_RBX], (uint32_t)cpu.regs[GPR_RCX],
                                (uint32_t)cpu.regs[GPR_RDX] };
}

/* A processor that has all there is, with a VMCS for the bits that mirror CR4. */
static int start(void **state)
{
    (void)state;
    fake_hw_reset(1 * MIB);
    memset(&machine, 0, sizeof(machine));
    memset(&cpu, 0, sizeof(cpu));
    cpus[0] = &cpu;
    cpl = prints = 0;
    uint32_t revision = (uint32_t)(vmx_caps_msr(&fake_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    memcpy(hpa_ptr(hpa(0x1000)), &revision, sizeof(revision));
    memcpy(hpa_ptr(hpa(0x2000)), &revision, sizeof(revision));
    assert_true(hw_vmxon(hpa(0x1000)));
    hw_vmclear(hpa(0x2000));
    hw_vmptrld(hpa(0x2000));
    vmwrite(GUEST_CR4, 0);
    vmx_probe(&machine.hw);
    return 0;
}

static void set_all(uint32_t leaf, uint32_t subleaf)
{
    fake_cpuid_set(leaf, subleaf, (struct cpuid_regs){ ~0u, ~0u, ~0u, ~0u });
}

static void expect(uint32_t leaf, uint32_t subleaf, struct cpuid_regs without)
{
    set_all(leaf, subleaf);
    struct cpuid_regs r = ask(leaf, subleaf);
    assert_int_equal(~r.eax, without.eax);
    assert_int_equal(~r.ebx, without.ebx);
    assert_int_equal(~r.ecx, without.ecx);
    assert_int_equal(~r.edx, without.edx);
}

static void features_are_hidden(void **state)
{
    (void)state;
    const struct cpuid_regs all = { ~0u, ~0u, ~0u, ~0u }, none = { 0 };
    expect(1, 0, (struct cpuid_regs){ 0, 0, B(2) | B(4) | B(6) | B(27), B(21) }); /* OSXSAVE: CR4 */
    expect(1, 77, (struct cpuid_regs){ 0, 0, B(2) | B(4) | B(6) | B(27), B(21) });
    expect(6, 0, (struct cpuid_regs){ B(19) | B(23), 0, 0xff00, ~0u });
    expect(7, 0, (struct cpuid_regs){ 0, B(2) | B(25), B(4) | B(13) | B(30), B(18) | B(19) }); /* OSPKE: CR4 */
    expect(7, 1, (struct cpuid_regs){ B(17) | B(26) | B(27), 0, B(5), B(21) });
    expect(7, 2, none);
    expect(0xd, 0, (struct cpuid_regs){ B(19), 0, 0, 0 });
    expect(0xd, 1, (struct cpuid_regs){ 0, 0, (uint32_t)~XSS_ALLOWED, ~0u });
    for (uint32_t component = 2; component < 32; component++)
        expect(0xd, component, component == 8 || component == 15 || component == 19 ? all : none);
    for (uint32_t subleaf = 0; subleaf < 4; subleaf++) {
        expect(0x12, subleaf, all);
        expect(0x14, subleaf, all);
        expect(0x1b, subleaf, all);
        expect(0x1c, subleaf, all);
        expect(0x23, subleaf, subleaf ? none : (struct cpuid_regs){ B(4) | B(5), 0, 0, 0 });
    }
    expect(0x23, 4, all);
    expect(0x23, 5, all);
    for (uint32_t leaf = 0x2; leaf < 0x80; leaf++)
        if (leaf != 6 && leaf != 7 && leaf != 0xd && leaf != 0x12 && leaf != 0x14 && leaf != 0x1b && leaf != 0x1c &&
            leaf != 0x23)
            expect(leaf, 0, none);
}

/* Hyper-V, KVM or Xen below: their leaves are their business with Strata. */
static void the_machine_below_does_not_show(void **state)
{
    (void)state;
    static const uint32_t empty[] = { 0x40000001, 0x40000002, 0x40000003, 0x4000000a, 0x400000ff,
                                      0x40000106, 0x40000200, 0x40010000, 0x4fffffff };
    for (size_t i = 0; i < ARRAY_SIZE(empty); i++) {
        set_all(empty[i], 0);
        struct cpuid_regs r = ask(empty[i], 0);
        if (r.eax | r.ebx | r.ecx | r.edx)
            fail_msg("leaf %xh is not empty", empty[i]);
    }
    assert_int_equal(ask(CPUID_HYPERVISOR, 0).eax, 0x40000001);
    assert_int_equal(ask(CPUID_STRATA, 0).eax, CPUID_STRATA_LAST);
}

static void tme(uint64_t activate, unsigned bits)
{
    fake_cpuid_set(0x80000008, 0, (struct cpuid_regs){ .eax = 0x3900 | 46 });
    fake_msr_set(MSR_TME_ACTIVATE, activate);
    vmx_probe(&machine.hw);
    assert_int_equal(machine.hw.maxphyaddr, bits);
    assert_int_equal(ask(0x80000008, 0).eax, 0x3900 | bits);
}

/* SDM 4, "IA32_TME_ACTIVATE": locked, enabled, bits 35:32. */
static void key_bits_are_no_address_bits(void **state)
{
    (void)state;
    tme(0x600000003, 46); /* without the feature */
    fake_cpuid_set(0, 0, (struct cpuid_regs){ .eax = 0x1f });
    fake_cpuid_set(7, 0, (struct cpuid_regs){ .ecx = B(13) });
    tme(0x600000003, 40);
    tme(0x600000001, 46);
    tme(0x600000002, 46);
    tme(0x3, 46);
    tme(0xffff0003, 46);
    tme(0xf00000003, 31);
}

/* Printing stops the CPU: not at a program's will. Counters can be read by anybody. */
static void only_kernels_print(void **state)
{
    (void)state;
    assert_int_equal(ask(CPUID_STRATA_MARK, 0x01000007).eax, 1);
    assert_int_equal(prints, 1);
    assert_int_equal(marker_printed, 7);
    cpl = 3;
    assert_int_equal(ask(CPUID_STRATA_MARK, 8).eax, 0);
    assert_int_equal(prints, 1);
    assert_int_equal(ask(CPUID_STRATA_COUNTER, 5).ecx, 1);
    machine.options.mark = MARK_ANY;
    assert_int_equal(ask(CPUID_STRATA_MARK, 9).eax, 1);
    assert_int_equal(prints, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(features_are_hidden, start),
        cmocka_unit_test_setup(the_machine_below_does_not_show, start),
        cmocka_unit_test_setup(key_bits_are_no_address_bits, start),
        cmocka_unit_test_setup(only_kernels_print, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
