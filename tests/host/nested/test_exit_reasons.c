/* sources: machine */
/*
 * No exit stops Strata: every exit reason, of today and of later processors, with bits above the basic reason, through both dispatchers.
 * Whatever comes, a guest is entered afterwards (the fake processor refuses what is not right), or the machine resets as it does for a
 * triple fault.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define REASONS 0x10000u
#define UPPER_BITS 0x7fff0000u /* all but "VM-entry failure" */
#define ENCLAVE BIT(27)
#define BUS_LOCK BIT(26)
#define HW_UD (INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_UD)

static uint64_t values[FIELD_COUNT];
static jmp_buf reset;

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }
static void machine_resets(void) { longjmp(reset, 1); }

static void start(bool nested, uint64_t proc2)
{
    static const struct nested_machine_config usual = { 0 };
    nested_machine_start(&usual);
    nested_machine_on_reset(machine_resets);
    vmcs12_sample(values);
    V(PROC2_CONTROLS) = proc2;
    l2_make(0, values);
    if (nested)
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
}

static void feed(uint64_t reason, uint64_t event)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = reason,
                                                    .qualification = reason * 0x9e3779b97f4a7c15,
                                                    .idt_info = event,
                                                    .length = 2,
                                                    .gpa = GUEST_PAGE(9) });
    fake_journal_clear();
}

/* Not linked here: test_task_switch_vmcs is about it. */
static bool elsewhere(uint64_t reason) { return (reason & REASON_BASIC_MASK) == REASON_task_switch; }

/* --- the guest hypervisor's --- */

static const uint64_t upper[] = { 0,       BUS_LOCK, ENCLAVE, BUS_LOCK | ENCLAVE, BIT(16), BIT(25),
                                  BIT(28), BIT(29),  BIT(30), UPPER_BITS };

/* Reasons that the tables know change much: a machine for each. */
static void known_reasons_of(bool nested, uint64_t proc2)
{
    for (volatile uint64_t reason = 0; reason < REASON_COUNT; reason++)
        for (volatile size_t i = 0; i < ARRAY_SIZE(upper); i += ARRAY_SIZE(upper) - 1) { /* none and all */
            if (!nested && elsewhere(reason))
                continue;
            if (setjmp(reset)) {
                assert_true(reason == REASON_triple_fault);
                continue;
            }
            start(nested, proc2);
            feed(reason | upper[i], 0);
        }
}

static void known_reasons_of_l2(void **state) { (void)state, known_reasons_of(false, PROC2_EPT | PROC2_VPID); }
static void known_reasons_of_l3(void **state) { (void)state, known_reasons_of(true, PROC2_EPT | PROC2_VPID); }
static void known_reasons_of_l3_without_ept(void **state) { (void)state, known_reasons_of(true, PROC2_VPID); }

/* Others are an invalid opcode, unless an event was being delivered: that comes again. */
static void unknown_reasons_of_l2(void **state)
{
    (void)state;
    start(false, PROC2_EPT);
    uint64_t rip = now(FIELD_GUEST_RIP), event = INTR_VALID | INTR_TYPE_SW_INTR | 0x80;
    for (uint64_t reason = REASON_COUNT; reason < REASONS; reason++)
        for (size_t i = 0; i < (reason < 256 ? ARRAY_SIZE(upper) : 2); i++) {
            uint64_t counted = nested_machine_cpu()->counters[COUNT_EXIT_UNKNOWN];
            feed(reason | upper[i], 0);
            assert_int_equal(now(FIELD_ENTRY_INTR_INFO), HW_UD);
            assert_int_equal(now(FIELD_GUEST_RIP), rip);
            feed(reason | upper[i], event);
            assert_int_equal(now(FIELD_ENTRY_INTR_INFO), event);
            assert_int_equal(nested_machine_cpu()->counters[COUNT_EXIT_UNKNOWN], counted + 2);
        }
}

/* Bits above the basic reason hide nothing: the instruction is carried out all the same. */
static void upper_bits_of_l2(void **state)
{
    (void)state;
    start(false, PROC2_EPT);
    for (size_t i = 0; i < ARRAY_SIZE(upper); i++) {
        uint64_t rip = now(FIELD_GUEST_RIP), counted = nested_machine_cpu()->counters[COUNT_EXIT_L2 + REASON_cpuid];
        feed(REASON_cpuid | upper[i], 0);
        assert_int_equal(now(FIELD_GUEST_RIP), rip + 2);
        assert_int_equal(nested_machine_cpu()->counters[COUNT_EXIT_L2 + REASON_cpuid], counted + 1);
    }
}

/* Failed entries of vmcs01 end the guest; an error of the processor during one is the guest's machine check. */
static void failed_entries_of_l2(void **state)
{
    (void)state;
    static volatile unsigned resets;
    start(false, PROC2_EPT);
    for (volatile uint64_t reason = 0; reason < 1024; reason++) {
        if (setjmp(reset)) {
            resets++;
            continue;
        }
        feed(reason | REASON_ENTRY_FAILURE, 0);
        assert_int_equal(reason, REASON_entry_machine_check);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO), INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_MC);
    }
    assert_int_equal(resets, 1023);
    start(false, PROC2_EPT);
    if (setjmp(reset))
        return;
    entry_instruction_failed(nested_machine_cpu(), true);
    fail();
}

/* --- the nested guest's --- */

/* What no control of vmcs12 asked for and Strata does not know, the guest hypervisor may know: the SDM exits to it. */
static void unknown_reasons_of_l3(void **state)
{
    (void)state;
    start(true, PROC2_EPT | PROC2_VPID);
    for (uint64_t reason = REASON_COUNT; reason < REASONS; reason++)
        for (size_t i = 0; i < (reason < 256 ? ARRAY_SIZE(upper) : 2); i++) {
            feed(reason | upper[i], 0);
            assert_false(nested_machine_in_l3());
            assert_int_equal(l2_field(VMCS_EXIT_REASON), reason | upper[i]);
            assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        }
}

/* Of an exit that is the guest hypervisor's it sees the bits; of one that Strata deals with nothing is left. */
static void upper_bits_of_l3(void **state)
{
    (void)state;
    start(true, PROC2_EPT | PROC2_VPID);
    for (size_t i = 0; i < ARRAY_SIZE(upper); i++) {
        nested_machine_exit(&(struct nested_exit_info){
            .reason = REASON_ept_violation | upper[i], .qualification = EPT_QUAL_READ, .gpa = GUEST_PAGE(0x300 + i) });
        assert_true(nested_machine_in_l3());
        nested_machine_cpu()->regs[GPR_RCX] = MSR_VMX_BASIC;
        uint64_t rip = now(FIELD_GUEST_RIP);
        feed(REASON_rdmsr | upper[i], 0);
        assert_true(nested_machine_in_l3());
        assert_int_equal(now(FIELD_GUEST_RIP), rip + 2);
        feed(REASON_exception_nmi | upper[i], 0);
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_exception_nmi | upper[i]);
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    }
}

/* A failed entry of vmcs02 is the guest hypervisor's. */
static void failed_entries_of_l3(void **state)
{
    (void)state;
    start(true, PROC2_EPT | PROC2_VPID);
    for (uint64_t reason = 0; reason < REASONS; reason += reason < 256 ? 1 : 251) {
        feed(reason | REASON_ENTRY_FAILURE, 0);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), reason | REASON_ENTRY_FAILURE);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK); /* its launch state stays "clear" */
    }
}

/* --- MOV to control registers --- */

/* Every value of the bits that matter, from every mode: refused, or a state in which the processor enters the guest. */
static void control_register_writes(void **state)
{
    (void)state;
    static const uint64_t cr0_bits[] = { CR0_PE, CR0_PG, CR0_WP, CR0_NE, CR0_CD, CR0_NW };
    static const uint64_t cr4_bits[] = { CR4_PAE, CR4_CET, CR4_PCIDE, CR4_LA57, CR4_VMXE, CR4_SMEP };
    static const struct nested_machine_config usual = { 0 };
    nested_machine_start(&usual);
    for (unsigned mode = 0; mode < 64; mode++)
        for (unsigned number = 0; number <= 4; number += 4)
            for (unsigned bits = 0; bits < 64; bits++) {
                bool lme = mode & 1, tss16 = mode & 2, cs_l = mode & 4, cet = mode & 8, paging = mode & 16,
                     pae = mode & 32;
                hpa_t vmcs01 = nested_machine_cpu()->vmcs01.region;
                uint64_t cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | (paging ? CR0_PG : 0);
                uint64_t cr4 = CR4_VMXE | (cet ? CR4_CET : 0) | (pae ? CR4_PAE : 0);
                bool long_mode = lme && paging;
                if ((long_mode && (!pae || tss16)) || (cs_l && !long_mode && paging))
                    continue;
                fake_vmcs_write(vmcs01, FIELD_GUEST_CR0, cr0);
                fake_vmcs_write(vmcs01, FIELD_CR0_SHADOW, cr0);
                fake_vmcs_write(vmcs01, FIELD_GUEST_CR4, cr4);
                fake_vmcs_write(vmcs01, FIELD_CR4_SHADOW, cr4);
                fake_vmcs_write(vmcs01, FIELD_GUEST_CR3, GUEST_PAGE(5));
                fake_vmcs_write(vmcs01, FIELD_GUEST_EFER, (lme ? EFER_LME : 0) | (long_mode ? EFER_LMA : 0));
                uint64_t entry = fake_vmcs_read(vmcs01, FIELD_ENTRY_CONTROLS);
                fake_vmcs_write(vmcs01, FIELD_ENTRY_CONTROLS, long_mode ? entry | ENTRY_IA32E : entry & ~ENTRY_IA32E);
                fake_vmcs_write(vmcs01, FIELD_GUEST_TR_AR, (tss16 ? 3 : 11) | AR_PRESENT);
                fake_vmcs_write(vmcs01, FIELD_GUEST_CS_AR, 0xb | AR_S | AR_PRESENT | AR_G | (cs_l ? AR_L : AR_DB));
                uint64_t value = CR0_ET;
                for (unsigned i = 0; i < 6; i++)
                    value |= bits & BIT(i) ? (number ? cr4_bits : cr0_bits)[i] : 0;
                nested_machine_cpu()->regs[GPR_RBX] = number ? value & ~CR0_ET : value;
                fake_vmcs_write(vmcs01, FIELD_GUEST_RIP, 0x1000);
                uint64_t rip = now(FIELD_GUEST_RIP);
                fake_journal_clear();
                nested_machine_exit(&(struct nested_exit_info){
                    .reason = REASON_cr_access, .qualification = number | GPR_RBX << 8, .length = 3 });
                bool done = now(FIELD_GUEST_RIP) == rip + 3;
                assert_int_equal(now(FIELD_ENTRY_INTR_INFO) & INTR_VALID, done ? 0 : INTR_VALID);
            }
}

/* SDM 3, "IA-32e Mode System Data Structure Consistency Checks"; SDM 2, "MOV - Move to/from Control Registers". */
static void refused_control_registers(void **state)
{
    (void)state;
    static const struct nested_machine_config usual = { 0 };
    for (unsigned why = 0; why < 3; why++) {
        nested_machine_start(&usual);
        hpa_t vmcs01 = nested_machine_cpu()->vmcs01.region;
        uint64_t cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP, entry = fake_vmcs_read(vmcs01, FIELD_ENTRY_CONTROLS);
        fake_vmcs_write(vmcs01, FIELD_GUEST_CR0, cr0);
        fake_vmcs_write(vmcs01, FIELD_CR0_SHADOW, cr0);
        fake_vmcs_write(vmcs01, FIELD_GUEST_CR4, CR4_VMXE | CR4_PAE | (why == 2 ? CR4_CET : 0));
        fake_vmcs_write(vmcs01, FIELD_GUEST_EFER, EFER_LME);
        fake_vmcs_write(vmcs01, FIELD_ENTRY_CONTROLS, entry & ~ENTRY_IA32E);
        fake_vmcs_write(vmcs01, FIELD_GUEST_CS_AR, 0xb | AR_S | AR_PRESENT | AR_G | AR_DB);
        if (why == 1)
            fake_vmcs_write(vmcs01, FIELD_GUEST_TR_AR, 3 | AR_PRESENT);
        nested_machine_cpu()->regs[GPR_RBX] = why == 2 ? CR0_PE | CR0_ET | CR0_NE : cr0 | CR0_PG;
        nested_machine_exit(
            &(struct nested_exit_info){ .reason = REASON_cr_access, .qualification = GPR_RBX << 8, .length = 3 });
        uint64_t fault = INTR_VALID | INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID | VECTOR_GP;
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO), why == 0 ? 0 : fault);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(known_reasons_of_l2),     TEST(known_reasons_of_l3),       TEST(known_reasons_of_l3_without_ept),
        TEST(unknown_reasons_of_l2),   TEST(upper_bits_of_l2),          TEST(failed_entries_of_l2),
        TEST(unknown_reasons_of_l3),   TEST(upper_bits_of_l3),          TEST(failed_entries_of_l3),
        TEST(control_register_writes), TEST(refused_control_registers),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
