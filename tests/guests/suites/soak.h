/*
 * The parts of suite soak: a logged memory that serves as EPT tables and as data, an oracle of what a nested access
 * may meet there, random edits, and a second processor that reads while tables change.
 */
#ifndef GUESTS_SOAK_H
#define GUESTS_SOAK_H
#include "suites.h"

/* Data pages and EPT tables, 2-MiB aligned and inside large pages. The first pages may be either, and change. */
#define SOAK_AREA (96 * (u64)MIB)
enum { SOAK_REGIONS = 3, SOAK_PAGES = 512 * SOAK_REGIONS, SOAK_ROOTS = 3, SOAK_CPUS = 2, SOAK_TABLES = 40 };
/* The windows that the edits change: 1 GiB each at these entries of the page-directory-pointer tables. */
enum { WINDOW_FIRST = 1, WINDOW_LAST = 2 };

/* ---- random numbers (soak_memory.c) ---- */
void random_seed(u32 seed);
u32 random_below(u32 n);

/* ---- memory and its past ---- */
extern struct ept *soak_root[SOAK_ROOTS];
void memory_init(void);                           /* the area becomes data */
void memory_write(u64 *at, u64 value);            /* by this CPU */
void memory_wrote(const u64 *at, u64 past);       /* somebody else has just written: what was there before */
extern void (*memory_writer)(u64 *at, u64 value); /* who stores for memory_write; NULL: this CPU */
void memory_data(u32 page);                       /* makes it a data page: a mark, a function that returns it, a slot */
u32 memory_time(void);                            /* counts writes */
u32 memory_room(void);                            /* writes that can still be remembered */
void memory_forget(void);                         /* the past: after all CPUs invalidated everything */
bool memory_is_data(u64 pa);
u64 *memory_page(u32 page);
int memory_index(u64 pa); /* of the page in the memory that is remembered; -1: not there */
/* The values that an entry has had since a time, newest first: past_first, then past_next before each; false: no more. */
struct past {
    u64 value;
    u32 from, until; /* it was there in [from, until) */
    u16 record;
    bool given, last;
};
void past_first(const u64 *at, struct past *p);
bool past_next(const u64 *at, u32 since, struct past *p);

/* ---- oracle (soak_oracle.c) ---- */
enum meets { MEETS_PAGE, MEETS_NOTHING, MEETS_MISCONFIG };
struct outcome {
    enum meets meets;
    u32 rights;
    u64 page;
};
enum { OUTCOMES_MAX = 48 };
struct outcomes {
    struct outcome row[OUTCOMES_MAX];
    u32 count;
    bool astray; /* could leave the memory that the test owns, or too many: not to be tried */
};
enum entry_kind { ENTRY_NONE, ENTRY_BAD, ENTRY_TABLE, ENTRY_LEAF };
void oracle_init(void);
enum entry_kind oracle_kind(u64 entry, u32 level);
/* INVEPT by the CPU; NULL: of all roots. Nothing can be cached before the next entry there with the root: oracle_enter. */
void oracle_invept(u32 cpu, const struct ept *root);
void oracle_enter(u32 cpu, u32 root);
/* The same as both, at a time that has passed. */
void oracle_flushed(u32 cpu, const struct ept *root, u32 when);
void oracle_violated(u32 cpu, const struct ept *root, u64 gpa); /* an EPT violation invalidates its address */
u32 oracle_since(u32 cpu, const struct ept *root, u64 gpa);     /* no entry older than this may be cached there */
/* What an access may meet that ran from `began` until now. */
void oracle_walk(const struct ept *root, u64 gpa, u32 since, u32 began, struct outcomes *out);

/* ---- edits (soak_edit.c) ---- */
struct spot {
    u32 root, window, directory, table; /* indices */
};
u64 spot_address(const struct spot *s);
void spot_random(struct spot *s);
u64 *spot_entry(const struct spot *s, u32 level); /* as the tables are now; NULL: there is no such table */
void edit_init(bool tables_writable);             /* whether anything may let nested guests write the tables */
void edit_random(const struct spot *s);
void edit_map(const struct spot *s, u64 pa); /* 4 KiB, with all rights */

/* ---- the nested guests (soak_guest.c) ---- */
enum soak_op { SOAK_READ, SOAK_WRITE, SOAK_EXECUTE, SOAK_STORE, SOAK_OPS };
enum { SLOT = 2 }; /* the word of a page that SOAK_WRITE writes */
struct access {
    u32 cpu, root;
    enum soak_op op;
    u64 at, value; /* value: written, or what was read or returned */
    u64 *store_at; /* SOAK_STORE */
    u32 reason;    /* of the exit; REASON_VMCALL: it went through */
    u32 rights;    /* qualification bits 5:3 */
    u64 physical;
};
bool guests_start(void); /* false: no EPT, or the test has failed */
void guests_stop(void);
bool guest_access(struct access *a);
void guest_invept(u32 cpu, const struct ept *root); /* NULL: all contexts */
void guest_vpid(u32 cpu, u32 vpid);                 /* 0: none */
/* CPU 1 reads `at` over and over; what it reads is in chase_seen, by stage. */
enum { CHASE_SEEN = 64 };
struct chase_value {
    ulong value;
    u32 stage;
};
bool chase_start(u32 root, u64 at);        /* stage 1; these three are false when the chase has ended by itself */
bool chase_invept(const struct ept *root); /* on CPU 1, interrupted for it; NULL: all contexts */
bool chase_stage(u32 stage);               /* what it reads from here on belongs to this stage */
/* How many it saw; why it ended, and the last stage in which it has read something. */
u32 chase_stop(struct access *end, u32 *reached);
extern volatile struct chase_value chase_seen[CHASE_SEEN];

#endif
