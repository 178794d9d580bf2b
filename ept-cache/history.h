/*
 * Which 2-MiB regions of its memory a nested guest touched under an EPTP of the guest hypervisor: one memory for all
 * CPUs, without locks. It says where the nested guest was, never what was mapped there: whoever rebuilds from it walks
 * ept12 and ept01 again, so wrong or outdated history can waste time and can never grant access. Pure.
 */
#ifndef STRATA_EPT_HISTORY_H
#define STRATA_EPT_HISTORY_H

#include "core/lib/types.h"

#define HISTORY_SETS 128
#define HISTORY_WAYS 4
#define HISTORY_REGION PAGE_2M /* what one bit stands for */
#define HISTORY_BLOCK PAGE_1G  /* what one block stands for */
#define HISTORY_WORDS (HISTORY_BLOCK / HISTORY_REGION / 64)

struct history_block {
    uint64_t key; /* EPTP and number of the GiB, 0 = free; see history_key */
    uint64_t touched[HISTORY_WORDS];
};

/* All-zero is empty, any other contents are safe. */
struct ept_history {
    struct history_block sets[HISTORY_SETS][HISTORY_WAYS];
    uint32_t victim; /* the way to give up next */
};

/* Notes that addr was touched under eptp12. True when that is news. */
bool history_touch(struct ept_history *history, uint64_t eptp12, gpa2_t addr);
/* Forgets the region of addr: it is not mapped any more. */
void history_forget(struct ept_history *history, uint64_t eptp12, gpa2_t addr);
/* Whether the region of addr was touched. */
bool history_touched(const struct ept_history *history, uint64_t eptp12, gpa2_t addr);
/* Copies the bits of the GiB that contains addr: bit n = the n-th 2-MiB region was touched. False: nothing is known. */
bool history_block(const struct ept_history *history, uint64_t eptp12, gpa2_t addr, uint64_t touched[HISTORY_WORDS]);

#endif
