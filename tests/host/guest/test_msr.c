/* sources: machine */
/*
 * MSRs that the guest must not have: what would make the processor, or the machine below, write into Strata's memory. Each is refused
 * to the guest hypervisor, to the nested guest and in MSR areas, and never reaches the processor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/cpuid_hide.h"
#include "core/guest/msr.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define UNTOUCHED 0x5a5a5a5a
#define GP_FAULT (INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID | VECTOR_GP)

static const struct nested_machine_config usual = { 0 };
static uint64_t values[FIELD_COUNT];

/* Neither read nor written. SDM 4, "Architectural MSRs", and the tables of models. */
static const uint32_t refused[] = {
    0x560,  0x561,  0x570,  0x571,  0x572,  /* Processor Trace */
    0x580,  0x587,                          /* its address ranges */
    0x17d0, 0x17d1, 0x17d2, 0x17d4,         /* hardware feedback */
    0x600,  0x3f1,  0x3f2,                  /* DS, PEBS */
    0x3f4,  0x3f5,  0x1903, 0x1907, 0x1983, /* architectural PEBS */
    0x14ce, 0x14cf,                         /* architectural LBR */
    0xed,   0xee,   0xef,   0xf0,           /* remote action request */
    0x981,  0x982,  0x983,  0x984,  0x87,   /* memory encryption */
    0x2c2,  0x2c4,  0x2c6,                  /* in-field scan */
    0x11,   0x12,                           /* KVM's old clock */
};
/* What only a machine below could answer: Hyper-V, KVM, Xen. */
static const uint32_t below[] = {
    0x40000000, 0x40000001, 0x40000021, 0x40000073, 0x40000080, 0x40000118, 0x40000200, 0x4b564d00, 0x4b564d01,
    0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d08, 0x2000,     0xbfffffff, 0xc0002000, 0xc0010015, 0xffffffff,
};
static const uint32_t read_only[] = { 0x80, 0x1f4, 0x1f5, 0x2a0, 0x2f4, 0x1400, 0x1401 };
/* Neighbours that stay the guest's. */
static const uint32_t free_ones[] = { 0x10,   0x174,  0x3f0,  0x3f6,  0x562, 0x573, 0x601,
                                      0x1900, 0x1901, 0x1902, 0x1904, 0x6a2, 0xd93, 0xc0000081 };

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }

/* RDMSR or WRMSR that exits. True: it was done, false: #GP (which is taken back). */
static bool access(uint32_t msr, bool write, uint64_t *value)
{
    struct cpu *cpu = nested_machine_cpu();
    cpu->regs[GPR_RCX] = msr;
    if (write) {
        cpu->regs[GPR_RAX] = (uint32_t)*value;
        cpu->regs[GPR_RDX] = *value >> 32;
    }
    uint64_t rip = now(FIELD_GUEST_RIP);
    nested_machine_exit(&(struct nested_exit_info){ .reason = write ? REASON_wrmsr : REASON_rdmsr, .length = 2 });
    bool faulted = now(FIELD_ENTRY_INTR_INFO) == GP_FAULT;
    assert_int_equal(now(FIELD_GUEST_RIP), faulted ? rip : rip + 2);
    fake_vmcs_write(hpa(fake_current()), FIELD_ENTRY_INTR_INFO, 0);
    if (!write)
        *value = cpu->regs[GPR_RDX] << 32 | (uint32_t)cpu->regs[GPR_RAX];
    return !faulted;
}

static bool exits(uint32_t msr, bool write)
{
    const uint8_t *bitmap = hpa_ptr(machine.msr_bitmap01);
    uint32_t part = write ? MSR_BITMAP_WRITE_LOW : MSR_BITMAP_READ_LOW;
    if (msr >= MSR_BITMAP_PART_MSRS && msr - MSR_BITMAP_HIGH_FIRST >= MSR_BITMAP_PART_MSRS)
        return true;
    if (msr >= MSR_BITMAP_HIGH_FIRST) {
        msr -= MSR_BITMAP_HIGH_FIRST;
        part += MSR_BITMAP_READ_HIGH;
    }
    return bitmap[part + msr / 8] >> (msr % 8) & 1;
}

static void expect_refused(uint32_t msr, bool write)
{
    uint64_t value = 0x1234;
    fake_msr_set(msr, UNTOUCHED);
    if (!exits(msr, write))
        fail_msg("%s of %xh does not exit", write ? "WRMSR" : "RDMSR", msr);
    fake_journal_clear();
    if (access(msr, write, &value))
        fail_msg("%s of %xh is done", write ? "WRMSR" : "RDMSR", msr);
    assert_int_equal(fake_msr_get(msr), UNTOUCHED);
    assert_int_equal(fake_count_of(FAKE_RDMSR, msr) + fake_count_of(FAKE_WRMSR, msr), 0);
}

static void expect_all_refused(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        for (int write = 0; write < 2; write++)
            expect_refused(refused[i], write);
    for (size_t i = 0; i < ARRAY_SIZE(below); i++)
        for (int write = 0; write < 2; write++)
            if (!nested_machine_in_l3()) /* those are always the guest hypervisor's exits */
                expect_refused(below[i], write);
    for (size_t i = 0; i < ARRAY_SIZE(read_only); i++)
        expect_refused(read_only[i], true);
}

static void refused_to_the_guest(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    expect_all_refused();
    for (size_t i = 0; i < ARRAY_SIZE(free_ones); i++)
        if (exits(free_ones[i], false) || exits(free_ones[i], true))
            fail_msg("MSR %xh exits", free_ones[i]);
}

/* The guest hypervisor lets its nested guest have every MSR: Strata does not. */
static void refused_to_the_nested_guest(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    l3_start();
    expect_all_refused();
    assert_true(nested_machine_in_l3());
    /* One that the guest hypervisor asked for before it entered is its exit, and its answer. */
    uint8_t bit = 1;
    nested_machine_exit_reason(REASON_cpuid, 0);
    memcpy((void *)(L2_MSR_BITMAP + MSR_BITMAP_WRITE_LOW + 0x600 / 8), &bit, 1);
    nested_machine_wrote(L2_MSR_BITMAP);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    nested_machine_cpu()->regs[GPR_RCX] = 0x600;
    nested_machine_exit_reason(REASON_wrmsr, 0);
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_wrmsr);
}

/* What lies outside the bitmap's ranges is not passed on for the nested guest either. */
static void below_is_reflected(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    l3_start();
    for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
        fake_msr_set(below[i], UNTOUCHED);
        fake_journal_clear();
        nested_machine_cpu()->regs[GPR_RCX] = below[i];
        nested_machine_exit_reason(REASON_wrmsr, 0);
        assert_false(nested_machine_in_l3());
        assert_int_equal(fake_count_of(FAKE_WRMSR, below[i]), 0);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    }
}

static void refused_in_msr_areas(void **state)
{
    (void)state;
    static const uint32_t few[] = { 0x600, 0x3f1, 0x570, 0x17d0, 0x4b564d01, 0x40000001, 0x982 };
    nested_machine_start(&usual);
    vmcs12_sample(values);
    V(ENTRY_MSR_LOAD_COUNT) = 1;
    l2_make(0, values);
    for (size_t i = 0; i < ARRAY_SIZE(few); i++) {
        uint64_t entry[2] = { few[i], 0x1000 };
        memcpy((void *)L2_MSR_AREAS, entry, sizeof(entry));
        fake_msr_set(few[i], UNTOUCHED);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_entry_msr_load | REASON_ENTRY_FAILURE);
        assert_int_equal(fake_msr_get(few[i]), UNTOUCHED);
    }
}

/* Supervisor state that XRSTORS loads: only what the guest could load with WRMSR as well. */
static void xss_by_component(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    fake_msr_set(MSR_XSS, 0);
    assert_true(exits(MSR_XSS, true));
    assert_false(exits(MSR_XSS, false));
    for (unsigned bit = 0; bit < 64; bit++) {
        bool allowed = bit >= 10 && bit <= 16 && bit != 15;
        uint64_t value = BIT(bit);
        assert_int_equal(access(MSR_XSS, true, &value), allowed);
        assert_int_equal(fake_msr_get(MSR_XSS), allowed ? value : 0);
        fake_msr_set(MSR_XSS, 0);
    }
}

static uint64_t read_of(uint32_t msr, uint64_t hardware)
{
    uint64_t value = 0;
    fake_msr_set(msr, hardware);
    assert_true(exits(msr, false));
    assert_true(access(msr, false, &value));
    return value;
}

static void filtered_reads(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    assert_int_equal(read_of(MSR_PERF_CAPABILITIES, 0xffffffff), 0xffffffff & ~0x34fffull);
    assert_int_equal(read_of(MSR_PERF_CAPABILITIES, 0x2005), 0x2005);
    assert_int_equal(read_of(MSR_CORE_CAPABILITIES, 0xff), 0xf9);
    assert_int_equal(read_of(MSR_MISC_ENABLE, 0x850089), 0x851889);
    /* Local machine checks as firmware has them; SGX, SMX off; VMX on. */
    assert_int_equal(read_of(MSR_FEATURE_CONTROL, 0x1600ff), 0x100005);
    assert_int_equal(read_of(MSR_FEATURE_CONTROL, 0), 0x5);
    /* A processor that has none of them. */
    nested_machine_start(&usual);
    uint64_t value = 0;
    assert_false(access(MSR_PERF_CAPABILITIES, false, &value));
    assert_false(access(MSR_MISC_ENABLE, false, &value));
    assert_false(access(MSR_CORE_CAPABILITIES, false, &value));
}

/* With execute-disable off, no VM exit could load Strata's EFER. */
static void execute_disable_stays(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    fake_msr_set(MSR_MISC_ENABLE, 0x850089);
    uint64_t value = 0x851889 | BIT(34);
    assert_false(access(MSR_MISC_ENABLE, true, &value));
    value = 0x851888; /* as read, without fast strings */
    assert_true(access(MSR_MISC_ENABLE, true, &value));
    assert_int_equal(fake_msr_get(MSR_MISC_ENABLE), 0x850088);
}

#define TEST(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

int main(void)
{
    static const struct isolated_test tests[] = {
        TEST(refused_to_the_guest),  TEST(refused_to_the_nested_guest),
        TEST(below_is_reflected),    TEST(refused_in_msr_areas),
        TEST(xss_by_component),      TEST(filtered_reads),
        TEST(execute_disable_stays),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
