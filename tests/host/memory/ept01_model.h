/*
 * A machine with an ept01, and a model of what it must map: one 4-KiB page at a time, identity, MTRR type, hidden pages,
 * protected pages. The assertions are cmocka's.
 */
#ifndef STRATA_TEST_EPT01_MODEL_H
#define STRATA_TEST_EPT01_MODEL_H

#include "core/memory/ept01.h"

#include "tests/host/support/support.h"

#define MODEL_ARENA (8 * MIB)
#define MODEL_WIDTH 40 /* physical-address bits */
#define MODEL_PAIRS 8  /* variable-range MTRRs */
#define MODEL_PROTECTED_MAX 64

struct ept01_model {
    struct ept01 ept01;
    struct mtrr mtrr;
    struct page_pool pool;
    struct test_random seed;
    /* Pages that ept01_protect was told of. */
    unsigned protected_count;
    struct {
        uint64_t page;
        uint32_t perm;
    } protected[MODEL_PROTECTED_MAX];
};
extern struct ept01_model model;

/* Starts the machine with this many pages for tables; the caller has committed MTRRs. What ept01_init says. */
bool model_start(struct ept01_config config, uint64_t pool_pages);
/* Starts one with random MTRRs, RAM and hidden ranges. */
void model_start_random(void);
/* Writes random MTRRs, the first `pairs` of them valid, and commits. */
void model_mtrr_random(struct mtrr *mtrr, uint64_t def_type, unsigned pairs);
/* What a PC's firmware leaves: RAM WB, the hole below 4 GiB and video memory UC. */
void model_mtrr_firmware(struct mtrr *mtrr);

bool model_hidden(uint64_t addr);
/* What is wrong with the translation of addr, with its memory type; NULL when nothing is. Lazy pages may be missing. */
const char *model_page_wrong(uint64_t addr);
const char *model_type_wrong(uint64_t addr);
/* What is wrong with any reachable entry: misconfiguration, reserved bits, a way to hidden memory. */
const char *model_tables_wrong(void);
/* Whether the page at physical address addr was a reachable table when model_tables_wrong last looked. */
bool model_page_reachable(uint64_t addr);

void model_assert_page(uint64_t addr);
void model_assert_all(void);
/* Low memory, everything around the hidden ranges, and random pages. */
void model_assert_some(void);
/* Every page of the pool is free or reachable. */
void model_assert_no_leak(void);

#endif
