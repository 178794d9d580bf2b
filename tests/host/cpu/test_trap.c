/* sources: core/cpu/trap.c core/cpu/vmcs_fields.c checks tests/host/machine/fake_hw.c */
/*
 * What arrives while Strata itself runs: NMIs and machine checks are kept, an entry that is about to happen looks once more, refused
 * instructions go on at their fixup, and what cannot go on stops with the reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/trap.h"
#include "tests/host/machine/fake_hw.h"

struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;
static struct cpu cpu;

/* What exit.S, trap.S and the linker script bring: an entry of eight bytes, one instruction that may be refused. */
extern const uint8_t trap_stubs[], entry_window[], entry_window_end[], entry_again[], refused[], refused_to[];
__asm__(
    ".section .rodata\n"
    ".globl trap_stubs, entry_window, entry_window_end, entry_again, fixup_table, fixup_table_end, refused, "
    "refused_to\n"
    "trap_stubs: .skip 512\n"
    "entry_window: .skip 8\nentry_window_end: .skip 8\nentry_again: .skip 8\nrefused: .skip 8\nrefused_to: .skip 8\n"
    ".balign 8\nfixup_table: .quad refused, refused_to\nfixup_table_end:\n.text\n");

static int start(void **state)
{
    (void)state;
    fake_hw_reset(1 * MIB);
    memset(&cpu, 0, sizeof(cpu));
    cpus[0] = &cpu;
    fake_msr_set(MSR_GS_BASE, (uint64_t)&cpu);
    fake_cpuid_set(1, 0, (struct cpuid_regs){ .edx = BIT(7) | BIT(14) });
    fake_msr_set(MSR_MCG_STATUS, MCG_STATUS_RIPV);
    fake_msr_set(MSR_MCG_CAP, 2);
    fake_msr_set(MSR_MC0_STATUS, 0);
    fake_msr_set(MSR_MC0_STATUS + 4, MCI_STATUS_VALID | 0x135);
    return 0;
}

static struct trap_frame frame_at(uint64_t vector, uint64_t rip)
{
    return (struct trap_frame){ .vector = vector, .rip = rip, .rsp = 0x1234 };
}

static void kept_for_the_guest(void **state)
{
    (void)state;
    struct trap_frame frame = frame_at(VECTOR_NMI, 0x1000);
    trap_handle(&frame);
    assert_int_equal(cpu.event_pending, 1);
    assert_int_equal(cpu.nmi_pending, 1);
    assert_int_equal(cpu.machine_check_pending, 0);
    assert_int_equal(frame.rip, 0x1000);
    start(NULL);
    frame = frame_at(VECTOR_MC, 0x1000);
    trap_handle(&frame);
    assert_int_equal(cpu.event_pending, 1);
    assert_int_equal(cpu.nmi_pending, 0);
    assert_int_equal(cpu.machine_check_pending, 1);
    assert_int_equal(frame.rip, 0x1000);
}

/* At every byte of the way from the last look at the flag to the entry. */
static void an_entry_looks_again(void **state)
{
    (void)state;
    for (const uint8_t *at = entry_window - 1; at <= entry_window_end; at++)
        for (int mc = 0; mc < 2; mc++) {
            bool inside = at >= entry_window && at < entry_window_end;
            struct trap_frame frame = frame_at(mc ? VECTOR_MC : VECTOR_NMI, (uint64_t)at);
            trap_handle(&frame);
            assert_int_equal(frame.rip, inside ? (uint64_t)entry_again : (uint64_t)at);
            assert_int_equal(frame.rsp, inside ? (uint64_t)&cpu.regs[0] : 0x1234);
        }
}

static void refused_instructions_go_on(void **state)
{
    (void)state;
    struct trap_frame frame = frame_at(VECTOR_GP, (uint64_t)refused);
    trap_handle(&frame);
    assert_int_equal(frame.rip, (uint64_t)refused_to);
    frame = frame_at(VECTOR_GP, (uint64_t)refused + 1);
    expect_assert_failure(trap_handle(&frame));
    frame = frame_at(VECTOR_PF, (uint64_t)refused);
    expect_assert_failure(trap_handle(&frame));
}

/* MCG_STATUS.RIPV clear: what was interrupted is lost, and that was Strata. */
static void not_restartable(void **state)
{
    (void)state;
    fake_msr_set(MSR_MCG_STATUS, BIT(2));
    struct trap_frame frame = frame_at(VECTOR_MC, 0x1000);
    expect_assert_failure(trap_handle(&frame));
    /* A processor without machine-check architecture says nothing about it. */
    fake_cpuid_set(1, 0, (struct cpuid_regs){ .edx = BIT(7) });
    trap_handle(&frame);
    assert_int_equal(cpu.machine_check_pending, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(kept_for_the_guest, start),
        cmocka_unit_test_setup(an_entry_looks_again, start),
        cmocka_unit_test_setup(refused_instructions_go_on, start),
        cmocka_unit_test_setup(not_restartable, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
