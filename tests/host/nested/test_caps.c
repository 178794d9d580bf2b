/* sources: nested/caps.c core/cpu/vmx_caps.c core/cpu/vmcs_fields.c */
/*
 * What is offered to the guest hypervisor, from processors with everything, with little, and random ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/lib/x86.h"
#include "nested/caps.h"
#include "tests/host/machine/fake_hw.h"
#include "tests/host/support/support.h"

#define ALL_ONES (~0ull)
#define RANDOM_ROUNDS 20000

static const struct caps_options all_on = { .vmcs_shadowing = true, .ept_ad = true };
static const struct caps_options all_off = { .vmcs_shadowing = false, .ept_ad = false };

/* A processor on which nothing must be 1 and everything may be. */
static void caps_everything(struct vmx_caps *caps)
{
    memset(caps, 0, sizeof(*caps));
    for (uint32_t msr = MSR_VMX_FIRST; msr <= MSR_VMX_LAST; msr++)
        caps->msr[msr - MSR_VMX_FIRST] = ALL_ONES;
    for (uint32_t msr = MSR_VMX_PIN; msr <= MSR_VMX_ENTRY; msr++) {
        caps->msr[msr - MSR_VMX_FIRST] = ALL_ONES << 32;
        caps->msr[msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN - MSR_VMX_FIRST] = ALL_ONES << 32;
    }
    caps->msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] = ALL_ONES << 32;
    caps->maxphyaddr = 46;
    caps->efer = EFER_LME | EFER_LMA;
}

/* The list as the project decided it, written once more, as numbers of bits. */
struct expectation {
    uint32_t msr;
    int shift;           /* of bit 0 of the list: 32 for controls */
    const char bits[80]; /* offered, ended by a 0 */
};

static uint64_t bits_of(const struct expectation *expected)
{
    uint64_t value = 0;
    for (const char *bit = expected->bits; *bit; bit++)
        value |= BIT(*bit - 1) << expected->shift;
    return value;
}

/* Bit n stands as n + 1 in the lists: 0 ends them. */
#define B(n) (char)((n) + 1)

static void only_the_list_is_offered(void **state)
{
    // clang-format off
    static const struct expectation list[] = {
        { MSR_VMX_PIN, 32, { B(0), B(3), B(5), B(6), B(7) } },
        { MSR_VMX_PROC, 32, { B(2), B(3), B(7), B(9), B(10), B(11), B(12), B(15), B(16), B(19), B(20), B(21), B(22), B(23),
                              B(24), B(25), B(27), B(28), B(29), B(30), B(31) } },
        { MSR_VMX_PROC2, 32, { B(0), B(1), B(2), B(3), B(4), B(5), B(6), B(7), B(8), B(9), B(10), B(11), B(12), B(14),
                               B(16), B(20), B(25), B(26) } },
        { MSR_VMX_EXIT, 32, { B(2), B(9), B(15), B(18), B(19), B(20), B(21), B(22) } },
        { MSR_VMX_ENTRY, 32, { B(2), B(9), B(14), B(15) } },
        { MSR_VMX_EPT_VPID, 0, { B(0), B(6), B(8), B(14), B(16), B(17), B(20), B(21), B(25), B(26), B(32), B(40), B(41),
                                 B(42), B(43) } },
        { MSR_VMX_MISC, 0, { B(0), B(1), B(2), B(3), B(4), B(5), B(6), B(7), B(8), B(16), B(17), B(18), B(19), B(20), B(21),
                             B(22), B(23), B(24), B(29), B(30) } },
    };
    // clang-format on
    struct vmx_caps hw, caps;

    (void)state;
    caps_everything(&hw);
    caps_filter(&caps, &hw, &all_on);
    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        assert_int_equal(vmx_caps_msr(&caps, list[i].msr), bits_of(&list[i]));
        if (list[i].msr >= MSR_VMX_PIN && list[i].msr <= MSR_VMX_ENTRY)
            assert_int_equal(vmx_caps_controls(&caps, list[i].msr), bits_of(&list[i]));
    }
    assert_int_equal(caps.maxphyaddr, 46);
    assert_int_equal(caps.efer, EFER_LME | EFER_LMA);
    assert_false(caps_msr_exists(&caps, MSR_VMX_VMFUNC));
}

static void basic_keeps_revision_and_has_page_sized_regions(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    fake_caps_all(&hw);
    caps_filter(&caps, &hw, &all_on);
    uint64_t basic = caps_msr(&caps, MSR_VMX_BASIC);
    assert_int_equal(basic & 0x7fffffff, caps_msr(&hw, MSR_VMX_BASIC) & 0x7fffffff);
    assert_int_equal(basic >> 32 & 0x1fff, 4096);
    assert_int_equal(basic >> 50 & 0xf, MEMTYPE_WB);
    assert_true(basic & BIT(54));
    assert_true(basic & BIT(55));
    assert_false(basic & (BIT(31) | BIT(48) | BIT(49)));

    hw.msr[0] &= ~VMX_BASIC_TRUE_CONTROLS;
    caps_filter(&caps, &hw, &all_on);
    assert_false(caps_msr(&caps, MSR_VMX_BASIC) & BIT(55));
    for (uint32_t msr = MSR_VMX_TRUE_PIN; msr <= MSR_VMX_TRUE_ENTRY; msr++)
        assert_false(caps_msr_exists(&caps, msr));
}

/* Controls that must be 1 stay so, in both MSRs of a group, and stay allowed. */
static void what_must_be_1_stays(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    fake_caps_all(&hw);
    caps_filter(&caps, &hw, &all_on);
    for (uint32_t msr = MSR_VMX_PIN; msr <= MSR_VMX_ENTRY; msr++) {
        uint32_t true_msr = msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN;
        assert_int_equal((uint32_t)caps_msr(&caps, msr), (uint32_t)caps_msr(&hw, msr));
        assert_int_equal((uint32_t)caps_msr(&caps, true_msr), (uint32_t)caps_msr(&hw, true_msr));
        assert_int_equal(caps_msr(&caps, msr) & ~(caps_msr(&caps, msr) >> 32) & 0xffffffff, 0);
    }
    assert_int_equal(caps_msr(&caps, MSR_VMX_CR0_FIXED0), caps_msr(&hw, MSR_VMX_CR0_FIXED0));
    assert_int_equal(caps_msr(&caps, MSR_VMX_CR0_FIXED1), caps_msr(&hw, MSR_VMX_CR0_FIXED1));
    assert_int_equal(caps_msr(&caps, MSR_VMX_CR4_FIXED0), caps_msr(&hw, MSR_VMX_CR4_FIXED0));
    assert_int_equal(caps_msr(&caps, MSR_VMX_CR4_FIXED1), caps_msr(&hw, MSR_VMX_CR4_FIXED1));
}

static void options_switch(void **state)
{
    struct vmx_caps hw, on, off;

    (void)state;
    fake_caps_all(&hw);
    caps_filter(&on, &hw, &all_on);
    caps_filter(&off, &hw, &all_off);
    assert_true(vmx_caps_allowed1(&on, MSR_VMX_PROC2) & PROC2_SHADOW_VMCS);
    assert_false(vmx_caps_allowed1(&off, MSR_VMX_PROC2) & PROC2_SHADOW_VMCS);
    assert_true(on.offered[CAP_SHADOW] && !off.offered[CAP_SHADOW]);
    assert_true(caps_msr(&on, MSR_VMX_EPT_VPID) & EPT_CAP_AD);
    assert_false(caps_msr(&off, MSR_VMX_EPT_VPID) & EPT_CAP_AD);

    fake_caps_plain(&hw);
    caps_filter(&on, &hw, &all_on);
    assert_false(vmx_caps_allowed1(&on, MSR_VMX_PROC2) & PROC2_SHADOW_VMCS);
    assert_false(caps_msr(&on, MSR_VMX_EPT_VPID) & EPT_CAP_AD);
}

static void fields_follow_controls(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    fake_caps_all(&hw);
    assert_true(hw.offered[CAP_POSTED_INTR]);
    caps_filter(&caps, &hw, &all_on);
    for (int cap = 0; cap < CAP_COUNT; cap++)
        assert_int_equal(caps.offered[cap], cap != CAP_NEVER);

    fake_caps_plain(&hw);
    caps_filter(&caps, &hw, &all_on);
    assert_true(caps.offered[CAP_EPT] && caps.offered[CAP_VPID] && caps.offered[CAP_EFER] && caps.offered[CAP_PROC2]);
    assert_false(caps.offered[CAP_VID] || caps.offered[CAP_VIRT_APIC] || caps.offered[CAP_XSAVES] ||
                 caps.offered[CAP_TSC_SCALING] || caps.offered[CAP_PLE] || caps.offered[CAP_SHADOW]);

    hw.msr[MSR_VMX_TRUE_PROC - MSR_VMX_FIRST] &= ~(PROC_SECONDARY << 32);
    hw.msr[MSR_VMX_PROC - MSR_VMX_FIRST] &= ~(PROC_SECONDARY << 32);
    caps_filter(&caps, &hw, &all_on);
    assert_false(caps.offered[CAP_EPT] || caps.offered[CAP_PROC2] || caps.offered[CAP_VPID]);
    assert_false(caps_msr_exists(&caps, MSR_VMX_PROC2) || caps_msr_exists(&caps, MSR_VMX_EPT_VPID));
}

/* Each capability is derived from its controls, any one of them. */
static void each_capability_has_its_controls(void **state)
{
    static const struct {
        enum vmcs_cap cap;
        uint32_t msr;
        uint64_t control;
    } list[] = {
        { CAP_MSR_BITMAP, MSR_VMX_TRUE_PROC, PROC_MSR_BITMAP },
        { CAP_TPR_SHADOW, MSR_VMX_TRUE_PROC, PROC_TPR_SHADOW },
        { CAP_VIRT_APIC, MSR_VMX_PROC2, PROC2_VIRT_APIC_ACCESS },
        { CAP_EPT, MSR_VMX_PROC2, PROC2_EPT },
        { CAP_VPID, MSR_VMX_PROC2, PROC2_VPID },
        { CAP_VID, MSR_VMX_PROC2, PROC2_VIRT_INTR_DELIVERY },
        { CAP_POSTED_INTR, MSR_VMX_TRUE_PIN, PIN_POSTED_INTR },
        { CAP_SHADOW, MSR_VMX_PROC2, PROC2_SHADOW_VMCS },
        { CAP_XSAVES, MSR_VMX_PROC2, PROC2_XSAVES },
        { CAP_TSC_SCALING, MSR_VMX_PROC2, PROC2_TSC_SCALING },
        { CAP_PAT, MSR_VMX_TRUE_ENTRY, ENTRY_LOAD_PAT },
        { CAP_PAT, MSR_VMX_TRUE_EXIT, EXIT_LOAD_PAT },
        { CAP_PAT, MSR_VMX_TRUE_EXIT, EXIT_SAVE_PAT },
        { CAP_EFER, MSR_VMX_TRUE_ENTRY, ENTRY_LOAD_EFER },
        { CAP_EFER, MSR_VMX_TRUE_EXIT, EXIT_LOAD_EFER },
        { CAP_EFER, MSR_VMX_TRUE_EXIT, EXIT_SAVE_EFER },
        { CAP_PLE, MSR_VMX_PROC2, PROC2_PAUSE_LOOP },
        { CAP_PREEMPTION_TIMER, MSR_VMX_TRUE_PIN, PIN_PREEMPTION_TIMER },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
        struct vmx_caps caps = { 0 };
        caps.msr[MSR_VMX_BASIC - MSR_VMX_FIRST] = VMX_BASIC_TRUE_CONTROLS;
        caps.msr[MSR_VMX_TRUE_PROC - MSR_VMX_FIRST] = PROC_SECONDARY << 32;
        caps.msr[MSR_VMX_PROC - MSR_VMX_FIRST] = PROC_SECONDARY << 32;
        caps.msr[list[i].msr - MSR_VMX_FIRST] |= list[i].control << 32;
        vmx_caps_derive(&caps);
        for (int cap = CAP_NEVER; cap < CAP_COUNT; cap++)
            assert_int_equal(caps.offered[cap], cap == (int)list[i].cap || cap == CAP_PROC2);
        bool ept_or_vpid = list[i].cap == CAP_EPT || list[i].cap == CAP_VPID;
        assert_int_equal(vmx_caps_msr_exists(&caps, MSR_VMX_EPT_VPID), ept_or_vpid);
    }
}

/* IA32_VMX_EPT_VPID_CAP: without one of the two features only the other's bits are left. */
static void ept_and_vpid_capabilities_go_with_their_feature(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    caps_everything(&hw);
    hw.msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] &= ~(PROC2_EPT << 32);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_EPT_VPID), BIT(32) | BIT(40) | BIT(41) | BIT(42) | BIT(43));
    caps_everything(&hw);
    hw.msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] &= ~(PROC2_VPID << 32);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_EPT_VPID) >> 32, 0);
    assert_true(caps_msr(&caps, MSR_VMX_EPT_VPID) & EPT_CAP_INVEPT);
}

/* IA32_VMX_VMCS_ENUM names the highest index among fields that exist: it goes down with the features. */
static void vmcs_enum_follows_fields(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    fake_caps_all(&hw);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_VMCS_ENUM), 0x32); /* TSC multiplier, 2032h */
    hw.msr[MSR_VMX_PROC2 - MSR_VMX_FIRST] &= ~(PROC2_TSC_SCALING << 32);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_VMCS_ENUM), 0x2e); /* preemption timer, 482Eh */
    fake_caps_plain(&hw);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_VMCS_ENUM), 0x2e);
    hw.msr[MSR_VMX_TRUE_PIN - MSR_VMX_FIRST] &= ~(PIN_PREEMPTION_TIMER << 32);
    caps_filter(&caps, &hw, &all_on);
    assert_int_equal(caps_msr(&caps, MSR_VMX_VMCS_ENUM), 0x2a); /* IA32_SYSENTER_CS, 482Ah */
}

static void msr_numbers(void **state)
{
    struct vmx_caps hw, caps;

    (void)state;
    fake_caps_all(&hw);
    caps_filter(&caps, &hw, &all_on);
    for (uint32_t msr = MSR_VMX_FIRST; msr < MSR_VMX_LAST; msr++)
        assert_true(caps_msr_exists(&caps, msr));
    assert_true(vmx_caps_msr_exists(&hw, MSR_VMX_VMFUNC));
    assert_false(caps_msr_exists(&caps, MSR_VMX_VMFUNC));
    assert_false(caps_msr_exists(&hw, MSR_VMX_FIRST - 1) || caps_msr_exists(&hw, MSR_VMX_LAST + 1));
    assert_false(caps_msr_exists(&hw, 0) || caps_msr_exists(&hw, ~0u));
}

/* Whatever the processor: nothing is offered that it has not, and offering twice takes nothing more away. */
static void never_more_than_the_processor_has(void **state)
{
    struct test_random random = { 7 };
    struct vmx_caps hw, caps, again;

    (void)state;
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        memset(&hw, 0, sizeof(hw));
        for (int i = 0; i < MSR_VMX_COUNT; i++)
            hw.msr[i] = test_random_value(&random);
        caps_filter(&caps, &hw, &all_on);
        for (uint32_t msr = MSR_VMX_PIN; msr <= MSR_VMX_TRUE_ENTRY; msr++) {
            bool fixed = msr >= MSR_VMX_CR0_FIXED0 && msr <= MSR_VMX_VMCS_ENUM;
            if (!fixed && caps_msr(&caps, msr) & ~caps_msr(&hw, msr))
                fail_msg("MSR %x: offered %llx of %llx", msr, (unsigned long long)caps_msr(&caps, msr),
                         (unsigned long long)caps_msr(&hw, msr));
        }
        caps_filter(&again, &caps, &all_on);
        assert_memory_equal(&again, &caps, sizeof(caps));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_list_is_offered),
        cmocka_unit_test(basic_keeps_revision_and_has_page_sized_regions),
        cmocka_unit_test(what_must_be_1_stays),
        cmocka_unit_test(options_switch),
        cmocka_unit_test(fields_follow_controls),
        cmocka_unit_test(each_capability_has_its_controls),
        cmocka_unit_test(ept_and_vpid_capabilities_go_with_their_feature),
        cmocka_unit_test(vmcs_enum_follows_fields),
        cmocka_unit_test(msr_numbers),
        cmocka_unit_test(never_more_than_the_processor_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
