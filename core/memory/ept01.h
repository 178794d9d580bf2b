/*
 * ept01: the EPT tables under which the guest hypervisor runs, one set for the whole machine. An identity map with
 * the memory types of the MTRRs; Strata's own memory is replaced by one junk page. SDM 3, "The Extended Page Table
 * Mechanism (EPT)".
 *
 * One writer at a time (the caller's lock); processors and lock-free readers walk meanwhile: an entry changes by one
 * 64-bit store, a table is complete before it is linked. Whoever shrinks a right or changes a type invalidates afterwards.
 */
#ifndef STRATA_EPT01_H
#define STRATA_EPT01_H

#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "core/memory/memmap.h"
#include "core/memory/mtrr.h"
#include "core/lib/types.h"

#define EPT01_HIDDEN_MAX 4 /* ranges of Strata's own memory */
/*
 * Tables for addresses above the eager part, which are made when somebody touches them and stay: taking one back would mean to wait until
 * every processor has forgotten it, and one that takes no exits never would. Enough for every address that a processor with 1-GiB pages can
 * have, and for 512 GiB without: such processors have 39 bits at most.
 */
#define EPT01_LAZY_MAX 512
#define EPT01_LAZY_SPARE 64 /* pages of the pool that they leave to others */

struct ept01_config {
    uint8_t maxphyaddr;  /* physical-address width in bits */
    bool pages_1g;       /* the processor has 1-GiB EPT pages */
    bool small;          /* only 4-KiB pages below top */
    bool accessed_dirty; /* use accessed and dirty flags: the processor has them */
    uint64_t top;        /* bytes from 0 to map at once: all RAM. Rounded up to GiB, at least 4 GiB. */
    struct memmap_range hidden[EPT01_HIDDEN_MAX]; /* multiples of 4 KiB, apart; unused ones are 0 */
    hpa_t junk;              /* the page that the guest sees in every hidden page: readable, writable, not executable */
    const struct mtrr *mtrr; /* committed; stays valid as long as ept01 */
    struct page_pool *pool;  /* for tables; used under the caller's lock */
};

struct ept01 {
    struct ept01_config config;
    hpa_t root;             /* the PML4 */
    hpa_t junk_table;       /* page table of 512 junk pages, shared by all hidden 2-MiB regions: never edited */
    uint64_t eager_end;     /* what lies below is mapped for good */
    uint64_t limit;         /* first address that cannot be mapped */
    unsigned retype_splits; /* tables made because memory types differ inside a page */
    unsigned lazy_count;    /* tables made for the lazy part */
};

/* Builds the tables. False when the pool is empty. */
bool ept01_init(struct ept01 *ept01, const struct ept01_config *config);
/* EPTP of the tables. */
uint64_t ept01_eptp(const struct ept01 *ept01);
/* What the tables under root map addr to, read without a lock; .size == 0: nothing. */
struct ept_leaf ept01_lookup(hpa_t root, gpa1_t addr);

/*
 * Whether addr lies in a page table, under root, all of whose pages are neighbours with the same rights and type, as one 2-MiB page would
 * have it. Read without a lock.
 */
bool ept01_table_uniform(hpa_t root, gpa1_t addr);

enum ept01_fill {
    EPT01_FILLED,    /* mapped now (or already): run the guest again */
    EPT01_REFUSED,   /* mapped for good, with fewer rights than the access needs: a protected or hidden page */
    EPT01_OUTSIDE,   /* beyond the physical-address width */
    EPT01_NO_MEMORY, /* no more tables */
};
/*
 * An EPT violation at addr: maps the largest possible page around it if it lies above the eager part; a larger one as UC where a table is
 * missing.
 */
enum ept01_fill ept01_fill(struct ept01 *ept01, gpa1_t addr);

/*
 * Gives one 4-KiB page the rights perm (0 or EPT_R with any of EPT_W, EPT_X). False when the page is hidden or above
 * the eager part, or the pool is empty; nothing has changed then. The caller invalidates if a right was taken away.
 */
bool ept01_protect(struct ept01 *ept01, gpa1_t page, uint32_t perm);
/*
 * The leaf entry that maps addr, after splitting until it maps no more than page_size bytes (PAGE_SIZE, PAGE_2M or
 * PAGE_1G). NULL: hidden, above the eager part, or pool empty. The entry of a 4-KiB page stays where it is for good;
 * that of a larger one may be replaced by a table when somebody asks for smaller pages or by ept01_retype. The caller
 * may change accessed and dirty flags, atomically.
 */
uint64_t *ept01_leaf(struct ept01 *ept01, gpa1_t addr, uint64_t page_size);
/*
 * After mtrr_commit: corrects the memory types, in place and only where they differ. A page that cannot be split for
 * lack of tables becomes UC as a whole. True when an entry changed: the caller invalidates on all processors.
 */
bool ept01_retype(struct ept01 *ept01);

#endif
