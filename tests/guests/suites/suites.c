/* The list of suites, in the order they run. What needs the xAPIC stands before x2apic: there is no way back from it. */
#include "suites.h"

const struct suite *const suites[] = {
    &suite_insn, &suite_retire, &suite_vmcs, &suite_exits,   &suite_smm,    &suite_entry, &suite_ept,
    &suite_soak, &suite_host,   &suite_smp,  &suite_hostile, &suite_x2apic, &suite_init,  NULL,
};
