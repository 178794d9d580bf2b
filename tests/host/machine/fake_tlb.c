/*
 * The caches of fake_tlb.h: one list of all that is cached. Linear and combined mappings carry VPID and PCID, combined and
 * guest-physical ones the EPT root.
 */
#include "tests/host/machine/fake_tlb.h"

#include <stdlib.h>

#include "core/memory/mem.h"

#define CACHED_MAX 8192

enum kind { LINEAR, COMBINED, GUEST_PHYSICAL, GUEST_PHYSICAL_TABLE };

struct cached {
    enum kind kind;
    int cpu, level; /* level: of the entry that led here, GUEST_PHYSICAL_TABLE */
    uint16_t vpid, pcid;
    bool global;
    uint64_t root, from, to, access;
};

static struct cached cached[CACHED_MAX];
static unsigned count;
static uint64_t (*choose)(uint64_t limit);

void fake_tlb_reset(uint64_t (*chooser)(uint64_t limit))
{
    count = 0;
    choose = chooser;
}

unsigned fake_tlb_count(int cpu)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        n += cached[i].cpu == cpu;
    return n;
}

/* When there is no room something else is forgotten, as it may be at any time. */
static void keep(struct cached c) { cached[count < CACHED_MAX ? count++ : choose(CACHED_MAX)] = c; }

static uint64_t root_of(uint64_t eptp) { return eptp & EPT_ADDR_MASK; }

static bool of_guest(const struct cached *c, const struct fake_context *context)
{
    return c->vpid == context->vpid && (c->global || c->pcid == context->pcid);
}

/* One of those that fit, by choice; NULL: none. */
static const struct cached *find(const struct fake_context *context, enum kind kind, uint64_t from)
{
    const struct cached *found = NULL;
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct cached *c = &cached[i];
        bool fits = c->cpu == context->cpu && c->kind == kind && c->from == from;
        fits &= kind == LINEAR || c->root == root_of(context->eptp);
        fits &= kind == GUEST_PHYSICAL || of_guest(c, context);
        if (fits && choose(++n) == 0)
            found = c;
    }
    return found;
}

/* A walk of EPT from the root, or from a table that is cached for the address. .to == 0: not present; .access is what it gives. */
static struct cached ept_walk(const struct fake_context *context, uint64_t page)
{
    uint64_t table = root_of(context->eptp), access = EPT_RWX;
    int level = EPT_LEVELS;
    for (unsigned i = 0; i < count; i++) {
        const struct cached *c = &cached[i];
        if (c->kind == GUEST_PHYSICAL_TABLE && c->cpu == context->cpu && c->root == root_of(context->eptp) &&
            c->from == align_down(page, ept_span(c->level)) && choose(3) == 0) {
            table = c->to;
            access = c->access;
            level = c->level - 1;
        }
    }
    for (;; level--) {
        uint64_t entry = ((const volatile uint64_t *)hpa_ptr(hpa(table)))[ept_index(page, level)];
        access &= entry;
        table = entry & EPT_ADDR_MASK;
        struct cached c = { GUEST_PHYSICAL, context->cpu, level, 0, 0, false, root_of(context->eptp), page, 0, access };
        if (!ept_present(entry))
            return c;
        if (ept_is_leaf(entry, level)) {
            c.to = align_down(table, ept_span(level)) + (page & (ept_span(level) - 1));
            return c;
        }
        c.kind = GUEST_PHYSICAL_TABLE;
        c.from = align_down(page, ept_span(level));
        c.to = table;
        if (choose(4) == 0)
            keep(c);
    }
}

static struct cached physical_translate(const struct fake_context *context, uint64_t page)
{
    const struct cached *known = find(context, GUEST_PHYSICAL, page);
    if (context->eptp == 0)
        return (struct cached){ .to = page, .access = EPT_RWX };
    if (known && choose(4))
        return *known;
    struct cached c = ept_walk(context, page);
    if (c.to && choose(2))
        keep(c);
    return c;
}

void fake_tlb_speculate_physical(const struct fake_context *context, uint64_t guest_physical)
{
    if (context->eptp)
        physical_translate(context, guest_physical & PAGE_MASK);
}

/* Walks, and caches the result. .to == 0: nothing, at guest-physical address .from (0: the guest's own paging has nothing). */
static struct cached linear_translate(const struct fake_context *context, uint64_t page)
{
    uint64_t entry = context->paging(page);
    if (!(entry & EPT_RWX))
        return (struct cached){ .from = 0 };
    struct cached c = physical_translate(context, entry & EPT_ADDR_MASK);
    if (c.to == 0)
        return (struct cached){ .from = entry & EPT_ADDR_MASK, .access = c.access };
    c = (struct cached){ context->eptp ? COMBINED : LINEAR,
                         context->cpu,
                         0,
                         context->vpid,
                         context->pcid,
                         entry & FAKE_GLOBAL,
                         root_of(context->eptp),
                         page,
                         c.to,
                         c.access & entry & EPT_RWX };
    if (choose(2))
        keep(c);
    return c;
}

void fake_tlb_speculate(const struct fake_context *context, uint64_t linear)
{
    linear_translate(context, linear & PAGE_MASK);
}

/* Everything that matches goes. */
static void drop(bool (*matches)(const struct cached *c, const void *what), const void *what)
{
    for (unsigned i = count; i-- > 0;)
        if (matches(&cached[i], what))
            cached[i] = cached[--count];
}

struct violated {
    const struct fake_context *context;
    uint64_t linear, guest_physical;
};

/* SDM 3, "Operations that Invalidate Cached Mappings": an EPT violation. */
static bool used_by_violation(const struct cached *c, const void *what)
{
    const struct violated *v = what;
    if (c->cpu != v->context->cpu || c->root != root_of(v->context->eptp))
        return false;
    if (c->kind == COMBINED)
        return c->from == v->linear && of_guest(c, v->context);
    return (c->kind == GUEST_PHYSICAL && c->from == v->guest_physical) ||
           (c->kind == GUEST_PHYSICAL_TABLE && c->from == align_down(v->guest_physical, ept_span(c->level)));
}

struct fake_met fake_tlb_access(const struct fake_context *context, uint64_t linear, uint64_t access)
{
    uint64_t page = linear & PAGE_MASK;
    const struct cached *known = find(context, context->eptp ? COMBINED : LINEAR, page);
    if (known && !(access & ~known->access) && choose(8))
        return (struct fake_met){ .target = known->to };
    uint64_t guest_physical = context->paging(page) & EPT_ADDR_MASK;
    struct cached c = linear_translate(context, page);
    if (c.to && !(access & ~c.access))
        return (struct fake_met){ .target = c.to };
    if (!guest_physical || (access & ~context->paging(page)) || context->eptp == 0)
        return (struct fake_met){ .target = 0 };
    struct violated violated = { context, page, guest_physical };
    drop(used_by_violation, &violated);
    /* What was cached of EPT may have decided that, not what it says now. */
    return (struct fake_met){ .violation = true, .guest_physical = guest_physical, .allowed = c.to ? c.access : 0 };
}

/* SDM 3, "INVEPT - Invalidate Translations Derived from EPT": linear mappings stay. */
struct invept {
    int cpu;
    enum invept_type type;
    uint64_t root;
};
static bool named_by_invept(const struct cached *c, const void *what)
{
    const struct invept *i = what;
    return c->cpu == i->cpu && c->kind != LINEAR && (i->type == INVEPT_GLOBAL || c->root == i->root);
}
void fake_tlb_invept(int cpu, enum invept_type type, uint64_t eptp)
{
    struct invept i = { cpu, type, root_of(eptp) };
    drop(named_by_invept, &i);
}

/* SDM 3, "INVVPID - Invalidate Translations Based on VPID": guest-physical mappings stay. */
struct invvpid {
    int cpu;
    enum invvpid_type type;
    uint16_t vpid;
    uint64_t page;
};
static bool named_by_invvpid(const struct cached *c, const void *what)
{
    const struct invvpid *i = what;
    if (c->cpu != i->cpu || (c->kind != LINEAR && c->kind != COMBINED))
        return false;
    if (i->type == INVVPID_ALL)
        return c->vpid != 0;
    return c->vpid == i->vpid && !(i->type == INVVPID_ADDRESS && c->from != i->page) &&
           !(i->type == INVVPID_SINGLE_NOGLOBAL && c->global);
}
void fake_tlb_invvpid(int cpu, enum invvpid_type type, uint16_t vpid, uint64_t linear)
{
    struct invvpid i = { cpu, type, vpid, linear & PAGE_MASK };
    drop(named_by_invvpid, &i);
}

/* Those of the current VPID; combined ones of every EPT root. */
static bool named_by_invlpg(const struct cached *c, const void *what)
{
    const struct violated *v = what;
    return c->cpu == v->context->cpu && (c->kind == LINEAR || c->kind == COMBINED) && of_guest(c, v->context) &&
           c->from == v->linear;
}
void fake_tlb_invlpg(const struct fake_context *context, uint64_t linear)
{
    struct violated v = { context, linear & PAGE_MASK, 0 };
    drop(named_by_invlpg, &v);
}

static bool named_by_mov_cr3(const struct cached *c, const void *what)
{
    const struct fake_context *context = what;
    return c->cpu == context->cpu && (c->kind == LINEAR || c->kind == COMBINED) && c->vpid == context->vpid &&
           c->pcid == context->pcid && !c->global;
}
void fake_tlb_mov_cr3(const struct fake_context *context) { drop(named_by_mov_cr3, context); }

void fake_tlb_transition(int cpu)
{
    struct invvpid i = { cpu, INVVPID_SINGLE, 0, 0 };
    drop(named_by_invvpid, &i);
}
