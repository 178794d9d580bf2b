/*
 * The processor's side of watching (watch.h): page-modification logging of vmcs01, and pages watched one by one.
 */
#ifndef STRATA_WATCH_LOG_H
#define STRATA_WATCH_LOG_H

#include "core/cpu/cpu.h"
#include "core/cpu/watch.h"

/* Turns logging on for this CPU's vmcs01, which is current, where the processor has it. */
void watch_cpu_init(struct cpu *cpu);
/* The log is full: exit reason 62. vmcs01 is current. */
void watch_log_full(struct cpu *cpu);
/* From now on some CPU writes through ept01 without logging (a vmcs02 without EPT in vmcs12): dirty flags are read instead. */
void watch_unlogged(void);

/* An EPT violation at addr: true if it was the write-protection of a watched page, which is gone now. */
bool watch_write_fault(gpa1_t addr);

/* Strata itself writes guest memory. */
void watch_note_write(gpa1_t addr);

/* A new client, which asks on this CPU; NULL: nothing can be watched, or there are too many. */
struct watch_client *watch_client_new(const struct cpu *cpu);

/*
 * One page, for a user who asks about it alone. NULL: it cannot be watched. watch_page_quiet: it has surely not been written since
 * watch_page_version gave that version. Version 0 is never quiet: writers may be unheard.
 */
struct watch_page;
struct watch_page *watch_page_get(gpa1_t page);
void watch_page_put(struct watch_page *page);
bool watch_page_quiet(const struct watch_page *page, uint32_t version);
uint32_t watch_page_version(struct watch_page *page);

#endif
