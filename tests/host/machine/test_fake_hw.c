/* sources: checks tests/host/machine/fake_hw.c */
/*
 * The fake machine keeps the SDM's rules for VMCSs: what other tests rely on when they say that a sequence is legal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "tests/host/machine/fake_hw.h"
#include "tests/host/machine/sample_vmcs.h"
#include "tests/host/support/support.h"

#define MEMORY (64 * KIB)
#define VMXON_REGION hpa(0x8000)
#define FIRST hpa(0x9000)
#define SECOND hpa(0xa000)
#define READ_BITMAP 0xb000u
#define WRITE_BITMAP 0xc000u

static void header_set(hpa_t region, uint32_t header) { memcpy(hpa_ptr(region), &header, sizeof(header)); }

/* Processor 0 in VMX operation; two regions with the revision identifier and otherwise garbage. */
static int machine_make(void **state)
{
    (void)state;
    fake_hw_reset(MEMORY);
    memset(hpa_ptr(FIRST), 0x5a, PAGE_SIZE);
    memset(hpa_ptr(SECOND), 0xa5, PAGE_SIZE);
    header_set(VMXON_REGION, SAMPLE_REVISION);
    header_set(FIRST, SAMPLE_REVISION);
    header_set(SECOND, SAMPLE_REVISION);
    assert_true(hw_vmxon(VMXON_REGION));
    return 0;
}

static void load(hpa_t region)
{
    hw_vmclear(region);
    hw_vmptrld(region);
}

/* Writes every field of the sample that the processor has; leaves the VMCS current. */
static void sample_load(hpa_t region)
{
    struct sample_vmcs sample;
    static uint8_t memory[MEMORY];

    /* Making a sample makes memory anew. */
    memcpy(memory, hpa_ptr(hpa(0)), MEMORY);
    sample_make(&sample, SAMPLE_LONG);
    memcpy(memory + SAMPLE_LINK, hpa_ptr(hpa(SAMPLE_LINK)), PAGE_SIZE);
    test_memory_reset(MEMORY);
    memcpy(hpa_ptr(hpa(0)), memory, MEMORY);
    load(region);
    for (int row = 0; row < FIELD_COUNT; row++)
        if (fake_caps.offered[vmcs_fields[row].cap])
            hw_vmwrite(vmcs_fields[row].encoding, sample.values[row]);
}

static void access_needs_a_current_vmcs(void **state)
{
    (void)state;
    expect_assert_failure(hw_vmread(VMCS_GUEST_RIP));
    expect_assert_failure(hw_vmwrite(VMCS_GUEST_RIP, 0));
    load(FIRST);
    hw_vmwrite(VMCS_GUEST_RIP, 0x1234);
    assert_int_equal(hw_vmread(VMCS_GUEST_RIP), 0x1234);
    hw_vmclear(FIRST);
    assert_int_equal(fake_current(), FAKE_NO_VMCS);
    expect_assert_failure(hw_vmread(VMCS_GUEST_RIP));
    hw_vmxoff();
    expect_assert_failure(hw_vmptrld(FIRST));
}

static void fields_have_widths_and_may_be_missing(void **state)
{
    (void)state;
    load(FIRST);
    hw_vmwrite(VMCS_GUEST_CS_SEL, 0x12345678);
    assert_int_equal(hw_vmread(VMCS_GUEST_CS_SEL), 0x5678);
    hw_vmwrite(VMCS_TSC_OFFSET, 0x1122334455667788);
    hw_vmwrite(VMCS_TSC_OFFSET | 1, 0x99aabbcc);
    assert_int_equal(hw_vmread(VMCS_TSC_OFFSET), 0x99aabbcc55667788);
    assert_int_equal(hw_vmread(VMCS_TSC_OFFSET | 1), 0x99aabbcc);
    expect_assert_failure(hw_vmread(0x6fff));
    expect_assert_failure(hw_vmread(VMCS_PML_ADDR)); /* the table knows it, the fake processors have it not */
    assert_false(hw_vmwrite_try(0x4834, 0));
    assert_true(hw_vmwrite_try(VMCS_EXIT_REASON, 1));
    fake_caps.msr[MSR_VMX_MISC - MSR_VMX_FIRST] &= ~VMX_MISC_WRITE_INFO;
    assert_false(hw_vmwrite_try(VMCS_EXIT_REASON, 2));
    assert_int_equal(hw_vmread(VMCS_EXIT_REASON), 1);
    expect_assert_failure(hw_vmwrite(VMCS_EXIT_REASON, 2));
}

/* VMCLEAR makes contents durable in memory; VMPTRLD on another processor finds them. */
static void a_vmcs_moves_between_processors(void **state)
{
    (void)state;
    load(FIRST);
    hw_vmwrite(VMCS_GUEST_RIP, 77);
    fake_cpu_select(1);
    header_set(hpa(0xd000), SAMPLE_REVISION);
    assert_true(hw_vmxon(hpa(0xd000)));
    expect_assert_failure(hw_vmptrld(FIRST));
    expect_assert_failure(hw_vmclear(FIRST));
    fake_cpu_select(0);
    hw_vmclear(FIRST);
    assert_false(fake_vmcs_active(FIRST));

    /* The contents are the region's: a copy of the page is a copy of the VMCS. */
    memcpy(hpa_ptr(SECOND), hpa_ptr(FIRST), PAGE_SIZE);
    memset(hpa_ptr(FIRST), 0, PAGE_SIZE);
    fake_cpu_select(1);
    hw_vmptrld(SECOND);
    assert_int_equal(hw_vmread(VMCS_GUEST_RIP), 77);
    assert_int_equal(fake_vmcs_read(SECOND, FIELD_GUEST_RIP), 77);
    fake_cpu_select(0);
}

static void regions_are_checked(void **state)
{
    (void)state;
    header_set(FIRST, SAMPLE_REVISION + 1);
    expect_assert_failure(hw_vmptrld(FIRST));
    expect_assert_failure(hw_vmclear(hpa(0x9001)));
    expect_assert_failure(hw_vmclear(hpa(MEMORY)));
    expect_assert_failure(hw_vmclear(VMXON_REGION));
    expect_assert_failure(hw_vmptrld(VMXON_REGION));
    assert_false(hw_vmxon(VMXON_REGION));
    header_set(SECOND, SAMPLE_REVISION | (uint32_t)VMCS_SHADOW_INDICATOR);
    load(SECOND);
    fake_caps.offered[CAP_SHADOW] = false;
    expect_assert_failure(hw_vmptrld(SECOND));
}

static void entries_keep_launch_state(void **state)
{
    (void)state;
    hw_vmptrld(FIRST);
    expect_assert_failure(fake_enter(FAKE_VMLAUNCH)); /* never cleared */
    sample_load(FIRST);
    fake_msr_set(0, 0); /* the sample's MSR area is of zeroes */
    assert_int_equal(fake_enter(FAKE_VMRESUME).error, VMERR_VMRESUME_NOT_LAUNCHED);
    assert_int_equal(hw_vmread(VMCS_VM_INSTRUCTION_ERROR), VMERR_VMRESUME_NOT_LAUNCHED);
    assert_int_equal(fake_enter(FAKE_VMLAUNCH).result, FAKE_ENTERED);
    assert_true(fake_vmcs_launched(FIRST));
    assert_int_equal(fake_enter(FAKE_VMLAUNCH).error, VMERR_VMLAUNCH_NOT_CLEAR);
    assert_int_equal(fake_enter(FAKE_VMRESUME).result, FAKE_ENTERED);
    load(SECOND);
    hw_vmptrld(FIRST); /* stays launched while active */
    assert_int_equal(fake_enter(FAKE_VMRESUME).result, FAKE_ENTERED);
    load(FIRST);
    assert_int_equal(fake_enter(FAKE_VMRESUME).error, VMERR_VMRESUME_NOT_LAUNCHED);
}

static void entries_check(void **state)
{
    struct fake_entry entry;

    (void)state;
    sample_load(FIRST);
    hw_vmwrite(VMCS_CR3_TARGET_COUNT, 9);
    entry = fake_enter(FAKE_VMLAUNCH);
    assert_true(entry.result == FAKE_VMFAIL && entry.error == VMERR_ENTRY_CONTROLS);
    hw_vmwrite(VMCS_CR3_TARGET_COUNT, 0);
    hw_vmwrite(VMCS_HOST_CR3, ~0ull);
    entry = fake_enter(FAKE_VMLAUNCH);
    assert_true(entry.result == FAKE_VMFAIL && entry.error == VMERR_ENTRY_HOST_STATE);
    hw_vmwrite(VMCS_HOST_CR3, 0);
    hw_vmwrite(VMCS_VMCS_LINK_POINTER, FIRST.v);
    entry = fake_enter(FAKE_VMLAUNCH);
    assert_true(entry.result == FAKE_EXIT && entry.qualification == ENTRY_FAIL_LINK_POINTER);
    assert_int_equal(hw_vmread(VMCS_EXIT_REASON), 0x80000021);
    assert_int_equal(hw_vmread(VMCS_EXIT_QUALIFICATION), ENTRY_FAIL_LINK_POINTER);
    assert_false(fake_vmcs_launched(FIRST));
}

/* FIRST runs with SECOND as its shadow VMCS. */
static void accesses_through_a_shadow_vmcs(void **state)
{
    uint64_t value = 0;

    (void)state;
    load(SECOND);
    hw_vmwrite(VMCS_GUEST_RIP, 5);
    hw_vmclear(SECOND);
    header_set(SECOND, SAMPLE_REVISION | (uint32_t)VMCS_SHADOW_INDICATOR);
    sample_load(FIRST);
    hw_vmwrite(VMCS_VMREAD_BITMAP, READ_BITMAP);
    hw_vmwrite(VMCS_VMWRITE_BITMAP, WRITE_BITMAP);
    memset(hpa_ptr(hpa(READ_BITMAP)), 0, PAGE_SIZE);
    memset(hpa_ptr(hpa(WRITE_BITMAP)), 0, PAGE_SIZE);
    hw_vmwrite(VMCS_VMCS_LINK_POINTER, ~0ull);
    assert_int_equal(fake_guest_vmread(VMCS_GUEST_RIP, &value), FAKE_FAIL_INVALID);
    hw_vmwrite(VMCS_VMCS_LINK_POINTER, SECOND.v);

    assert_int_equal(fake_guest_vmread(VMCS_GUEST_RIP, &value), FAKE_DONE);
    assert_int_equal(value, 5);
    assert_int_equal(fake_guest_vmwrite(VMCS_GUEST_RIP, 6), FAKE_DONE);
    assert_int_equal(fake_vmcs_read(SECOND, FIELD_GUEST_RIP), 6);
    assert_int_not_equal(hw_vmread(VMCS_GUEST_RIP), 6);
    assert_int_equal(fake_guest_vmread(0x6fff, &value), FAKE_FAIL_VALID);
    assert_int_equal(fake_guest_vmread(0x8000, &value), FAKE_EXITS);

    uint8_t *bitmap = hpa_ptr(hpa(WRITE_BITMAP));
    bitmap[VMCS_GUEST_RIP / 8] |= 1 << VMCS_GUEST_RIP % 8;
    assert_int_equal(fake_guest_vmwrite(VMCS_GUEST_RIP, 7), FAKE_EXITS);
    assert_int_equal(fake_vmcs_read(SECOND, FIELD_GUEST_RIP), 6);
    assert_int_equal(fake_guest_vmread(VMCS_GUEST_RIP, &value), FAKE_DONE);

    /* Taken back: cleared, made ordinary, loaded. Without VMCLEAR it would still be cached as a shadow VMCS. */
    header_set(SECOND, SAMPLE_REVISION);
    expect_assert_failure(hw_vmptrld(SECOND));
    header_set(SECOND, SAMPLE_REVISION | (uint32_t)VMCS_SHADOW_INDICATOR);
    hw_vmclear(SECOND);
    header_set(SECOND, SAMPLE_REVISION);
    hw_vmptrld(SECOND);
    assert_int_equal(hw_vmread(VMCS_GUEST_RIP), 6);
}

static void a_shadow_vmcs_is_not_entered(void **state)
{
    (void)state;
    header_set(FIRST, SAMPLE_REVISION | (uint32_t)VMCS_SHADOW_INDICATOR);
    load(FIRST);
    assert_int_equal(fake_enter(FAKE_VMLAUNCH).error, VMX_FAIL_INVALID);
}

static void msrs_cpuid_and_ports(void **state)
{
    uint64_t value = 0;

    (void)state;
    assert_false(hw_rdmsr_try(0x12345, &value));
    assert_false(hw_wrmsr_try(0x12345, 1));
    expect_assert_failure(hw_rdmsr(0x12345));
    fake_msr_set(0x12345, 3);
    hw_wrmsr(0x12345, 4);
    assert_int_equal(hw_rdmsr(0x12345), 4);
    fake_msr_refuse(0x12345);
    assert_false(hw_wrmsr_try(0x12345, 5));
    assert_int_equal(fake_msr_get(0x12345), 4);
    assert_int_equal(hw_cpuid(0x80000008, 0).eax & 0xff, fake_caps.maxphyaddr);
    assert_int_equal(hw_cpuid(99, 0).eax, 0);
    hw_outb(0x3f8, 'x');
    assert_int_equal(hw_inb(0x3f8), 'x');
    fake_tsc_set(1000);
    assert_int_equal(hw_rdtsc(), 1000);
    assert_true(hw_rdtsc() > 1000);
    assert_false(hw_xsetbv_try(0, 0));
    assert_true(hw_xsetbv_try(0, 7));
    assert_int_equal(hw_xgetbv(0), 7);
    hw_write_cr3(0x1000);
    fake_cpu_select(1);
    assert_int_equal(hw_read_cr3(), 0);
    fake_cpu_select(0);
    assert_int_equal(hw_read_cr3(), 0x1000);
}

static void the_journal_keeps_the_order(void **state)
{
    (void)state;
    load(FIRST);
    fake_journal_clear();
    hw_vmwrite(VMCS_GUEST_RIP, 1);
    hw_vmread(VMCS_GUEST_RSP);
    hw_invept(INVEPT_SINGLE, 0x4000);
    hw_invvpid(INVVPID_SINGLE, 3, 0);
    assert_int_equal(fake_journal_size(), 4);
    assert_int_equal(fake_journal(0)->op, FAKE_VMWRITE);
    assert_int_equal(fake_journal(0)->vmcs, FIRST.v);
    assert_int_equal(fake_journal(1)->op, FAKE_VMREAD);
    assert_int_equal(fake_journal(2)->b, 0x4000);
    assert_int_equal(fake_journal(3)->b, 3);
    assert_int_equal(fake_count(FAKE_VMWRITE), 1);
    assert_int_equal(fake_count_of(FAKE_VMREAD, VMCS_GUEST_RSP), 1);
    assert_int_equal(fake_count_of(FAKE_VMREAD, VMCS_GUEST_RIP), 0);
    expect_assert_failure(fake_journal(4));
}

static void invalidations_that_the_processor_lacks(void **state)
{
    (void)state;
    expect_assert_failure(hw_invvpid(INVVPID_SINGLE, 0, 0));
    hw_invvpid(INVVPID_ALL, 0, 0);
    hw_invept(INVEPT_GLOBAL, 0);
    fake_caps_plain(&fake_caps);
    expect_assert_failure(hw_invvpid(INVVPID_ALL, 0, 0));
    fake_caps.msr[MSR_VMX_EPT_VPID - MSR_VMX_FIRST] &= ~EPT_CAP_INVEPT_GLOBAL;
    expect_assert_failure(hw_invept(INVEPT_GLOBAL, 0));
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup(function, machine_make)
    const struct CMUnitTest tests[] = {
        TEST(access_needs_a_current_vmcs),
        TEST(fields_have_widths_and_may_be_missing),
        TEST(a_vmcs_moves_between_processors),
        TEST(regions_are_checked),
        TEST(entries_keep_launch_state),
        TEST(entries_check),
        TEST(accesses_through_a_shadow_vmcs),
        TEST(a_shadow_vmcs_is_not_entered),
        TEST(msrs_cpuid_and_ports),
        TEST(the_journal_keeps_the_order),
        TEST(invalidations_that_the_processor_lacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
