/*
 * What ept02 should be, one 4-KiB page at a time, and what a processor makes of the tables that are there. ept01 is given
 * as one kind for each 2-MiB region of the second GiB; the rest is the identity, UC from 3 GiB on, nothing from 4 GiB on.
 */
#ifndef STRATA_EPT_ORACLE_H
#define STRATA_EPT_ORACLE_H

#include "tests/host/ept-cache/ept_world.h"

struct ept_oracle {
    bool exec_only, pages_1g;     /* of the processor, offered */
    uint64_t memory;              /* bytes of machine memory */
    uint64_t pools;               /* tables of ept02 are from here on */
    uint8_t kinds[WORLD_REGIONS]; /* enum world_kind */
};
extern struct ept_oracle ept_oracle;

/* A table in machine memory. */
uint64_t *oracle_table(uint64_t table);
/* Builds ept01 anew; its root. At most so many regions may be oracle_kind_small(). */
#define ORACLE_SMALL_MAX 100
uint64_t oracle_ept01(void);
/* The region takes a table of 4-KiB pages. */
bool oracle_kind_small(enum world_kind kind);

/* The outcome of a violation by this access; *permissions: bits 5:3 of the qualification. */
enum ept02_outcome oracle_outcome(unsigned eptp, uint64_t addr, uint64_t access, uint64_t *permissions);

/* Where a walk ended: the size of its pages, its table, what the entries above allow. */
struct walk_end {
    uint64_t size, table, access;
};

/*
 * Where addr leads through a table of this level, below entries that allow access, as a 4-KiB leaf; 0: nowhere. An entry
 * that no processor accepts ends the test.
 */
uint64_t hardware_walk(uint64_t table, int level, uint64_t access, uint64_t addr, struct walk_end *end);

#endif
