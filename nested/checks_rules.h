/*
 * What the tables of entry checks share: reading the controls, and the properties that many fields must have.
 */
#ifndef STRATA_CHECKS_RULES_H
#define STRATA_CHECKS_RULES_H

#include "core/memory/ept.h"
#include "core/lib/vmx.h"
#include "core/lib/x86.h"
#include "nested/checks.h"

static inline uint64_t check_pin(const struct check_view *view) { return view->values[FIELD_PIN_CONTROLS]; }
static inline uint64_t check_proc(const struct check_view *view) { return view->values[FIELD_PROC_CONTROLS]; }
static inline uint64_t check_exit(const struct check_view *view) { return view->values[FIELD_EXIT_CONTROLS]; }
static inline uint64_t check_entry(const struct check_view *view) { return view->values[FIELD_ENTRY_CONTROLS]; }

/* Secondary controls count as 0 unless they are activated. */
static inline uint64_t check_proc2(const struct check_view *view)
{
    return check_proc(view) & PROC_SECONDARY ? view->values[FIELD_PROC2_CONTROLS] : 0;
}

static inline bool check_implies(bool condition, bool conclusion) { return !condition || conclusion; }

/* No bit beyond the physical-address width. */
static inline bool check_in_width(const struct check_view *view, uint64_t address)
{
    return address >> view->caps->maxphyaddr == 0;
}

static inline bool check_is_canonical(const struct check_view *view, uint64_t address)
{
    unsigned spare = 64 - vmx_caps_linear_width(view->caps);
    return (uint64_t)((int64_t)(address << spare) >> spare) == address;
}

/* SDM 3, "VMX-Fixed Bits in CR0" / "... in CR4": fixed0 says what must be 1, fixed1 what may be 1. */
static inline bool check_fixed(uint64_t value, uint64_t fixed0, uint64_t fixed1)
{
    return (value & fixed0) == fixed0 && (value & ~fixed1) == 0;
}

/* SDM 3, "IA32_PAT MSR": eight memory types, one a byte; 2 and 3 are reserved. */
static inline bool check_is_pat(uint64_t pat)
{
    for (int byte = 0; byte < 8; byte++) {
        uint64_t type = pat >> 8 * byte & 0xff;
        if (type != MEMTYPE_UC && type != MEMTYPE_WC && (type < MEMTYPE_WT || type > MEMTYPE_UC_MINUS))
            return false;
    }
    return true;
}

/* Properties of one field, in the form that a table wants. */
static inline bool check_page(const struct check_view *view, enum vmcs_row row)
{
    uint64_t address = view->values[row];
    return (address & ~PAGE_MASK) == 0 && check_in_width(view, address);
}

static inline bool check_canonical(const struct check_view *view, enum vmcs_row row)
{
    return check_is_canonical(view, view->values[row]);
}

static inline bool check_pat(const struct check_view *view, enum vmcs_row row)
{
    return check_is_pat(view->values[row]);
}

/* CR3: no bit beyond the physical-address width. */
static inline bool check_cr3(const struct check_view *view, enum vmcs_row row)
{
    return check_in_width(view, view->values[row]);
}

static inline bool check_cr4(const struct check_view *view, enum vmcs_row row)
{
    return check_fixed(view->values[row], vmx_caps_msr(view->caps, MSR_VMX_CR4_FIXED0),
                       vmx_caps_msr(view->caps, MSR_VMX_CR4_FIXED1));
}

#endif
