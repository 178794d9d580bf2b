/*
 * The two walks behind composition: ept12, which lies in the guest hypervisor's memory and may change or be nonsense at
 * any time (each entry is read once and judged), and ept01, remembered in windows: pages found lately and what they do
 * to every combination of access and memory type. Pure.
 */
#ifndef STRATA_EPT_WALK_H
#define STRATA_EPT_WALK_H

#include "core/memory/ept.h"
#include "core/lib/types.h"
#include "ept-cache/compose.h"

/* What a 4-level walk of ept12 found. */
struct ept12_walk {
    enum ept12_kind result;         /* EPT12_LEAF, EPT12_ABSENT or EPT12_MISCONFIG */
    int level;                      /* where it ended: 4 = PML4 entry .. 1 = page-table entry */
    uint32_t perm;                  /* logical AND of the access bits of all entries read */
    gpa1_t target;                  /* EPT12_LEAF: what the address leads to */
    uint64_t entry[EPT_LEVELS + 1]; /* as read, from [4] to [level] */
};

/* Walks the tables whose PML4 is at root (4-KiB aligned) for addr. Any contents are answered with one of the results. */
void ept12_walk(const struct ept_rules *rules, gpa1_t root, gpa2_t addr, struct ept12_walk *walk);

/* A table of ept12, 512 entries: they may change with every read. */
static inline const volatile uint64_t *ept12_entries(const volatile void *page) { return page; }

#define EPT01_TYPES 4
#define EPT01_WINDOWS 8
#define EPT01_REGIONS 256           /* remembered; a power of 2 */
#define EPT01_WINDOW_STEP (2 * MIB) /* addresses so far apart use windows of their own */

/* A page of ept01, and what to do to an ept12 leaf that leads into it. */
struct ept01_window {
    uint64_t base,
        size;       /* of the guest hypervisor's guest-physical memory; size is a power of 2, or 0 = nothing known */
    uint64_t delta; /* machine address minus guest-physical address (modulo 2^64) */
    const uint8_t *low; /* [low bits of an ept12 leaf] = low bits of the ept02 leaf; 0 = no access */
};

/* ept01 as composition sees it. */
struct ept01_view {
    hpa_t root;
    bool hw_exec_only;
    struct ept_rules rules;
    struct ept01_window windows[EPT01_WINDOWS]; /* found lately */
    uint64_t pieces;                            /* pages of ept01 that ept01_uniform has looked at, ever */
    uint64_t mixed; /* start of a large range that was found not to be uniform, plus 1; 0: none */
    unsigned next_type;
    struct {
        uint32_t number; /* of the 2-MiB region, plus 1; 0: nothing is known */
        bool uniform;    /* its pages of 4 KiB could be one of 2 MiB */
    } regions[EPT01_REGIONS];
    struct {
        struct ept_leaf leaf;
        uint8_t low[EPT_LOW_VALUES];
    } types[EPT01_TYPES];
};

/* Forgets what was remembered: ept01 has changed. */
void ept01_view_reset(struct ept01_view *view);

/* The window that contains addr; NULL when ept01 maps nothing there. Valid until the next call. */
const struct ept01_window *ept01_window_miss(struct ept01_view *view, uint64_t addr);
static inline const struct ept01_window *ept01_window(struct ept01_view *view, uint64_t addr)
{
    const struct ept01_window *window = &view->windows[addr / EPT01_WINDOW_STEP % EPT01_WINDOWS];
    return addr - window->base < window->size ? window : ept01_window_miss(view, addr);
}

/*
 * Whether ept01 treats [base, base+size) as one piece: contiguous, the same access and memory type. size is a power of 2
 * and base a multiple of it. A range in too many pieces to look at is said not to be uniform.
 */
bool ept01_uniform(struct ept01_view *view, uint64_t base, uint64_t size);

#endif
