/* sources: machine */
/*
 * Who owns an exit of the nested guest: a total function of reason, controls and bitmaps, written here from the SDM ("VM-Exit
 * Reasons", "Instructions That Cause VM Exits") for a hypervisor that wants nothing of L3 but its own EPT and MSRs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define UNMAPPED 0x90000000ull

static const struct nested_machine_config usual = { 0 };
static uint64_t values[FIELD_COUNT];

static uint64_t in_vmcs02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }
static uint64_t in_vmcs01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }

static void back_to_l3(void)
{
    if (!nested_machine_in_l3())
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_true(nested_machine_in_l3());
    fake_vmcs_write(nested_machine_vmcs02(), FIELD_ENTRY_INTR_INFO, 0);
}

static void start(void)
{
    nested_machine_start(&usual);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

/* The guest hypervisor has it: at its host RIP, with all that the processor saved. */
static void expect_reflected(const struct nested_exit_info *info)
{
    assert_false(nested_machine_in_l3());
    assert_int_equal(in_vmcs01(FIELD_GUEST_RIP), V(HOST_RIP));
    assert_int_equal(l2_field(VMCS_EXIT_REASON), info->reason);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), info->qualification);
    assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO), info->intr_info);
    assert_int_equal(l2_field(VMCS_EXIT_INTR_ERROR), info->intr_error);
    assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), info->idt_info);
    assert_int_equal(l2_field(VMCS_IDT_VECTORING_ERROR), info->idt_error);
    assert_int_equal(l2_field(VMCS_EXIT_INSTRUCTION_LEN), info->length);
    assert_int_equal(l2_field(VMCS_EXIT_INSTRUCTION_INFO), info->instruction);
    assert_int_equal(l2_field(VMCS_GUEST_PHYSICAL_ADDR), info->gpa);
    assert_int_equal(l2_field(VMCS_GUEST_LINEAR_ADDR), info->linear);
}

/* Reasons whose owner depends on more than the reason are looked at below. */
static bool decided_elsewhere(uint32_t reason)
{
    return reason == REASON_rdmsr || reason == REASON_wrmsr || reason == REASON_ept_violation ||
           reason == REASON_ept_misconfig || reason == REASON_entry_guest_state || reason == REASON_entry_msr_load ||
           reason == REASON_entry_machine_check;
}

/*
 * Everything else that exits at all exits because vmcs12 asks for it or because it always does: vmcs02 asks for nothing on its own.
 * That holds whatever the guest hypervisor's controls are.
 */
static void reasons_are_reflected(uint64_t pin, uint64_t proc, uint64_t proc2)
{
    vmcs12_sample(values);
    V(PIN_CONTROLS) |= pin;
    V(PROC_CONTROLS) = (V(PROC_CONTROLS) | proc) & (proc2 == ~0ull ? ~PROC_SECONDARY : ~0ull);
    V(PROC2_CONTROLS) = proc2 == ~0ull ? 0 : proc2;
    start();
    const uint64_t *counters = nested_machine_cpu()->counters;
    for (uint32_t reason = 0; reason < REASON_COUNT; reason++) {
        if (decided_elsewhere(reason))
            continue;
        back_to_l3();
        struct nested_exit_info info = { .reason = reason,
                                         .qualification = 0x123400 + reason,
                                         .intr_info = reason == REASON_exception_nmi
                                                          ? INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_DB
                                                          : 0,
                                         .intr_error = reason,
                                         .idt_info = reason % 2 ? INTR_VALID | INTR_TYPE_EXTERNAL | 0x55 : 0x55,
                                         .idt_error = 3 * reason,
                                         .length = reason % 16,
                                         .instruction = 0x10000 * reason,
                                         .gpa = PAGE_SIZE * reason,
                                         .linear = 0x7000 + reason };
        uint64_t exits = counters[COUNT_EXIT_L3 + reason], reflected = counters[COUNT_REFLECT + reason];
        nested_machine_exit(&info);
        expect_reflected(&info);
        assert_int_equal(counters[COUNT_EXIT_L3 + reason], exits + 1);
        assert_int_equal(counters[COUNT_REFLECT + reason], reflected + 1);
    }
}

static void reasons_with_usual_controls(void **state)
{
    (void)state, reasons_are_reflected(0, 0, PROC2_EPT | PROC2_VPID | PROC2_UNRESTRICTED);
}
static void reasons_without_ept(void **state) { (void)state, reasons_are_reflected(0, 0, 0); }
static void reasons_without_secondary_controls(void **state) { (void)state, reasons_are_reflected(0, 0, ~0ull); }
static void reasons_with_virtual_nmis(void **state)
{
    (void)state;
    reasons_are_reflected(PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER, PROC_NMI_WINDOW | PROC_TPR_SHADOW,
                          PROC2_EPT);
}

/* Exceptions, NMIs and interrupts: the processor asked the guest hypervisor's bitmaps and controls before it exited. */
static void events_are_reflected(void **state)
{
    (void)state;
    static const uint64_t events[] = {
        INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI,
        INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID | VECTOR_PF,
        INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC,
        INTR_VALID | INTR_TYPE_SW_EXCEPTION | VECTOR_BP,
        INTR_VALID | INTR_TYPE_PRIV_SW_EXCEPTION | VECTOR_DB,
        INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_NMI_UNBLOCK | VECTOR_GP,
    };
    vmcs12_sample(values);
    start();
    for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
        back_to_l3();
        struct nested_exit_info info = { .reason = REASON_exception_nmi, .intr_info = events[i], .intr_error = 6 };
        nested_machine_exit(&info);
        expect_reflected(&info);
        bool nmi = (events[i] & INTR_TYPE_MASK) == INTR_TYPE_NMI;
        assert_int_equal(in_vmcs01(FIELD_GUEST_INTERRUPTIBILITY), nmi ? BLOCKING_NMI : 0);
    }
    back_to_l3();
    struct nested_exit_info interrupt = { .reason = REASON_external_interrupt,
                                          .intr_info = INTR_VALID | INTR_TYPE_EXTERNAL | 0xec };
    nested_machine_exit(&interrupt);
    expect_reflected(&interrupt);
}

/* --- MSRs --- */

static const uint32_t border_msrs[] = { 0,          1,          0x3a,       0x480,      0x830,      0x1fff,     0x2000,
                                        0x7fffffff, 0xbfffffff, 0xc0000000, 0xc0000080, 0xc0001fff, 0xc0002000, ~0u };

/* SDM 3, "MSR-Bitmap Address": four parts of 1 KiB. -1: outside. */
static int bitmap_bit(uint32_t msr, bool write)
{
    int part = write ? 16384 : 0;
    if (msr < 8192)
        return part + (int)msr;
    if (msr >= 0xc0000000 && msr - 0xc0000000 < 8192)
        return part + 8192 + (int)(msr - 0xc0000000);
    return -1;
}

static void bitmap_set(int bit, bool on)
{
    uint8_t *byte = (uint8_t *)(L2_MSR_BITMAP + (unsigned)bit / 8);
    *byte = (uint8_t)((*byte & ~(1 << bit % 8)) | on << bit % 8);
    nested_machine_wrote(L2_MSR_BITMAP);
}

static void access_msr(uint32_t msr, bool write)
{
    struct cpu *cpu = nested_machine_cpu();
    cpu->regs[GPR_RCX] = 0xdeadbeef00000000 | msr;
    cpu->regs[GPR_RAX] = cpu->regs[GPR_RDX] = 0;
    nested_machine_exit_reason(write ? REASON_wrmsr : REASON_rdmsr, 0);
}

static void msrs_by_the_bitmap(void **state)
{
    (void)state;
    vmcs12_sample(values);
    start();
    for (unsigned background = 0; background < 2; background++) /* all other bits */
        for (size_t i = 0; i < ARRAY_SIZE(border_msrs); i++)
            for (unsigned variant = 0; variant < 4; variant++) {
                bool write = variant & 1, on = variant & 2;
                int bit = bitmap_bit(border_msrs[i], write);
                if (!nested_machine_in_l3())
                    back_to_l3();
                nested_machine_exit_reason(REASON_cpuid, 0);
                memset((void *)L2_MSR_BITMAP, background ? 0xff : 0, PAGE_SIZE);
                if (bit >= 0)
                    bitmap_set(bit, on);
                back_to_l3();
                access_msr(border_msrs[i], write);
                bool reflected = bit < 0 || on;
                if (nested_machine_in_l3() == reflected)
                    fail_msg("%s of MSR %xh with bit %d goes to the wrong one", write ? "write" : "read",
                             border_msrs[i], on);
            }
}

static void msrs_without_a_bitmap(void **state)
{
    (void)state;
    vmcs12_sample(values);
    V(PROC_CONTROLS) &= ~PROC_MSR_BITMAP;
    start();
    for (size_t i = 0; i < ARRAY_SIZE(border_msrs); i++)
        for (unsigned write = 0; write < 2; write++) {
            back_to_l3();
            assert_int_equal(in_vmcs02(FIELD_PROC_CONTROLS) & PROC_MSR_BITMAP, 0);
            access_msr(border_msrs[i], write);
            assert_false(nested_machine_in_l3());
            assert_int_equal(l2_field(VMCS_EXIT_REASON), write ? REASON_wrmsr : REASON_rdmsr);
        }
}

/* A bitmap where nothing is reads as all ones: every access is the guest hypervisor's. */
static void msrs_with_a_bitmap_in_strata(void **state)
{
    (void)state;
    vmcs12_sample(values);
    V(MSR_BITMAP) = HIDDEN_START + 5 * MIB;
    start();
    for (size_t i = 0; i < ARRAY_SIZE(border_msrs); i++) {
        back_to_l3();
        access_msr(border_msrs[i], false);
        assert_false(nested_machine_in_l3());
    }
}

/* What the guest hypervisor lets through and Strata keeps: L3 gets what the guest hypervisor would. */
static void msrs_of_strata(void **state)
{
    (void)state;
    vmcs12_sample(values);
    start();
    struct cpu *cpu = nested_machine_cpu();
    uint64_t rip = in_vmcs02(FIELD_GUEST_RIP), value;
    access_msr(MSR_VMX_BASIC, false);
    value = cpu->regs[GPR_RAX] | cpu->regs[GPR_RDX] << 32;
    assert_int_equal(value, vmx_caps_msr(&nested_caps, MSR_VMX_BASIC));
    assert_int_equal(in_vmcs02(FIELD_GUEST_RIP), rip + 3);
    access_msr(MSR_FEATURE_CONTROL, false);
    assert_int_equal(cpu->regs[GPR_RAX], FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX);
    access_msr(MSR_VMX_BASIC, true);
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO),
                     INTR_VALID | INTR_ERROR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_GP);
    assert_int_equal(in_vmcs02(FIELD_GUEST_RIP), rip + 6);
    fake_vmcs_write(nested_machine_vmcs02(), FIELD_ENTRY_INTR_INFO, 0);
    cpu->regs[GPR_RCX] = MSR_X2APIC_ICR;
    cpu->regs[GPR_RAX] = 0x40f1;
    cpu->regs[GPR_RDX] = 2;
    nested_machine_exit_reason(REASON_wrmsr, 0);
    assert_true(nested_machine_in_l3());
    assert_int_equal(fake_msr_get(MSR_X2APIC_ICR), 0x2000040f1);
    access_msr(0x12345678, false);
    assert_false(nested_machine_in_l3());
}

/*
 * The bitmap decides as it was when L3 was entered: what another CPU (or L3 itself) writes to the page meanwhile makes Strata access no MSR
 * in its own place. Of MSRs that Strata wants to see itself the guest hypervisor gets what it had asked for then.
 */
static void msrs_by_the_bitmap_that_was_entered_with(void **state)
{
    (void)state;
    static const uint32_t msrs[] = { MSR_GS_BASE,      MSR_FS_BASE,   MSR_EFER,      MSR_LSTAR,
                                     MSR_SYSENTER_EIP, MSR_VMX_BASIC, MSR_X2APIC_ICR };
    for (size_t i = 0; i < ARRAY_SIZE(msrs); i++)
        for (unsigned variant = 0; variant < 4; variant++) {
            bool write = variant & 1, asked = variant & 2;
            bool stratas = msrs[i] == MSR_VMX_BASIC || (msrs[i] == MSR_X2APIC_ICR && write);
            if (!asked && !stratas)
                continue; /* does not exit */
            vmcs12_sample(values);
            nested_machine_start(&usual);
            memset((void *)L2_MSR_BITMAP, asked ? 0xff : 0, PAGE_SIZE);
            l2_make(0, values);
            assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
            memset((void *)L2_MSR_BITMAP, asked ? 0 : 0xff, PAGE_SIZE);
            size_t reads = fake_count(FAKE_RDMSR), writes = fake_count_of(FAKE_WRMSR, msrs[i]);
            access_msr(msrs[i], write);
            assert_int_equal(nested_machine_in_l3(), !asked);
            if (asked) {
                assert_int_equal(l2_field(VMCS_EXIT_REASON), write ? REASON_wrmsr : REASON_rdmsr);
                assert_int_equal(fake_count(FAKE_RDMSR), reads);
                assert_int_equal(fake_count_of(FAKE_WRMSR, msrs[i]), writes);
            }
        }
}

/* Beyond the bitmap's ranges the guest hypervisor has no MSRs, whatever the machine below Strata has there. */
static void msrs_beyond_the_bitmap(void **state)
{
    (void)state;
    static const uint32_t msrs[] = {
        0x2000, 0x40000000, 0x4b564d00, 0x4b564d01, 0xbfffffff, 0xc0002000, 0xc0010000, ~0u
    };
    nested_machine_start(&usual);
    for (size_t i = 0; i < ARRAY_SIZE(msrs); i++)
        for (unsigned write = 0; write < 2; write++) {
            fake_msr_set(msrs[i], 1);
            access_msr(msrs[i], write);
            assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO),
                             INTR_VALID | INTR_ERROR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_GP);
            assert_int_equal(fake_count_of(FAKE_RDMSR, msrs[i]) + fake_count_of(FAKE_WRMSR, msrs[i]), 0);
        }
}

/* --- EPT --- */

static void violation(uint64_t gpa, uint64_t qualification)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = qualification | EPT_QUAL_LINEAR_VALID |
                                                                     EPT_QUAL_LINEAR_TRANSLATION,
                                                    .gpa = gpa,
                                                    .linear = gpa });
}

static void ept12_entry(uint64_t index, uint64_t entry)
{
    memcpy((void *)(EPT12_PDPT + 8 * index), &entry, sizeof(entry));
    nested_machine_wrote(EPT12_PDPT);
}

static void ept_misses(void **state)
{
    (void)state;
    vmcs12_sample(values);
    start();
    ept12_entry(4, PAGE_1G | EPT_R | EPT_LARGE | MEMTYPE_WB << EPT_MEMTYPE_SHIFT);
    ept12_entry(5, PAGE_1G | EPT_W | EPT_LARGE);
    ept12_entry(6, 0x7000000000ull | EPT_RWX | EPT_LARGE);

    violation(GUEST_PAGE(500), EPT_QUAL_READ); /* both allow it: repaired */
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);

    violation(UNMAPPED, EPT_QUAL_WRITE); /* ept12 has nothing */
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_violation);
    assert_int_equal(l2_field(VMCS_GUEST_PHYSICAL_ADDR), UNMAPPED);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION) & EPT_QUAL_ACCESS, EPT_QUAL_WRITE);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION) & EPT_QUAL_PERM_MASK, 0);

    back_to_l3();
    violation(4 * PAGE_1G, EPT_QUAL_WRITE); /* ept12 lets read */
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_violation);
    assert_int_equal((l2_field(VMCS_EXIT_QUALIFICATION) & EPT_QUAL_PERM_MASK) >> EPT_QUAL_PERM_SHIFT, EPT_R);

    back_to_l3();
    violation(5 * PAGE_1G + 0x123000, EPT_QUAL_READ); /* write-only: a misconfiguration */
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_misconfig);
    assert_int_equal(l2_field(VMCS_GUEST_PHYSICAL_ADDR), 5 * PAGE_1G + 0x123000);
    back_to_l3();
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_misconfig, .gpa = 5 * PAGE_1G });
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_misconfig);

    back_to_l3();
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_misconfig, .gpa = GUEST_PAGE(500) });
    assert_true(nested_machine_in_l3()); /* ept12 has none there: ept02's own, made again */

    violation(6 * PAGE_1G, EPT_QUAL_READ); /* ept01 maps on demand above RAM */
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    violation(HIDDEN_START + 5 * MIB, EPT_QUAL_READ); /* the page that belongs to nobody */
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    violation(HIDDEN_START + 5 * MIB, EPT_QUAL_FETCH); /* which is not executable: no processor answers there */
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO) & ~INTR_ERROR_VALID,
                     INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_GP);
}

/* Without EPT in vmcs12 all of it is Strata's. */
static void ept_misses_without_ept12(void **state)
{
    (void)state;
    vmcs12_sample(values);
    V(PROC2_CONTROLS) = PROC2_VPID;
    start();
    violation(0x7000000000ull, EPT_QUAL_READ);
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    violation(HIDDEN_START + 5 * MIB, EPT_QUAL_FETCH);
    assert_true(nested_machine_in_l3());
    assert_true(in_vmcs02(FIELD_ENTRY_INTR_INFO) & INTR_VALID);
}

static uint32_t access_given(uint64_t gpa)
{
    return ept01_lookup(hpa(in_vmcs02(FIELD_EPTP) & EPT_ADDR_MASK), gpa1(gpa)).perm;
}

/* Without dirty flags pages are watched by write protection, the MSR bitmap's here: L3 gets past it nevertheless. */
static void write_protection_opens(bool coalesce)
{
    static const struct nested_machine_config no_flags = { .no_flags = true };
    const uint64_t bitmap = GUEST_PAGE(0x700);
    nested_machine_start(&no_flags);
    nested_machine_cpu()->nested->ept02.config.coalesce = coalesce;
    vmcs12_sample(values);
    V(PROC_CONTROLS) |= PROC_MSR_BITMAP;
    V(MSR_BITMAP) = bitmap;
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    violation(bitmap, EPT_QUAL_READ);
    assert_int_equal(access_given(bitmap) & (EPT_R | EPT_W), EPT_R);
    violation(bitmap, EPT_QUAL_WRITE); /* ept01's page opens */
    violation(bitmap, EPT_QUAL_WRITE); /* ept02's */
    assert_true(nested_machine_in_l3());
    assert_int_equal(access_given(bitmap) & (EPT_R | EPT_W), EPT_R | EPT_W);
}

static void write_protected_pages_open(void **state) { (void)state, write_protection_opens(true); }
/* Nothing else is looked at meanwhile. */
static void a_write_protected_page_opens_alone(void **state) { (void)state, write_protection_opens(false); }

/* --- failed entries --- */

/* The processor's: reason and qualification as it says; nothing else of the exit information; the launch state stays. */
static void failed_entries_are_reflected(void **state)
{
    (void)state;
    vmcs12_sample(values);
    nested_machine_start(&usual);
    l2_make(0, values);
    for (unsigned launched = 0; launched < 2; launched++) {
        enum exit_reason instruction = launched ? REASON_vmresume : REASON_vmlaunch;
        uint64_t idt = l2_field(VMCS_IDT_VECTORING_INFO), refused = nested_machine_cpu()->counters[COUNT_ENTRY_REFUSED];
        assert_int_equal(l2_vmwrite(VMCS_GUEST_RFLAGS, 0), VMX_OK);
        assert_int_equal(l2_enter(instruction), VMX_OK);
        assert_false(nested_machine_in_l3());
        assert_int_equal(in_vmcs01(FIELD_GUEST_RIP), L2_HOST_RIP);
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_entry_guest_state | REASON_ENTRY_FAILURE);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0);
        assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), idt);
        assert_int_equal(nested_machine_cpu()->counters[COUNT_ENTRY_REFUSED], refused + 1);
        assert_int_equal(l2_vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED1), VMX_OK);
        assert_int_equal(l2_enter(launched ? REASON_vmlaunch : REASON_vmresume),
                         launched ? VMERR_VMLAUNCH_NOT_CLEAR : VMERR_VMRESUME_NOT_LAUNCHED);
        assert_int_equal(l2_enter(instruction), VMX_OK);
        nested_machine_exit_reason(REASON_cpuid, 0);
    }
}

/* --- memory types --- */

/* What ept02 gives L3 at gpa, after an access. */
static int type_given(uint64_t gpa)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation, .qualification = 1, .gpa = gpa });
    assert_true(nested_machine_in_l3());
    struct ept_leaf leaf = ept01_lookup(hpa(in_vmcs02(FIELD_EPTP) & EPT_ADDR_MASK), gpa1(gpa));
    assert_int_not_equal(leaf.size, 0);
    return (int)leaf.memtype;
}

/* L3 writes an MSR, or exits so that L2 does. L3 runs before and after. */
static void write_mtrr(bool nested, uint32_t msr, uint64_t value)
{
    struct cpu *cpu = nested_machine_cpu();
    if (!nested)
        nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(nested_machine_in_l3(), nested);
    cpu->regs[GPR_RCX] = msr;
    cpu->regs[GPR_RAX] = (uint32_t)value;
    cpu->regs[GPR_RDX] = value >> 32;
    nested_machine_exit_reason(REASON_wrmsr, 0);
    assert_int_equal(nested_machine_in_l3(), nested);
    back_to_l3();
}

/* MTRRs are virtual: whoever writes them, L2 or L3, changes what ept01 and so what ept02 says. */
static void mtrrs_decide_types(void **state)
{
    (void)state;
    const uint64_t region = GUEST_PAGE(0x1000), other = GUEST_PAGE(0x1400), cap = 0x508;
    for (unsigned nested = 0; nested < 2; nested++) {
        vmcs12_sample(values);
        V(PROC_CONTROLS) |= PROC_MSR_BITMAP;
        start();
        memory01.has_mtrr = true;
        mtrr_init(&memory01.mtrr, cap, machine.hw.maxphyaddr);
        fake_msr_set(MSR_GS_BASE, (uint64_t)nested_machine_cpu());
        assert_int_equal(type_given(region), MEMTYPE_UC);
        write_mtrr(nested, MSR_MTRR_DEF_TYPE, MTRR_DEF_E | MEMTYPE_WB);
        assert_int_equal(type_given(region), MEMTYPE_WB);
        write_mtrr(nested, MSR_MTRR_PHYSBASE0, region | MEMTYPE_UC);
        assert_int_equal(type_given(region), MEMTYPE_WB);
        uint64_t mask = (BIT(machine.hw.maxphyaddr) - PAGE_2M) | MTRR_MASK_VALID;
        write_mtrr(nested, MSR_MTRR_PHYSBASE0 + 1, mask);
        assert_int_equal(type_given(region), MEMTYPE_UC);
        assert_int_equal(type_given(other), MEMTYPE_WB);
        write_mtrr(nested, MSR_MTRR_PHYSBASE0 + 1, 0);
        assert_int_equal(type_given(region), MEMTYPE_WB);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(reasons_with_usual_controls),
        TEST(reasons_without_ept),
        TEST(reasons_without_secondary_controls),
        TEST(reasons_with_virtual_nmis),
        TEST(events_are_reflected),
        TEST(msrs_by_the_bitmap),
        TEST(msrs_without_a_bitmap),
        TEST(msrs_with_a_bitmap_in_strata),
        TEST(msrs_of_strata),
        TEST(msrs_by_the_bitmap_that_was_entered_with),
        TEST(msrs_beyond_the_bitmap),
        TEST(ept_misses),
        TEST(ept_misses_without_ept12),
        TEST(write_protected_pages_open),
        TEST(a_write_protected_page_opens_alone),
        TEST(failed_entries_are_reflected),
        TEST(mtrrs_decide_types),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
