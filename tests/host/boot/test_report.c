/* sources: core/boot/report.c core/cpu/barrier.c core/cpu/vmx_probe.c core/lib/format.c checks tests/host/machine/fake_hw.c */
/*
 * The lines that a report of a failure has: they say what the processor says, fit the log, and cannot be led astray by bytes that are no text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/boot/report.h"
#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmx_probe.h"
#include "core/lib/log.h"
#include "tests/host/machine/fake_hw.h"

#define LINE_ROOM 200 /* what core/lib/log.c has left behind its own head */

struct machine machine;
struct cpu *cpus[MAX_CPUS];
unsigned cpu_count = 1;
static char lines[8][512];
static unsigned line_count;

void log_line(enum log_level level, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    int length = vsnprintf(lines[line_count++ % 8], sizeof(lines[0]), text, args);
    va_end(args);
    assert_int_equal(level, LOG_INFO);
    assert_true(length < LINE_ROOM);
}

static struct cpuid_regs text_regs(const char *text, bool edx_before_ecx)
{
    uint32_t w[4] = { 0 };
    memcpy(w, text, 12);
    return edx_before_ecx ? (struct cpuid_regs){ 0x16, w[0], w[2], w[1] }
                          : (struct cpuid_regs){ 0x40000001, w[0], w[1], w[2] };
}

static int start(void **state)
{
    (void)state;
    fake_hw_reset(1 * MIB);
    memset(&machine, 0, sizeof(machine));
    line_count = 0;
    fake_cpuid_set(0, 0, text_regs("GenuineIntel", true));
    fake_cpuid_set(1, 0, (struct cpuid_regs){ .eax = 0x50654 });
    return 0;
}

static void a_processor(void **state)
{
    (void)state;
    char brand[48] = "  Intel(R) Xeon(R) \"Gold\"\n 6130";
    for (uint32_t i = 0; i < 3; i++) {
        struct cpuid_regs r;
        memcpy(&r, brand + 16 * i, sizeof(r));
        fake_cpuid_set(0x80000002 + i, 0, r);
    }
    vmx_probe(&machine.hw);
    report_machine("BIOS", "RSD PTR \0DELL  ");
    assert_int_equal(line_count, 3);
    char want[256];
    snprintf(
        want, sizeof(want),
        "machine: GenuineIntel 06-55-04 \"Intel(R) Xeon(R) Gold 6130\", %u address bits, BIOS \"DELL\", below: nothing",
        machine.hw.maxphyaddr);
    assert_string_equal(lines[0], want);
    snprintf(want, sizeof(want), "machine: MSR 480h: %llx ",
             (unsigned long long)vmx_caps_msr(&machine.hw, MSR_VMX_BASIC));
    assert_memory_equal(lines[1], want, strlen(want));
    snprintf(want, sizeof(want), " %llx", (unsigned long long)vmx_caps_msr(&machine.hw, MSR_VMX_VMFUNC));
    assert_non_null(strstr(lines[2], want));
}

static void the_longest(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        fake_cpuid_set(0x80000002 + i, 0, (struct cpuid_regs){ 0x41414141, 0x41414141, 0x41414141, 0x41414141 });
    fake_cpuid_set(1, 0, (struct cpuid_regs){ .eax = 0x0fff0fff, .ecx = (uint32_t)BIT(31) });
    fake_cpuid_set(0x40000000, 0, text_regs("KVMKVMKVM\0\0", false));
    for (unsigned i = 0; i < MSR_VMX_COUNT; i++)
        machine.hw.msr[i] = ~0ull;
    report_machine("UEFI", NULL);
    assert_non_null(strstr(lines[0], "below: KVMKVMKVM"));
    assert_non_null(strstr(lines[0], "10e-ff-0f"));
    fake_msr_set(0x8b, 0);
    fake_msr_set(MSR_FEATURE_CONTROL, ~0ull);
    machine.barriers = BARRIER_IBPB | BARRIER_VERW | BARRIER_L1D;
    report_protection();
    assert_int_equal(line_count, 4);
    assert_non_null(strstr(lines[3], "barriers: IBPB VERW L1D"));
}

/* Without VMX, and without the MSRs: still a line. */
static void nothing_there(void **state)
{
    (void)state;
    report_machine("BIOS", NULL);
    assert_int_equal(line_count, 1);
    report_protection();
    assert_int_equal(line_count, 2);
    assert_non_null(strstr(lines[1], "microcode 0h"));
    assert_non_null(strstr(lines[1], "barriers: none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_processor, start),
        cmocka_unit_test_setup(the_longest, start),
        cmocka_unit_test_setup(nothing_there, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
