/*
 * ept02: the EPT tables under which nested guests run, composed from ept12 (the guest hypervisor's tables, in its memory)
 * and ept01. Each CPU has its own and nobody else touches them: INVEPT acts on one CPU, as on hardware. What is shared is
 * in struct ept_shared. Invariant: from the first entry after an INVEPT on, ept02 maps nothing that ept12 and ept01 have not
 * allowed since that entry.
 */
#ifndef STRATA_EPT02_H
#define STRATA_EPT02_H

#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "core/lib/types.h"
#include "core/lib/vmx.h"
#include "core/cpu/watch.h"
#include "ept-cache/history.h"
#include "ept-cache/walk.h"
#include "ept-cache/writable.h"

#define EPT02_ROOTS 64     /* EPTPs of the guest hypervisor that one CPU remembers; bit numbers in a uint64_t */
#define EPT02_PAGES_MIN 16 /* pages that the pool must have at least */
#define EPT02_SLABS 128    /* pages of table descriptions */
#define EPT02_HASH 4096

/* Shared by all CPUs; zeroed at boot. */
struct ept_shared {
    struct ept_history history;
    struct writable_shared writable;
};

struct ept02_config {
    hpa_t ept01_root;
    uint8_t maxphyaddr;        /* bits, as the guest hypervisor sees it */
    uint64_t hw_ept_caps;      /* IA32_VMX_EPT_VPID_CAP of the processor */
    uint64_t offered_ept_caps; /* ... and as the guest hypervisor sees it */
    bool large;                /* pages of more than 4 KiB */
    bool coalesce;             /* neighbouring entries of ept12 become one large page; tables are composed as a whole */
    bool coalesce_code;        /* ... executable ones, too: core/cpu/multihit.h */
    bool history;              /* what was touched is mapped again without waiting for a violation */
    bool prefill;              /* map what the guest hypervisor has just handled */
    struct watch_client *watch; /* for this CPU's ept02; NULL: every INVEPT compares every table */
};

enum ept02_outcome {
    EPT02_REPAIRED,    /* run the nested guest again */
    EPT02_FAULT01,     /* ept12 allows it, ept01 does not: ept01's business, at report.gpa1 */
    EPT02_VIOLATION12, /* an EPT violation for the guest hypervisor */
    EPT02_MISCONFIG12, /* an EPT misconfiguration for the guest hypervisor */
    EPT02_OUTCOMES
};

/* In the order of the rows EPT02_FILL.. of the counters table. */
struct ept02_counters {
    uint64_t fills;                      /* violations repaired by mapping something */
    uint64_t coalesced_2m, coalesced_1g; /* large pages made of small ones */
    uint64_t prefilled;                  /* addresses mapped right after the guest hypervisor handled them */
    uint64_t revalidated;                /* entries of ept12 compared after INVEPT */
    uint64_t rewritten;                  /* entries of ept02 changed after INVEPT */
    uint64_t evictions;                  /* tables given up for lack of memory */
    uint64_t outcome[EPT02_OUTCOMES];    /* by enum ept02_outcome */
    uint64_t history_hits;               /* regions mapped because history named them */
    uint64_t history_waste;              /* regions that history named and that were not mapped any more */
    uint64_t invepts;                    /* executed by the guest hypervisor */
    uint64_t hw_invepts;                 /* executed by Strata */
};

/* The tables for one EPTP of the guest hypervisor. */
struct ept02_root {
    uint64_t eptp02; /* EPTP for vmcs02 */
    uint32_t serial; /* of this use of the structure: another value means that it now serves another EPTP. Never 0 */
    uint16_t table;  /* the PML4 */
    uint16_t index;
    uint64_t eptp12;
    uint64_t looked; /* ept02.looks at the last look; another value: look at the next entry. See ept02_enter */
    uint64_t used;   /* time of the last ept02_root_get; 0 = free */
    uint16_t dirty[EPT_LEVELS + 1]; /* by level: tables whose original in ept12 may have changed since it was read */
    uint16_t always;                /* tables whose original in ept12 may change without notice */
    uint32_t dirty_levels;          /* bits: levels whose list of dirty tables may hold something */
};

/* A list of tables through their age links; oldest first. */
struct table_list {
    uint16_t first, last;
};
enum table_list_id { LIST_NONE, LIST_PAGE_TABLES, LIST_UPPER, LIST_SPARE, LIST_BARE, LIST_COUNT };

/* Tables from the PML4 down, by level. */
struct table_path {
    uint16_t id[EPT_LEVELS + 1];
};

struct ept_table; /* ept-cache/table.h */

struct ept02 {
    struct ept02_counters counters;
    struct ept02_config config;
    struct ept01_view view;
    struct page_pool *pool;
    struct ept_shared *shared;
    uint64_t clock;
    uint64_t flush_now;   /* roots to invalidate before nested guests run again: a table was taken out, say */
    uint64_t looks;       /* 1 more with each INVEPT of all contexts; never 0 */
    uint64_t dirty_roots; /* roots that may have something on their dirty or always lists */
    uint64_t written;     /* page-table entries written by table_sync */
    uint32_t work;        /* spent in this exit: see table.h, WORK_MAX */
    uint16_t tidy_next;   /* always_tidy has looked at the tables before this one; 0: it is not at work */
    uint32_t next_serial;
    uint32_t writable_seen; /* generation of the writable maps at the last look */
    uint32_t writable_index;
    uint32_t always_compared; /* tables compared only because nested guests may write them, since the last tidying */
    uint32_t always_limit;    /* so many, and it is time to tidy */
    uint16_t slab_count, free_table;
    bool opened;            /* a table of 2-MiB pages has been made since this was cleared */
    uint16_t recent_root;   /* found last */
    uint16_t busy_root;     /* being worked on: not to be evicted */
    struct table_path path; /* being worked on: not to be evicted */
    struct table_list lists[LIST_COUNT];
    struct ept02_root roots[EPT02_ROOTS];
    uint16_t hash[EPT02_HASH];
    struct ept_table *slabs[EPT02_SLABS];
    struct region_map *writable; /* the one of maps that is published; the other is always_tidy's */
    struct region_map maps[2];
    struct region_map small; /* where pages are that ept02_keep_small named */
};

struct ept02_report {
    uint64_t
        qualification; /* VIOLATION12: what the guest hypervisor must see; FAULT01: the same with ept01's permissions */
    gpa1_t gpa1;       /* FAULT01 */
};

/*
 * Prepares one CPU's ept02. pool is this CPU's own and must hold EPT02_PAGES_MIN pages; ept02 keeps what it takes until
 * it is dropped, and evicts when the pool is empty. ept and shared are zeroed memory that stays.
 */
void ept02_init(struct ept02 *ept, const struct ept02_config *config, struct page_pool *pool,
                struct ept_shared *shared);

/*
 * The tables for an EPTP of the guest hypervisor; made, empty, if there are none, for which those used least recently may
 * be evicted. eptp12 has passed the checks of VM entry. Whoever keeps the pointer compares serial before each use.
 */
struct ept02_root *ept02_root_get(struct ept02 *ept, uint64_t eptp12);

/* Whether a root that was got earlier, when it had this serial, still serves the same EPTP. */
static inline bool ept02_root_valid(const struct ept02_root *root, uint32_t serial) { return root->serial == serial; }

/* Whether the root used last is for exactly this EPTP. */
static inline bool ept02_is_recent(const struct ept02 *ept, uint64_t eptp12)
{
    const struct ept02_root *recent = &ept->roots[ept->recent_root];
    return recent->used && recent->eptp12 == eptp12;
}

/*
 * The nested guest took an EPT violation at addr; qualification is the processor's. The processor has invalidated what it
 * had cached for addr, and the guest hypervisor may rely on that as well: SDM 3, "Operations that Invalidate Cached Mappings".
 */
enum ept02_outcome ept02_violation(struct ept02 *ept, struct ept02_root *root, gpa2_t addr, uint64_t qualification,
                                   struct ept02_report *report);

/*
 * The nested guest took an EPT misconfiguration at addr. ept02 has none on purpose: EPT02_MISCONFIG12 if ept12 has one
 * there, else the entry is made again and the outcome is EPT02_REPAIRED.
 */
enum ept02_outcome ept02_misconfig(struct ept02 *ept, struct ept02_root *root, gpa2_t addr);

/* On the entry after a violation at addr was reflected: maps it if ept12 maps it now. Nothing with prefill off. */
void ept02_prefill(struct ept02 *ept, struct ept02_root *root, gpa2_t addr);

/*
 * The guest hypervisor executed INVEPT; its operand has been checked. Only notes it: ept02_enter does the work. eptp12
 * matters for INVEPT_SINGLE; one that is not known is right: nothing can be cached for it.
 */
void ept02_invept(struct ept02 *ept, enum invept_type type, uint64_t eptp12);

/* Slow part of ept02_enter. */
void ept02_look(struct ept02 *ept, struct ept02_root *root);

/*
 * A nested guest is about to be entered with this root, on this CPU, and reads of memory made from here on are the entry's. After
 * an INVEPT: ept02 agrees with ept12 again wherever it maps something, and the processor has nothing cached for the root,
 * combined mappings of all VPIDs and PCIDs included. Between INVEPT and here a processor can cache nothing for the EPTP, since
 * nothing uses it (SDM 3, "Caching Translation Information"): what ept12 says now counts, not what it said then. However many
 * INVEPTs came before, one look is enough.
 */
static inline void ept02_enter(struct ept02 *ept, struct ept02_root *root)
{
    if (root->looked != ept->looks)
        ept02_look(ept, root);
}

/* The entry failed, so the nested guest used no translation: what was looked at, or prefilled, for it counts for nothing. */
static inline void ept02_entry_failed(struct ept02_root *root) { root->looked = 0; }

/*
 * Where ept12 maps this page of the machine by 4-KiB entries, ept02 does so from now on: virtualization of an APIC-access page is promised for
 * no larger ones. SDM 3, "Virtualizing Memory-Mapped APIC Accesses".
 */
void ept02_keep_small(struct ept02 *ept, hpa_t page);

/* Pages of the pool that it holds. Another CPU may ask, and gets what was true a moment ago. */
uint32_t ept02_pages(const struct ept02 *ept);

/* ept01 gives more than before, to this CPU at least: what is remembered of it is looked up again. */
void ept02_ept01_grew(struct ept02 *ept);
/* ept01 lost rights, moved or changed a memory type: forgets all that was composed from it. Roots keep their EPTPs. */
void ept02_ept01_changed(struct ept02 *ept);

#endif
