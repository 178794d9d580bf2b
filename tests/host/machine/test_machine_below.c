/* sources: machine */
/*
 * Any machine that a hypervisor may offer: random sets of capabilities that hold together, and VMCS fields that are not there. Strata
 * refuses it, or runs a guest hypervisor on it that finds its VMCS as it left it. A VMREAD or VMWRITE of a field that the machine lacks, a
 * control that it does not allow: the fake processor fails the test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmcs_image.h"
#include "core/cpu/vmx_probe.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define MACHINES 400
#define LESS_MAX 7 /* capabilities that a machine has less than all */
#define STEPS 12
#define KVM_LACKS_COUNT 9

static const uint8_t kvm_lacks[KVM_LACKS_COUNT] = {
    FIELD_GUEST_SMBASE, FIELD_CR3_TARGET0, FIELD_CR3_TARGET1, FIELD_CR3_TARGET2, FIELD_CR3_TARGET3,
    FIELD_IO_RCX,       FIELD_IO_RSI,      FIELD_IO_RDI,      FIELD_IO_RIP,
};

static struct test_random seed = { 20261 };
static uint64_t values[FIELD_COUNT];

static uint64_t *caps_msr_at(struct vmx_caps *caps, uint32_t msr) { return &caps->msr[msr - MSR_VMX_FIRST]; }

/* A control that may be 1 no longer may, in both MSRs that speak of it; one that must be 1 stays. */
static void take_control(struct vmx_caps *caps, uint32_t msr, uint64_t bit)
{
    if (*caps_msr_at(caps, msr) & bit)
        return;
    *caps_msr_at(caps, msr) &= ~(bit << 32);
    if (msr != MSR_VMX_PROC2)
        *caps_msr_at(caps, msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN) &= ~(bit << 32);
}

/* Controls that no processor has without others: SDM 3, "Checks on VMX Controls". */
static void hold_together(struct vmx_caps *caps)
{
    static const struct {
        uint32_t msr;
        uint64_t bit;
        uint32_t needs_msr;
        uint64_t needs;
    } rules[] = {
        { MSR_VMX_PIN, PIN_VIRTUAL_NMIS, MSR_VMX_PIN, PIN_NMI },
        { MSR_VMX_PROC, PROC_NMI_WINDOW, MSR_VMX_PIN, PIN_VIRTUAL_NMIS },
        { MSR_VMX_PROC2, PROC2_VIRT_X2APIC, MSR_VMX_PROC, PROC_TPR_SHADOW },
        { MSR_VMX_PROC2, PROC2_APIC_REGISTER, MSR_VMX_PROC, PROC_TPR_SHADOW },
        { MSR_VMX_PROC2, PROC2_VIRT_INTR_DELIVERY, MSR_VMX_PROC, PROC_TPR_SHADOW },
        { MSR_VMX_PROC2, PROC2_UNRESTRICTED, MSR_VMX_PROC2, PROC2_EPT },
        { MSR_VMX_PROC2, PROC2_PML, MSR_VMX_PROC2, PROC2_EPT },
        { MSR_VMX_PROC2, PROC2_EPT_VE, MSR_VMX_PROC2, PROC2_EPT },
        { MSR_VMX_PIN, PIN_POSTED_INTR, MSR_VMX_PROC2, PROC2_VIRT_INTR_DELIVERY },
        { MSR_VMX_EXIT, EXIT_SAVE_PREEMPTION_TIMER, MSR_VMX_PIN, PIN_PREEMPTION_TIMER },
    };
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        if (!(*caps_msr_at(caps, rules[i].needs_msr) >> 32 & rules[i].needs))
            take_control(caps, rules[i].msr, rules[i].bit);
    if (!(*caps_msr_at(caps, MSR_VMX_EPT_VPID) & EPT_CAP_AD))
        take_control(caps, MSR_VMX_PROC2, PROC2_PML);
}

static void random_less(struct vmx_caps *caps)
{
    static const uint32_t controls[] = { MSR_VMX_PIN, MSR_VMX_PROC, MSR_VMX_EXIT, MSR_VMX_ENTRY, MSR_VMX_PROC2 };
    uint64_t bit = BIT(test_random_below(&seed, 32));
    switch (test_random_below(&seed, 8)) {
    case 0:
        *caps_msr_at(caps, MSR_VMX_EPT_VPID) &= ~BIT(test_random_below(&seed, 44));
        break;
    case 1:
        *caps_msr_at(caps, MSR_VMX_MISC) &= ~(bit & ~VMX_MISC_TIMER_SHIFT_MASK);
        break;
    case 2:
        *caps_msr_at(caps, MSR_VMX_BASIC) &= ~(BIT(48 + test_random_below(&seed, 9)) & ~VMX_BASIC_MEMTYPE_MASK);
        break;
    default:
        take_control(caps, controls[test_random_below(&seed, ARRAY_SIZE(controls))], bit);
    }
}

static void random_machine(struct vmx_caps *caps)
{
    for (uint64_t less = test_random_below(&seed, LESS_MAX); less; less--)
        random_less(caps);
    hold_together(caps);
    for (unsigned i = 0; i < KVM_LACKS_COUNT; i++)
        caps->missing[kvm_lacks[i]] = test_random_below(&seed, 2);
    if (!test_random_below(&seed, 8))
        caps->missing[test_random_below(&seed, FIELD_COUNT)] = true;
}

static void like_kvm(struct vmx_caps *caps)
{
    for (unsigned i = 0; i < KVM_LACKS_COUNT; i++)
        caps->missing[kvm_lacks[i]] = true;
}

static bool writable(enum vmcs_row row)
{
    return nested_caps.offered[vmcs_fields[row].cap] &&
           (vmcs_encoding_type(vmcs_fields[row].encoding) != TYPE_INFO ||
            vmx_caps_msr(&nested_caps, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO);
}

/* The guest hypervisor finds all that it wrote; what it may not write it can read. */
static void expect_kept(void)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        const struct vmcs_field *f = &vmcs_fields[row];
        uint64_t value = 0;
        int result = l2_vmread(f->encoding, &value);
        assert_int_equal(result, nested_caps.offered[f->cap] ? VMX_OK : VMERR_UNSUPPORTED_FIELD);
        if (writable(row) && row != FIELD_VM_INSTRUCTION_ERROR && value != values[row])
            fail_msg("%s: %llx, not %llx", f->name, (unsigned long long)value, (unsigned long long)values[row]);
    }
}

/* Values that no entry is made with: any at all. */
static void write_anything(void)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
        if (writable(row)) {
            values[row] = vmcs_field_trim(row, test_random_value(&seed));
            assert_int_equal(l2_vmwrite(vmcs_fields[row].encoding, values[row]), VMX_OK);
        }
}

static void expect_memory_keeps(void)
{
    uint64_t sample[FIELD_COUNT];
    vmcs12_sample(sample);
    l2_make(1, sample);
    write_anything();
    expect_kept();
    l2_make(2, sample);
    assert_int_equal(l2_vmclear(VMCS12(1)), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(1)), VMX_OK);
    expect_kept();
}

/* Exits of the nested guest, entries, NMIs that arrive in Strata. */
static void run_nested(void)
{
    uint64_t sample[FIELD_COUNT];
    vmcs12_sample(sample);
    if (vmx_caps_allowed1(&nested_caps, MSR_VMX_PIN) & PIN_PREEMPTION_TIMER)
        sample[FIELD_PIN_CONTROLS] |= PIN_PREEMPTION_TIMER;
    l2_make(0, sample);
    if (l2_enter(REASON_vmlaunch) != VMX_OK) /* the sample uses what this machine has not */
        return;
    for (unsigned step = 0; step < STEPS; step++) {
        if (nested_machine_in_l3() && !test_random_below(&seed, 4)) {
            nested_machine_cpu()->nmi_pending = nested_machine_cpu()->event_pending = 1;
        }
        if (nested_machine_in_l3())
            nested_machine_exit_reason(test_random_below(&seed, 2) ? REASON_cpuid : REASON_hlt, 0);
        if (nested_machine_in_l3())
            continue;
        if (!test_random_below(&seed, 4)) { /* taken at the entry behind this exit */
            nested_machine_cpu()->nmi_pending = nested_machine_cpu()->event_pending = 1;
            nested_machine_exit_reason(REASON_cpuid, 0);
            fake_vmcs_write(nested_machine_cpu()->vmcs01.region, FIELD_ENTRY_INTR_INFO, 0);
        }
        l2_field(VMCS_EXIT_REASON);
        l2_vmwrite(VMCS_GUEST_RIP, l2_field(VMCS_GUEST_RIP) + 3);
        if (l2_enter(REASON_vmresume) != VMX_OK)
            return;
    }
}

static void any_machine(void **state)
{
    unsigned refused = 0;
    (void)state;
    for (unsigned n = 0; n < MACHINES; n++) {
        const struct nested_machine_config config = { .change = random_machine,
                                                      .shadow_off = n % 3 == 0,
                                                      .keeping = (enum fake_keeping)(n % 2) };
        const char *why = nested_machine_try(&config);
        if (why) {
            assert_true(strlen(why) > 0 && !strchr(why, '\n'));
            refused++;
            continue;
        }
        run_nested();
        if (!nested_machine_in_l3())
            expect_memory_keeps();
    }
    assert_in_range(refused, MACHINES / 20, MACHINES * 3 / 4); /* else the generator says nothing */
}

/* What KVM lacks: no refusal, and the guest hypervisor sees all that the SDM always has. */
static void kvm_below(void **state)
{
    static const struct nested_machine_config configs[] = {
        { .change = like_kvm },
        { .change = like_kvm, .shadow_off = true },
        { .change = like_kvm, .no_write_info = true },
        { .change = like_kvm, .keeping = FAKE_IN_MEMORY },
        { .change = like_kvm, .keeping = FAKE_IN_MEMORY, .shadow_off = true },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(configs); i++) {
        assert_null(nested_machine_try(&configs[i]));
        run_nested();
        if (nested_machine_in_l3())
            nested_machine_exit_reason(REASON_hlt, 0);
        expect_memory_keeps();
        uint64_t misc = vmx_caps_msr(&nested_caps, MSR_VMX_MISC);
        assert_int_equal(misc & VMX_MISC_CR3_TARGETS_MASK, 0); /* no fields, no values */
    }
}

/* Any other field: the machine is refused by its name. */
static void needed_fields(void **state)
{
    (void)state;
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        if (!memchr(kvm_lacks, row, sizeof(kvm_lacks)) && row != FIELD_EXECUTIVE_VMCS) {
            nested_machine_start(&(struct nested_machine_config){ 0 });
            fake_caps.missing[row] = true;
            const struct vmcs_field *needed = vmx_probe_fields(&machine.hw);
            assert_ptr_equal(needed, machine.hw.offered[vmcs_fields[row].cap] ? &vmcs_fields[row] : NULL);
        }
    }
}

/* --- VMCSs in memory --- */

/* It is used where it is true in both directions, and nowhere else. */
static void image_is_tried_out(void **state)
{
    static const struct {
        struct nested_machine_config config;
        bool on;
    } rows[] = {
        { { .keeping = FAKE_IN_MEMORY }, true },
        { { .keeping = FAKE_IN_MEMORY, .change = like_kvm }, true },
        { { .keeping = FAKE_IN_PROCESSOR }, false },
        { { .keeping = FAKE_WRITES_ONLY }, false },
        { { .keeping = FAKE_IN_MEMORY, .no_write_info = true }, false },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        nested_machine_start(&rows[i].config);
        assert_int_equal(vmcs_image.on, rows[i].on);
        for (enum vmcs_row row = 0; rows[i].on && row < FIELD_COUNT; row++)
            if (machine.hw.offered[vmcs_fields[row].cap] && !machine.hw.missing[row])
                assert_int_not_equal(vmcs_image.place[row], 0);
    }
}

/* What the guest hypervisor can change of its own state without an exit, and what its next exit handler must not find. */
static void l2_changes_itself(void)
{
    static const uint8_t rows[] = {
        FIELD_GUEST_GDTR_BASE, FIELD_GUEST_GDTR_LIMIT,   FIELD_GUEST_IDTR_BASE,   FIELD_GUEST_IDTR_LIMIT,
        FIELD_GUEST_FS_BASE,   FIELD_GUEST_GS_BASE,      FIELD_GUEST_SYSENTER_CS, FIELD_GUEST_SYSENTER_ESP,
        FIELD_GUEST_TR_BASE,   FIELD_GUEST_SYSENTER_EIP, FIELD_GUEST_DS_SEL,      FIELD_GUEST_ES_SEL,
        FIELD_GUEST_LDTR_BASE, FIELD_GUEST_RSP,          FIELD_GUEST_CR3,
    };
    for (unsigned i = 0; i < 4; i++)
        fake_vmcs_write(nested_machine_cpu()->vmcs01.region, rows[test_random_below(&seed, sizeof(rows))],
                        test_random_below(&seed, 0x1000) << 3);
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, FIELD_GUEST_PAT, 0x0606060606060606ull);
}

#define TRACE_STEPS 60
static uint64_t trace[2][TRACE_STEPS][2][FIELD_COUNT];

static void record(uint64_t to[2][FIELD_COUNT])
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        to[0][row] = fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row);
        to[1][row] = fake_vmcs_read(nested_machine_vmcs02(), row);
    }
}

/* The same life of a guest hypervisor with three VMCSs, whatever keeps them. */
static void live(const struct nested_machine_config *config, uint64_t to[TRACE_STEPS][2][FIELD_COUNT])
{
    uint64_t sample[FIELD_COUNT];
    nested_machine_start(config);
    seed.state = 4711;
    vmcs12_sample(sample);
    for (unsigned n = 0; n < 3; n++) {
        sample[FIELD_HOST_GS_BASE] = 0xffff888000002000ull + n * 0x1000;
        sample[FIELD_EXIT_CONTROLS] ^= n == 1 ? EXIT_LOAD_PAT : 0; /* one that goes on with its guest's PAT */
        l2_make(n, sample);
        l2_enter(REASON_vmlaunch);
        nested_machine_exit_reason(REASON_cpuid, 0);
    }
    for (unsigned step = 0; step < TRACE_STEPS; step++) {
        unsigned n = (unsigned)test_random_below(&seed, 3);
        bool cleared = !test_random_below(&seed, 4);
        if (cleared)
            assert_int_equal(l2_vmclear(VMCS12(n)), VMX_OK);
        assert_int_equal(l2_vmptrld(VMCS12(n)), VMX_OK);
        assert_int_equal(l2_vmwrite(VMCS_GUEST_RIP, 0x50400000 + test_random_below(&seed, 0x1000)), VMX_OK);
        assert_int_equal(l2_vmwrite(VMCS_HOST_RSP, test_random_below(&seed, 0x10000) << 3), VMX_OK);
        l2_field(test_random_below(&seed, 2) ? VMCS_GUEST_CR4 : VMCS_ENTRY_CONTROLS);
        bool invalid = !test_random_below(&seed, 4); /* the entry fails, and L2 goes on with its own state */
        assert_int_equal(l2_vmwrite(VMCS_GUEST_RFLAGS, invalid ? 0 : RFLAGS_FIXED1), VMX_OK);
        l2_changes_itself();
        int entered = l2_enter(cleared ? REASON_vmlaunch : REASON_vmresume);
        if (entered != VMX_OK) /* cleared in an earlier step */
            entered = l2_enter(REASON_vmlaunch);
        assert_int_equal(entered, VMX_OK);
        assert_int_equal(nested_machine_in_l3(), !invalid);
        if (!invalid) {
            fake_vmcs_write(nested_machine_vmcs02(), FIELD_GUEST_PAT, 0x0707070707070707ull ^ (step & 1)); /* by L3 */
            nested_machine_exit_reason(test_random_below(&seed, 2) ? REASON_cpuid : REASON_vmcall, step);
        }
        record(to[step]);
    }
}

static void same_as_with_instructions(void **state)
{
    (void)state;
    for (int shadow_off = 0; shadow_off < 2; shadow_off++) {
        live(&(struct nested_machine_config){ .shadow_off = shadow_off, .keeping = FAKE_IN_PROCESSOR }, trace[0]);
        live(&(struct nested_machine_config){ .shadow_off = shadow_off, .keeping = FAKE_IN_MEMORY }, trace[1]);
        for (unsigned step = 0; step < TRACE_STEPS; step++)
            for (unsigned vmcs = 0; vmcs < 2; vmcs++)
                for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
                    if (trace[0][step][vmcs][row] != trace[1][step][vmcs][row])
                        fail_msg("step %u, vmcs0%u, %s: %llx, in memory %llx", step, vmcs + 1, vmcs_fields[row].name,
                                 (unsigned long long)trace[0][step][vmcs][row],
                                 (unsigned long long)trace[1][step][vmcs][row]);
    }
}

/* The one place in a region where a value stands. */
static uint64_t *in_region(unsigned n, uint64_t value)
{
    uint64_t *found = NULL;
    for (unsigned i = 1; i < PAGE_SIZE / sizeof(uint64_t); i++) {
        uint64_t *at = (uint64_t *)VMCS12(n) + i;
        if (*at == value) {
            assert_null(found);
            found = at;
        }
    }
    assert_non_null(found);
    return found;
}

/* A guest hypervisor that is a Strata finds the same: its VMCSs are memory while another is current, in both directions. */
static void guest_hypervisor_finds_the_same(void **state)
{
    static const struct {
        uint32_t field;
        uint64_t mark, other;
    } rows[] = {
        { VMCS_GUEST_RIP, 0x50407777, 0x50408888 },
        { VMCS_GUEST_GDTR_BASE, 0x1234567000, 0x7654321000 },
        { VMCS_TSC_OFFSET, 0x77777777777, 0x88888888888 },
        { VMCS_HOST_RSP, 0xffffc90000007770ull, 0xffffc90000008880ull },
        { VMCS_EXIT_QUALIFICATION, 0x7171717171, 0x8181818181 },
    };
    uint64_t sample[FIELD_COUNT];
    (void)state;
    nested_machine_start(&(struct nested_machine_config){ .keeping = FAKE_IN_MEMORY });
    vmcs12_sample(sample);
    l2_make(1, sample);
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(l2_vmwrite(rows[i].field, rows[i].mark), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    nested_machine_exit_reason(REASON_cpuid, rows[4].mark);
    assert_int_equal(l2_vmptrld(VMCS12(1)), VMX_OK);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        *in_region(0, rows[i].mark) = rows[i].other;
    uint64_t merged = nested_machine_cpu()->counters[COUNT_ENTRY_MERGED];
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(l2_field(rows[i].field), rows[i].other);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK); /* it is launched as before */
    assert_true(nested_machine_in_l3());
    assert_int_equal(fake_vmcs_read(nested_machine_vmcs02(), FIELD_GUEST_RIP), 0x50408888);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_ENTRY_MERGED],
                     merged + 1); /* for HOST_RSP is checked again */
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(fake_vmcs_read(nested_machine_cpu()->vmcs01.region, FIELD_GUEST_RSP), 0xffffc90000008880ull);
    /* Guest state alone leaves all that was merged as it is. */
    assert_int_equal(l2_vmwrite(VMCS_GUEST_RIP, 0x50407777), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(1)), VMX_OK);
    *in_region(0, 0x50407777) = 0x50409999;
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_int_equal(fake_vmcs_read(nested_machine_vmcs02(), FIELD_GUEST_RIP), 0x50409999);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_ENTRY_MERGED], merged + 1);
}

/* What an exit and an entry of the nested guest cost on such a machine, in what exits to it. */
static void round_trip_of_few_instructions(void **state)
{
    (void)state;
    nested_machine_start(&(struct nested_machine_config){ .keeping = FAKE_IN_MEMORY });
    l3_start();
    nested_machine_exit_reason(REASON_cpuid, 0);
    l2_enter(REASON_vmresume);
    fake_journal_clear();
    nested_machine_exit_reason(REASON_cpuid, 0);
    l2_enter(REASON_vmresume);
    assert_int_equal(fake_count(FAKE_VMPTRLD), 2);
    assert_int_equal(fake_count(FAKE_VMCLEAR), 0);
    assert_int_equal(fake_count(FAKE_VMWRITE), 0);
}

static const struct isolated_test tests[] = {
    { "image_is_tried_out", image_is_tried_out },
    { "same_as_with_instructions", same_as_with_instructions },
    { "guest_hypervisor_finds_the_same", guest_hypervisor_finds_the_same },
    { "round_trip_of_few_instructions", round_trip_of_few_instructions },
    { "kvm_below", kvm_below },
    { "needed_fields", needed_fields },
    { "any_machine", any_machine },
};

int main(void) { return isolated_tests_run(tests, ARRAY_SIZE(tests)); }
