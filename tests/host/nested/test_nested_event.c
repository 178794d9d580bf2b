/* sources: machine */
/*
 * Events: what an exit interrupted is delivered again, NMIs, INIT and machine checks that arrive while Strata runs reach whom they
 * belong to, and no launch state, event or control is lost on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/guest/dispatch.h"
#include "core/memory/ept.h"
#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define NMI_INFO (INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI)
#define UNMAPPED 0x90000000ull /* ept12 does not map it */

static const struct nested_machine_config usual = { 0 }, shadow_off = { .shadow_off = true },
                                          no_write_info = { .no_write_info = true };
static uint64_t values[FIELD_COUNT];

static uint64_t in_vmcs02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }
static uint64_t in_vmcs01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }
static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }
static void set_now(enum vmcs_row row, uint64_t value) { fake_vmcs_write(hpa(fake_current()), row, value); }

/* An NMI arrives while Strata runs: trap.c does no more than this. */
static void nmi_arrives(void) { nested_machine_cpu()->nmi_pending = nested_machine_cpu()->event_pending = 1; }

static void make(const struct nested_machine_config *config, uint64_t pin, uint64_t pin_off)
{
    nested_machine_start(config);
    vmcs12_sample(values);
    V(PIN_CONTROLS) = (V(PIN_CONTROLS) | pin) & ~pin_off;
    l2_make(0, values);
}

static void launch(void)
{
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

/* --- what an exit interrupted --- */

static const struct {
    uint64_t info;
    bool length; /* the instruction length counts */
} interrupted[] = {
    { INTR_VALID | INTR_TYPE_EXTERNAL | 0x31, false },
    { NMI_INFO, false },
    { INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID | VECTOR_GP, false },
    { INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_UD, false },
    { INTR_VALID | INTR_TYPE_SW_INTR | 0x80, true },
    { INTR_VALID | INTR_TYPE_PRIV_SW_EXCEPTION | VECTOR_DB, true },
    { INTR_VALID | INTR_TYPE_SW_EXCEPTION | VECTOR_BP, true },
};

/* SDM 3, "Information for VM Exits During Event Delivery": undefined bits may be anything. */
static void redeliver(uint64_t info, bool length, uint64_t reason, uint64_t gpa)
{
    set_now(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
    set_now(FIELD_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    set_now(FIELD_ENTRY_EXCEPTION_ERROR, 0);
    nested_machine_exit(&(struct nested_exit_info){ .reason = reason,
                                                    .qualification = EPT_QUAL_READ,
                                                    .idt_info = info | INTR_NMI_UNBLOCK,
                                                    .idt_error = 0x18,
                                                    .length = 2,
                                                    .gpa = gpa });
    assert_int_equal(now(FIELD_ENTRY_INTR_INFO), info);
    if (info & INTR_ERROR_VALID)
        assert_int_equal(now(FIELD_ENTRY_EXCEPTION_ERROR), 0x18);
    if (length)
        assert_int_equal(now(FIELD_ENTRY_INSTRUCTION_LEN), 2);
    bool nmi = (info & INTR_TYPE_MASK) == INTR_TYPE_NMI;
    assert_int_equal(now(FIELD_GUEST_INTERRUPTIBILITY), nmi ? 0 : BLOCKING_NMI);
    set_now(FIELD_GUEST_INTERRUPTIBILITY, 0);
}

/* ept01 and ept02 misses are Strata's: of the guest hypervisor (above RAM) and of the nested guest. */
static void interrupted_events_come_again(void **state)
{
    (void)state;
    make(&usual, 0, 0);
    for (size_t i = 0; i < ARRAY_SIZE(interrupted); i++)
        redeliver(interrupted[i].info, interrupted[i].length, REASON_ept_violation, 0x8000000000ull + i * PAGE_1G);
    for (size_t i = 0; i < ARRAY_SIZE(interrupted); i++)
        redeliver(interrupted[i].info, interrupted[i].length, REASON_pml_full, 0);
    launch();
    for (size_t i = 0; i < ARRAY_SIZE(interrupted); i++) {
        redeliver(interrupted[i].info, interrupted[i].length, REASON_ept_violation, GUEST_PAGE(1000 + i));
        assert_true(nested_machine_in_l3());
    }
}

/* IRET had unblocked NMIs when its own access missed: SDM 3, "Information About NMI Unblocking Due to IRET". */
static void iret_blocks_again(void **state)
{
    (void)state;
    make(&usual, 0, PIN_NMI);
    launch();
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = EPT_QUAL_READ | EPT_QUAL_NMI_UNBLOCK,
                                                    .gpa = GUEST_PAGE(1000) });
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    /* With an event to deliver, the bit says nothing. */
    set_now(FIELD_GUEST_INTERRUPTIBILITY, 0);
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = EPT_QUAL_READ | EPT_QUAL_NMI_UNBLOCK,
                                                    .idt_info = interrupted[0].info,
                                                    .gpa = GUEST_PAGE(1200) });
    assert_int_equal(in_vmcs02(FIELD_GUEST_INTERRUPTIBILITY), 0);
}

/* A reflected exit keeps it as information: the guest hypervisor delivers it again. */
static void reflected_exits_keep_the_event(void **state)
{
    (void)state;
    make(&usual, 0, 0);
    launch();
    for (size_t i = 0; i < ARRAY_SIZE(interrupted); i++) {
        nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                        .qualification = EPT_QUAL_WRITE,
                                                        .idt_info = interrupted[i].info,
                                                        .idt_error = 0x99,
                                                        .length = 5,
                                                        .gpa = UNMAPPED });
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_violation);
        assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), interrupted[i].info);
        assert_int_equal(l2_field(VMCS_IDT_VECTORING_ERROR), 0x99);
        assert_int_equal(l2_field(VMCS_EXIT_INSTRUCTION_LEN), 5);
        assert_int_equal(l2_field(VMCS_GUEST_PHYSICAL_ADDR), UNMAPPED);
        assert_int_equal(l2_field(VMCS_ENTRY_INTR_INFO) & INTR_VALID, 0);
        assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    }
}

/* --- NMIs of the guest (hypervisor) itself --- */

static void nmis_reach_the_guest(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    nmi_arrives();
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), NMI_INFO);
    assert_int_equal(nested_machine_cpu()->nmi_pending, 0);
    assert_false(nested_machine_cpu()->nmi_virtual);
}

static void expect_window(bool on)
{
    bool nmi = now(FIELD_PIN_CONTROLS) & PIN_NMI, window = now(FIELD_PROC_CONTROLS) & PROC_NMI_WINDOW;
    assert_int_equal(nmi, on);
    assert_int_equal((now(FIELD_PIN_CONTROLS) & PIN_VIRTUAL_NMIS) != 0, on);
    assert_int_equal(window, on);
    assert_int_equal(nested_machine_cpu()->nmi_virtual, on);
}

/* Where it cannot be injected now, the window is waited for; a second NMI meanwhile is the same one. */
static void nmis_wait_for_their_window(void **state)
{
    (void)state;
    for (unsigned obstacle = 0; obstacle < 3; obstacle++) {
        nested_machine_start(&usual);
        struct nested_exit_info busy = { .reason = REASON_ept_violation, .gpa = 0x8000000000ull, .length = 2 };
        set_now(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        if (obstacle == 0)
            busy.idt_info = interrupted[0].info;
        else
            set_now(FIELD_GUEST_INTERRUPTIBILITY, obstacle == 1 ? BLOCKING_STI : BLOCKING_MOV_SS);
        nmi_arrives();
        nested_machine_exit(&busy);
        expect_window(true);
        assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), busy.idt_info);
        set_now(FIELD_GUEST_INTERRUPTIBILITY, 0);
        nested_machine_exit_reason(REASON_nmi_window, 0);
        expect_window(false);
        assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), NMI_INFO);
        assert_int_equal(nested_machine_cpu()->nmi_pending, 0);
        nested_machine_exit_reason(REASON_cpuid, 0);
        assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    }
}

/* While the window is waited for NMIs exit: they are the guest's, once. */
static void nmis_while_one_waits(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    set_now(FIELD_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
    nmi_arrives();
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation, .gpa = 0x8000000000ull });
    expect_window(true);
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_exception_nmi, .intr_info = NMI_INFO });
    expect_window(true);
    set_now(FIELD_GUEST_INTERRUPTIBILITY, 0);
    nested_machine_exit_reason(REASON_nmi_window, 0);
    expect_window(false);
    assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), NMI_INFO);
}

static void machine_checks_reach_the_guest(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    nested_machine_cpu()->machine_check_pending = nested_machine_cpu()->event_pending = 1;
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC);
    assert_int_equal(nested_machine_cpu()->machine_check_pending, 0);
}

/* While the nested guest is to run: an exit if the guest hypervisor's exception bitmap says so, else the nested guest's. */
static void machine_checks_of_l3(void **state)
{
    (void)state;
    for (unsigned wanted = 0; wanted < 2; wanted++) {
        make(&usual, 0, 0);
        assert_int_equal(l2_vmwrite(VMCS_EXCEPTION_BITMAP, wanted ? BIT(VECTOR_MC) : 0), VMX_OK);
        launch();
        nested_machine_cpu()->machine_check_pending = nested_machine_cpu()->event_pending = 1;
        nested_machine_exit(
            &(struct nested_exit_info){ .reason = REASON_ept_violation, .qualification = 1, .gpa = GUEST_PAGE(1000) });
        assert_int_equal(nested_machine_in_l3(), !wanted);
        assert_int_equal(nested_machine_cpu()->machine_check_pending, 0);
        uint64_t info = INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC;
        if (wanted) {
            assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_exception_nmi);
            assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO), info);
        } else {
            assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO), info);
        }
    }
}

/* --- NMIs while the nested guest is to run --- */

/* Without NMI exiting: the nested guest's. */
static void nmis_go_through_to_l3(const struct nested_machine_config *config)
{
    make(config, 0, PIN_NMI);
    launch();
    nmi_arrives();
    nested_machine_exit(
        &(struct nested_exit_info){ .reason = REASON_ept_violation, .qualification = 1, .gpa = GUEST_PAGE(1000) });
    assert_true(nested_machine_in_l3());
    if (nested_machine_cpu()->nmi_virtual) /* injected at once, or when the processor says so */
        nested_machine_exit_reason(REASON_nmi_window, 0);
    assert_true(nested_machine_in_l3());
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO), NMI_INFO);
    expect_window(false);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_cpuid);
}

static void nmis_go_through(void **state) { (void)state, nmis_go_through_to_l3(&usual); }
static void nmis_go_through_without_shadowing(void **state) { (void)state, nmis_go_through_to_l3(&shadow_off); }

/* The window in vmcs02 is Strata's: the guest hypervisor sees neither the control nor the exit. */
static void nmis_wait_in_vmcs02(void **state)
{
    (void)state;
    make(&usual, 0, PIN_NMI);
    launch();
    set_now(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
    struct nested_exit_info miss = {
        .reason = REASON_ept_violation, .qualification = 1, .gpa = GUEST_PAGE(1000), .idt_info = interrupted[0].info
    };
    nmi_arrives();
    nested_machine_exit(&miss);
    expect_window(true);
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO), interrupted[0].info);
    /* Another NMI, then the window. */
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_exception_nmi, .intr_info = NMI_INFO });
    assert_true(nested_machine_in_l3());
    expect_window(true);
    nested_machine_exit_reason(REASON_nmi_window, 0);
    assert_true(nested_machine_in_l3());
    expect_window(false);
    assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO), NMI_INFO);

    /* An exit for the guest hypervisor comes first: the NMI is its own then. */
    nmi_arrives();
    miss.gpa = GUEST_PAGE(1600);
    nested_machine_exit(&miss);
    expect_window(true);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_false(nested_machine_in_l3());
    expect_window(false);
    assert_int_equal(in_vmcs02(FIELD_PIN_CONTROLS), V(PIN_CONTROLS));
    assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO), NMI_INFO);
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_cpuid);
}

/* With NMI exiting: an exit, although the nested guest never ran. An event to be injected is reported as interrupted. */
static void nmis_exit_to_l2(const struct nested_machine_config *config)
{
    make(config, 0, 0);
    assert_int_equal(l2_vmwrite(VMCS_ENTRY_INTR_INFO, INTR_VALID | INTR_TYPE_SW_INTR | 0x80), VMX_OK);
    assert_int_equal(l2_vmwrite(VMCS_ENTRY_INSTRUCTION_LEN, 2), VMX_OK);
    nmi_arrives();
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_false(nested_machine_in_l3());
    assert_int_equal(in_vmcs01(FIELD_GUEST_RIP), L2_HOST_RIP);
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_exception_nmi);
    assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO), NMI_INFO);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0);
    assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), INTR_VALID | INTR_TYPE_SW_INTR | 0x80);
    assert_int_equal(l2_field(VMCS_EXIT_INSTRUCTION_LEN), 2);
    assert_int_equal(l2_field(VMCS_ENTRY_INTR_INFO) & INTR_VALID, 0);
    assert_int_equal(in_vmcs01(FIELD_GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    assert_int_equal(nested_machine_cpu()->nmi_pending, 0);
    assert_int_equal(nested_machine_cpu()->counters[COUNT_EXIT_L3 + REASON_exception_nmi], 1);
}

/* The entry had been made: SDM 3, "VMLAUNCH": the launch state is "launched" before the exit comes. */
static void expect_launched(void)
{
    assert_int_equal(l2_enter(REASON_vmlaunch), VMERR_VMLAUNCH_NOT_CLEAR);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_true(nested_machine_in_l3());
}

static void nmis_exit_at_once(void **state)
{
    (void)state;
    nmis_exit_to_l2(&usual);
    expect_launched();
}

static void nmis_exit_at_once_without_misc_29(void **state)
{
    (void)state;
    nmis_exit_to_l2(&no_write_info);
    expect_launched();
    /* What was made up ends with the next exit. */
    nested_machine_exit_reason(REASON_cpuid, 7);
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_cpuid);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 7);
    assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO) & INTR_VALID, 0);
}

/*
 * An NMI waits for its window in vmcs01, blocked by STI, and the next instruction is VMRESUME, which exits first: it is the
 * entered guest's or an exit, and vmcs02 keeps the controls that the guest hypervisor gave it.
 */
static void an_nmi_that_waits_in_vmcs01(void **state)
{
    (void)state;
    for (unsigned exiting = 0; exiting < 2; exiting++) {
        make(&usual, 0, exiting ? 0 : PIN_NMI);
        launch();
        nested_machine_exit_reason(REASON_cpuid, 0);
        set_now(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        set_now(FIELD_GUEST_INTERRUPTIBILITY, BLOCKING_STI);
        nmi_arrives();
        nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation, .gpa = 0x8000000000ull });
        expect_window(true);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        assert_int_equal(nested_machine_in_l3(), !exiting);
        assert_int_equal(in_vmcs01(FIELD_PIN_CONTROLS) & PIN_NMI, 0);
        assert_int_equal(in_vmcs01(FIELD_PROC_CONTROLS) & PROC_NMI_WINDOW, 0);
        if (exiting) {
            assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_exception_nmi);
            assert_int_equal(in_vmcs02(FIELD_PIN_CONTROLS), V(PIN_CONTROLS));
            assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
            assert_int_equal(in_vmcs02(FIELD_PIN_CONTROLS), V(PIN_CONTROLS));
            continue;
        }
        if (nested_machine_cpu()->nmi_virtual)
            nested_machine_exit_reason(REASON_nmi_window, 0);
        assert_int_equal(in_vmcs02(FIELD_ENTRY_INTR_INFO), NMI_INFO);
        assert_int_equal(in_vmcs02(FIELD_PIN_CONTROLS), V(PIN_CONTROLS));
    }
}

/* An NMI that waits in vmcs02 when the processor refuses its controls goes back to the guest hypervisor with everything. */
static void a_refused_entry_with_an_nmi(void **state)
{
    (void)state;
    for (unsigned busy = 0; busy < 2; busy++) {
        make(&usual, 0, PIN_NMI);
        launch();
        nested_machine_exit_reason(REASON_cpuid, 0);
        uint64_t event = busy ? INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_UD : 0;
        assert_int_equal(l2_vmwrite(VMCS_ENTRY_INTR_INFO, event), VMX_OK);
        assert_int_equal(l2_vmwrite(VMCS_CR3_TARGET_COUNT, 9), VMX_OK);
        nmi_arrives();
        /* VMfailValid(7), and the NMI right behind the instruction. */
        assert_int_equal(l2_enter(REASON_vmresume), FAULTED + VECTOR_NMI);
        assert_false(nested_machine_in_l3());
        assert_true(in_vmcs01(FIELD_GUEST_RFLAGS) & RFLAGS_ZF);
        assert_int_equal(l2_field(VMCS_VM_INSTRUCTION_ERROR), VMERR_ENTRY_CONTROLS);
        assert_int_equal(l2_field(VMCS_ENTRY_INTR_INFO), event);
        assert_int_equal(in_vmcs01(FIELD_PIN_CONTROLS) & PIN_NMI, 0);
        assert_false(nested_machine_cpu()->nmi_virtual);
        assert_int_equal(in_vmcs02(FIELD_PIN_CONTROLS), V(PIN_CONTROLS));
        assert_int_equal(in_vmcs02(FIELD_PROC_CONTROLS) & PROC_NMI_WINDOW, 0);
    }
}

/* --- INIT --- */

static void init_waits_and_exits(void **state)
{
    (void)state;
    make(&usual, 0, 0);
    nested_machine_exit_reason(REASON_init, 0);
    assert_true(nested_machine_cpu()->nested->in_vmx);
    assert_int_equal(in_vmcs01(FIELD_GUEST_ACTIVITY), ACTIVITY_ACTIVE);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_init);
    assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0);
    expect_launched();
    nested_machine_exit_reason(REASON_init, 0);
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_init);
}

/* What the exit before had left as event information is not this one's. */
static void init_exits_without_old_events(void **state)
{
    (void)state;
    make(&usual, 0, 0);
    launch();
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation, .qualification = 1, .gpa = UNMAPPED, .idt_info = interrupted[2].info });
    nested_machine_exit_reason(REASON_init, 0);
    assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_init);
    assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO) & INTR_VALID, 0);
    assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO) & INTR_VALID, 0);
}

static void init_outside_vmx_operation(void **state)
{
    (void)state;
    make(&usual, 0, 0);
    nested_machine_exit_reason(REASON_init, 0);
    fake_msr_set(MSR_APIC_BASE, 0xfee00000 | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
    assert_int_equal(l2_vmxoff(), VMX_OK); /* now it takes effect: this CPU is not the one that booted */
    assert_int_equal(in_vmcs01(FIELD_GUEST_ACTIVITY), ACTIVITY_WAIT_SIPI);
    assert_false(nested_machine_cpu()->nested->in_vmx);
    nested_machine_exit_reason(REASON_sipi, 0x9a);
    assert_int_equal(in_vmcs01(FIELD_GUEST_CS_SEL), 0x9a00);
    assert_int_equal(in_vmcs01(FIELD_GUEST_CS_BASE), 0x9a000);
    assert_int_equal(in_vmcs01(FIELD_GUEST_RIP), 0);
    assert_int_equal(in_vmcs01(FIELD_GUEST_ACTIVITY), ACTIVITY_ACTIVE);
    assert_int_equal(in_vmcs01(FIELD_CR0_SHADOW) & (CR0_PE | CR0_PG), 0);
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(interrupted_events_come_again),
        TEST(iret_blocks_again),
        TEST(reflected_exits_keep_the_event),
        TEST(nmis_reach_the_guest),
        TEST(nmis_wait_for_their_window),
        TEST(nmis_while_one_waits),
        TEST(machine_checks_reach_the_guest),
        TEST(machine_checks_of_l3),
        TEST(nmis_go_through),
        TEST(nmis_go_through_without_shadowing),
        TEST(nmis_wait_in_vmcs02),
        TEST(nmis_exit_at_once),
        TEST(nmis_exit_at_once_without_misc_29),
        TEST(a_refused_entry_with_an_nmi),
        TEST(an_nmi_that_waits_in_vmcs01),
        TEST(init_waits_and_exits),
        TEST(init_exits_without_old_events),
        TEST(init_outside_vmx_operation),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
