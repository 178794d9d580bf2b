/*
 * Starting the first module without Strata.
 */
#ifndef STRATA_HANDOVER_H
#define STRATA_HANDOVER_H

#include "core/cpu/guest_entry.h"
#include "core/lib/types.h"

/* Enters it in Strata's place; loader_load has put it there. VMX is off on this CPU, and Strata lies in nobody's way. */
_Noreturn void handover_enter(const struct guest_entry *entry);

#endif
