/*
 * The rules of SDM 3, "Checks on VMX Controls", that Strata leaves to the processor, because all that they read is
 * in vmcs02 as it is in vmcs12: CR3 targets, TPR threshold, TSC multiplier and event injection.
 */
#include "core/memory/mem.h"
#include "nested/checks_rules.h"
#include "tests/host/machine/processor_checks.h"

#define TPR_THRESHOLD_MASK 0xfull
#define VTPR_OFFSET 0x80
#define EXCEPTION_LAST 31
#define ERROR_CODE_MASK 0xffffull
#define INSTRUCTION_LENGTH_MAX 15
#define INTR_TYPE_RESERVED (1ull << INTR_TYPE_SHIFT)
#define INTR_RESERVED 0x7ffff000ull

static uint64_t info(const struct check_view *v) { return v->values[FIELD_ENTRY_INTR_INFO]; }
static uint64_t type(const struct check_view *v) { return info(v) & INTR_TYPE_MASK; }
static uint64_t vector(const struct check_view *v) { return info(v) & INTR_VECTOR_MASK; }

static bool threshold_counts(const struct check_view *v)
{
    return (check_proc(v) & PROC_TPR_SHADOW) && !(check_proc2(v) & PROC2_VIRT_INTR_DELIVERY);
}

static bool threshold_compared(const struct check_view *v)
{
    return threshold_counts(v) && !(check_proc2(v) & PROC2_VIRT_APIC_ACCESS);
}

static bool with_tsc_scaling(const struct check_view *v) { return check_proc2(v) & PROC2_TSC_SCALING; }
static bool with_event(const struct check_view *v) { return info(v) & INTR_VALID; }
static bool with_error(const struct check_view *v) { return with_event(v) && (info(v) & INTR_ERROR_VALID); }

static bool with_instruction(const struct check_view *v)
{
    return with_event(v) && (type(v) == INTR_TYPE_SW_INTR || type(v) == INTR_TYPE_SW_EXCEPTION ||
                             type(v) == INTR_TYPE_PRIV_SW_EXCEPTION);
}

static bool cr3_targets(const struct check_view *v, enum vmcs_row row)
{
    uint64_t misc = vmx_caps_msr(v->caps, MSR_VMX_MISC);
    return v->values[row] <= (misc & VMX_MISC_CR3_TARGETS_MASK) >> VMX_MISC_CR3_TARGETS_SHIFT;
}

static bool threshold_reserved(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & ~TPR_THRESHOLD_MASK) == 0;
}

static bool threshold_vtpr(const struct check_view *v, enum vmcs_row row)
{
    const uint8_t *page = gpa1_ptr(gpa1(v->values[FIELD_VIRTUAL_APIC_ADDR] & PAGE_MASK));
    return (v->values[row] & TPR_THRESHOLD_MASK) <= (uint64_t)page[VTPR_OFFSET] >> 4;
}

static bool not_zero(const struct check_view *v, enum vmcs_row row) { return v->values[row] != 0; }

static bool event_type(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    if (type(v) == INTR_TYPE_OTHER)
        return vmx_caps_allowed1(v->caps, MSR_VMX_PROC) & PROC_MONITOR_TRAP;
    return type(v) != INTR_TYPE_RESERVED;
}

static bool event_vector(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    switch (type(v)) {
    case INTR_TYPE_NMI:
        return vector(v) == VECTOR_NMI;
    case INTR_TYPE_HW_EXCEPTION:
        return vector(v) <= EXCEPTION_LAST;
    case INTR_TYPE_OTHER:
        return vector(v) == 0;
    default:
        return true;
    }
}

static bool vector_has_error(uint64_t exception)
{
    switch (exception) {
    case VECTOR_DF:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
    case VECTOR_PF:
    case VECTOR_AC:
        return true;
    default:
        return false;
    }
}

/* Whether an error code must, may or must not be delivered. */
static bool event_error(const struct check_view *v, enum vmcs_row row)
{
    bool delivers = info(v) & INTR_ERROR_VALID;
    bool unrestricted = check_proc2(v) & PROC2_UNRESTRICTED;
    bool real_mode = unrestricted && !(v->values[FIELD_GUEST_CR0] & CR0_PE);

    (void)row;
    if (real_mode || type(v) != INTR_TYPE_HW_EXCEPTION)
        return !delivers;
    if (vmx_caps_msr(v->caps, MSR_VMX_BASIC) & VMX_BASIC_ANY_ERROR_CODE)
        return true;
    return delivers == vector_has_error(vector(v));
}

static bool event_reserved(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & INTR_RESERVED); }

static bool error_reserved(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & ~ERROR_CODE_MASK) == 0;
}

static bool instruction_length(const struct check_view *v, enum vmcs_row row)
{
    bool may_be_0 = vmx_caps_msr(v->caps, MSR_VMX_MISC) & VMX_MISC_INJECT_LEN0;
    return v->values[row] <= INSTRUCTION_LENGTH_MAX && (v->values[row] != 0 || may_be_0);
}

#define EVERY CHECK_ALL, 0

// clang-format off
static const struct check_rule rules[] = {
    { "CR3-target count",                          EVERY, FIELD_CR3_TARGET_COUNT, NULL, cr3_targets },
    { "TPR threshold: bits 31:4",                  EVERY, FIELD_TPR_THRESHOLD, threshold_counts, threshold_reserved },
    { "TPR threshold: above VTPR",                 EVERY, FIELD_TPR_THRESHOLD, threshold_compared, threshold_vtpr },
    { "use TSC scaling: TSC multiplier",           EVERY, FIELD_TSC_MULTIPLIER, with_tsc_scaling, not_zero },
    { "event injection: interruption type",        EVERY, FIELD_ENTRY_INTR_INFO, with_event, event_type },
    { "event injection: vector",                   EVERY, FIELD_ENTRY_INTR_INFO, with_event, event_vector },
    { "event injection: deliver-error-code bit",   EVERY, FIELD_ENTRY_INTR_INFO, with_event, event_error },
    { "event injection: reserved bits",            EVERY, FIELD_ENTRY_INTR_INFO, with_event, event_reserved },
    { "event injection: error code",               EVERY, FIELD_ENTRY_EXCEPTION_ERROR, with_error, error_reserved },
    { "event injection: instruction length",       EVERY, FIELD_ENTRY_INSTRUCTION_LEN, with_instruction, instruction_length },
};
// clang-format on

const struct check_table processor_controls = { rules, ARRAY_SIZE(rules) };

const struct check_rule *check_controls(const struct check_view *view)
{
    const struct check_rule *rule = check_controls_soft(view, CHECK_ALL);
    return rule ? rule : check_table_run(&processor_controls, view, CHECK_ALL);
}

const struct check_rule *check_host(const struct check_view *view) { return check_host_soft(view, CHECK_ALL); }
