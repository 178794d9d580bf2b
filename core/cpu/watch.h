/*
 * Watching pages of the guest hypervisor's memory for writes, without taking an exit for them: ept01's dirty flags,
 * with or without page-modification logging. A client is one user on one CPU; each hears of every write by itself.
 *
 * A write counts whoever makes it through ept01: the guest hypervisor on any CPU, a nested guest without an ept12, and
 * Strata itself on behalf of either. Not covered: a nested guest writing through ept02 (ept-cache/writable.h), devices.
 */
#ifndef STRATA_WATCH_H
#define STRATA_WATCH_H

#include "core/lib/types.h"

struct watch_client;

/* What watch_take says when it cannot tell: any watched page may have been written. */
#define WATCH_UNKNOWN (~0u)

/*
 * From now on writes to this 4-KiB page are reported to the client. A write that is visible to a read made after this
 * call, but not to one made before it, is reported or may be left out; every later write is reported. False: the page
 * cannot be watched (no dirty flags, no memory, not RAM of the guest), and the client must assume the worst.
 * Adding a page twice is the same as adding it once.
 */
bool watch_add(struct watch_client *client, gpa1_t page);

/* Ends it. A report that was not taken yet may still come. */
void watch_remove(struct watch_client *client, gpa1_t page);

/*
 * Takes the 4-KiB pages that may have been written since they were added or last taken, at most max (not 0) of them, in
 * any order, with duplicates allowed. Fewer than max: there were no more. WATCH_UNKNOWN: all of them, and nothing is
 * pending any more. A page taken stays watched. Writes that happen before this call are in its answer or in that of an
 * earlier one; the client reads the page's contents afterwards, so that a write during the call is either read or
 * reported next time. Must cost next to nothing when nothing was written: it is on the path of every INVEPT.
 */
unsigned watch_take(struct watch_client *client, gpa1_t *pages, unsigned max);

#endif
