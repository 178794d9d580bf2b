/*
 * The checks of VM entry as a whole, as a processor makes them: Strata's own (nested/checks.h) and those that Strata
 * leaves to the processor. For the fake processor, and for tests that prove the tables complete.
 */
#ifndef STRATA_PROCESSOR_CHECKS_H
#define STRATA_PROCESSOR_CHECKS_H

#include "nested/checks.h"

/* The processor's own rules. They read rows of every kind. */
extern const struct check_table processor_controls, processor_guest;

/* All rules of SDM 3, "Checks on VMX Controls", "Checks on the Host-State Area", "Checks on the Guest State Area". */
const struct check_rule *check_controls(const struct check_view *view);
const struct check_rule *check_host(const struct check_view *view);
const struct check_rule *check_guest_state(const struct check_view *view);

#endif
