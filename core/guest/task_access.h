/*
 * Inside of task.c and its parts: memory and descriptors during a task switch, and the faults that they raise. Functions
 * that return bool return false when a fault (or a retry) has been put into the result.
 */
#ifndef STRATA_TASK_ACCESS_H
#define STRATA_TASK_ACCESS_H

#include "core/guest/task.h"

/* A task switch under way. */
struct task {
    const struct task_request *request;
    const struct guest_memory *memory;
    struct task_state *state;
    struct task_result result;
};

/* A segment descriptor in memory. */
struct task_descriptor {
    uint64_t rights_at; /* linear address of its type, S, DPL and P: a byte of its own, so never across pages */
    struct task_segment segment;
};

/* SDM 3, "Code- and Data-Segment Descriptor Types" and "System Descriptor Types". */
#define TYPE_ACCESSED 1u
#define TYPE_WRITABLE 2u /* data */
#define TYPE_READABLE 2u /* code */
#define TYPE_EXPAND_DOWN 4u
#define TYPE_CONFORMING 4u
#define TYPE_CODE 8u
#define TYPE_LDT 2u
#define TYPE_TSS16 1u /* available */
#define TYPE_TSS32 9u
#define TYPE_TSS_BUSY 2u /* bit in the type of a TSS */

/* A fault whose error code names a selector, or 0. Always false. */
bool task_fault(struct task *t, enum vector vector, uint16_t selector);
/* Exceptions of events from outside the program have the EXT bit in their error codes. */
bool task_event_external(const struct task_request *request);
/* The event, if any, is an instruction: INT n, INT3, INTO, INT1. */
bool task_event_software(const struct task_request *request);

/* Linear memory, as the processor's own accesses to tables. size is at most a TSS. */
bool task_read(struct task *t, uint64_t linear, void *data, size_t size);
bool task_write(struct task *t, uint64_t linear, const void *data, size_t size);
/* Whether all of it can be accessed, WALK_READ or WALK_WRITE. */
bool task_probe(struct task *t, uint64_t linear, size_t size, unsigned access);
/* A byte for a locked change; NULL as false. */
uint8_t *task_byte(struct task *t, uint64_t linear);
/* The result of a walk. */
bool task_walked(struct task *t, struct walk walk, unsigned access);

/* The descriptor of a selector, which is not null; the fault `vector` if the table has none there. */
bool task_descriptor_read(struct task *t, uint16_t selector, enum vector vector, struct task_descriptor *out);

static inline bool selector_null(uint16_t selector) { return (selector & ~3u) == 0; }
static inline unsigned selector_rpl(uint16_t selector) { return selector & 3; }
static inline bool selector_local(uint16_t selector) { return selector & 4; }

unsigned segment_type(const struct task_segment *segment);
unsigned segment_dpl(const struct task_segment *segment);

#endif
