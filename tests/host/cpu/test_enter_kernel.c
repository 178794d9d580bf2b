/* sources: machine */
/*
 * A kernel that Strata has loaded is entered in the mode that it wants: in a state that the processor accepts, with the registers
 * of its boot protocol and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/cpu/vmcs01.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"

static const struct nested_machine_config usual = { 0 };

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }

static void enter(uint64_t long_mode)
{
    const struct guest_entry entry = {
        .rip = 0x1000200,
        .rax = 0x36d76289,
        .rbx = 0x7000,
        .rsi = 0x8000,
        .cr3 = 0x9000,
        .gdt_base = 0xa000,
        .long_mode = long_mode,
    };
    nested_machine_start(&usual);
    struct cpu *cpu = nested_machine_cpu();
    vmcs01_init_state(cpu, ACTIVITY_ACTIVE);
    vmcs01_enter_kernel(cpu, &entry);
    struct fake_entry entered = fake_enter(FAKE_VMRESUME);
    if (entered.result != FAKE_ENTERED)
        fail_msg("the processor refuses: %s", entered.rule ? entered.rule->name : "launch state");
    for (unsigned i = 0; i < GPR_COUNT; i++)
        assert_int_equal(cpu->regs[i], i == GPR_RAX   ? entry.rax
                                       : i == GPR_RBX ? entry.rbx
                                       : i == GPR_RSI ? entry.rsi
                                                      : 0);
    assert_int_equal(now(FIELD_GUEST_RIP), entry.rip);
    assert_int_equal(now(FIELD_GUEST_RFLAGS), RFLAGS_FIXED1); /* interrupts off */
    assert_int_equal(now(FIELD_GUEST_GDTR_BASE), entry.gdt_base);
    assert_int_equal(now(FIELD_GUEST_CS_SEL), KERNEL_CODE);
    assert_int_equal(now(FIELD_GUEST_SS_SEL), KERNEL_DATA);
    assert_int_equal(now(FIELD_GUEST_CS_BASE) | now(FIELD_GUEST_DS_BASE) | now(FIELD_GUEST_SS_BASE), 0);
    assert_int_equal(now(FIELD_GUEST_DS_LIMIT), UINT32_MAX);
    assert_int_equal(!!(now(FIELD_GUEST_CS_AR) & AR_L), long_mode);
    assert_int_equal(!!(now(FIELD_GUEST_CR0) & CR0_PG), long_mode);
    assert_int_equal(now(FIELD_GUEST_CR0) & (CR0_PE | CR0_CD | CR0_NW), CR0_PE);
    assert_int_equal(now(FIELD_CR4_SHADOW), long_mode ? CR4_PAE : 0);
    assert_int_equal(now(FIELD_GUEST_EFER), long_mode ? EFER_LME | EFER_LMA : 0);
    assert_int_equal(!!(now(FIELD_ENTRY_CONTROLS) & ENTRY_IA32E), long_mode);
    assert_int_equal(now(FIELD_GUEST_CR3), long_mode ? entry.cr3 : 0);
}

static void test_protected_mode(void **state)
{
    (void)state;
    enter(0);
}

static void test_long_mode(void **state)
{
    (void)state;
    enter(1);
}

int main(void)
{
    static const struct isolated_test tests[] = { { "protected mode", test_protected_mode },
                                                  { "long mode", test_long_mode } };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
