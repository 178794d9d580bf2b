/*
 * The part of a task switch behind its commit: segment registers, and the error code on the new task's stack. Faults here
 * are the new task's.
 */
#ifndef STRATA_TASK_SEGMENTS_H
#define STRATA_TASK_SEGMENTS_H

#include "core/guest/task_access.h"

#define TASK_SELECTORS (SEG_GS + 1) /* ES .. GS, in the order of a TSS */

/*
 * Loads LDTR and ES .. GS by these selectors. State has the new task's EFLAGS and paging. If it returns false, what was not
 * loaded is something that VM entry accepts and that gives no right.
 */
bool task_segments_load(struct task *t, const uint16_t selectors[TASK_SELECTORS], uint16_t ldt);

/* Pushes the event's error code, `size` bytes of it (2 or 4). */
bool task_error_push(struct task *t, unsigned size);

#endif
