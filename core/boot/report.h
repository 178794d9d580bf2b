/*
 * What a report of a failure needs to say about the machine: some lines of the log that one can paste.
 */
#ifndef STRATA_REPORT_H
#define STRATA_REPORT_H

/* Processor, firmware, VMX capability MSRs. Nothing here can fault, so it comes before Strata says whether it can run. rsdp: or NULL. */
void report_machine(const char *firmware, const void *rsdp);
/* What takes MSRs that may be missing: this CPU's IDT is loaded. */
void report_protection(void);

#endif
