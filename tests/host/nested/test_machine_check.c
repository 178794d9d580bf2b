/* sources: machine */
/*
 * A machine check at any instruction of Strata's: it reaches the guest, the nested guest or the guest hypervisor exactly once, and
 * nothing else that was on its way is lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define MC_INFO (INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC)
#define GP_INFO (INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID | VECTOR_GP)
#define EXTERNAL_INFO (INTR_VALID | INTR_TYPE_EXTERNAL | 0x31)

static const struct nested_machine_config usual = { 0 };
static uint64_t values[FIELD_COUNT];

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }
static void set_now(enum vmcs_row row, uint64_t value) { fake_vmcs_write(hpa(fake_current()), row, value); }

/* trap.c does no more than this (test_trap.c). */
static void arrives(void) { nested_machine_cpu()->machine_check_pending = nested_machine_cpu()->event_pending = 1; }

static void exit_cpuid(void) { nested_machine_exit_reason(REASON_cpuid, 0); }

static void exit_msr(void)
{
    nested_machine_cpu()->regs[GPR_RCX] = 0x40000001;
    nested_machine_exit_reason(REASON_rdmsr, 0);
}

static void exit_interrupted(void)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = EPT_QUAL_READ,
                                                    .idt_info = EXTERNAL_INFO,
                                                    .gpa = 0x8000000000ull });
}

static void exit_vmresume(void) { assert_int_equal(l2_enter(REASON_vmresume), VMX_OK); }

static void exit_miss(void)
{
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation, .qualification = EPT_QUAL_READ, .gpa = GUEST_PAGE(1000) });
}

static void exit_miss_interrupted(void)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = EPT_QUAL_READ,
                                                    .idt_info = EXTERNAL_INFO,
                                                    .gpa = GUEST_PAGE(1000) });
}

enum who { BY_L2, BY_L2_BEFORE_RESUME, BY_L3 };
static const struct scenario {
    const char *name;
    void (*exit)(void);
    enum who who;
    uint64_t event; /* on its way to whom is entered */
} scenarios[] = {
    { "CPUID of L2", exit_cpuid, BY_L2, 0 },
    { "refused MSR of L2", exit_msr, BY_L2, GP_INFO },
    { "interrupted miss of L2", exit_interrupted, BY_L2, EXTERNAL_INFO },
    { "VMRESUME of L2", exit_vmresume, BY_L2_BEFORE_RESUME, 0 },
    { "CPUID of L3", exit_cpuid, BY_L3, 0 },
    { "miss of L3", exit_miss, BY_L3, 0 },
    { "interrupted miss of L3", exit_miss_interrupted, BY_L3, EXTERNAL_INFO },
};

static void prepare(const struct scenario *s, bool wanted)
{
    nested_machine_start(&usual);
    vmcs12_sample(values);
    V(EXCEPTION_BITMAP) = wanted ? BIT(VECTOR_MC) : 0;
    V(GUEST_RFLAGS) = RFLAGS_FIXED1 | RFLAGS_IF;
    l2_make(0, values);
    set_now(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
    if (s->who == BY_L2)
        return;
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    if (s->who == BY_L2_BEFORE_RESUME)
        exit_cpuid();
    fake_journal_clear();
}

/* The guest hypervisor took it as an exit. It may have another exit before it: that was reflected before the check came. */
static bool reflected(void)
{
    return l2_field(VMCS_EXIT_REASON) == REASON_exception_nmi && l2_field(VMCS_EXIT_INTR_INFO) == MC_INFO;
}

static void expect_delivered(const struct scenario *s, bool wanted, size_t n)
{
    struct cpu *cpu = nested_machine_cpu();
    if (!nested_machine_in_l3() && s->who != BY_L2 && wanted && reflected()) {
        assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), s->event);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO), 0);
    } else if (now(FIELD_ENTRY_INTR_INFO) != MC_INFO) {
        /* Another event goes first: the check comes behind it, before any instruction. */
        if (!s->event || now(FIELD_ENTRY_INTR_INFO) != s->event)
            fail_msg("%s, after %zu operations: %llx is injected", s->name, n,
                     (unsigned long long)now(FIELD_ENTRY_INTR_INFO));
        assert_true(now(FIELD_PROC_CONTROLS) & PROC_NMI_WINDOW);
        nested_machine_exit_reason(REASON_nmi_window, 0);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO), MC_INFO);
        assert_false(now(FIELD_PROC_CONTROLS) & PROC_NMI_WINDOW);
    }
    assert_int_equal(cpu->machine_check_pending | cpu->event_pending, 0);
    assert_false(cpu->nmi_virtual);
    /* Once. */
    set_now(FIELD_ENTRY_INTR_INFO, 0);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(now(FIELD_ENTRY_INTR_INFO), 0);
}

static size_t operations(const struct scenario *s, bool wanted)
{
    prepare(s, wanted);
    fake_journal_clear();
    s->exit();
    return fake_journal_size();
}

static void at_any_instruction(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
        for (int wanted = 0; wanted < 2; wanted++) {
            size_t last = operations(&scenarios[i], wanted) - 1; /* the entry itself */
            assert_true(last > 3);
            for (size_t n = 0; n < last; n++) {
                prepare(&scenarios[i], wanted);
                fake_interrupt_after(n, arrives);
                scenarios[i].exit();
                expect_delivered(&scenarios[i], wanted, n);
            }
        }
}

static jmp_buf reset_jump;
static void reset_happens(void) { longjmp(reset_jump, 1); }

/* SDM 3, "Machine-Check Exceptions and CR4.MCE": shutdown. */
static void without_mce_the_machine_resets(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    set_now(FIELD_GUEST_CR4, now(FIELD_GUEST_CR4) & ~CR4_MCE);
    nested_machine_on_reset(reset_happens);
    arrives();
    if (setjmp(reset_jump))
        return;
    exit_cpuid();
    fail_msg("the guest goes on");
}

static void without_mce_l3_shuts_down(void **state)
{
    (void)state;
    prepare(&scenarios[4], false);
    set_now(FIELD_GUEST_CR4, now(FIELD_GUEST_CR4) & ~CR4_MCE);
    arrives();
    exit_miss();
    assert_false(nested_machine_in_l3());
    assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_triple_fault);
    assert_int_equal(nested_machine_cpu()->machine_check_pending, 0);
}

/* A CPU that waits for its SIPI runs nobody; and its first entry would be refused. */
static void waiting_cpus_keep_waiting(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    fake_msr_set(MSR_APIC_BASE, fake_msr_get(MSR_APIC_BASE) & ~APIC_BASE_BSP);
    arrives();
    nested_machine_exit_reason(REASON_init, 0);
    assert_int_equal(now(FIELD_GUEST_ACTIVITY), ACTIVITY_WAIT_SIPI);
    assert_int_equal(now(FIELD_ENTRY_INTR_INFO), 0);
    assert_int_equal(nested_machine_cpu()->machine_check_pending, 0);
}

#define TEST(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

int main(void)
{
    static const struct isolated_test tests[] = {
        TEST(at_any_instruction),
        TEST(without_mce_the_machine_resets),
        TEST(without_mce_l3_shuts_down),
        TEST(waiting_cpus_keep_waiting),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
