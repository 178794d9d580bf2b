/* sources: machine */
/*
 * The VM-entry MSR-load area: loaded by the processor, so after its checks of the guest state, once for each entry of L2's, entry by entry
 * up to the first that fails, whatever L2 writes there meanwhile. SDM 3, "Loading MSRs" of "VM Entries".
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/guest/guest.h"
#include "core/memory/ept.h"
#include "core/memory/memory.h"
#include "core/upcall.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define AREA GUEST_PAGE(0x300) /* of several pages */
#define OTHER_PAT 0x0006000600060006ull

static const struct nested_machine_config usual = { 0 };
static uint64_t values[FIELD_COUNT];

static uint64_t in_vmcs02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }
static uint64_t in_vmcs01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }

static void area_set(unsigned i, uint32_t msr, uint64_t value)
{
    struct msr_entry e = { msr, 0, value };
    memcpy((void *)(AREA + sizeof(e) * i), &e, sizeof(e));
}

static void make(uint64_t count)
{
    nested_machine_start(&usual);
    vmcs12_sample(values);
    V(ENTRY_MSR_LOAD_ADDR) = AREA;
    V(ENTRY_MSR_LOAD_COUNT) = count;
}

static void expect_failed(uint64_t number)
{
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_entry_msr_load | REASON_ENTRY_FAILURE);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), number);
    assert_int_equal(l2_enter(REASON_vmresume), VMERR_VMRESUME_NOT_LAUNCHED);
}

static void entries_that_fail_load_nothing(void **state)
{
    (void)state;
    for (unsigned controls = 0; controls < 2; controls++) {
        make(1);
        area_set(0, MSR_KERNEL_GS_BASE, 0x1111);
        if (controls)
            V(CR3_TARGET_COUNT) = 9;
        else
            V(GUEST_RFLAGS) = 0;
        l2_make(0, values);
        assert_int_equal(l2_enter(REASON_vmlaunch), controls ? VMERR_ENTRY_CONTROLS : VMX_OK);
        assert_false(nested_machine_in_l3());
        assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0);
        /* Nor does the next entry, when L2 has no list any more. */
        assert_int_equal(l2_vmwrite(VMCS_CR3_TARGET_COUNT, 0), VMX_OK);
        assert_int_equal(l2_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED1), VMX_OK);
        assert_int_equal(l2_vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 0), VMX_OK);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_true(nested_machine_in_l3());
        assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0);
    }
}

/* Exits that L2 does not see are no entries of its. */
static void loaded_once(void **state)
{
    (void)state;
    make(1);
    area_set(0, MSR_KERNEL_GS_BASE, 0x1111);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
    fake_msr_set(MSR_KERNEL_GS_BASE, 0x2222); /* L3 */
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation, .qualification = EPT_QUAL_READ, .gpa = GUEST_PAGE(0x500) });
    assert_true(nested_machine_in_l3());
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x2222);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x2222);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
    nested_machine_exit_reason(REASON_cpuid, 0);
    fake_msr_set(MSR_KERNEL_GS_BASE, 0x3333);
    assert_int_equal(l2_vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 0), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x3333);
}

/* What Strata refuses the processor must not be asked for; what Strata emulates keeps its place in the list. */
static void numbers_are_those_of_l2(void **state)
{
    (void)state;
    make(5);
    mtrr_init(&memory01.mtrr, 0x508, 46);
    memory01.has_mtrr = true;
    area_set(0, MSR_SYSENTER_CS, 0x77);
    area_set(1, MSR_MTRR_DEF_TYPE, 0xc06);
    area_set(2, MSR_KERNEL_GS_BASE, 0x1111);
    area_set(3, MSR_FEATURE_CONTROL, 5);
    area_set(4, MSR_KERNEL_GS_BASE, 0x2222);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    expect_failed(4);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
    assert_int_equal(l2_field(VMCS_GUEST_SYSENTER_CS), V(GUEST_SYSENTER_CS));
    area_set(3, MSR_LSTAR, 0x5555);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x2222);
    assert_int_equal(in_vmcs02(FIELD_GUEST_SYSENTER_CS), 0x77);
}

static void long_lists(void **state)
{
    (void)state;
    make(513);
    for (unsigned i = 0; i < 513; i++)
        area_set(i, MSR_KERNEL_GS_BASE, i);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    expect_failed(513);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 511);
    assert_int_equal(l2_vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 512), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

/* Where exits load neither EFER nor PAT, L2 goes on with what the list had loaded until it failed; vmcs12 keeps its values. */
static void efer_and_pat_of_a_failed_entry(void **state)
{
    (void)state;
    make(3);
    V(EXIT_CONTROLS) &= ~(EXIT_LOAD_EFER | EXIT_LOAD_PAT);
    area_set(0, MSR_EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    area_set(1, MSR_PAT, OTHER_PAT);
    area_set(2, MSR_FS_BASE, 0);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_int_equal(in_vmcs01(FIELD_GUEST_EFER), EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    assert_int_equal(in_vmcs01(FIELD_GUEST_PAT), OTHER_PAT);
    expect_failed(3);
    assert_int_equal(l2_field(VMCS_GUEST_EFER), V(GUEST_EFER));
    assert_int_equal(l2_field(VMCS_GUEST_PAT), V(GUEST_PAT));
}

/* An exit that does not save PAT leaves vmcs12's alone, also where only the list could change it. */
static void pat_that_exits_do_not_save(void **state)
{
    (void)state;
    make(1);
    V(EXIT_CONTROLS) &= ~EXIT_SAVE_PAT;
    area_set(0, MSR_PAT, OTHER_PAT);
    memset((void *)L2_MSR_BITMAP, 0xff, PAGE_SIZE);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_int_equal(in_vmcs02(FIELD_GUEST_PAT), OTHER_PAT);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(l2_field(VMCS_GUEST_PAT), V(GUEST_PAT));
}

/* The list changes behind Strata's back: each entry is read once. */
static void lists_that_change(void **state)
{
    (void)state;
    make(2);
    area_set(0, MSR_KERNEL_GS_BASE, 0x1111);
    area_set(1, MSR_LSTAR, 0x2222);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    uint64_t area = in_vmcs02(FIELD_ENTRY_MSR_LOAD_ADDR);
    assert_true(area < NESTED_MACHINE_START || area >= GUEST_END);
}

/* INIT waits for the entry and leaves at once: the entry was made. */
static void entries_left_at_once(void **state)
{
    (void)state;
    for (unsigned fails = 0; fails < 2; fails++) {
        make(2);
        area_set(0, MSR_KERNEL_GS_BASE, 0x1111);
        area_set(1, fails ? MSR_FS_BASE : MSR_LSTAR, 0x2222);
        l2_make(0, values);
        nested_machine_exit_reason(REASON_init, 0);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_false(nested_machine_in_l3());
        assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
        if (fails) {
            expect_failed(2);
            continue;
        }
        assert_int_equal(fake_msr_get(MSR_LSTAR), 0x2222);
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_init);
        fake_msr_set(MSR_LSTAR, 0);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        assert_int_equal(fake_msr_get(MSR_LSTAR), 0x2222);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(entries_that_fail_load_nothing),
        TEST(loaded_once),
        TEST(numbers_are_those_of_l2),
        TEST(long_lists),
        TEST(efer_and_pat_of_a_failed_entry),
        TEST(pat_that_exits_do_not_save),
        TEST(lists_that_change),
        TEST(entries_left_at_once),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
