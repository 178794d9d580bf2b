/*
 * What is counted, as one table: a row here reaches CPUID, the JSON line and every report by itself.
 * Exits are counted by reason three times: taken from the guest hypervisor (exit.l2), taken from nested guests
 * (exit.l3), and of the latter those handed to the guest hypervisor (reflect); the rest Strata dealt with itself.
 * Counters belong to one CPU, which alone writes them.
 */
#ifndef STRATA_COUNTERS_H
#define STRATA_COUNTERS_H

#include "core/lib/types.h"
#include "core/lib/vmx.h"

/* X(identifier, name) */
#define COUNTERS(X)                                                                                                    \
    X(EXIT_UNKNOWN, "exit.unknown")     /* for reasons that the table of vmx.h does not have */                        \
    X(VMREAD_TRAPPED, "vmread.trapped") /* VMREADs of the guest hypervisor */                                          \
    X(VMWRITE_TRAPPED, "vmwrite.trapped")                                                                              \
    X(ENTRY_CHECKED, "entry.checked") /* nested entries that checked again */                                          \
    X(ENTRY_MERGED, "entry.merged")   /* nested entries that merged again */                                           \
    X(ENTRY_PLAIN, "entry.plain")     /* nested entries that did neither */                                            \
    X(ENTRY_REFUSED, "entry.refused") /* VMfail, or exit reason 33 or 34 */                                            \
    X(BITMAP_MERGED, "bitmap.merged")                                                                                  \
    X(VMCS12_LOADED, "vmcs12.loaded") /* read from the guest's region */                                               \
    X(VMCS12_STORED, "vmcs12.stored") /* written to the guest's region */                                              \
    X(VMCS12_EVICTED, "vmcs12.evicted")                                                                                \
    X(EVENT_REINJECTED, "event.reinjected")                                                                            \
    X(NMI_IN_ROOT, "nmi.in_root")                                                                                      \
    X(MACHINE_CHECK_IN_ROOT, "machine_check.in_root")                                                                  \
    X(MTRR_APPLIED, "mtrr.applied")                                                                                    \
    X(EPT01_FILL, "ept01.fill")                                                                                        \
    X(ICR_WATCHED, "icr.watched")                                                                                      \
    X(EPT02_FILL, "ept02.fill")                                                                                        \
    X(EPT02_COALESCED_2M, "ept02.coalesced_2m")                                                                        \
    X(EPT02_COALESCED_1G, "ept02.coalesced_1g")                                                                        \
    X(EPT02_PREFILLED, "ept02.prefilled")                                                                              \
    X(EPT02_REVALIDATED, "ept02.revalidated") /* entries looked at after INVEPT */                                     \
    X(EPT02_REWRITTEN, "ept02.rewritten")     /* entries changed after INVEPT */                                       \
    X(EPT02_EVICTED, "ept02.evicted")                                                                                  \
    X(EPT02_REPAIRED, "ept02.repaired")                                                                                \
    X(EPT02_VIOLATION_01, "ept02.fault01")                                                                             \
    X(EPT02_VIOLATION_12, "ept02.violation12")                                                                         \
    X(EPT02_MISCONFIG_12, "ept02.misconfig12")                                                                         \
    X(HISTORY_HIT, "history.hit")                                                                                      \
    X(HISTORY_WASTE, "history.waste")                                                                                  \
    X(BARRIER_IBPB, "barrier.ibpb") /* against speculation: core/cpu/barrier.h */                                      \
    X(BARRIER_VERW, "barrier.verw")                                                                                    \
    X(BARRIER_L1D, "barrier.l1d")                                                                                      \
    X(INVEPT_GUEST, "invept.guest")       /* executed by the guest hypervisor */                                       \
    X(INVEPT_HARDWARE, "invept.hardware") /* executed by Strata */

enum counter {
    COUNT_EXIT_L2,
    COUNT_EXIT_L3 = COUNT_EXIT_L2 + REASON_COUNT,
    COUNT_REFLECT = COUNT_EXIT_L3 + REASON_COUNT,
    COUNT_FIRST_ROW = COUNT_REFLECT + REASON_COUNT - 1,
#define X(identifier, name) COUNT_##identifier,
    COUNTERS(X)
#undef X
        COUNTER_COUNT
};

#define COUNTER_NAME_SIZE 64

/* Writes the name, NUL-padded; the empty name for a reason that does not exist. index < COUNTER_COUNT. */
void counter_name(unsigned index, char out[COUNTER_NAME_SIZE]);
/* Name of a basic exit reason ("cpuid"), NULL for a number without one. */
const char *exit_reason_name(unsigned reason);

#endif
