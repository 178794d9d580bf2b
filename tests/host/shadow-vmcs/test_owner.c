/* sources: machine */
/*
 * Who owns a VMCS: memory or one CPU. Every way in which a region leaves and comes back, and what must not be written to it
 * meanwhile. All orders of events of few CPUs: test_owner_orders.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

static const struct nested_machine_config two_cpus = { .cpus = 2 }, two_without = { .cpus = 2, .shadow_off = true };
static const struct nested_machine_config *const configs[] = { &two_cpus, &two_without };

#define MANY 40                  /* VMCSs: more than a CPU has slots */
#define FIELD VMCS_GUEST_RSP     /* in vmcs02 */
#define SOFT_FIELD VMCS_HOST_RSP /* in the software part */

static uint32_t revision(void)
{
    return (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
}

/* The first word of a region: SDM 3, "Format of the VMCS Region". */
static void set_header(unsigned n, uint32_t word) { memcpy((void *)VMCS12(n), &word, sizeof(word)); }

static void start(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    for (unsigned cpu = 2; cpu-- > 0;) {
        nested_machine_select(cpu);
        assert_int_equal(l2_vmxon(), VMX_OK);
    }
    for (unsigned n = 0; n < MANY + 4; n++)
        set_header(n, revision());
}

static void load(unsigned n) { assert_int_equal(l2_vmptrld(VMCS12(n)), VMX_OK); }
static void clear(unsigned n) { assert_int_equal(l2_vmclear(VMCS12(n)), VMX_OK); }

static void put(uint64_t value)
{
    assert_int_equal(l2_vmwrite(FIELD, value), VMX_OK);
    assert_int_equal(l2_vmwrite(SOFT_FIELD, ~value), VMX_OK);
}

static void expect(uint64_t value)
{
    assert_int_equal(l2_field(FIELD), value);
    assert_int_equal(l2_field(SOFT_FIELD), ~value);
}

/* Fills the slots of the selected CPU with other VMCSs: whatever it had is evicted. */
static void crowd_out(void)
{
    for (unsigned n = 4; n < MANY + 4; n++)
        load(n);
}

/* A parked copy must not come back after its region was zeroed and used elsewhere. */
static void zeroed_and_used_elsewhere(void **state)
{
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        clear(0);
        load(0);
        put(0x1111);
        clear(0);
        memset((void *)VMCS12(0), 0, PAGE_SIZE);
        set_header(0, revision());
        nested_machine_select(1);
        clear(0);
        load(0);
        put(0x2222);
        clear(0);
        nested_machine_select(0);
        clear(0);
        load(0);
        expect(0x2222);
    }
}

/* By proper VMCLEAR and VMPTRLD, at random, more of them than there are slots. */
static void many_move_between_cpus(void **state)
{
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        struct test_random random = { 4711 };
        uint64_t value[MANY] = { 0 };
        for (unsigned n = 0; n < MANY; n++) {
            clear(n);
            load(n);
            put(value[n] = n);
            clear(n);
        }
        for (unsigned round = 0; round < 4000; round++) {
            unsigned n = (unsigned)test_random_below(&random, MANY);
            nested_machine_select((unsigned)test_random_below(&random, 2));
            load(n);
            expect(value[n]);
            if (test_random_below(&random, 2))
                put(value[n] = test_random(&random));
            clear(n);
        }
    }
}

/* VMCSs that stay active, more than there are slots, on two CPUs: evicted ones come back. */
static void active_ones_are_evicted(void **state)
{
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        for (unsigned n = 0; n < MANY; n++) {
            nested_machine_select(n % 2);
            clear(n);
            load(n);
            put(n);
        }
        for (unsigned n = 0; n < MANY; n++) {
            nested_machine_select(n % 2);
            load(n);
            expect(n);
        }
    }
}

/* --- the page after VMCLEAR is the guest's --- */

static uint8_t page_before[PAGE_SIZE];

static void reuse(unsigned n, unsigned kept_bytes)
{
    memset((uint8_t *)VMCS12(n) + kept_bytes, 0x5a, PAGE_SIZE - kept_bytes);
    memcpy(page_before, (void *)VMCS12(n), PAGE_SIZE);
}

static void expect_untouched(unsigned n) { assert_memory_equal(page_before, (void *)VMCS12(n), PAGE_SIZE); }

/* L3 with VMCS n as its shadow VMCS runs under VMCS 2 and exits again. */
static void use_as_shadow(unsigned n)
{
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    values[FIELD_PROC2_CONTROLS] |= PROC2_SHADOW_VMCS;
    values[FIELD_VMREAD_BITMAP] = values[FIELD_VMWRITE_BITMAP] = GUEST_PAGE(60);
    values[FIELD_VMCS_LINK_POINTER] = VMCS12(n);
    set_header(n, revision() | (uint32_t)VMCS_SHADOW_INDICATOR);
    l2_make(2, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

static void leave_l3(void)
{
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_false(nested_machine_in_l3());
}

/* Whatever is left of the region: nothing, its header, its first 64 bytes. And whatever happens next. */
static void a_reused_page(const struct nested_machine_config *config, bool shadow)
{
    static const unsigned kept[] = { 0, 4, 16, 64, 2048 };
    for (unsigned how = 0; how < 4; how++)
        for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
            start(config);
            clear(0);
            load(0);
            put(0x1111);
            clear(0);
            if (shadow) {
                use_as_shadow(0);
                leave_l3();
                clear(0);
            }
            reuse(0, kept[i]);
            if (how == 1)
                nested_machine_select(1);
            if (how == 2)
                assert_int_equal(l2_vmxoff(), VMX_OK);
            if (how == 2)
                assert_int_equal(l2_vmxon(), VMX_OK);
            crowd_out();
            if (how == 3) {
                for (unsigned n = 4; n < MANY + 4; n++)
                    clear(n);
                crowd_out();
            }
            expect_untouched(0);
        }
}

static void reused_pages(void **state) { (void)state, a_reused_page(&two_cpus, false); }
static void reused_pages_without_shadowing(void **state) { (void)state, a_reused_page(&two_without, false); }
static void reused_pages_of_shadow_vmcss(void **state) { (void)state, a_reused_page(&two_cpus, true); }

/* VMXOFF ends it for active ones, too: what they had goes to memory by then, and nothing later. */
static void vmxoff_writes_for_the_last_time(void **state)
{
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        clear(0);
        clear(1);
        load(0);
        put(0x1111);
        load(1);
        put(0x2222);
        assert_int_equal(l2_vmxoff(), VMX_OK);
        nested_machine_select(1);
        load(0);
        expect(0x1111);
        clear(0);
        nested_machine_select(0);
        reuse(0, 64);
        assert_int_equal(l2_vmxon(), VMX_OK);
        load(1);
        expect(0x2222);
        crowd_out();
        expect_untouched(0);
    }
}

/* INIT while L2 is not in VMX operation any more, and while it is: blocked until VMXOFF. */
static void init_with_active_vmcss(void **state)
{
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        nested_machine_select(1);
        clear(0);
        load(0);
        put(0x1111);
        nested_machine_exit_reason(REASON_init, 0);
        expect(0x1111);
        assert_int_equal(l2_vmxoff(), VMX_OK); /* INIT is taken here */
        assert_false(nested_machine_cpu()->nested->in_vmx);
        nested_machine_select(0);
        load(0);
        expect(0x1111);
    }
}

/* --- edits and copies with ordinary stores --- */

static void edited_while_clear(void **state)
{
    (void)state;
    static uint8_t saved[PAGE_SIZE];
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++)
        for (unsigned shadow = 0; shadow < (configs[c] == &two_cpus ? 2 : 1); shadow++)
            for (unsigned other = 0; other < 2; other++) {
                start(configs[c]);
                clear(0);
                load(0);
                put(0x1111);
                clear(0);
                memcpy(saved, (void *)VMCS12(0), PAGE_SIZE);
                load(0);
                put(0x2222);
                clear(0);
                if (shadow) {
                    use_as_shadow(0);
                    leave_l3();
                    clear(0);
                }
                memcpy((void *)VMCS12(0), saved, PAGE_SIZE); /* back to what it was: an edit like any other */
                nested_machine_select(other);
                load(0);
                expect(0x1111);
                load(1);
                load(0);
                expect(0x1111);
                clear(0);
                load(0);
                expect(0x1111);
            }
}

/* A copy is the VMCS as it was then, whatever becomes of the original, and whether or not that was a shadow VMCS. */
static void copies(void **state)
{
    (void)state;
    for (unsigned shadow = 0; shadow < 2; shadow++)
        for (unsigned fate = 0; fate < 4; fate++)
            for (unsigned other = 0; other < 2; other++) {
                start(&two_cpus);
                clear(0);
                load(0);
                put(0x1111);
                clear(0);
                if (shadow) {
                    use_as_shadow(0);
                    leave_l3();
                    clear(0);
                    set_header(0, revision());
                }
                memcpy((void *)VMCS12(1), (void *)VMCS12(0), PAGE_SIZE);
                if (fate == 1)
                    memset((void *)VMCS12(0), 0, PAGE_SIZE);
                if (fate == 2) {
                    load(0);
                    put(0x2222);
                }
                if (fate == 3)
                    crowd_out();
                nested_machine_select(other);
                load(1);
                expect(0x1111);
                put(0x3333);
                clear(1);
                nested_machine_select(0);
                if (fate != 1) {
                    load(0);
                    expect(fate == 2 ? 0x2222 : 0x1111);
                }
            }
}

/* KVM writes the revision identifier, then VMCLEARs, and finds its fields after VMPTRLD, on another CPU as well. */
static void the_header_is_the_guests(void **state)
{
    (void)state;
    for (unsigned other = 0; other < 2; other++) {
        start(&two_cpus);
        clear(0);
        load(0);
        put(0x1111);
        clear(0);
        set_header(0, revision() | (uint32_t)VMCS_SHADOW_INDICATOR);
        clear(0);
        nested_machine_select(other);
        clear(0);
        set_header(0, revision());
        load(0);
        expect(0x1111);
        assert_int_equal(*(const uint32_t *)VMCS12(0), revision());
    }
}

/* --- what the SDM forbids: any outcome for the guest, none for Strata --- */

/* vmcs02 is entered with the host state of the CPU that enters it, and each CPU has VMCSs of its own. */
static void check_host_state(void)
{
    if (!nested_machine_in_l3())
        return;
    hpa_t vmcs02 = nested_machine_vmcs02();
    assert_int_equal(fake_vmcs_read(vmcs02, FIELD_HOST_GS_BASE), (uint64_t)nested_machine_cpu());
    assert_int_equal(fake_vmcs_read(vmcs02, FIELD_HOST_RSP),
                     fake_vmcs_read(nested_machine_cpu()->vmcs01.region, FIELD_HOST_RSP));
}

static void one_region_on_two_cpus(void **state)
{
    (void)state;
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        start(configs[c]);
        struct test_random random = { 99 };
        l2_make(0, values);
        clear(0);
        for (unsigned step = 0; step < 6000; step++) {
            nested_machine_select((unsigned)test_random_below(&random, 2));
            unsigned n = (unsigned)test_random_below(&random, 2);
            if (nested_machine_in_l3()) {
                nested_machine_exit_reason(REASON_cpuid, 0);
                continue;
            }
            const struct nested_slot *slot = nested_machine_slot();
            switch (test_random_below(&random, 8)) {
            case 0:
                clear(n);
                break;
            case 1:
            case 2:
                load(n);
                break;
            case 3:
                if (slot)
                    l2_vmwrite(FIELD, step);
                break;
            case 4:
                crowd_out();
                break;
            case 5:
                if (slot)
                    l2_write_all(values);
                break;
            default:
                if (slot)
                    l2_enter(slot->v.launched ? REASON_vmresume : REASON_vmlaunch);
                check_host_state();
                break;
            }
        }
    }
}

/* What is no RAM stays "all ones", and VMCLEAR of it is no more than an instruction. */
static void nobodys_page(void **state)
{
    (void)state;
    static uint8_t ones[PAGE_SIZE];
    memset(ones, 0xff, PAGE_SIZE);
    start(&two_cpus);
    clear(0);
    load(0);
    static const uint64_t nowhere[] = { MMIO_PAGE, HIDDEN_START, NESTED_MACHINE_END - PAGE_SIZE, 0 };
    for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
        assert_int_equal(l2_vmclear(nowhere[i]), VMX_OK);
        assert_int_equal(l2_vmptrld(nowhere[i]), VMERR_VMPTRLD_REVISION);
        assert_memory_equal(ones, hpa_ptr(memory01.junk), PAGE_SIZE);
    }
    memcpy(hpa_ptr(memory01.junk), (void *)VMCS12(0), 4); /* the guest may write there */
    assert_int_equal(l2_vmptrld(MMIO_PAGE), VMX_OK);
    put(0x1111);
    assert_int_equal(l2_vmclear(MMIO_PAGE), VMX_OK);
    assert_memory_equal(ones + 4, (uint8_t *)hpa_ptr(memory01.junk) + 4, PAGE_SIZE - 4);
}

/* --- made-up exit information: a processor without IA32_VMX_MISC[29] cannot hold it --- */

static void made_up_information(void **state)
{
    (void)state;
    for (unsigned clears = 0; clears < 2; clears++)
        for (unsigned other = 0; other < 2; other++) {
            start(&(struct nested_machine_config){ .cpus = 2, .no_write_info = true });
            uint64_t values[FIELD_COUNT];
            vmcs12_sample(values);
            values[FIELD_ENTRY_MSR_LOAD_COUNT] = 1; /* entry 0 is MSR 0 with reserved bits: the entry fails */
            memset((void *)L2_MSR_AREAS, 0xff, 16);
            l2_make(0, values);
            assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
            assert_false(nested_machine_in_l3());
            uint64_t reason = REASON_entry_msr_load | REASON_ENTRY_FAILURE;
            assert_int_equal(l2_field(VMCS_EXIT_REASON), reason);
            assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 1);
            if (clears)
                clear(0);
            else
                crowd_out();
            nested_machine_select(clears ? other : 0);
            load(0);
            assert_int_equal(l2_field(VMCS_EXIT_REASON), reason);
            assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 1);
            /* The next exit's is the processor's again. */
            assert_int_equal(l2_vmwrite(VMCS_ENTRY_MSR_LOAD_COUNT, 0), VMX_OK);
            assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
            assert_true(nested_machine_in_l3());
            nested_machine_exit_reason(REASON_cpuid, 0x77);
            assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_cpuid);
            assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0x77);
        }
}

/* --- VMREAD and VMWRITE of L3 that Strata carries out --- */

#define INFO_REGISTERS (2u << 7 | BIT(10) | BIT(22) | BIT(27) | GPR_RAX << 3)

static void l3_access(enum exit_reason reason, uint64_t encoding)
{
    nested_machine_cpu()->regs[GPR_RBX] = encoding;
    nested_machine_exit(&(struct nested_exit_info){
        .reason = reason, .instruction = INFO_REGISTERS | (uint64_t)GPR_RBX << 28, .length = 3 });
    assert_true(nested_machine_in_l3());
}

/* SDM 3, "Conventions" of "VMX Instruction Reference": VMfailValid is of the current VMCS, and that is the one that runs L3. */
static void l3_fails_in_its_own_vmcs(void **state)
{
    (void)state;
    start(&two_cpus);
    clear(0);
    load(0);
    put(0x1111);
    clear(0);
    use_as_shadow(0);
    for (unsigned write = 0; write < 2; write++) {
        l3_access(write ? REASON_vmwrite : REASON_vmread, 0x7ffe);
        assert_true(fake_vmcs_read(nested_machine_vmcs02(), FIELD_GUEST_RFLAGS) & RFLAGS_ZF);
    }
    l3_access(REASON_vmread, SOFT_FIELD);
    assert_int_equal(nested_machine_cpu()->regs[GPR_RAX], ~0x1111ull);
    leave_l3();
    assert_int_equal(l2_field(VMCS_VM_INSTRUCTION_ERROR), VMERR_UNSUPPORTED_FIELD);
    clear(0);
    set_header(0, revision());
    load(0);
    assert_int_equal(l2_field(VMCS_VM_INSTRUCTION_ERROR), 0);
    expect(0x1111);
}

/* A VMCS is shadow VMCS and current in turn, edited either way, with and without VMCLEAR, and the slot of the other goes meanwhile. */
static void shadow_and_current_in_turn(void **state)
{
    (void)state;
    for (unsigned how = 0; how < 8; how++) {
        start(&two_cpus);
        clear(0);
        load(0);
        put(0x1111);
        clear(0);
        use_as_shadow(0);
        assert_int_equal(fake_guest_vmwrite(FIELD, 0x2222), FAKE_DONE);
        leave_l3();
        if (how & 1)
            clear(0);
        if (how & 2)
            crowd_out();
        if (how & 4) {
            load(0);
            assert_int_equal(l2_field(FIELD), 0x2222);
            assert_int_equal(l2_vmwrite(FIELD, 0x3333), VMX_OK);
        }
        load(2);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        assert_true(nested_machine_in_l3());
        uint64_t value = 0;
        assert_int_equal(fake_guest_vmread(FIELD, &value), FAKE_DONE);
        assert_int_equal(value, how & 4 ? 0x3333 : 0x2222);
        l3_access(REASON_vmread, SOFT_FIELD);
        assert_int_equal(nested_machine_cpu()->regs[GPR_RAX], ~0x1111ull);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(zeroed_and_used_elsewhere),
        TEST(many_move_between_cpus),
        TEST(active_ones_are_evicted),
        TEST(reused_pages),
        TEST(reused_pages_without_shadowing),
        TEST(reused_pages_of_shadow_vmcss),
        TEST(vmxoff_writes_for_the_last_time),
        TEST(init_with_active_vmcss),
        TEST(edited_while_clear),
        TEST(copies),
        TEST(the_header_is_the_guests),
        TEST(one_region_on_two_cpus),
        TEST(nobodys_page),
        TEST(made_up_information),
        TEST(l3_fails_in_its_own_vmcs),
        TEST(shadow_and_current_in_turn),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
