/* Every suite, one per subject. */
#ifndef GUESTS_SUITES_H
#define GUESTS_SUITES_H
#include "verdict.h"
#include "vmx.h"

extern const struct suite suite_insn, suite_vmcs, suite_exits, suite_entry, suite_ept, suite_smp, suite_init,
    suite_host, suite_x2apic, suite_soak, suite_smm, suite_hostile, suite_retire;

#endif
