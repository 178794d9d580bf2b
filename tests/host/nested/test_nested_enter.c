/* sources: machine */
/*
 * VMLAUNCH and VMRESUME of the guest hypervisor: how they fail, what vmcs02 holds when they do not, and how little is done
 * when nothing has changed. What vmcs02 must hold is written down here once more, row by row.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/vmcs01.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]

static const struct nested_machine_config usual = { 0 }, shadow_off = { .shadow_off = true };
extern const uint8_t vmexit_entry[];

static uint64_t values[FIELD_COUNT];

static int machine_make(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    vmcs12_sample(values);
    return 0;
}

static uint64_t in_vmcs02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }
static uint64_t in_vmcs01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }
static void vmcs01_set(enum vmcs_row row, uint64_t value)
{
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, row, value);
}
static uint64_t counted(unsigned counter) { return nested_machine_cpu()->counters[counter]; }

/* --- failures --- */

static void expect_failure(int result, int error)
{
    assert_int_equal(result, error);
    assert_false(nested_machine_in_l3());
    assert_int_equal(fake_current(), nested_machine_cpu()->vmcs01.region.v);
    if (error != VMX_FAIL_INVALID)
        assert_int_equal(l2_field(VMCS_VM_INSTRUCTION_ERROR), error);
}

static void without_a_current_vmcs(void **state)
{
    (void)state;
    machine_make(&usual);
    assert_int_equal(l2_enter(REASON_vmlaunch), FAULTED + VECTOR_UD);
    assert_int_equal(l2_vmxon(), VMX_OK);
    expect_failure(l2_enter(REASON_vmlaunch), VMX_FAIL_INVALID);
    expect_failure(l2_enter(REASON_vmresume), VMX_FAIL_INVALID);
    vmcs01_set(FIELD_GUEST_SS_AR, vmread(GUEST_SS_AR) | AR_DPL_MASK);
    vmcs01_set(FIELD_GUEST_CS_AR, vmread(GUEST_CS_AR) | AR_DPL_MASK);
    assert_int_equal(l2_enter(REASON_vmlaunch), FAULTED + VECTOR_GP);
}

/* In the SDM's order: blocking by MOV SS comes before the launch state, that before the checks. */
static void blocking_by_mov_ss(void **state)
{
    (void)state;
    machine_make(&usual);
    V(PIN_CONTROLS) = 0;
    l2_make(0, values);
    vmcs01_set(FIELD_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
    expect_failure(l2_enter(REASON_vmresume), VMERR_ENTRY_MOV_SS);
    assert_int_equal(in_vmcs01(FIELD_GUEST_INTERRUPTIBILITY), 0);
    expect_failure(l2_enter(REASON_vmresume), VMERR_VMRESUME_NOT_LAUNCHED);
    expect_failure(l2_enter(REASON_vmlaunch), VMERR_ENTRY_CONTROLS);
}

static void launch_states(const struct nested_machine_config *config)
{
    machine_make(config);
    l2_make(0, values);
    expect_failure(l2_enter(REASON_vmresume), VMERR_VMRESUME_NOT_LAUNCHED);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
    nested_machine_exit_reason(REASON_cpuid, 0);
    expect_failure(l2_enter(REASON_vmlaunch), VMERR_VMLAUNCH_NOT_CLEAR);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
    assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
    expect_failure(l2_enter(REASON_vmresume), VMERR_VMRESUME_NOT_LAUNCHED);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
}

static void launch_states_with_shadowing(void **state) { (void)state, launch_states(&usual); }
static void launch_states_without_shadowing(void **state) { (void)state, launch_states(&shadow_off); }

/* One violation of each kind, by Strata's checks and by the processor's; corrected, the same VMCS enters. */
static void checks_fail(const struct nested_machine_config *config)
{
    static const struct {
        enum vmcs_row row;
        uint64_t bad;
        int error;
    } rows[] = {
        { FIELD_PIN_CONTROLS, 0x16 | PIN_POSTED_INTR, VMERR_ENTRY_CONTROLS },
        { FIELD_EPTP, EPTP12 | BIT(11), VMERR_ENTRY_CONTROLS },
        { FIELD_MSR_BITMAP, L2_MSR_BITMAP + 8, VMERR_ENTRY_CONTROLS },
        { FIELD_VPID, 0, VMERR_ENTRY_CONTROLS },
        { FIELD_HOST_CR3, ~0ull, VMERR_ENTRY_HOST_STATE },
        { FIELD_HOST_RIP, BIT(50), VMERR_ENTRY_HOST_STATE },
        { FIELD_HOST_CS_SEL, 3, VMERR_ENTRY_HOST_STATE },
        { FIELD_CR3_TARGET_COUNT, 9, VMERR_ENTRY_CONTROLS },
        { FIELD_ENTRY_INTR_INFO, INTR_VALID | INTR_TYPE_OTHER | 1, VMERR_ENTRY_CONTROLS },
        { FIELD_ENTRY_INTR_INFO, INTR_VALID | (1 << INTR_TYPE_SHIFT), VMERR_ENTRY_CONTROLS },
        { FIELD_ENTRY_INTR_INFO, INTR_VALID | INTR_TYPE_NMI | 3, VMERR_ENTRY_CONTROLS },
    };
    machine_make(config);
    l2_make(0, values);
    uint64_t refused = 0;
    for (unsigned launched = 0; launched < 2; launched++) {
        enum exit_reason instruction = launched ? REASON_vmresume : REASON_vmlaunch;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
            uint32_t field = vmcs_fields[rows[i].row].encoding;
            assert_int_equal(l2_vmwrite(field, rows[i].bad), VMX_OK);
            for (unsigned again = 0; again < 2; again++) {
                expect_failure(l2_enter(instruction), rows[i].error);
                assert_int_equal(counted(COUNT_ENTRY_REFUSED), ++refused);
            }
            assert_int_equal(l2_field(field), rows[i].bad);
            assert_int_equal(l2_vmwrite(field, values[rows[i].row]), VMX_OK);
            if (launched) {
                assert_int_equal(l2_enter(instruction), VMX_OK);
                assert_true(nested_machine_in_l3());
                nested_machine_exit_reason(REASON_cpuid, 0);
            }
        }
        if (!launched) {
            assert_int_equal(l2_enter(instruction), VMX_OK);
            nested_machine_exit_reason(REASON_cpuid, 0);
        }
    }
}

static void checks_fail_with_shadowing(void **state) { (void)state, checks_fail(&usual); }
static void checks_fail_without_shadowing(void **state) { (void)state, checks_fail(&shadow_off); }

/* --- what vmcs02 holds --- */

static bool guest_ram(uint64_t address) { return address >= NESTED_MACHINE_START && address < GUEST_END; }

/* The page that an address of vmcs12 stands for: itself, or one that belongs to nobody. */
static uint64_t translated(uint64_t address) { return guest_ram(address) ? address : memory01.junk.v; }

static uint64_t vpid_expected(void)
{
    return (V(PROC_CONTROLS) & PROC_SECONDARY) && (V(PROC2_CONTROLS) & PROC2_VPID) ? V(VPID) + 1 : 0xffff;
}

struct expectation {
    bool known; /* the value counts; otherwise it may be anything */
    uint64_t value;
};
static struct expectation is(uint64_t value) { return (struct expectation){ true, value }; }
static struct expectation counts_if(bool condition, uint64_t value) { return (struct expectation){ condition, value }; }

/* vmcs02's value of a row stored SOFT, by vmcs12's. */
static struct expectation soft_expected(enum vmcs_row row)
{
    uint64_t proc2 = V(PROC_CONTROLS) & PROC_SECONDARY ? V(PROC2_CONTROLS) : 0;
    switch (row) {
    case FIELD_PIN_CONTROLS:
        return is(V(PIN_CONTROLS));
    case FIELD_PROC_CONTROLS:
        return is(V(PROC_CONTROLS) | PROC_SECONDARY);
    case FIELD_PROC2_CONTROLS:
        return is((proc2 & ~PROC2_SHADOW_VMCS) | PROC2_EPT | PROC2_VPID); /* without a link pointer */
    case FIELD_EXIT_CONTROLS:
        return is(V(EXIT_CONTROLS) | EXIT_HOST_64 | EXIT_SAVE_DEBUG | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
                  EXIT_LOAD_EFER | (V(PIN_CONTROLS) & PIN_PREEMPTION_TIMER ? EXIT_SAVE_PREEMPTION_TIMER : 0));
    case FIELD_ENTRY_CONTROLS:
        return is(V(ENTRY_CONTROLS) | ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER);
    case FIELD_VPID:
        return is(vpid_expected());
    case FIELD_IO_BITMAP_A:
    case FIELD_IO_BITMAP_B:
        return counts_if(V(PROC_CONTROLS) & PROC_IO_BITMAPS, translated(values[row]));
    case FIELD_MSR_BITMAP:
        return counts_if(V(PROC_CONTROLS) & PROC_MSR_BITMAP, nested_machine_slot()->msr.page.v);
    case FIELD_VIRTUAL_APIC_ADDR:
        return counts_if(V(PROC_CONTROLS) & PROC_TPR_SHADOW, translated(values[row]));
    case FIELD_POSTED_INTR_VECTOR:
        return counts_if(V(PIN_CONTROLS) & PIN_POSTED_INTR, values[row]);
    case FIELD_POSTED_INTR_DESC:
        return counts_if(V(PIN_CONTROLS) & PIN_POSTED_INTR, translated(values[row]));
    case FIELD_APIC_ACCESS_ADDR: /* compared with, not accessed */
        return counts_if(proc2 & PROC2_VIRT_APIC_ACCESS, values[row]);
    case FIELD_EPTP:
        return is(proc2 & PROC2_EPT ? nested_machine_slot()->root->eptp02 : ept01_eptp(&memory01.ept01));
    case FIELD_VMCS_LINK_POINTER:
        return is(~0ull);
    case FIELD_EXIT_MSR_STORE_COUNT:
    case FIELD_EXIT_MSR_LOAD_COUNT:
        return is(0);
    case FIELD_ENTRY_MSR_LOAD_COUNT:
        return is(V(ENTRY_MSR_LOAD_COUNT));
    case FIELD_ENTRY_MSR_LOAD_ADDR: /* a copy of vmcs12's */
        return counts_if(V(ENTRY_MSR_LOAD_COUNT), (uint64_t)nested_machine_cpu()->nested->area);
    case FIELD_VMREAD_BITMAP: /* test of their own */
    case FIELD_VMWRITE_BITMAP:
    case FIELD_EXIT_MSR_STORE_ADDR:
    case FIELD_EXIT_MSR_LOAD_ADDR:
    case FIELD_EXECUTIVE_VMCS:
    case FIELD_VM_INSTRUCTION_ERROR:
        return counts_if(false, 0);
    default:
        fail_msg("no expectation for %s", vmcs_fields[row].name);
        return is(0);
    }
}

/* Guest fields that vmcs12 does not have loaded come from the guest hypervisor. */
static struct expectation shared_expected(enum vmcs_row row)
{
    uint64_t entry = V(ENTRY_CONTROLS);
    if ((row == FIELD_GUEST_EFER && !(entry & ENTRY_LOAD_EFER)) ||
        (row == FIELD_GUEST_PAT && !(entry & ENTRY_LOAD_PAT)))
        return is(in_vmcs01(row)); /* both are in 64-bit mode: EFER differs in nothing */
    if ((row == FIELD_GUEST_DR7 || row == FIELD_GUEST_DEBUGCTL) && !(entry & ENTRY_LOAD_DEBUG))
        return is(in_vmcs01(row));
    if (row >= FIELD_GUEST_PDPTE0 && row <= FIELD_GUEST_PDPTE3) /* checked only for PAE paging */
        return counts_if(false, 0);
    return is(values[row]);
}

static void expect_merged(void)
{
    assert_true(nested_machine_in_l3());
    assert_int_equal(fake_current(), nested_machine_vmcs02().v);
    for (int row = 0; row < FIELD_COUNT; row++) {
        const struct vmcs_field *field = &vmcs_fields[row];
        if (!nested_caps.offered[field->cap] || field->store == STORE_INFO)
            continue;
        bool host = vmcs_encoding_type(field->encoding) == TYPE_HOST;
        struct expectation want = host                         ? is(in_vmcs01((enum vmcs_row)row))
                                  : field->store == STORE_SOFT ? soft_expected((enum vmcs_row)row)
                                                               : shared_expected((enum vmcs_row)row);
        uint64_t is_there = in_vmcs02((enum vmcs_row)row);
        if (want.known && is_there != want.value)
            fail_msg("%s of vmcs02 is %llxh, not %llxh", field->name, (unsigned long long)is_there,
                     (unsigned long long)want.value);
    }
    const struct cpu *cpu = nested_machine_cpu();
    assert_int_equal(in_vmcs02(FIELD_HOST_RIP), (uint64_t)vmexit_entry);
    assert_int_equal(in_vmcs02(FIELD_HOST_RSP), (uint64_t)&cpu->regs[GPR_COUNT]);
    assert_int_equal(in_vmcs02(FIELD_HOST_GS_BASE), (uint64_t)cpu);
    assert_int_equal(in_vmcs02(FIELD_HOST_CR3), machine.cr3);
}

/* Enters with the values and comes back by an exit; every second time the VMCS is fresh. */
static void enter_and_check(unsigned n)
{
    l2_make(n, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    expect_merged();
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    expect_merged();
    nested_machine_exit_reason(REASON_cpuid, 0);
}

static void the_sample_is_merged(void **state)
{
    (void)state;
    machine_make(&usual);
    enter_and_check(0);
    uint32_t msr = MSR_KERNEL_GS_BASE; /* MSR areas are Strata's to walk: vmcs02 has none */
    for (unsigned area = 0; area < 3; area++)
        memcpy((void *)(L2_MSR_AREAS + 0x400 * area), &msr, sizeof(msr));
    V(ENTRY_MSR_LOAD_COUNT) = V(EXIT_MSR_LOAD_COUNT) = V(EXIT_MSR_STORE_COUNT) = 1;
    enter_and_check(1);
    machine_make(&shadow_off);
    enter_and_check(0);
}

/* Every control that is offered, alone over the sample as far as the checks allow. */
static void controls_are_merged(void **state)
{
    (void)state;
    static const struct {
        enum vmcs_row row;
        uint32_t msr;
    } words[] = {
        { FIELD_PIN_CONTROLS, MSR_VMX_PIN },     { FIELD_PROC_CONTROLS, MSR_VMX_PROC },
        { FIELD_PROC2_CONTROLS, MSR_VMX_PROC2 }, { FIELD_EXIT_CONTROLS, MSR_VMX_EXIT },
        { FIELD_ENTRY_CONTROLS, MSR_VMX_ENTRY },
    };
    unsigned entered = 0;
    machine_make(&usual);
    for (size_t w = 0; w < ARRAY_SIZE(words); w++)
        for (unsigned bit = 0; bit < 32; bit++) {
            vmcs12_sample(values);
            values[words[w].row] ^= BIT(bit);
            if (!(vmx_caps_allowed1(&nested_caps, words[w].msr) & BIT(bit)))
                continue;
            l2_make(bit % 4, values);
            if (l2_enter(REASON_vmlaunch) != VMX_OK)
                continue; /* a rule about this control; test_checks_*.c */
            if (!nested_machine_in_l3())
                continue; /* reason 33 */
            expect_merged();
            nested_machine_exit_reason(REASON_cpuid, 0);
            entered++;
        }
    assert_in_range(entered, 46, 160);
}

static void addresses_are_translated(void **state)
{
    (void)state;
    static const uint64_t addresses[] = {
        L2_IO_BITMAPS,        HIDDEN_START, HIDDEN_START + MIB, MMIO_PAGE, 0x1000, 0, NESTED_MACHINE_END - PAGE_SIZE,
        GUEST_END - PAGE_SIZE
    };
    machine_make(&usual);
    V(PROC_CONTROLS) |= PROC_IO_BITMAPS | PROC_TPR_SHADOW;
    V(PROC2_CONTROLS) |= PROC2_VIRT_APIC_ACCESS;
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
        V(IO_BITMAP_A) = V(VIRTUAL_APIC_ADDR) = V(MSR_BITMAP) = V(APIC_ACCESS_ADDR) = addresses[i];
        V(IO_BITMAP_B) = addresses[(i + 1) % ARRAY_SIZE(addresses)];
        enter_and_check((unsigned)i % 2);
    }
    /* What is not used may be nonsense. */
    vmcs12_sample(values);
    V(IO_BITMAP_A) = V(IO_BITMAP_B) = V(VIRTUAL_APIC_ADDR) = V(APIC_ACCESS_ADDR) = ~0ull;
    V(EXECUTIVE_VMCS) = V(EXIT_MSR_LOAD_ADDR) = ~0ull;
    enter_and_check(0);
}

/* The descriptor is reached at its own 64 bytes, and never in Strata's memory; a processor without the feature offers none. */
static void posted_interrupts(void **state)
{
    (void)state;
    static const uint64_t descriptors[] = { GUEST_PAGE(43), GUEST_PAGE(43) + 0x7c0, HIDDEN_START, MMIO_PAGE };
    static const struct nested_machine_config no_apic = { .no_apic = true };
    machine_make(&usual);
    V(PIN_CONTROLS) |= PIN_POSTED_INTR;
    V(PROC_CONTROLS) |= PROC_TPR_SHADOW;
    V(PROC2_CONTROLS) |= PROC2_VIRT_INTR_DELIVERY;
    V(EXIT_CONTROLS) |= EXIT_ACK_INTR;
    V(POSTED_INTR_VECTOR) = 0xf2;
    for (unsigned i = 0; i < ARRAY_SIZE(descriptors); i++) {
        V(POSTED_INTR_DESC) = descriptors[i];
        enter_and_check(i);
        nested_machine_exit_reason(REASON_cpuid, 0);
    }
    assert_int_equal(l2_vmwrite(VMCS_POSTED_INTR_DESC, GUEST_PAGE(44) + 0x20), VMX_OK);
    expect_failure(l2_enter(REASON_vmresume), VMERR_ENTRY_CONTROLS);
    assert_int_equal(l2_vmwrite(VMCS_POSTED_INTR_DESC, GUEST_PAGE(44)), VMX_OK);
    assert_int_equal(l2_vmwrite(VMCS_POSTED_INTR_VECTOR, 0x100), VMX_OK);
    expect_failure(l2_enter(REASON_vmresume), VMERR_ENTRY_CONTROLS);

    machine_make(&no_apic);
    assert_false(nested_caps.offered[CAP_POSTED_INTR]);
    V(PIN_CONTROLS) |= PIN_POSTED_INTR;
    l2_make(0, values);
    expect_failure(l2_enter(REASON_vmlaunch), VMERR_ENTRY_CONTROLS);
    expect_failure(l2_vmwrite(VMCS_POSTED_INTR_DESC, 0), VMERR_UNSUPPORTED_FIELD);
}

static void without_ept_vpid_or_secondary_controls(void **state)
{
    (void)state;
    machine_make(&usual);
    V(PROC2_CONTROLS) = PROC2_VPID;
    enter_and_check(0);
    assert_int_equal(in_vmcs02(FIELD_EPTP), ept01_eptp(&memory01.ept01));
    V(PROC2_CONTROLS) = PROC2_EPT;
    enter_and_check(1);
    assert_int_equal(in_vmcs02(FIELD_VPID), 0xffff);
    V(PROC_CONTROLS) &= ~PROC_SECONDARY;
    V(PROC2_CONTROLS) = PROC2_EPT | PROC2_VPID | PROC2_DESC_TABLE; /* not activated: nothing of it counts */
    enter_and_check(2);
    vmcs12_sample(values);
    V(ENTRY_CONTROLS) &= ~(ENTRY_LOAD_EFER | ENTRY_LOAD_PAT | ENTRY_LOAD_DEBUG);
    V(GUEST_DR7) = 0x455;
    V(GUEST_PAT) = ~0ull;
    l2_make(3, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    expect_merged();
}

/* 4-KiB pages translate an APIC-access page: by ept02, and by ept01 for a guest hypervisor that does without EPT. */
static void apic_access_pages_stay_small(void **state)
{
    (void)state;
    static const uint64_t pages[] = { GUEST_PAGE(1500), 0xfee00000 };
    machine_make(&usual);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t page = pages[i / 2];
        vmcs12_sample(values);
        V(PROC2_CONTROLS) |= PROC2_VIRT_APIC_ACCESS;
        V(PROC_CONTROLS) |= PROC_TPR_SHADOW;
        V(PROC2_CONTROLS) &= i & 1 ? ~(uint64_t)(PROC2_EPT | PROC2_UNRESTRICTED) : ~0ull;
        V(APIC_ACCESS_ADDR) = page;
        l2_make(i, values);
        fake_journal_clear();
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_true(nested_machine_in_l3());
        if (i & 1) {
            assert_int_equal(ept01_lookup(memory01.ept01.root, gpa1(page)).size, PAGE_SIZE);
            assert_true(fake_count(FAKE_INVEPT) > 0);
        } else {
            assert_true(region_marked(&nested_machine_cpu()->nested->ept02.small, page));
        }
        nested_machine_exit_reason(REASON_cpuid, 0);
    }
}

/* VPIDs of vmcs12 stay apart from each other, from the guest hypervisor's and from 0; where they do not, entries flush. */
static void vpids_are_distinct(void **state)
{
    (void)state;
    static uint8_t seen[0x10000];
    static const uint16_t vpids[] = { 1, 2, 3, 5, 0x7fff, 0x8000, 0xfffc, 0xfffd, 0xfffe, 0xffff };
    machine_make(&usual);
    for (size_t i = 0; i < ARRAY_SIZE(vpids); i++) {
        V(VPID) = vpids[i];
        l2_make(0, values);
        fake_journal_clear();
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        uint64_t vpid02 = in_vmcs02(FIELD_VPID);
        assert_true(vpid02 > VPID01 && vpid02 <= 0xffff);
        assert_int_equal(fake_count(FAKE_INVVPID), vpid02 == 0xffff);
        assert_true(vpid02 == 0xffff || !seen[vpid02]);
        seen[vpid02] = 1;
        nested_machine_exit_reason(REASON_cpuid, 0);
        assert_int_equal(fake_count(FAKE_INVVPID), vpid02 == 0xffff); /* with a VPID exits flush nothing */
    }
    assert_true(seen[0xffff]);
    V(PROC2_CONTROLS) &= ~PROC2_VPID; /* without: entries and exits flush */
    l2_make(0, values);
    fake_journal_clear();
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_int_equal(fake_count_of(FAKE_INVVPID, INVVPID_SINGLE), 1);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(fake_count_of(FAKE_INVVPID, INVVPID_SINGLE), 2);
}

/* --- the MSR bitmap --- */

static void expect_bitmap(void)
{
    const uint8_t *merged = hpa_ptr(hpa(in_vmcs02(FIELD_MSR_BITMAP)));
    const uint8_t *want1 = hpa_ptr(machine.msr_bitmap01), *want2 = gpa1_ptr(gpa1(V(MSR_BITMAP)));
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        assert_int_equal(merged[i], want1[i] | want2[i]);
}

static void resume(void)
{
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
}

/* The guest hypervisor writes a byte of its bitmap: through ept01, whose dirty flag the processor sets and logs. */
static void l2_bitmap_write(uint64_t gpa, unsigned byte, uint8_t value)
{
    *(uint8_t *)(gpa + byte) = value;
    nested_machine_wrote(gpa);
}

static void the_msr_bitmap_is_the_union(const struct nested_machine_config *config)
{
    machine_make(config);
    struct test_random random = { 99 };
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        *(uint8_t *)(L2_MSR_BITMAP + i) = (uint8_t)test_random(&random);
    l3_start();
    expect_bitmap();
    uint64_t merged = 0;
    for (unsigned i = 0; i < 40; i++) {
        merged = counted(COUNT_BITMAP_MERGED);
        resume();
        expect_bitmap();
        if (i % 4 > 2) /* nothing was written for a while */
            assert_int_equal(counted(COUNT_BITMAP_MERGED), merged);
        if (i % 4 == 0) {
            nested_machine_exit_reason(REASON_cpuid, 0);
            l2_bitmap_write(L2_MSR_BITMAP, (unsigned)test_random_below(&random, PAGE_SIZE),
                            (uint8_t)test_random(&random));
            assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
            expect_bitmap();
        }
    }
    /* Another page; and Strata's own changes. */
    nested_machine_exit_reason(REASON_cpuid, 0);
    V(MSR_BITMAP) = GUEST_PAGE(40);
    *(uint8_t *)(GUEST_PAGE(40) + 5) = 0x81;
    assert_int_equal(l2_vmwrite(VMCS_MSR_BITMAP, V(MSR_BITMAP)), VMX_OK);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    expect_bitmap();
    nested_machine_exit_reason(REASON_cpuid, 0);
    msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    memory01.ept01_content++;
    memory01.flush_epoch++;
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    resume();
    expect_bitmap();
}

static void msr_bitmaps_with_a_log(void **state) { (void)state, the_msr_bitmap_is_the_union(&usual); }
static void msr_bitmaps_with_dirty_flags(void **state)
{
    (void)state;
    the_msr_bitmap_is_the_union(&(struct nested_machine_config){ .no_pml = true });
}
static void msr_bitmaps_without_dirty_flags(void **state)
{
    (void)state;
    the_msr_bitmap_is_the_union(&(struct nested_machine_config){ .no_flags = true });
}

/* --- cost --- */

/*
 * VMREADs and VMWRITEs of a plain round trip. A higher number is a regression to be explained, a lower one is to be written
 * down here.
 */
#define PLAIN_READS 7
#define PLAIN_WRITES 48

static bool merge_row(uint64_t field)
{
    int row = vmcs_field_find((uint32_t)field);
    return vmcs_fields[row].store == STORE_SOFT && vmcs_encoding_type((uint32_t)field) != TYPE_GUEST;
}

static void a_plain_round_trip(const struct nested_machine_config *config, unsigned clears, unsigned loads)
{
    machine_make(config);
    l3_start();
    resume();
    uint64_t plain = counted(COUNT_ENTRY_PLAIN), merged = counted(COUNT_ENTRY_MERGED),
             checked = counted(COUNT_ENTRY_CHECKED);
    unsigned exits = l2_access_exits();
    uint64_t vmcs02 = nested_machine_vmcs02().v;
    fake_journal_clear();
    for (unsigned i = 0; i < 10; i++)
        resume();
    assert_int_equal(counted(COUNT_ENTRY_PLAIN), plain + 10);
    assert_int_equal(counted(COUNT_ENTRY_MERGED), merged);
    assert_int_equal(counted(COUNT_ENTRY_CHECKED), checked);
    assert_int_equal(l2_access_exits(), exits);
    for (size_t i = 0; i < fake_journal_size(); i++) {
        const struct fake_event *event = fake_journal(i);
        if (event->op == FAKE_VMWRITE && event->vmcs == vmcs02)
            fail_msg("%s of vmcs02 is written again", vmcs_fields[vmcs_field_find((uint32_t)event->a)].name);
        assert_false(event->op == FAKE_VMWRITE && merge_row(event->a) && event->vmcs == vmcs02);
    }
    assert_int_equal(fake_count(FAKE_VMCLEAR), 10 * clears);
    assert_int_equal(fake_count(FAKE_VMPTRLD), 10 * loads);
    assert_int_equal(fake_count(FAKE_INVEPT) + fake_count(FAKE_INVVPID), 0);
    assert_int_equal(fake_count(FAKE_VMREAD), 10 * PLAIN_READS);
    assert_int_equal(fake_count(FAKE_VMWRITE), 10 * PLAIN_WRITES);
}

static void a_plain_round_trip_with_shadowing(void **state) { (void)state, a_plain_round_trip(&usual, 2, 2); }
static void a_plain_round_trip_without(void **state) { (void)state, a_plain_round_trip(&shadow_off, 0, 2); }

/* After the first round trip a control is changed: it alone is checked and merged, and then nothing again. */
static void a_changed_control_is_merged(void **state)
{
    (void)state;
    static const struct {
        enum vmcs_row row;
        uint64_t value;
    } changes[] = {
        { FIELD_PROC_CONTROLS, 0x04006172 | PROC_MSR_BITMAP | PROC_SECONDARY | PROC_RDTSC },
        { FIELD_VPID, 77 },
        { FIELD_EPTP, EPT12_PML4_OTHER | EPTP_WALK_4 | MEMTYPE_WB },
        { FIELD_MSR_BITMAP, GUEST_PAGE(40) },
        { FIELD_EXIT_CONTROLS, 0x00036dff | EXIT_HOST_64 | EXIT_ACK_INTR | EXIT_LOAD_EFER },
        { FIELD_HOST_RIP, L2_HOST_RIP + 0x1000 },
        { FIELD_PROC_CONTROLS, 0x04006172 | PROC_IO_BITMAPS | PROC_TPR_SHADOW | PROC_SECONDARY },
        { FIELD_IO_BITMAP_A, GUEST_PAGE(41) },
        { FIELD_VIRTUAL_APIC_ADDR, GUEST_PAGE(42) },
    };
    machine_make(&usual);
    l3_start();
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        nested_machine_exit_reason(REASON_cpuid, 0);
        values[changes[i].row] = changes[i].value;
        uint64_t plain = counted(COUNT_ENTRY_PLAIN), checked = counted(COUNT_ENTRY_CHECKED);
        assert_int_equal(l2_vmwrite(vmcs_fields[changes[i].row].encoding, changes[i].value), VMX_OK);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        expect_merged();
        assert_int_equal(counted(COUNT_ENTRY_CHECKED), checked + 1);
        assert_int_equal(counted(COUNT_ENTRY_PLAIN), plain);
        resume();
        assert_int_equal(counted(COUNT_ENTRY_CHECKED), checked + 1);
        assert_int_equal(counted(COUNT_ENTRY_PLAIN), plain + 1);
        expect_merged();
    }
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(in_vmcs01(FIELD_GUEST_RIP), L2_HOST_RIP + 0x1000);
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(without_a_current_vmcs),
        TEST(blocking_by_mov_ss),
        TEST(launch_states_with_shadowing),
        TEST(launch_states_without_shadowing),
        TEST(checks_fail_with_shadowing),
        TEST(checks_fail_without_shadowing),
        TEST(the_sample_is_merged),
        TEST(controls_are_merged),
        TEST(addresses_are_translated),
        TEST(posted_interrupts),
        TEST(without_ept_vpid_or_secondary_controls),
        TEST(apic_access_pages_stay_small),
        TEST(vpids_are_distinct),
        TEST(msr_bitmaps_with_a_log),
        TEST(msr_bitmaps_with_dirty_flags),
        TEST(msr_bitmaps_without_dirty_flags),
        TEST(a_plain_round_trip_with_shadowing),
        TEST(a_plain_round_trip_without),
        TEST(a_changed_control_is_merged),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
