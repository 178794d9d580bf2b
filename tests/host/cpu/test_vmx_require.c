/* sources: checks tests/host/machine/fake_hw.c core/cpu/vmx_require.c core/cpu/vmx_probe.c */
/*
 * Reading the processor's capabilities, and refusing processors for the first thing that they lack.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/cpu/vmx_probe.h"
#include "core/cpu/vmx_require.h"
#include "tests/host/machine/fake_hw.h"

#define MEMORY PAGE_SIZE

static void the_fake_processors_suffice(void **state)
{
    struct vmx_caps caps;

    (void)state;
    fake_caps_all(&caps);
    assert_null(vmx_require(&caps));
    fake_caps_plain(&caps);
    assert_null(vmx_require(&caps));
}

/* Each required bit taken away by itself: the text names the MSR and that bit. */
static void each_missing_feature_is_named(void **state)
{
    static const struct {
        uint32_t msr;
        unsigned bit;
        const char *text;
    } missing[] = {
        { 0x482, 63, "secondary controls (IA32_VMX_PROCBASED_CTLS[63])" },
        { 0x482, 60, "MSR bitmaps (IA32_VMX_PROCBASED_CTLS[60])" },
        { 0x48b, 33, "EPT (IA32_VMX_PROCBASED_CTLS2[33])" },
        { 0x48b, 39, "unrestricted guest (IA32_VMX_PROCBASED_CTLS2[39])" },
        { 0x48b, 37, "VPID (IA32_VMX_PROCBASED_CTLS2[37])" },
        { 0x48c, 6, "EPT page-walk length 4 (IA32_VMX_EPT_VPID_CAP[6])" },
        { 0x48c, 14, "EPT paging structures of memory type WB (IA32_VMX_EPT_VPID_CAP[14])" },
        { 0x48c, 16, "EPT 2-MByte pages (IA32_VMX_EPT_VPID_CAP[16])" },
        { 0x48c, 20, "INVEPT (IA32_VMX_EPT_VPID_CAP[20])" },
        { 0x48c, 25, "single-context INVEPT (IA32_VMX_EPT_VPID_CAP[25])" },
        { 0x48c, 26, "all-context INVEPT (IA32_VMX_EPT_VPID_CAP[26])" },
        { 0x48c, 32, "INVVPID (IA32_VMX_EPT_VPID_CAP[32])" },
        { 0x48c, 41, "single-context INVVPID (IA32_VMX_EPT_VPID_CAP[41])" },
        { 0x480, 55, "true controls (IA32_VMX_BASIC[55])" },
        { 0x48f, 50, "save IA32_PAT on exit (IA32_VMX_TRUE_EXIT_CTLS[50])" },
        { 0x48f, 51, "load IA32_PAT on exit (IA32_VMX_TRUE_EXIT_CTLS[51])" },
        { 0x48f, 52, "save IA32_EFER on exit (IA32_VMX_TRUE_EXIT_CTLS[52])" },
        { 0x48f, 53, "load IA32_EFER on exit (IA32_VMX_TRUE_EXIT_CTLS[53])" },
        { 0x490, 46, "load IA32_PAT on entry (IA32_VMX_TRUE_ENTRY_CTLS[46])" },
        { 0x490, 47, "load IA32_EFER on entry (IA32_VMX_TRUE_ENTRY_CTLS[47])" },
        { 0x48f, 41, "64-bit host (IA32_VMX_TRUE_EXIT_CTLS[41])" },
        { 0x490, 41, "IA-32e mode guest (IA32_VMX_TRUE_ENTRY_CTLS[41])" },
        { 0x481, 35, "NMI exiting (IA32_VMX_PINBASED_CTLS[35])" },
        { 0x481, 37, "virtual NMIs (IA32_VMX_PINBASED_CTLS[37])" },
        { 0x482, 54, "NMI-window exiting (IA32_VMX_PROCBASED_CTLS[54])" },
        { 0x485, 8, "activity state wait-for-SIPI (IA32_VMX_MISC[8])" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
        struct vmx_caps caps;
        fake_caps_plain(&caps);
        caps.msr[missing[i].msr - MSR_VMX_FIRST] &= ~BIT(missing[i].bit);
        assert_non_null(vmx_require(&caps));
        assert_string_equal(vmx_require(&caps), missing[i].text);
    }
}

/* Processors without EPT, then without unrestricted guest, lack newer things, too: what users know is named. */
static void the_oldest_missing_feature_is_named(void **state)
{
    struct vmx_caps caps = { 0 };

    (void)state;
    assert_string_equal(vmx_require(&caps), "secondary controls (IA32_VMX_PROCBASED_CTLS[63])");
    caps.msr[MSR_VMX_PROC - MSR_VMX_FIRST] = PROC_SECONDARY << 32;
    assert_string_equal(vmx_require(&caps), "EPT (IA32_VMX_PROCBASED_CTLS2[33])");
    caps.msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] = PROC2_EPT << 32;
    assert_string_equal(vmx_require(&caps), "unrestricted guest (IA32_VMX_PROCBASED_CTLS2[39])");
}

static void probe_reads_what_the_processor_has(void **state)
{
    struct vmx_caps hw;

    (void)state;
    fake_hw_reset(MEMORY);
    vmx_probe(&hw);
    assert_memory_equal(hw.msr, fake_caps.msr, sizeof(hw.msr));
    assert_memory_equal(hw.offered, fake_caps.offered, sizeof(hw.offered));
    assert_int_equal(hw.maxphyaddr, fake_caps.maxphyaddr);
    assert_int_equal(hw.efer, fake_caps.efer);
    for (uint32_t msr = MSR_VMX_FIRST; msr <= MSR_VMX_LAST; msr++)
        assert_int_equal(fake_count_of(FAKE_RDMSR, msr), 1);
}

/* MSRs that do not exist raise #GP in the fake machine: reading one would fail this test. */
static void probe_reads_only_msrs_that_exist(void **state)
{
    struct vmx_caps hw;

    (void)state;
    fake_hw_reset(MEMORY);
    fake_caps_plain(&fake_caps);
    vmx_probe(&hw);
    assert_int_equal(fake_count_of(FAKE_RDMSR, MSR_VMX_VMFUNC), 0);
    assert_memory_equal(hw.msr, fake_caps.msr, sizeof(hw.msr) - sizeof(hw.msr[0]));
    assert_false(hw.offered[CAP_SHADOW]);

    fake_hw_reset(MEMORY);
    fake_caps.msr[MSR_VMX_PROC - MSR_VMX_FIRST] &= ~(PROC_SECONDARY << 32);
    fake_caps.msr[0] &= ~VMX_BASIC_TRUE_CONTROLS;
    vmx_probe(&hw);
    for (uint32_t msr = MSR_VMX_PROC2; msr <= MSR_VMX_LAST; msr++)
        assert_int_equal(vmx_caps_msr(&hw, msr), 0);
}

static void probe_of_odd_cpuid(void **state)
{
    struct vmx_caps hw;

    (void)state;
    fake_hw_reset(MEMORY);
    fake_cpuid_set(0x80000008, 0, (struct cpuid_regs){ .eax = 0xff });
    fake_cpuid_set(0x80000001, 0, (struct cpuid_regs){ 0 });
    vmx_probe(&hw);
    assert_int_equal(hw.maxphyaddr, 52);
    assert_int_equal(hw.efer, 0);
    fake_cpuid_set(0x80000000, 0, (struct cpuid_regs){ .eax = 0x80000004 });
    vmx_probe(&hw);
    assert_int_equal(hw.maxphyaddr, 36);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fake_processors_suffice),         cmocka_unit_test(each_missing_feature_is_named),
        cmocka_unit_test(the_oldest_missing_feature_is_named), cmocka_unit_test(probe_reads_what_the_processor_has),
        cmocka_unit_test(probe_reads_only_msrs_that_exist),    cmocka_unit_test(probe_of_odd_cpuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
