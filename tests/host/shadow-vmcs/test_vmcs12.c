/* sources: machine */
/*
 * Where vmcs12's values live: written and read by every path, moved through the guest's memory and between CPUs, and what of
 * them hardware shadowing lets the guest hypervisor reach without an exit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

static const struct nested_machine_config usual = { 0 }, two_cpus = { .cpus = 2 }, shadow_off = { .shadow_off = true },
                                          no_write_info = { .no_write_info = true };

static bool offered(int row) { return nested_caps.offered[vmcs_fields[row].cap]; }
static bool info(int row) { return vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_INFO; }

/* Different in every row and every byte. */
static uint64_t raw_pattern(int row, uint64_t salt) { return (0x0101010101010101ull * ((unsigned)row + 1)) ^ salt; }

/* What a field holds after it was written: cut to its width. */
static uint64_t pattern(int row, uint64_t salt) { return vmcs_field_trim((enum vmcs_row)row, raw_pattern(row, salt)); }

#define SALT_A 0x8e3c5a7196d2b4f0ull
#define SALT_B 0x71c3a58e692d4b0full

static void write_patterns(uint64_t salt)
{
    for (int row = 0; row < FIELD_COUNT; row++)
        if (offered(row))
            assert_int_equal(l2_vmwrite(vmcs_fields[row].encoding, raw_pattern(row, salt)), VMX_OK);
}

/* VM_INSTRUCTION_ERROR counts, too: no instruction of these tests fails in between. */
static void expect_patterns(uint64_t salt)
{
    for (int row = 0; row < FIELD_COUNT; row++)
        if (offered(row) && l2_field(vmcs_fields[row].encoding) != pattern(row, salt))
            fail_msg("%s is %llxh instead of %llxh", vmcs_fields[row].name,
                     (unsigned long long)l2_field(vmcs_fields[row].encoding), (unsigned long long)pattern(row, salt));
}

static void make(unsigned n)
{
    static const uint64_t zeroes[FIELD_COUNT];
    l2_make(n, zeroes);
}

static void every_field_comes_back(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    make(0);
    write_patterns(SALT_A);
    expect_patterns(SALT_A);
    write_patterns(SALT_B);
    expect_patterns(SALT_B);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_B);
}

static void fields_come_back_through_the_shadow(void **state) { (void)state, every_field_comes_back(&usual); }
static void fields_come_back_without_shadowing(void **state) { (void)state, every_field_comes_back(&shadow_off); }

/* What one path writes the others read: exits (vmcs12_write, vmcs12_read) and the shadow VMCS. */
static void paths_agree(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    make(0);
    struct cpu *cpu = nested_machine_cpu();
    struct vmcs12 *v = &nested_machine_slot()->v;
    for (int row = 0; row < FIELD_COUNT; row++) {
        uint64_t value = 0;
        if (!offered(row))
            continue;
        vmcs12_write(cpu, v, (enum vmcs_row)row, raw_pattern(row, SALT_A));
        assert_int_equal(l2_field(vmcs_fields[row].encoding), pattern(row, SALT_A));
        assert_int_equal(l2_vmwrite(vmcs_fields[row].encoding, pattern(row, SALT_B)), VMX_OK);
        assert_int_equal(vmcs12_read(cpu, v, (enum vmcs_row)row), pattern(row, SALT_B));
        if (fake_guest_vmread(vmcs_fields[row].encoding, &value) == FAKE_DONE)
            assert_int_equal(value, pattern(row, SALT_B));
        assert_int_equal(fake_current(), cpu->vmcs01.region.v);
    }
}

static void high_halves(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    make(0);
    for (int row = 0; row < FIELD_COUNT; row++) {
        uint32_t encoding = vmcs_fields[row].encoding;
        uint64_t value;
        if (!offered(row))
            continue;
        if (vmcs_fields[row].width != WIDTH_W64) {
            assert_int_equal(l2_vmread(encoding | 1, &value), VMERR_UNSUPPORTED_FIELD);
            assert_int_equal(l2_vmwrite(encoding | 1, 1), VMERR_UNSUPPORTED_FIELD);
            continue;
        }
        assert_int_equal(l2_vmwrite(encoding, 0x1122334455667788), VMX_OK);
        assert_int_equal(l2_field(encoding | 1), 0x11223344);
        assert_int_equal(l2_vmwrite(encoding | 1, 0xffffffff99aabbcc), VMX_OK);
        assert_int_equal(l2_field(encoding), 0x99aabbcc55667788);
        assert_int_equal(l2_field(encoding | 1), 0x99aabbcc);
    }
}

static void high_halves_through_the_shadow(void **state) { (void)state, high_halves(&usual); }
static void high_halves_by_exits(void **state) { (void)state, high_halves(&shadow_off); }

/* What does not exist, and what is not offered although the processor has it, fails and changes nothing. */
static void refuse_fields(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    make(0);
    uint64_t value;
    for (int row = 0; row < FIELD_COUNT; row++)
        if (!offered(row)) {
            assert_int_equal(l2_vmread(vmcs_fields[row].encoding, &value), VMERR_UNSUPPORTED_FIELD);
            assert_int_equal(l2_vmwrite(vmcs_fields[row].encoding, 1), VMERR_UNSUPPORTED_FIELD);
        }
    assert_false(offered(FIELD_PML_ADDR));
    assert_int_equal(offered(FIELD_VMREAD_BITMAP), !config->shadow_off);
    static const uint32_t nonsense[] = {
        0x0004, 0x0812 + 2, 0x2040, 0x4028, 0x6828, 0x6c18, 0x7fff, 0x8000, 0xffffffff
    };
    for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++)
        assert_int_equal(l2_vmread(nonsense[i], &value), VMERR_UNSUPPORTED_FIELD);
}

static void unsupported_fields(void **state) { (void)state, refuse_fields(&usual); }
static void unsupported_fields_without_shadowing(void **state) { (void)state, refuse_fields(&shadow_off); }

static void no_current_vmcs(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    uint64_t value;
    assert_int_equal(l2_vmread(VMCS_GUEST_RIP, &value), FAULTED + VECTOR_UD);
    assert_int_equal(l2_vmwrite(VMCS_GUEST_RIP, 1), FAULTED + VECTOR_UD);
    assert_int_equal(l2_vmxon(), VMX_OK);
    static const uint32_t fields[] = { VMCS_GUEST_RIP, VMCS_HOST_RIP, VMCS_EPTP };
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        assert_int_equal(l2_vmread(fields[i], &value), VMX_FAIL_INVALID);
        assert_int_equal(l2_vmwrite(fields[i], 1), VMX_FAIL_INVALID);
    }
    make(0);
    assert_int_equal(l2_vmxoff(), VMX_OK);
    assert_int_equal(l2_vmread(VMCS_GUEST_RIP, &value), FAULTED + VECTOR_UD);
}

static void information_is_read_only_without_misc_29(void **state)
{
    (void)state;
    nested_machine_start(&no_write_info);
    make(0);
    uint64_t value;
    for (int row = 0; row < FIELD_COUNT; row++)
        if (offered(row) && info(row)) {
            assert_int_equal(l2_vmwrite(vmcs_fields[row].encoding, 1), VMERR_READ_ONLY_FIELD);
            assert_int_equal(l2_vmread(vmcs_fields[row].encoding, &value), VMX_OK);
        }
}

/*
 * Bit n of a bitmap is 0 exactly for what the table says that vmcs02 holds with the guest hypervisor's own value: everything else,
 * host state and merged controls above all, exits.
 */
static void bitmaps_check(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    static uint8_t bitmaps[2][PAGE_SIZE];
    vmcs12_bitmaps(&nested_caps, bitmaps[0], bitmaps[1]);
    bool write_info = vmx_caps_msr(&nested_caps, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO;
    for (uint32_t encoding = 0; encoding < 8 * PAGE_SIZE; encoding++) {
        int row = -1;
        for (int i = 0; i < FIELD_COUNT; i++)
            if (vmcs_fields[i].encoding == encoding ||
                (vmcs_fields[i].width == WIDTH_W64 && vmcs_fields[i].encoding + 1u == encoding))
                row = i;
        bool reads = row >= 0 && vmcs_fields[row].store != STORE_SOFT && offered(row);
        bool writes = reads && (!info(row) || write_info);
        if (row >= 0 && (encoding >> 10 & 3) == TYPE_HOST)
            assert_false(reads);
        for (unsigned write = 0; write < 2; write++)
            if ((bitmaps[write][encoding / 8] >> encoding % 8 & 1) == (write ? writes : reads))
                fail_msg("encoding %04xh, %s: bitmap disagrees with the table", encoding, write ? "write" : "read");
    }
}

static void bitmaps_follow_the_table(void **state) { (void)state, bitmaps_check(&usual); }
static void bitmaps_without_misc_29(void **state) { (void)state, bitmaps_check(&no_write_info); }

/* The same with the bitmaps that vmcs01 has: values in vmcs02 that are Strata's never come out. */
static void strata_values_stay_hidden(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_false(nested_machine_in_l3());
    static const enum vmcs_row secret[] = { FIELD_HOST_RIP,     FIELD_HOST_RSP,       FIELD_HOST_CR3,
                                            FIELD_HOST_GS_BASE, FIELD_MSR_BITMAP,     FIELD_EPTP,
                                            FIELD_VPID,         FIELD_HOST_IDTR_BASE, FIELD_PROC2_CONTROLS };
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    for (size_t i = 0; i < ARRAY_SIZE(secret); i++) {
        assert_int_equal(l2_field(vmcs_fields[secret[i]].encoding), values[secret[i]]);
        if (secret[i] != FIELD_PROC2_CONTROLS)
            assert_int_not_equal(fake_vmcs_read(nested_machine_vmcs02(), secret[i]), values[secret[i]]);
    }
}

/* VMCLEAR on one CPU, VMPTRLD on another: contents and launch state are the region's. */
static void a_vmcs_moves_between_cpus(void **state)
{
    (void)state;
    nested_machine_start(&two_cpus);
    make(0);
    write_patterns(SALT_A);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    nested_machine_select(1);
    assert_int_equal(l2_vmxon(), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_A);
    write_patterns(SALT_B);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    nested_machine_select(0);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_B);
}

/* VMPTRST, and what a VMCLEAR of the current VMCS leaves. */
static void vmptrst_names_the_current_vmcs(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    make(0);
    write_patterns(SALT_A);
    uint64_t region = 0;
    assert_int_equal(l2_vmptrst(&region), VMX_OK);
    assert_int_equal(region, VMCS12(0));
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_vmptrst(&region), VMX_OK);
    assert_true(region == ~0ull);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_A);
}

/* A region is its page: software that copies it after VMCLEAR has copied the VMCS, and both go their own ways. */
static void a_copied_region_is_a_copy(void **state)
{
    (void)state;
    for (unsigned other = 0; other < 2; other++) {
        nested_machine_start(&two_cpus);
        make(0);
        write_patterns(SALT_A);
        assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
        memcpy((void *)VMCS12(1), (void *)VMCS12(0), PAGE_SIZE);
        nested_machine_select(other);
        if (other)
            assert_int_equal(l2_vmxon(), VMX_OK);
        assert_int_equal(l2_vmptrld(VMCS12(1)), VMX_OK);
        expect_patterns(SALT_A);
        write_patterns(SALT_B);
        assert_int_equal(l2_vmclear(VMCS12(1)), VMX_OK);
        nested_machine_select(0);
        assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
        expect_patterns(SALT_A);
        assert_int_equal(l2_vmptrld(VMCS12(1)), VMX_OK);
        expect_patterns(SALT_B);
    }
}

/* Software reuses the memory of a VMCS that it has cleared: the new VMCS there is what memory says, not what was kept. */
static void a_reused_region(void **state)
{
    (void)state;
    nested_machine_start(&two_cpus);
    make(0);
    write_patterns(SALT_A);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    uint32_t revision;
    memcpy(&revision, (void *)VMCS12(0), sizeof(revision));
    memset((void *)VMCS12(0), 0, PAGE_SIZE);
    memcpy((void *)VMCS12(0), &revision, sizeof(revision));
    static uint8_t page[PAGE_SIZE];
    for (unsigned cpu = 0; cpu < 2; cpu++) {
        nested_machine_select(cpu);
        if (cpu)
            assert_int_equal(l2_vmxon(), VMX_OK);
        assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
        for (int row = 0; row < FIELD_COUNT; row++)
            if (offered(row))
                assert_int_equal(l2_field(vmcs_fields[row].encoding), 0);
        assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
        memcpy((void *)VMCS12(0), memset(page, 0, PAGE_SIZE), PAGE_SIZE);
        memcpy((void *)VMCS12(0), &revision, sizeof(revision));
    }
    /* Nor is memory written that is something else by now. */
    memset((void *)VMCS12(0), 0x5a, PAGE_SIZE);
    memset(page, 0x5a, PAGE_SIZE);
    static const uint64_t zeroes[FIELD_COUNT];
    for (unsigned n = 1; n <= OWNER_SLOTS + 2; n++)
        l2_make(n, zeroes);
    assert_memory_equal(page, (void *)VMCS12(0), PAGE_SIZE);
}

/* Power-on garbage: any bytes become values of fields, cut to their widths. */
static void garbage_regions(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    struct test_random random = { 77 };
    assert_int_equal(l2_vmxon(), VMX_OK);
    for (unsigned n = 0; n < 20; n++) {
        uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
        for (unsigned i = 0; i < PAGE_SIZE; i += 8) {
            uint64_t word = n == 0 ? ~0ull : test_random(&random);
            memcpy((void *)(VMCS12(n) + i), &word, sizeof(word));
        }
        memcpy((void *)VMCS12(n), &revision, sizeof(revision));
        if (n % 2)
            assert_int_equal(l2_vmclear(VMCS12(n)), VMX_OK);
        assert_int_equal(l2_vmptrld(VMCS12(n)), VMX_OK);
        for (int row = 0; row < FIELD_COUNT; row++)
            if (offered(row)) {
                uint64_t value = l2_field(vmcs_fields[row].encoding);
                assert_int_equal(value, vmcs_field_trim((enum vmcs_row)row, value));
            }
        int entered = l2_enter(n % 2 ? REASON_vmlaunch : REASON_vmresume);
        assert_true(entered != VMX_OK || !nested_machine_in_l3());
        write_patterns(SALT_A);
        expect_patterns(SALT_A);
    }
}

static void refuse_regions(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    assert_int_equal(l2_vmxon(), VMX_OK);
    uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    uint32_t wrong[] = { revision + 1, revision | (uint32_t)VMCS_SHADOW_INDICATOR, 0 };
    assert_int_equal(l2_vmptrld(VMCS12(0) + 1), VMX_FAIL_INVALID);
    make(5);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        memcpy((void *)VMCS12(0), &wrong[i], sizeof(wrong[i]));
        int result = l2_vmptrld(VMCS12(0));
        bool shadow = (wrong[i] & VMCS_SHADOW_INDICATOR) && nested_caps.offered[CAP_SHADOW];
        assert_int_equal(result, shadow ? VMX_OK : VMERR_VMPTRLD_REVISION);
        assert_int_equal(l2_vmptrld(VMCS12(5)), VMX_OK);
    }
    assert_int_equal(l2_vmptrld(VMCS12(0) + 8), VMERR_VMPTRLD_ADDRESS);
    assert_int_equal(l2_vmptrld(BIT(nested_caps.maxphyaddr)), VMERR_VMPTRLD_ADDRESS);
    assert_int_equal(l2_vmptrld(L2_VMXON), VMERR_VMPTRLD_VMXON_PTR);
    assert_int_equal(l2_vmclear(VMCS12(0) + 8), VMERR_VMCLEAR_ADDRESS);
    assert_int_equal(l2_vmclear(~0ull), VMERR_VMCLEAR_ADDRESS);
    assert_int_equal(l2_vmclear(L2_VMXON), VMERR_VMCLEAR_VMXON_PTR);
    assert_int_equal(l2_vmxon(), VMERR_VMXON_IN_ROOT);
    /* Strata's memory and nothing: read as all ones, written to nobody. */
    uint64_t hidden = NESTED_MACHINE_END - 2 * MIB;
    memset(hpa_ptr(hpa(hidden)), 0x5a, PAGE_SIZE);
    assert_int_equal(l2_vmptrld(hidden), VMERR_VMPTRLD_REVISION);
    assert_int_equal(l2_vmptrld(MMIO_PAGE), VMERR_VMPTRLD_REVISION);
    static uint8_t before[PAGE_SIZE];
    memcpy(before, hpa_ptr(hpa(hidden)), PAGE_SIZE);
    assert_int_equal(l2_vmclear(hidden), VMX_OK);
    assert_memory_equal(before, hpa_ptr(hpa(hidden)), PAGE_SIZE);
    uint64_t region;
    assert_int_equal(l2_vmptrst(&region), VMX_OK);
    assert_int_equal(region, VMCS12(5));
}

static bool is_cached(uint64_t region)
{
    for (unsigned i = 0; i < OWNER_SLOTS; i++)
        if (nested_machine_cpu()->nested->slots[i].v.region.v == region)
            return true;
    return false;
}

static void regions_are_refused(void **state) { (void)state, refuse_regions(&usual); }
static void regions_are_refused_without_shadowing(void **state) { (void)state, refuse_regions(&shadow_off); }

/* More VMCSs than a CPU caches: what was evicted is in memory, the one used least recently goes, never the current one. */
static void the_pool_evicts(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    enum { COUNT = OWNER_SLOTS + 8 };
    for (unsigned n = 0; n < COUNT; n++) {
        make(n);
        write_patterns(SALT_A + n);
        if (n == OWNER_SLOTS - 1) {
            assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK); /* now 1 is the oldest */
            assert_int_equal(nested_machine_cpu()->counters[COUNT_VMCS12_EVICTED], 0);
        }
    }
    assert_int_equal(nested_machine_cpu()->counters[COUNT_VMCS12_EVICTED], 8);
    struct nested *n = nested_machine_cpu()->nested;
    assert_true(is_cached(VMCS12(0)));
    assert_false(is_cached(VMCS12(1)));
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(l2_vmptrld(VMCS12(i)), VMX_OK);
        expect_patterns(SALT_A + i);
    }
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(l2_vmclear(VMCS12(i)), VMX_OK);
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        assert_true(n->slots[i].v.region.v == VMCS12_NONE || n->slots[i].v.state == VMCS12_KEPT);
        assert_false(fake_vmcs_active(n->slots[i].v.vmcs02.region));
    }
}

static void the_pool_evicts_lent_ones(void **state) { (void)state, the_pool_evicts(&usual); }
static void the_pool_evicts_others(void **state) { (void)state, the_pool_evicts(&shadow_off); }

/* An evicted VMCS keeps its launch state and what exits had left in it. */
static void eviction_keeps_launch_state(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0x1234);
    static const uint64_t zeroes[FIELD_COUNT];
    for (unsigned n = 1; n <= OWNER_SLOTS; n++)
        l2_make(n, zeroes);
    assert_false(is_cached(VMCS12(0)));
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_cpuid);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0x1234);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMERR_VMLAUNCH_NOT_CLEAR);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_true(nested_machine_in_l3());
    /* VMCLEAR of one that is in memory only. */
    nested_machine_exit_reason(REASON_cpuid, 0);
    for (unsigned n = 1; n <= OWNER_SLOTS; n++)
        l2_make(n, zeroes);
    assert_false(is_cached(VMCS12(0)));
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

/* What was checked and merged for one VMCS says nothing about the next one in its place. */
static void a_slot_starts_anew(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    enum { BAD = 3 * OWNER_SLOTS };
    values[FIELD_HOST_CR3] = ~0ull;
    l2_make(BAD, values); /* written once; later it comes out of memory, and no VMWRITE says that it is new */
    vmcs12_sample(values);
    for (unsigned n = 0; n < 2 * OWNER_SLOTS; n++) {
        values[FIELD_HOST_RIP] = L2_HOST_RIP + PAGE_SIZE * n;
        values[FIELD_PIN_CONTROLS] ^= n % 2 ? PIN_VIRTUAL_NMIS : 0;
        l2_make(n, values);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_true(nested_machine_in_l3());
        assert_int_equal(fake_vmcs_read(nested_machine_vmcs02(), FIELD_PIN_CONTROLS), values[FIELD_PIN_CONTROLS]);
        nested_machine_exit_reason(REASON_cpuid, 0);
        assert_int_equal(fake_vmcs_read(nested_machine_cpu()->vmcs01.region, FIELD_GUEST_RIP), values[FIELD_HOST_RIP]);
    }
    assert_false(is_cached(VMCS12(BAD)));
    assert_int_equal(l2_vmptrld(VMCS12(BAD)), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMERR_ENTRY_HOST_STATE);
    static const uint64_t zeroes[FIELD_COUNT];
    for (unsigned n = 2 * OWNER_SLOTS; n < 3 * OWNER_SLOTS; n++) {
        l2_make(n, zeroes);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMERR_ENTRY_CONTROLS);
    }
}

static void slots_start_anew(void **state)
{
    (void)state;
    a_slot_starts_anew(&usual);
    a_slot_starts_anew(&shadow_off);
}

/* VMXOFF without VMCLEAR: a later VMXON finds everything; VMCLEAR then makes it durable. */
static void vmxoff_without_vmclear(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    make(0);
    write_patterns(SALT_A);
    make(1);
    assert_int_equal(l2_vmxoff(), VMX_OK);
    assert_int_equal(fake_vmcs_read(nested_machine_cpu()->vmcs01.region, FIELD_VMCS_LINK_POINTER), ~0ull);
    assert_int_equal(l2_vmxon(), VMX_OK);
    uint64_t value;
    assert_int_equal(l2_vmread(VMCS_GUEST_RIP, &value), VMX_FAIL_INVALID);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_A);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_patterns(SALT_A);
}

/*
 * The rules of a loan, event by event: the indicator flips only while the region is not active, what is lent is never
 * current, and vmcs01's link pointer names what is lent. The fake processor refuses much of the rest by itself.
 */
static void check_loans(const struct cpu *cpu)
{
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        const struct vmcs12 *v = &cpu->nested->slots[i].v;
        uint32_t header;
        memcpy(&header, hpa_ptr(v->vmcs02.region), sizeof(header));
        assert_int_equal((header & VMCS_SHADOW_INDICATOR) != 0, v->lent);
        if (v->lent) {
            assert_int_not_equal(fake_current(), v->vmcs02.region.v);
            assert_false(v->vmcs02.launched);
            assert_false(fake_vmcs_launched(v->vmcs02.region));
        }
    }
    const struct nested_slot *slot = cpu->nested->current;
    if (!cpu->in_nested && cpu->nested->in_vmx)
        assert_int_equal(fake_vmcs_read(cpu->vmcs01.region, FIELD_VMCS_LINK_POINTER),
                         slot ? slot->v.vmcs02.region.v : ~0ull);
}

static void loans_follow_the_rules(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    struct test_random random = { 4711 };
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    for (unsigned n = 0; n < 3; n++)
        l2_make(n, values);
    const struct cpu *cpu = nested_machine_cpu();
    for (unsigned step = 0; step < 400; step++) {
        unsigned n = (unsigned)test_random_below(&random, 3);
        const struct nested_slot *slot = nested_machine_slot();
        if (cpu->in_nested) {
            nested_machine_exit_reason(test_random_below(&random, 2) ? REASON_cpuid : REASON_hlt, 0);
            assert_false(cpu->in_nested);
        } else {
            switch (test_random_below(&random, 6)) {
            case 0:
                l2_make(n, values);
                break;
            case 1:
                assert_int_equal(l2_vmptrld(VMCS12(n)), VMX_OK);
                break;
            case 2:
                assert_int_equal(l2_vmclear(VMCS12(n)), VMX_OK);
                break;
            case 3:
                if (slot)
                    assert_int_equal(l2_vmwrite(VMCS_HOST_RIP, L2_HOST_RIP), VMX_OK);
                break;
            default:
                if (slot)
                    assert_int_equal(l2_enter(slot->v.launched ? REASON_vmresume : REASON_vmlaunch), VMX_OK);
                break;
            }
        }
        check_loans(cpu);
    }
}

/* The order of a round trip, from the journal: VMCLEAR, then VMPTRLD of vmcs02 to run it; VMCLEAR, then vmcs01 to lend it. */
static void a_loan_step_by_step(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0);
    uint64_t vmcs01 = nested_machine_cpu()->vmcs01.region.v, vmcs02 = nested_machine_vmcs02().v;
    fake_journal_clear();
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    nested_machine_exit_reason(REASON_cpuid, 0);
    static const enum fake_op ops[] = {
        FAKE_VMCLEAR, FAKE_VMPTRLD, FAKE_ENTER, FAKE_VMCLEAR, FAKE_VMPTRLD, FAKE_ENTER
    };
    uint64_t regions[] = { vmcs02, vmcs02, 0, vmcs02, vmcs01, 0 };
    size_t step = 0;
    for (size_t i = 0; i < fake_journal_size(); i++) {
        const struct fake_event *event = fake_journal(i);
        if (event->op != FAKE_VMCLEAR && event->op != FAKE_VMPTRLD && event->op != FAKE_ENTER)
            continue;
        assert_true(step < ARRAY_SIZE(ops));
        assert_int_equal(event->op, ops[step]);
        assert_int_equal(event->a, regions[step]);
        step++;
    }
    assert_int_equal(step, ARRAY_SIZE(ops));
}

/* Without a loan both VMCSs stay active: one VMPTRLD each way, and VMRESUME. */
static void without_a_loan(void **state)
{
    (void)state;
    nested_machine_start(&shadow_off);
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0);
    fake_journal_clear();
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(fake_count(FAKE_VMCLEAR), 0);
    assert_int_equal(fake_count(FAKE_VMPTRLD), 2);
    assert_true(fake_vmcs_launched(nested_machine_vmcs02()));
    assert_false(nested_machine_slot()->v.lent);
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(fields_come_back_through_the_shadow),
        TEST(fields_come_back_without_shadowing),
        TEST(paths_agree),
        TEST(high_halves_through_the_shadow),
        TEST(high_halves_by_exits),
        TEST(unsupported_fields),
        TEST(unsupported_fields_without_shadowing),
        TEST(no_current_vmcs),
        TEST(information_is_read_only_without_misc_29),
        TEST(bitmaps_follow_the_table),
        TEST(bitmaps_without_misc_29),
        TEST(strata_values_stay_hidden),
        TEST(a_vmcs_moves_between_cpus),
        TEST(vmptrst_names_the_current_vmcs),
        TEST(a_copied_region_is_a_copy),
        TEST(a_reused_region),
        TEST(garbage_regions),
        TEST(regions_are_refused),
        TEST(regions_are_refused_without_shadowing),
        TEST(the_pool_evicts_lent_ones),
        TEST(the_pool_evicts_others),
        TEST(eviction_keeps_launch_state),
        TEST(slots_start_anew),
        TEST(vmxoff_without_vmclear),
        TEST(loans_follow_the_rules),
        TEST(a_loan_step_by_step),
        TEST(without_a_loan),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
