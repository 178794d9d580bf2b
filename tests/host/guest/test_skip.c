/* sources: machine */
/*
 * Going on behind an instruction that exited: RIP in each mode, and what is asked for it (on a hypervisor each VMREAD may be an exit).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"

#define LENGTH 3 /* of nested_machine_exit_reason */

static hpa_t vmcs01(void) { return nested_machine_cpu()->vmcs01.region; }

static uint64_t rip_after(uint64_t rip, uint64_t cs_bits)
{
    uint64_t rights = fake_vmcs_read(vmcs01(), FIELD_GUEST_CS_AR);
    fake_vmcs_write(vmcs01(), FIELD_GUEST_CS_AR, (rights & ~(AR_L | AR_DB)) | cs_bits);
    fake_vmcs_write(vmcs01(), FIELD_GUEST_RIP, rip);
    nested_machine_exit_reason(REASON_cpuid, 0);
    return fake_vmcs_read(vmcs01(), FIELD_GUEST_RIP);
}

static void rip_has_the_bits_of_the_mode(void **state)
{
    (void)state;
    nested_machine_start(&(struct nested_machine_config){ 0 });
    assert_int_equal(rip_after(0x1000, AR_L), 0x1000 + LENGTH);
    assert_int_equal(rip_after(0xfffffffe, AR_L), 0x100000001ull);
    assert_int_equal(rip_after(0xfffffffd, AR_L), 0x100000000ull);
    assert_int_equal(rip_after(0x1fffffffeull, AR_L), 0x200000001ull);
    assert_int_equal(rip_after(0xffffffff80000000ull, AR_L), 0xffffffff80000000ull + LENGTH);
    assert_int_equal(rip_after(0x1000, AR_DB), 0x1000 + LENGTH); /* compatibility mode */
    assert_int_equal(rip_after(0xfffffffc, AR_DB), 0xffffffff);
    assert_int_equal(rip_after(0xfffffffd, AR_DB), 0);
    assert_int_equal(rip_after(0xfffffffe, AR_DB), 1);
}

static void the_mode_is_asked_for_only_at_4_gib(void **state)
{
    (void)state;
    nested_machine_start(&(struct nested_machine_config){ 0 });
    fake_journal_clear();
    rip_after(0x1000, AR_L);
    rip_after(0xffffffff80000000ull, AR_L);
    rip_after(0xfffffffc, AR_DB);
    assert_int_equal(fake_count_of(FAKE_VMREAD, VMCS_GUEST_EFER), 0);
    rip_after(0xfffffffe, AR_L);
    assert_int_equal(fake_count_of(FAKE_VMREAD, VMCS_GUEST_EFER), 1);
}

static const struct isolated_test tests[] = {
    { "rip_has_the_bits_of_the_mode", rip_has_the_bits_of_the_mode },
    { "the_mode_is_asked_for_only_at_4_gib", the_mode_is_asked_for_only_at_4_gib },
};

int main(void) { return isolated_tests_run(tests, ARRAY_SIZE(tests)); }
