/*
 * Running a table of entry checks, and who checks what. Pure.
 *
 * vmcs12's guest state and its harmless controls are vmcs02's own fields (rows stored SHARED), and the processor checks
 * them whenever it enters vmcs02. It checks them by vmcs02's controls, though, so a rule may be left to it only if
 * vmcs02 has the rule's condition exactly as vmcs12 has it. Rule by rule:
 *
 * - Rules that read a row stored SOFT are Strata's: vmcs02 has something else there. These are all rules on host
 *   state, on the control words, on addresses and counts in controls, and on the VMCS link pointer.
 * - Rules on event injection, CR3-target count, TPR threshold and TSC multiplier are the processor's. vmcs02 has
 *   vmcs12's "use TPR shadow", "virtual-interrupt delivery", "virtualize APIC accesses", "use TSC scaling" and
 *   "unrestricted guest", and IA32_VMX_MISC and IA32_VMX_BASIC[56] are offered as they are. Such a rule violated is a
 *   VMfailValid of vmcs02's entry, error 7, which is passed on.
 * - Rules on guest state are the processor's. Their conditions are "unrestricted guest", "IA-32e mode guest", "virtual
 *   NMIs" and the activity states, all of them as vmcs12 has them; reason 33 is passed on.
 * - Guest IA32_EFER, IA32_PAT, IA32_DEBUGCTL and DR7 count only under vmcs12's own load controls, while vmcs02 always
 *   loads them. With the control 1 both agree on the rule. With it 0 the fields may hold anything, and what vmcs02 has
 *   there is made by Strata of the guest hypervisor's current values: legal by construction, nothing to find.
 * - vmcs02 has EPT when vmcs12 has not. Then PDPTEs would come from memory at CR3 for vmcs12, and come from fields
 *   for vmcs02: who loads them checks them, not this file.
 * - Controls that are not offered (SMM, Intel PT, CET state, PERF_GLOBAL_CTRL, BNDCFGS and so on) cannot be 1 in a
 *   vmcs12 that passes, so their rules do not exist here.
 *
 * The processor's rules are written down, too, for the fake processor that tests run on.
 */
#include "nested/checks.h"

const struct check_rule *check_table_run(const struct check_table *table, const struct check_view *view, uint32_t stale)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct check_rule *rule = &table->rules[i];
        if (!(rule->inputs & stale) || (rule->applies && !rule->applies(view)))
            continue;
        if (!rule->holds(view, (enum vmcs_row)rule->row))
            return rule;
    }
    return NULL;
}

const struct check_rule *check_controls_soft(const struct check_view *view, uint32_t stale)
{
    return check_table_run(&checks_controls, view, stale);
}

const struct check_rule *check_host_soft(const struct check_view *view, uint32_t stale)
{
    return check_table_run(&checks_host, view, stale);
}

const struct check_rule *check_guest_soft(const struct check_view *view)
{
    return check_table_run(&checks_guest, view, CHECK_ALL);
}
