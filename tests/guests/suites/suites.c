/* The list of suites, in the order they run. */
#include "suites.h"

const struct suite *const suites[] = {
    &suite_insn, &suite_vmcs, &suite_exits,  &suite_entry, &suite_ept,  &suite_soak,
    &suite_host, &suite_smp,  &suite_x2apic, &suite_smm,   &suite_init, NULL,
};
