/* sources: machine */
/*
 * CPUs that go off and come back: after an INIT no SIPI is lost, however late the CPU gets round to waiting for it; none is taken twice;
 * and nothing is watched any longer than that. The processors' side is played here: a SIPI is lost on a CPU that does not wait, an
 * INIT is blocked on one that does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/upcall.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define TARGET 1u
#define SIPI(vector) (0x4600ull | (vector) | (uint64_t)TARGET << 32)
#define INIT (0x4500ull | (uint64_t)TARGET << 32)
#define INIT_DEASSERT (0x8500ull | (uint64_t)TARGET << 32)
#define TOO_EARLY_FOR_EVER 1000000u

static const struct nested_machine_config two = { .cpus = 2 };
static unsigned too_early, lost, started,
    inits; /* SIPIs that still find the target in root mode; what became of the others */
static unsigned vector_started;

static uint64_t in_vmcs(struct vmcs *vmcs, enum vmcs_row row) { return fake_vmcs_read(vmcs->region, row); }

/* What the target's local APIC and processor do with an interrupt command. */
static void icr_sent(uint64_t icr)
{
    if ((icr & ICR_MODE_MASK) == ICR_MODE_INIT)
        inits++;
    if ((icr & ICR_MODE_MASK) != ICR_MODE_STARTUP)
        return;
    struct cpu *target = cpus[TARGET];
    bool waits = too_early == 0 && in_vmcs(target->current, FIELD_GUEST_ACTIVITY) == ACTIVITY_WAIT_SIPI;
    too_early -= too_early > 0;
    if (!waits) {
        lost++;
        return;
    }
    started++;
    vector_started = icr & 0xff;
    nested_machine_select(TARGET);
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_sipi, .qualification = icr & 0xff });
    nested_machine_select(0);
}

static bool watched(const uint8_t *bitmap)
{
    return bitmap[MSR_BITMAP_WRITE_LOW + MSR_X2APIC_ICR / 8] >> (MSR_X2APIC_ICR & 7) & 1;
}

static void start(void)
{
    nested_machine_start(&two);
    fake_msr_set(MSR_APIC_BASE, fake_msr_get(MSR_APIC_BASE) & ~APIC_BASE_BSP); /* of the CPU that takes the INIT */
    msr_bitmap_release_icr(hpa_ptr(machine.msr_bitmap01));
    too_early = lost = started = inits = 0;
    fake_msr_on_write(MSR_X2APIC_ICR, icr_sent);
}

/* The target's exit for an INIT, up to the entry that waits. */
static void init_arrives(void)
{
    nested_machine_select(TARGET);
    fake_journal_clear();
    nested_machine_exit_reason(REASON_init, 0);
    nested_machine_select(0);
}

static void icr_write(uint64_t icr)
{
    struct cpu *cpu = nested_machine_cpu();
    cpu->regs[GPR_RCX] = MSR_X2APIC_ICR;
    cpu->regs[GPR_RAX] = (uint32_t)icr;
    cpu->regs[GPR_RDX] = icr >> 32;
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_wrmsr, .length = 2 });
}

static void no_sipi_is_lost(void **state)
{
    (void)state;
    static const unsigned late[] = { 0, 1, 2, 3, 10, 100, 900 };
    for (size_t i = 0; i < ARRAY_SIZE(late); i++) {
        start();
        assert_false(watched(hpa_ptr(machine.msr_bitmap01)));
        init_arrives();
        assert_true(watched(hpa_ptr(machine.msr_bitmap01)));
        assert_int_equal(in_vmcs(&cpus[TARGET]->vmcs01, FIELD_GUEST_ACTIVITY), ACTIVITY_WAIT_SIPI);
        too_early = late[i];
        icr_write(SIPI(0x9a));
        assert_int_equal(started, 1);
        assert_int_equal(lost, late[i]);
        assert_int_equal(vector_started, 0x9a);
        struct vmcs *vmcs01 = &cpus[TARGET]->vmcs01;
        assert_int_equal(in_vmcs(vmcs01, FIELD_GUEST_ACTIVITY), ACTIVITY_ACTIVE);
        assert_int_equal(in_vmcs(vmcs01, FIELD_GUEST_CS_BASE), 0x9a000);
        assert_int_equal(in_vmcs(vmcs01, FIELD_GUEST_RIP), 0);
        assert_int_equal(in_vmcs(vmcs01, FIELD_GUEST_CR3), 0);
        assert_int_equal(in_vmcs(vmcs01, FIELD_GUEST_EFER), 0);
        assert_false(watched(hpa_ptr(machine.msr_bitmap01)));
        icr_write(SIPI(0x9a)); /* the second of two, as every system sends them */
        assert_int_equal(started, 1);
    }
}

/* The way to the entry that waits is short: until then a SIPI that is not watched (of a page that another CPU has cached) is lost. */
static void waits_soon(void **state)
{
    (void)state;
    start();
    init_arrives();
    assert_true(fake_count(FAKE_VMWRITE) <= 4);
    assert_int_equal(fake_count(FAKE_INVVPID), 0);
}

/* A SIPI that nobody will ever take does not hold its sender. */
static void the_sender_goes_on(void **state)
{
    (void)state;
    start();
    init_arrives();
    too_early = TOO_EARLY_FOR_EVER;
    icr_write(SIPI(0x10));
    assert_int_equal(started, 0);
    assert_true(lost > 100 && lost < 2000);
    too_early = 0; /* a second attempt finds it waiting */
    icr_write(SIPI(0x11));
    assert_int_equal(started, 1);
    assert_int_equal(vector_started, 0x11);
}

/* INIT is blocked on a CPU that waits, and stays pending on some: it is not sent. */
static void init_spares_who_waits(void **state)
{
    (void)state;
    start();
    init_arrives();
    icr_write(INIT);
    icr_write(INIT_DEASSERT);
    assert_int_equal(inits, 0);
    icr_write(SIPI(0x20));
    assert_int_equal(started, 1);
}

/* The same below a guest hypervisor: its nested guest takes the INIT, and sends SIPIs without an exit until then. */
static void under_a_guest_hypervisor(void **state)
{
    (void)state;
    for (unsigned late = 0; late < 3; late++) {
        start();
        for (unsigned cpu = 0; cpu < 2; cpu++) {
            uint64_t values[FIELD_COUNT];
            nested_machine_select(cpu);
            vmcs12_sample(values);
            l2_make(cpu, values);
            assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        }
        nested_machine_select(0);
        assert_false(watched(hpa_ptr(nested_machine_slot()->msr.page)));
        init_arrives();
        nested_machine_select(TARGET);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_init);
        assert_int_equal(l2_vmwrite(VMCS_GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI), VMX_OK);
        nested_machine_select(0);
        assert_true(watched(hpa_ptr(nested_machine_slot()->msr.page))); /* though this CPU has not exited */
        nested_machine_select(TARGET);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        nested_machine_select(0);
        too_early = late;
        icr_write(SIPI(0x33));
        assert_int_equal(started, 1);
        assert_int_equal(lost, late);
        nested_machine_select(TARGET);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_sipi);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0x33);
        assert_false(watched(hpa_ptr(machine.msr_bitmap01)));
        nested_machine_select(0);
        nested_machine_exit_reason(REASON_cpuid, 0);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        assert_false(watched(hpa_ptr(nested_machine_slot()->msr.page)));
    }
}

#define TEST(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

int main(void)
{
    static const struct isolated_test tests[] = {
        TEST(no_sipi_is_lost),          TEST(waits_soon), TEST(the_sender_goes_on), TEST(init_spares_who_waits),
        TEST(under_a_guest_hypervisor),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
