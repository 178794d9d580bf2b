/* The parts of suite ept: a nested guest that touches memory as told. */
#ifndef GUESTS_EPT_SUITE_H
#define GUESTS_EPT_SUITE_H
#include "suites.h"

extern const struct test ept_order_tests[], ept_smp_tests[], ept_violation_tests[], ept_mode_tests[];

enum touch_op { READ, WRITE, EXECUTE };
/* A guest-physical (and, the guest's paging being 1:1, linear) address that is no RAM; EPT puts what it likes there. */
#define SPOT 0xa0000000ull
enum { CAP_EXECUTE_ONLY = 0, CAP_2M = 16, CAP_1G = 17, CAP_AD = 21 };

struct nest *ept_guest(u64 leaf_size); /* NULL after test_skip */
/* One access by the nested guest; true: it went through. The value read is in touched. */
bool touch(struct nest *n, enum touch_op op, u64 at);
/* One access that must exit as EPT violation, with these access and permission bits (5:0) in the qualification. */
bool touch_violates(struct nest *n, enum touch_op op, u64 at, u32 permissions);
bool touch_reads(struct nest *n, u64 at, u64 want); /* a read that goes through and gives `want` */
void touch_map(struct nest *n, u64 at, const void *page, u64 permissions); /* 4 KiB at `at`, write-back */
void touch_guest(void);                                                    /* the nested guest's code */
bool touch_exits(struct nest *n, enum touch_op op, u64 at, u32 reason);
void touch_crosses(struct nest *n, u64 at);                /* a write whose second half's page is missing */
void touch_walk(struct nest *n, u64 linear, u64 physical); /* a read whose page-table entry's page is missing */
void touch_misconfigured(struct nest *n, u64 at, const char *name);
extern volatile u64 touched;
u64 *page_marked(u64 mark); /* a page that begins with mark and holds a RET at its byte 8 */

#endif
