/*
 * A test double of core/cpu/watch.h: a list of watched pages a client and what was written since. It can be made moody: then
 * it refuses a page or answers WATCH_UNKNOWN now and then.
 */
#ifndef STRATA_FAKE_WATCH_H
#define STRATA_FAKE_WATCH_H

#include "core/cpu/watch.h"

#define FAKE_WATCH_CLIENTS 4

/* Forgets everything. moody: where decisions come from (numbers below limit), or NULL. */
void fake_watch_reset(uint64_t (*moody)(uint64_t limit));
struct watch_client *fake_watch_client(unsigned index);
/* Called before a page is added, as if another CPU ran at that moment. NULL: nothing. */
void fake_watch_on_add(void (*hook)(gpa1_t page));
/* Somebody writes to the page, through ept01. */
void fake_watch_written(gpa1_t page);
/* What was written so far is forgotten: the client is told WATCH_UNKNOWN instead. */
void fake_watch_lose(unsigned index);
/* Pages that a client watches. */
unsigned fake_watch_count(unsigned index);

#endif
