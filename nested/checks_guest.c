/*
 * The rules of SDM 3, "Checks on the Guest State Area", that the processor cannot make on vmcs02: those on the VMCS
 * link pointer ("Checks on Guest Non-Register State"), which in vmcs02 is not vmcs12's. Pure.
 * PDPTEs: special.c loads them for the processor to check.
 */
#include "core/memory/mem.h"
#include "nested/checks_rules.h"

#define LINK_POINTER_NONE (~0ull)

static bool with_link(const struct check_view *v) { return v->values[FIELD_VMCS_LINK_POINTER] != LINK_POINTER_NONE; }

/* The first four bytes of the VMCS region referred to. The page's start: nothing is read across its end. */
static uint32_t region_word(uint64_t pointer)
{
    uint32_t word;
    memcpy(&word, gpa1_ptr(gpa1(align_down(pointer, PAGE_SIZE))), sizeof(word));
    return word;
}

static bool revision(const struct check_view *v, enum vmcs_row row)
{
    uint64_t expected = vmx_caps_msr(v->caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK;
    return (region_word(v->values[row]) & VMX_BASIC_REVISION_MASK) == expected;
}

static bool indicator(const struct check_view *v, enum vmcs_row row)
{
    bool is_shadow = region_word(v->values[row]) & VMCS_SHADOW_INDICATOR;
    bool want_shadow = check_proc2(v) & PROC2_SHADOW_VMCS;
    return is_shadow == want_shadow;
}

static bool not_current(const struct check_view *v, enum vmcs_row row) { return v->values[row] != v->current_vmcs.v; }

#define LINK CHECK_ALL, ENTRY_FAIL_LINK_POINTER, FIELD_VMCS_LINK_POINTER, with_link

// clang-format off
static const struct check_rule rules[] = {
    { "VMCS link pointer: address",             LINK, check_page }, /* before the two that read memory there */
    { "VMCS link pointer: revision identifier", LINK, revision },
    { "VMCS link pointer: shadow-VMCS indicator as VMCS shadowing", LINK, indicator },
    { "VMCS link pointer: current VMCS",        LINK, not_current },
};
// clang-format on

const struct check_table checks_guest = { rules, ARRAY_SIZE(rules) };
