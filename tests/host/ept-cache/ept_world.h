/*
 * A small machine for tests of ept-cache: ept01 built from a description by region, ept12 tables that anybody may
 * scribble on, two CPUs with an ept02 each, a processor that walks and caches translations (and forgets them only when
 * told), a watch that hears of writes, and an oracle that answers for one 4-KiB page at a time and knows nothing of
 * large pages. After every step the world compares what the processors would do with what the oracle allows.
 */
#ifndef STRATA_EPT_WORLD_H
#define STRATA_EPT_WORLD_H

#include "core/memory/ept.h"
#include "core/lib/types.h"
#include "ept-cache/ept02.h"

#define WORLD_CPUS 2
#define WORLD_TABLES 48 /* pages for tables of ept12 */
#define WORLD_PAGES 192 /* addresses of the nested guest that are looked at, at most */
#define WORLD_EPTPS 3   /* EPTPs that are looked at */

struct world_config {
    uint64_t seed;
    bool large, coalesce, history, prefill;
    bool no_coalesce_code; /* executable pages stay small */
    bool watch;            /* the processor has dirty flags */
    bool watch_moody;      /* the watch now and then refuses a page or does not know */
    bool hw_single;        /* INVEPT of one EPTP */
    bool exec_only;        /* execute-only translations, offered */
    bool pages_1g;         /* offered and in hardware */
    unsigned pool_pages;
    bool out_of_reach;    /* the steps never give nested guests a table of ept12 to write */
    bool one_root;        /* only the first EPTP is used */
    unsigned pages;       /* addresses that are looked at; 0 = WORLD_PAGES */
    unsigned check_every; /* so many steps; 0 = each */
};

/* Everything anew. Ends the test when a later call finds something wrong (world_fail). */
void world_reset(const struct world_config *config);
/* Every switch on, and everything that a processor can have. */
struct world_config world_all_on(unsigned pool_pages);
void world_reset_all_on(unsigned pool_pages);
/* What was found wrong: called with a text. The test or the fuzzer brings it. */
_Noreturn void world_fail(const char *text);

/* The processor's INVEPT: the test or the fuzzer brings hw_invept(), which calls this. */
void world_hw_invept(enum invept_type type, uint64_t eptp);

/* Where decisions come from: numbers below limit (not 0). The default is a generator seeded by the configuration. */
void world_choices(uint64_t (*choose)(uint64_t limit));
uint64_t world_choose(uint64_t limit);

/* ept12 */
uint64_t world_table(unsigned index); /* address of a table page, index < WORLD_TABLES */
uint64_t world_eptp(unsigned eptp);   /* eptp < WORLD_EPTPS: its PML4 is world_table(eptp) */
uint64_t world_read(uint64_t table, unsigned index);
/* The guest hypervisor writes an entry (on any CPU). */
void world_write(uint64_t table, unsigned index, uint64_t entry);
/* The same, without the oracle taking notice yet: world_notice() must follow before anything else. */
void world_write_quiet(uint64_t table, unsigned index, uint64_t entry);
void world_notice(void);
/* Tables 3 levels deep down to a page table for addr under eptp, from the free ones; its address. */
uint64_t world_page_table(unsigned eptp, uint64_t addr);
/* A page table for the 2 MiB of addr: entry i is first + i * step. Returns it. */
uint64_t world_fill(unsigned eptp, uint64_t addr, uint64_t first, uint64_t step);
/* The same with 512 neighbouring pages from target on. */
uint64_t world_run(unsigned eptp, uint64_t addr, uint64_t target, uint64_t access);
/* Links table at addr under eptp in a table of this level. The upper tables exist. */
void world_set(unsigned eptp, uint64_t addr, int level, uint64_t entry);

bool world_one_root(void);
bool world_tables_reachable(void);

/* Addresses looked at. */
unsigned world_page_count(void);
uint64_t world_page(unsigned index);
void world_pages_grid(unsigned rows, uint64_t step); /* replaces all: so many rows, step apart, of neighbouring pages */
void world_pages_in(
    uint64_t base); /* replaces all by addresses in the 2 MiB at base, the next 2 MiB, and the GiB around */

/* Actions */
/* The nested guest on a CPU accesses a page; violations are handled as far as Strata goes. The last outcome. */
enum ept02_outcome world_access(unsigned cpu, unsigned eptp, uint64_t addr, uint64_t access);
/* The nested guest writes an entry of a table of ept12, if it is allowed to write that page through addr. */
void world_nested_write(unsigned cpu, unsigned eptp, uint64_t addr, unsigned index, uint64_t entry);
void world_prefill(unsigned cpu, unsigned eptp, uint64_t addr);
/* INVEPT on a CPU, nothing else: what it promises holds from the next entry on. */
void world_invept(unsigned cpu, enum invept_type type, unsigned eptp);
/* The nested guest is entered under this EPTP; so does each access by itself. */
struct ept02_root *world_enter(unsigned cpu, unsigned eptp);
/* The same with addr prefilled, but the entry fails. */
void world_entry_fails(unsigned cpu, unsigned eptp, uint64_t addr);
/* INVEPT, then an entry with each EPTP that it names and this CPU knows. */
void world_flush(unsigned cpu, enum invept_type type, unsigned eptp);
/* Another EPTP than those looked at is used: its PML4 is a page without entries. */
void world_other_root(unsigned cpu, unsigned number);
/* ept01 changes for a 2-MiB region; everybody is told. */
enum world_kind {
    KIND_IDENTITY,
    KIND_UC,
    KIND_WT,
    KIND_READ_ONLY,
    KIND_HOLE,
    KIND_MIXED,
    KIND_PAGES,
    KIND_SHIFTED,
    KIND_COUNT
};
void world_ept01(unsigned region, enum world_kind kind);
#define WORLD_REGIONS 512  /* 2-MiB regions of the second GiB: may be changed */
#define WORLD_DATA PAGE_1G /* where they begin */

/* Looks at everything now. */
void world_check(void);
/* NULL or what is wrong with ept02 as it is now (reads only). */
const char *world_wrong(void);
/* All tables given back: nothing may be missing from the pools. */
void world_end(void);

struct ept02 *world_ept02(unsigned cpu);
struct ept02_root *world_root(unsigned cpu, unsigned eptp);
/* What ept02 of that CPU maps addr to now, in the form of a 4-KiB leaf; 0 = nothing. Sets *size if not NULL. */
uint64_t world_mapped(unsigned cpu, unsigned eptp, uint64_t addr, uint64_t *size);
/* What the oracle says that it should be. */
uint64_t world_expected(unsigned eptp, uint64_t addr);
/* INVEPTs that Strata executed on the machine so far. */
unsigned world_invepts(void);

/* A leaf entry of ept12. */
static inline uint64_t world_leaf(uint64_t target, uint64_t access, enum memtype type)
{
    return target | access | (uint64_t)type << EPT_MEMTYPE_SHIFT;
}

#endif
