/* sources: machine */
/*
 * Exceptions that Strata raises: whose they are (page-fault mask and match, all else by the exception bitmap), what becomes of one that
 * arises in the delivery of an event, what goes on after a violation that Strata deals with, and what L2 is told of an access that
 * Strata makes for L3.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/guest/guest.h"
#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define HW(vector) (INTR_VALID | INTR_TYPE_HW_EXCEPTION | (uint64_t)(vector))
#define HW_CODE(vector) (HW(vector) | INTR_ERROR_VALID)
#define IN_STRATA (HIDDEN_START + 5 * MIB)
#define ABOVE_RAM 0x8000000000ull
#define UNMAPPED 0x90000000ull /* ept12 does not map it */
#define L3_TABLES GUEST_PAGE(0x200)
#define MEMORY_OPERAND (2u << 7 | 3u << 15 | BIT(22) | BIT(27) | (uint64_t)GPR_RBX << 28)

static const struct nested_machine_config usual = { 0 }, no_write_info = { .shadow_off = true, .no_write_info = true };
static uint64_t values[FIELD_COUNT];

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }
static void set_now(enum vmcs_row row, uint64_t value) { fake_vmcs_write(hpa(fake_current()), row, value); }

static void launch(const struct nested_machine_config *config)
{
    nested_machine_start(config);
    l2_make(0, values);
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
}

/* --- in the delivery of an event --- */

/* No processor executes Strata's memory: #GP(0), or what that becomes. */
static void fetch_from_strata(uint64_t event)
{
    nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                    .qualification = EPT_QUAL_FETCH,
                                                    .gpa = IN_STRATA,
                                                    .linear = IN_STRATA,
                                                    .idt_info = event,
                                                    .idt_error = 0x18 });
}

static const struct {
    uint64_t event, becomes; /* 0: shutdown */
    uint64_t error;
} deliveries[] = {
    { 0, HW_CODE(VECTOR_GP), 0 },
    { INTR_VALID | INTR_TYPE_EXTERNAL | 0x31, HW_CODE(VECTOR_GP), FAULT_ERROR_EXT },
    { INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI, HW_CODE(VECTOR_GP), FAULT_ERROR_EXT },
    { INTR_VALID | INTR_TYPE_SW_INTR | 0x80, HW_CODE(VECTOR_GP), 0 },
    { INTR_VALID | INTR_TYPE_SW_EXCEPTION | VECTOR_BP, HW_CODE(VECTOR_GP), 0 },
    { HW(VECTOR_UD), HW_CODE(VECTOR_GP), FAULT_ERROR_EXT },
    { HW(VECTOR_DE), HW_CODE(VECTOR_DF), 0 },
    { HW_CODE(VECTOR_NP), HW_CODE(VECTOR_DF), 0 },
    { HW_CODE(VECTOR_PF), HW_CODE(VECTOR_DF), 0 },
    { HW_CODE(VECTOR_DF), 0, 0 },
};

static jmp_buf reset;
static void machine_resets(void) { longjmp(reset, 1); }

static void deliveries_of_l2(void **state)
{
    (void)state;
    for (volatile size_t i = 0; i < ARRAY_SIZE(deliveries); i++) {
        nested_machine_start(&usual);
        nested_machine_on_reset(machine_resets);
        if (setjmp(reset)) {
            assert_int_equal(deliveries[i].becomes, 0);
            continue;
        }
        fetch_from_strata(deliveries[i].event);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO), deliveries[i].becomes);
        assert_int_equal(now(FIELD_ENTRY_EXCEPTION_ERROR), deliveries[i].error);
    }
}

static void deliveries_of_l3(const struct nested_machine_config *config, uint64_t bitmap)
{
    vmcs12_sample(values);
    V(PROC2_CONTROLS) = PROC2_VPID; /* without EPT ept01 decides */
    V(EXCEPTION_BITMAP) = bitmap;
    launch(config);
    for (size_t i = 0; i < ARRAY_SIZE(deliveries); i++) {
        if (!nested_machine_in_l3())
            assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
        fetch_from_strata(deliveries[i].event);
        uint64_t becomes = deliveries[i].becomes;
        bool wanted = bitmap & BIT(becomes & INTR_VECTOR_MASK);
        assert_int_equal(nested_machine_in_l3(), becomes && !wanted);
        if (nested_machine_in_l3()) {
            assert_int_equal(now(FIELD_ENTRY_INTR_INFO), becomes);
            assert_int_equal(now(FIELD_ENTRY_EXCEPTION_ERROR), deliveries[i].error);
            continue;
        }
        /* SDM 3, "Information for VM Exits During Event Delivery": not for a double fault, not for a triple fault. */
        bool event = becomes && (becomes & INTR_VECTOR_MASK) != VECTOR_DF && deliveries[i].event;
        assert_int_equal(l2_field(VMCS_EXIT_REASON), becomes ? REASON_exception_nmi : REASON_triple_fault);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 0);
        assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO), becomes);
        if (becomes)
            assert_int_equal(l2_field(VMCS_EXIT_INTR_ERROR), deliveries[i].error);
        assert_int_equal(l2_field(VMCS_IDT_VECTORING_INFO), event ? deliveries[i].event : 0);
        if (event)
            assert_int_equal(l2_field(VMCS_IDT_VECTORING_ERROR), 0x18);
    }
}

static void deliveries_of_l3_with_no_bitmap(void **state) { (void)state, deliveries_of_l3(&usual, 0); }
static void deliveries_of_l3_with_gp(void **state) { (void)state, deliveries_of_l3(&usual, BIT(VECTOR_GP)); }
static void deliveries_of_l3_with_df(void **state) { (void)state, deliveries_of_l3(&usual, BIT(VECTOR_DF)); }
static void deliveries_of_l3_without_misc_29(void **state)
{
    (void)state;
    deliveries_of_l3(&no_write_info, BIT(VECTOR_GP) | BIT(VECTOR_DF));
}

/* What delivers an event is no instruction: nothing is decoded at RIP. In real mode there are no error codes. */
static void real_mode(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    vmcs12_sample(values);
    V(GUEST_CR0) = CR0_NE;
    V(GUEST_CR4) = CR4_VMXE;
    V(ENTRY_CONTROLS) &= ~ENTRY_IA32E;
    V(GUEST_EFER) = 0;
    V(GUEST_CS_AR) = 0x9b;
    V(GUEST_CS_LIMIT) = 0xffff;
    for (unsigned wanted = 0; wanted < 2; wanted++) {
        V(EXCEPTION_BITMAP) = wanted ? BIT(VECTOR_GP) : 0;
        launch(&usual);
        uint64_t rip = now(FIELD_GUEST_RIP);
        nested_machine_cpu()->regs[GPR_RCX] = MSR_FEATURE_CONTROL;
        nested_machine_exit_reason(REASON_wrmsr, 0);
        assert_int_equal(nested_machine_in_l3(), !wanted);
        if (wanted)
            assert_int_equal(l2_field(VMCS_EXIT_INTR_INFO), HW(VECTOR_GP));
        else
            assert_int_equal(now(FIELD_ENTRY_INTR_INFO), HW(VECTOR_GP));
        assert_int_equal(fake_vmcs_read(nested_machine_vmcs02(), FIELD_GUEST_RIP), rip);
    }
}

/* --- page faults --- */

static void shadow_make(void)
{
    vmcs12_sample(values);
    l2_make(1, values);
    assert_int_equal(l2_vmclear(VMCS12(1)), VMX_OK);
    *(uint32_t *)VMCS12(1) |= (uint32_t)VMCS_SHADOW_INDICATOR;
    V(PROC2_CONTROLS) |= PROC2_SHADOW_VMCS;
    V(VMCS_LINK_POINTER) = VMCS12(1);
    V(VMREAD_BITMAP) = GUEST_PAGE(40);
    V(VMWRITE_BITMAP) = GUEST_PAGE(41);
}

/* L3's VMREAD of a field that only Strata wants exits for, to memory. */
static void vmread_to(uint64_t linear)
{
    nested_machine_cpu()->regs[GPR_RBX] = VMCS_HOST_RSP;
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_vmread, .qualification = linear, .instruction = MEMORY_OPERAND, .length = 4 });
}

static void touch(uint64_t gpa)
{
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation, .qualification = EPT_QUAL_WRITE, .gpa = gpa, .linear = gpa });
}

/* SDM 3, "Exceptions" of "Other Causes of VM Exits": if error code & mask = match, bit 14 decides, else its opposite. */
static void page_faults_by_mask_and_match(void **state)
{
    (void)state;
    const uint64_t errors[] = { 0, PFERR_WRITE, PFERR_PRESENT, PFERR_WRITE | PFERR_PRESENT, ~0u };
    for (size_t mask = 0; mask < ARRAY_SIZE(errors); mask++)
        for (size_t match = 0; match < ARRAY_SIZE(errors); match++)
            for (unsigned bit = 0; bit < 2; bit++) {
                nested_machine_start(&usual);
                shadow_make();
                V(EXCEPTION_BITMAP) = bit ? BIT(VECTOR_PF) : 0;
                V(PF_ERROR_MASK) = errors[mask];
                V(PF_ERROR_MATCH) = errors[match];
                V(GUEST_CR3) = L2_PML4;
                l2_make(0, values);
                assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
                touch(L2_PML4);
                vmread_to(0x123456789000);
                bool equal = (PFERR_WRITE & errors[mask]) == errors[match];
                assert_int_equal(nested_machine_in_l3(), equal != bit);
            }
}

/* --- misses of accesses that Strata makes for L3 --- */

static void put64(uint64_t at, uint64_t value) { memcpy((void *)at, &value, sizeof(value)); }

/* SDM 3, "Exit Qualification for EPT Violations": bit 8 is 0 where the access was to a paging-structure entry. */
static void misses_say_where(void **state)
{
    (void)state;
    static const struct {
        uint64_t pml4e, pdpte, gpa, qualification;
    } rows[] = {
        { UNMAPPED | 0x23, 0, UNMAPPED, EPT_QUAL_READ },
        { (L3_TABLES + PAGE_SIZE) | 0x23, UNMAPPED | 0xe3, UNMAPPED + 0x123458,
          EPT_QUAL_WRITE | EPT_QUAL_LINEAR_TRANSLATION },
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        nested_machine_start(&usual);
        shadow_make();
        V(GUEST_CR3) = L3_TABLES;
        l2_make(0, values);
        put64(L3_TABLES, rows[i].pml4e);
        put64(L3_TABLES + PAGE_SIZE, (rows[i].pdpte & ~(PAGE_1G - 1)) | (rows[i].pdpte & 0xfff));
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        touch(L3_TABLES);
        touch(L3_TABLES + PAGE_SIZE);
        uint64_t linear = i ? UNMAPPED % PAGE_1G + 0x123458 : 0x458;
        vmread_to(linear);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_ept_violation);
        assert_int_equal(l2_field(VMCS_GUEST_PHYSICAL_ADDR), rows[i].gpa);
        assert_int_equal(l2_field(VMCS_GUEST_LINEAR_ADDR), linear);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), rows[i].qualification | EPT_QUAL_LINEAR_VALID);
    }
}

/* --- IRET --- */

/*
 * SDM 3, "Information About NMI Unblocking Due to IRET": IRET had unblocked NMIs when its own access stopped it. Not with an event to
 * deliver; not with NMI exiting and without virtual NMIs, where the bit is undefined.
 */
static void expect_blocks_again(uint64_t reason, uint64_t gpa, bool blocks)
{
    for (unsigned event = 0; event < 2; event++) {
        set_now(FIELD_GUEST_INTERRUPTIBILITY, 0);
        nested_machine_exit(&(struct nested_exit_info){ .reason = reason,
                                                        .qualification = EPT_QUAL_READ | EPT_QUAL_NMI_UNBLOCK,
                                                        .idt_info = event ? HW(VECTOR_UD) : 0,
                                                        .gpa = gpa + event * PAGE_1G });
        assert_int_equal(now(FIELD_GUEST_INTERRUPTIBILITY), blocks && !event ? BLOCKING_NMI : 0);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO) & INTR_VALID, event ? INTR_VALID : 0);
    }
}

static void iret_blocks_again(void **state)
{
    (void)state;
    nested_machine_start(&usual);
    expect_blocks_again(REASON_ept_violation, ABOVE_RAM, true);
    expect_blocks_again(REASON_pml_full, 0, true);
    static const uint64_t pins[] = { 0, PIN_NMI, PIN_NMI | PIN_VIRTUAL_NMIS };
    for (size_t i = 0; i < ARRAY_SIZE(pins); i++) {
        nested_machine_start(&usual);
        vmcs12_sample(values);
        V(PIN_CONTROLS) = (V(PIN_CONTROLS) & ~PIN_NMI) | pins[i];
        V(PROC2_CONTROLS) = PROC2_VPID;
        launch(&usual);
        expect_blocks_again(REASON_ept_violation, ABOVE_RAM, pins[i] != PIN_NMI);
    }
}

/* --- the processor's order --- */

/* PDPTEs and something that it finds before them: it, not Strata, says what is wrong. */
static void pdptes_are_the_processors_to_refuse(void **state)
{
    (void)state;
    for (unsigned other = 0; other < 2; other++) {
        nested_machine_start(&usual);
        vmcs12_sample(values);
        V(PROC2_CONTROLS) &= ~(PROC2_EPT | PROC2_UNRESTRICTED);
        V(ENTRY_CONTROLS) &= ~ENTRY_IA32E;
        V(GUEST_EFER) = other ? BIT(5) : 0;
        V(GUEST_CS_AR) = 0xb | AR_S | AR_PRESENT | AR_DB | AR_G;
        V(GUEST_CR3) = L3_TABLES;
        put64(L3_TABLES, 3);
        l2_make(0, values);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_entry_guest_state | REASON_ENTRY_FAILURE);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), other ? 0 : ENTRY_FAIL_PDPTE);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(deliveries_of_l2),
        TEST(deliveries_of_l3_with_no_bitmap),
        TEST(deliveries_of_l3_with_gp),
        TEST(deliveries_of_l3_with_df),
        TEST(deliveries_of_l3_without_misc_29),
        TEST(real_mode),
        TEST(page_faults_by_mask_and_match),
        TEST(misses_say_where),
        TEST(iret_blocks_again),
        TEST(pdptes_are_the_processors_to_refuse),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
