/* sources: checks */
/*
 * Entry checks on controls: each rule broken once or more, and what must not count when its control is 0.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/lib/vmx.h"
#include "tests/host/nested/breakage.h"
#include "tests/host/machine/processor_checks.h"

#define WIDTH_40 BIT(40)
#define INJECT(type, vector) PUT(ENTRY_INTR_INFO, INTR_VALID | (type) | (vector))
// clang-format off
#define NO_VID CLEAR(PROC2_CONTROLS, PROC2_VIRT_INTR_DELIVERY), CLEAR(PIN_CONTROLS, PIN_POSTED_INTR)
#define NO_APICV CLEAR(PROC2_CONTROLS, PROC2_VIRT_INTR_DELIVERY | PROC2_VIRT_APIC_ACCESS | PROC2_APIC_REGISTER), \
    CLEAR(PIN_CONTROLS, PIN_POSTED_INTR)

static const struct breakage breakages[] = {
    { "pin-based controls: reserved bits", 0, { CLEAR(PIN_CONTROLS, BIT(1)) } },
    { "pin-based controls: reserved bits", 0, { SET(PIN_CONTROLS, BIT(8)) } },
    { "pin-based controls: reserved bits", 0, { WITHOUT(TRUE_PIN, PIN_PREEMPTION_TIMER << 32) } },
    { "primary processor-based controls: reserved bits", 0, { CLEAR(PROC_CONTROLS, BIT(1)) } },
    { "primary processor-based controls: reserved bits", 0, { SET(PROC_CONTROLS, BIT(17)) } },
    { "secondary processor-based controls: reserved bits", 0, { SET(PROC2_CONTROLS, BIT(27)) } },
    { "secondary processor-based controls: reserved bits", 0, { WITHOUT(PROC2, PROC2_VPID << 32) } },
    { "use I/O bitmaps: I/O-bitmap address A", 0, { PUT(IO_BITMAP_A, 0x4800) } },
    { "use I/O bitmaps: I/O-bitmap address A", 0, { PUT(IO_BITMAP_A, WIDTH_40) } },
    { "use I/O bitmaps: I/O-bitmap address B", 0, { PUT(IO_BITMAP_B, 1) } },
    { "use I/O bitmaps: I/O-bitmap address B", 0, { PUT(IO_BITMAP_B, ~0ull << 12) } },
    { "use MSR bitmaps: MSR-bitmap address", 0, { PUT(MSR_BITMAP, 0x4ff0) } },
    { "use MSR bitmaps: MSR-bitmap address", 0, { PUT(MSR_BITMAP, WIDTH_40) } },
    { "use TPR shadow: virtual-APIC address", 0, { PUT(VIRTUAL_APIC_ADDR, SAMPLE_VIRTUAL_APIC + 0x80) } },
    { "use TPR shadow: virtual-APIC address", 0, { PUT(VIRTUAL_APIC_ADDR, WIDTH_40) } },
    { "virtual NMIs without NMI exiting", 0, { CLEAR(PIN_CONTROLS, PIN_NMI) } },
    { "NMI-window exiting without virtual NMIs", 0, { CLEAR(PIN_CONTROLS, PIN_VIRTUAL_NMIS) } },
    { "virtualize APIC accesses: APIC-access address", 0, { PUT(APIC_ACCESS_ADDR, 0xfee00001) } },
    { "virtualize APIC accesses: APIC-access address", 0, { PUT(APIC_ACCESS_ADDR, WIDTH_40) } },
    { "APIC virtualization without TPR shadow", 0, { CLEAR(PROC_CONTROLS, PROC_TPR_SHADOW) } },
    { "APIC virtualization without TPR shadow", 0, { CLEAR(PROC_CONTROLS, PROC_TPR_SHADOW), NO_VID } },
    { "APIC virtualization without TPR shadow", 0, { CLEAR(PROC_CONTROLS, PROC_TPR_SHADOW), NO_APICV,
        SET(PROC2_CONTROLS, PROC2_VIRT_X2APIC) } },
    { "virtualize x2APIC mode with virtualize APIC accesses", 0, { SET(PROC2_CONTROLS, PROC2_VIRT_X2APIC) } },
    { "virtual-interrupt delivery without external-interrupt exiting", 0, { CLEAR(PIN_CONTROLS, PIN_EXTERNAL_INTR) } },
    { "process posted interrupts without virtual-interrupt delivery", 0,
        { CLEAR(PROC2_CONTROLS, PROC2_VIRT_INTR_DELIVERY) } },
    { "process posted interrupts without acknowledge on exit", 0, { CLEAR(EXIT_CONTROLS, EXIT_ACK_INTR) } },
    { "process posted interrupts: notification vector", 0, { PUT(POSTED_INTR_VECTOR, 0x100) } },
    { "process posted interrupts: descriptor address", 0, { PUT(POSTED_INTR_DESC, 0x4020) } },
    { "process posted interrupts: descriptor address", 0, { PUT(POSTED_INTR_DESC, WIDTH_40) } },
    { "enable VPID: VPID is 0000H", 0, { PUT(VPID, 0) } },
    { "EPTP: memory type", 0, { CLEAR(EPTP, EPTP_MEMTYPE_MASK), SET(EPTP, MEMTYPE_WT) } },
    { "EPTP: memory type", 0, { SET(EPTP, MEMTYPE_UC_MINUS) } },
    { "EPTP: memory type", 0, { CLEAR(EPTP, EPTP_MEMTYPE_MASK), WITHOUT(EPT_VPID, EPT_CAP_UC) } },
    { "EPTP: memory type", 0, { WITHOUT(EPT_VPID, EPT_CAP_WB) } },
    { "EPTP: page-walk length", 0, { SET(EPTP, BIT(5)) } },
    { "EPTP: page-walk length", 0, { CLEAR(EPTP, BIT(3)) } },
    { "EPTP: page-walk length", 0, { WITHOUT(EPT_VPID, EPT_CAP_WALK_4) } },
    { "EPTP: accessed and dirty flags", 0, { WITHOUT(EPT_VPID, EPT_CAP_AD) } },
    { "EPTP: reserved bits", 0, { SET(EPTP, BIT(7)) } },
    { "EPTP: reserved bits", 0, { SET(EPTP, BIT(11)) } },
    { "EPTP: reserved bits", 0, { SET(EPTP, WIDTH_40) } },
    { "unrestricted guest without EPT", SAMPLE_REAL, { CLEAR(PROC2_CONTROLS, PROC2_EPT) } },
    { "VMCS shadowing: VMREAD-bitmap address", 0, { PUT(VMREAD_BITMAP, 8) } },
    { "VMCS shadowing: VMREAD-bitmap address", 0, { PUT(VMREAD_BITMAP, WIDTH_40) } },
    { "VMCS shadowing: VMWRITE-bitmap address", 0, { PUT(VMWRITE_BITMAP, 0x800) } },
    { "VMCS shadowing: VMWRITE-bitmap address", 0, { PUT(VMWRITE_BITMAP, BIT(63)) } },
    { "VM-exit controls: reserved bits", 0, { CLEAR(EXIT_CONTROLS, BIT(0)) } },
    { "VM-exit controls: reserved bits", 0, { SET(EXIT_CONTROLS, BIT(28)) } },
    { "save VMX-preemption timer without the timer", 0, { CLEAR(PIN_CONTROLS, PIN_PREEMPTION_TIMER) } },
    { "VM-exit MSR-store area", 0, { PUT(EXIT_MSR_STORE_ADDR, 0x4008) } },
    { "VM-exit MSR-store area", 0, { PUT(EXIT_MSR_STORE_ADDR, WIDTH_40) } },
    { "VM-exit MSR-store area", 0, { PUT(EXIT_MSR_STORE_ADDR, WIDTH_40 - 32) } },
    { "VM-exit MSR-load area", 0, { PUT(EXIT_MSR_LOAD_ADDR, 0x400f) } },
    { "VM-exit MSR-load area", 0, { PUT(EXIT_MSR_LOAD_ADDR, BIT(63)) } },
    { "VM-exit MSR-load area", 0, { PUT(EXIT_MSR_LOAD_ADDR, WIDTH_40 - 16) } },
    { "VM-entry controls: reserved bits", 0, { CLEAR(ENTRY_CONTROLS, BIT(0)) } },
    { "VM-entry controls: reserved bits", 0, { SET(ENTRY_CONTROLS, BIT(22)) } },
    { "VM-entry MSR-load area", 0, { PUT(ENTRY_MSR_LOAD_ADDR, 0x4004) } },
    { "VM-entry MSR-load area", 0, { PUT(ENTRY_MSR_LOAD_ADDR, WIDTH_40) } },
    { "VM-entry MSR-load area", 0, { PUT(ENTRY_MSR_LOAD_ADDR, WIDTH_40 - 16), PUT(ENTRY_MSR_LOAD_COUNT, 0xffffffff) } },
    { "entry to SMM outside SMM", 0, { SET(ENTRY_CONTROLS, ENTRY_SMM) } },
    { "deactivate dual-monitor treatment outside SMM", 0, { SET(ENTRY_CONTROLS, ENTRY_DEACTIVATE_DUAL) } },

    /* The processor's */
    { "CR3-target count", 0, { PUT(CR3_TARGET_COUNT, 5) } },
    { "CR3-target count", 0, { PUT(CR3_TARGET_COUNT, 0xffffffff) } },
    { "TPR threshold: bits 31:4", 0, { NO_VID, PUT(TPR_THRESHOLD, 0x10) } },
    { "TPR threshold: above VTPR", 0, { NO_APICV, PUT(TPR_THRESHOLD, 3), WORD(SAMPLE_VTPR, 0x2f) } },
    { "use TSC scaling: TSC multiplier", 0, { PUT(TSC_MULTIPLIER, 0) } },
    { "event injection: interruption type", 0, { INJECT(1ull << INTR_TYPE_SHIFT, 0x20) } },
    { "event injection: interruption type", 0, { INJECT(INTR_TYPE_OTHER, 0),
        WITHOUT(TRUE_PROC, PROC_MONITOR_TRAP << 32) } },
    { "event injection: vector", 0, { INJECT(INTR_TYPE_NMI, 3) } },
    { "event injection: vector", 0, { INJECT(INTR_TYPE_HW_EXCEPTION, 32) } },
    { "event injection: vector", 0, { INJECT(INTR_TYPE_OTHER, 1) } },
    { "event injection: deliver-error-code bit", 0, { INJECT(INTR_TYPE_HW_EXCEPTION, VECTOR_PF) } },
    { "event injection: deliver-error-code bit", 0, { INJECT(INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID, VECTOR_UD) } },
    { "event injection: deliver-error-code bit", 0, { INJECT(INTR_TYPE_NMI | INTR_ERROR_VALID, VECTOR_NMI) } },
    { "event injection: deliver-error-code bit", SAMPLE_REAL,
        { INJECT(INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID, VECTOR_GP) } },
    { "event injection: reserved bits", 0, { INJECT(INTR_TYPE_NMI | BIT(12), VECTOR_NMI) } },
    { "event injection: reserved bits", 0, { INJECT(INTR_TYPE_NMI | BIT(30), VECTOR_NMI) } },
    { "event injection: error code", 0, { INJECT(INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID, VECTOR_GP),
        PUT(ENTRY_EXCEPTION_ERROR, 0x10000) } },
    { "event injection: instruction length", 0, { INJECT(INTR_TYPE_SW_INTR, 0x80), PUT(ENTRY_INSTRUCTION_LEN, 16) } },
    { "event injection: instruction length", 0, { INJECT(INTR_TYPE_SW_EXCEPTION, 3), PUT(ENTRY_INSTRUCTION_LEN, 0) } },
};

/* What must pass. */
static const struct breakage harmless[] = {
    { NULL, SAMPLE_LONG, { { 0 } } },
    { NULL, SAMPLE_LEGACY, { { 0 } } },
    { NULL, SAMPLE_V86, { { 0 } } },
    { NULL, SAMPLE_REAL, { { 0 } } },
    /* Fields whose control is 0. */
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_IO_BITMAPS), PUT(IO_BITMAP_A, ~0ull), PUT(IO_BITMAP_B, ~0ull) } },
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_MSR_BITMAP), PUT(MSR_BITMAP, ~0ull) } },
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_TPR_SHADOW), NO_APICV, PUT(VIRTUAL_APIC_ADDR, ~0ull),
        PUT(TPR_THRESHOLD, 0xffffffff), PUT(APIC_ACCESS_ADDR, ~0ull) } },
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_VPID), PUT(VPID, 0) } },
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_EPT), PUT(EPTP, ~0ull) } },
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_SHADOW_VMCS), PUT(VMREAD_BITMAP, 1), PUT(VMWRITE_BITMAP, 1),
        PUT(VMCS_LINK_POINTER, ~0ull) } },
    { NULL, 0, { CLEAR(PIN_CONTROLS, PIN_POSTED_INTR), PUT(POSTED_INTR_DESC, 1), PUT(POSTED_INTR_VECTOR, 0xffff) } },
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_TSC_SCALING), PUT(TSC_MULTIPLIER, 0) } },
    { NULL, 0, { PUT(EXIT_MSR_STORE_COUNT, 0), PUT(EXIT_MSR_STORE_ADDR, ~0ull), PUT(EXIT_MSR_LOAD_COUNT, 0),
        PUT(EXIT_MSR_LOAD_ADDR, ~0ull), PUT(ENTRY_MSR_LOAD_COUNT, 0), PUT(ENTRY_MSR_LOAD_ADDR, ~0ull) } },
    { NULL, 0, { PUT(EXECUTIVE_VMCS, ~0ull), PUT(PML_ADDR, ~0ull), PUT(ENTRY_INTR_INFO, 0x7fffffff) } },
    /* Controls that go with another are both 0. */
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_NMI_WINDOW), CLEAR(PIN_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMIS) } },
    { NULL, 0, { CLEAR(PIN_CONTROLS, PIN_PREEMPTION_TIMER), CLEAR(EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER) } },
    { NULL, 0, { NO_VID, CLEAR(PIN_CONTROLS, PIN_EXTERNAL_INTR), CLEAR(EXIT_CONTROLS, EXIT_ACK_INTR) } },
    { NULL, 0, { CLEAR(EPTP, EPTP_AD_ENABLE), WITHOUT(EPT_VPID, EPT_CAP_AD) } },
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_EPT), WITHOUT(EPT_VPID, EPT_CAP_AD) } },
    /* Without secondary controls all of them count as 0, whatever they say. */
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_SECONDARY), CLEAR(PIN_CONTROLS, PIN_POSTED_INTR),
        PUT(PROC2_CONTROLS, 0xffffffff), PUT(VPID, 0), PUT(EPTP, 0), PUT(VMCS_LINK_POINTER, ~0ull) } },
    /* Limits that are still inside. */
    { NULL, 0, { PUT(APIC_ACCESS_ADDR, 0), PUT(IO_BITMAP_A, WIDTH_40 - PAGE_SIZE), PUT(VPID, 0xffff) } },
    { NULL, 0, { PUT(EXIT_MSR_STORE_ADDR, WIDTH_40 - 48), PUT(ENTRY_MSR_LOAD_COUNT, 0xffffffff) } },
    { NULL, 0, { CLEAR(EPTP, EPTP_MEMTYPE_MASK | EPTP_AD_ENABLE), PUT(CR3_TARGET_COUNT, 4) } },
    { NULL, 0, { CLEAR(PROC_CONTROLS, PROC_CR3_LOAD | PROC_CR3_STORE), CLEAR(EXIT_CONTROLS, EXIT_SAVE_DEBUG) } },
    { NULL, 0, { NO_APICV, PUT(TPR_THRESHOLD, 2), WORD(SAMPLE_VTPR, 0x20) } },
    { NULL, 0, { NO_APICV, SET(PROC2_CONTROLS, PROC2_VIRT_X2APIC) } },
    { NULL, 0, { INJECT(INTR_TYPE_HW_EXCEPTION | INTR_ERROR_VALID, VECTOR_DF) } },
    { NULL, 0, { INJECT(INTR_TYPE_OTHER, 0) } },
    { NULL, 0, { INJECT(INTR_TYPE_SW_INTR, 0xff), PUT(ENTRY_INSTRUCTION_LEN, 15) } },
    { NULL, SAMPLE_REAL, { INJECT(INTR_TYPE_HW_EXCEPTION, VECTOR_GP) } },
};
// clang-format on

static void each_rule_fails_alone(void **state)
{
    (void)state;
    breakages_run(breakages, ARRAY_SIZE(breakages));
    breakages_cover(breakages, ARRAY_SIZE(breakages), &checks_controls);
    breakages_cover(breakages, ARRAY_SIZE(breakages), &processor_controls);
}

static void what_does_not_count_passes(void **state)
{
    (void)state;
    breakages_run(harmless, ARRAY_SIZE(harmless));
}

/* Without the "true" MSRs the others decide: CR3-load exiting may not be 0 then. */
static void plain_capability_msrs_decide(void **state)
{
    // clang-format off
    static const struct breakage plain[] = {
        { "primary processor-based controls: reserved bits", 0,
          { WITHOUT(BASIC, VMX_BASIC_TRUE_CONTROLS), CLEAR(PROC_CONTROLS, PROC_CR3_LOAD) } },
        { NULL, 0, { WITHOUT(BASIC, VMX_BASIC_TRUE_CONTROLS) } },
    };
    // clang-format on
    (void)state;
    breakages_run(plain, ARRAY_SIZE(plain));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_fails_alone),
        cmocka_unit_test(what_does_not_count_passes),
        cmocka_unit_test(plain_capability_msrs_decide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
