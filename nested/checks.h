/*
 * The checks of VM entry that Strata makes itself on vmcs12: every rule of the SDM that the processor, running
 * vmcs02, does not make for it. What belongs to which side, and why, is said in checks.c.
 * Pure: fields in, first violated rule out.
 */
#ifndef STRATA_CHECKS_H
#define STRATA_CHECKS_H

#include "core/lib/types.h"
#include "core/cpu/vmcs_fields.h"
#include "core/cpu/vmx_caps.h"

/* What the rules look at. */
struct check_view {
    /*
     * vmcs12's values by row (FIELD_COUNT of them), cut to their widths. The functions below read rows stored SOFT
     * only: the others need not be there.
     */
    const uint64_t *values;
    const struct vmx_caps *caps; /* what is offered to the guest hypervisor */
    bool ia32e;                  /* the guest hypervisor is in IA-32e mode (its IA32_EFER.LMA) */
    gpa1_t current_vmcs;         /* its current VMCS: the one being entered */
};

struct check_rule {
    const char *name;      /* as the SDM says it, in short */
    uint32_t inputs;       /* whose change can change the answer: BIT(enum vmcs_group), or CHECK_ALL */
    uint8_t qualification; /* guest state only: exit qualification of the failed entry */
    uint8_t row;           /* enum vmcs_row that holds() looks at */
    bool (*applies)(const struct check_view *view); /* NULL: always */
    bool (*holds)(const struct check_view *view, enum vmcs_row row);
};

struct check_table {
    const struct check_rule *rules;
    size_t count;
};
extern const struct check_table checks_controls, checks_host, checks_guest;

/* Every rule: for a vmcs12 that was not checked before, and where a fact outside its fields has changed. */
#define CHECK_ALL (~0u)

/*
 * The first violated rule of a table, or NULL. stale: groups changed since the table last held, BIT(enum vmcs_group);
 * rules none of whose inputs is among them are passed over.
 */
const struct check_rule *check_table_run(const struct check_table *table, const struct check_view *view,
                                         uint32_t stale);

/*
 * SDM 3, "Checks on VMX Controls". A rule violated: VMfailValid, VMERR_ENTRY_CONTROLS.
 * Inputs: groups CONTROLS, BITMAPS, MSR_AREAS, APIC and EPT.
 */
const struct check_rule *check_controls_soft(const struct check_view *view, uint32_t stale);

/*
 * SDM 3, "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and Descriptor-Table Registers" and
 * "Checks Related to Address-Space Size". A rule violated: VMfailValid, VMERR_ENTRY_HOST_STATE.
 * Inputs: groups HOST and CONTROLS; and ia32e, so that CHECK_ALL is due when that has changed.
 */
const struct check_rule *check_host_soft(const struct check_view *view, uint32_t stale);

/*
 * SDM 3, "Checks on the Guest State Area". A rule violated: a VM exit with reason REASON_entry_guest_state |
 * REASON_ENTRY_FAILURE and the rule's qualification.
 * Inputs: the link pointer, current_vmcs, a control and four bytes of memory, which anyone may write: it is due at
 * every entry whose link pointer is not all ones.
 */
const struct check_rule *check_guest_soft(const struct check_view *view);

#endif
