/*
 * The walks of ept12 and ept01. Pure. Nothing that ept12 holds is trusted: every table is reached through gpa1_ptr, which
 * is safe for any address, and every entry is read once.
 */
#include "ept-cache/walk.h"

#include "core/memory/ept01.h"
#include "core/memory/mem.h"

#define ADDRESS_BITS 48 /* of a guest-physical address in a 4-level walk */
/* Pieces of ept01 that ept01_uniform looks at: a 1-GiB range in 2-MiB pages, of which one is in 4-KiB pages. */
#define UNIFORM_PIECES (2 * EPT_ENTRIES)

void ept12_walk(const struct ept_rules *rules, gpa1_t root, gpa2_t addr, struct ept12_walk *walk)
{
    gpa1_t table = root;
    walk->perm = EPT_RWX;
    walk->target = gpa1(0);
    for (int level = EPT_LEVELS;; level--) {
        uint64_t entry = addr.v >> ADDRESS_BITS ? 0 : ept12_entries(gpa1_ptr(table))[ept_index(addr.v, level)];
        walk->level = level;
        walk->entry[level] = entry;
        walk->perm &= (uint32_t)(entry & EPT_RWX);
        walk->result = ept12_classify(rules, entry, level);
        if (walk->result == EPT12_LEAF)
            walk->target = gpa1((entry & EPT_ADDR_MASK) + (addr.v & (ept_span(level) - 1)));
        if (walk->result != EPT12_TABLE)
            return;
        table = gpa1(entry & EPT_ADDR_MASK);
    }
}

void ept01_view_reset(struct ept01_view *view)
{
    for (unsigned i = 0; i < EPT01_WINDOWS; i++)
        view->windows[i].size = 0;
    view->next_type = 0;
    view->mixed = 0;
    memset(view->regions, 0, sizeof(view->regions));
    for (unsigned i = 0; i < EPT01_TYPES; i++)
        view->types[i].leaf.size = 0;
}

static bool leaf_alike(const struct ept_leaf *a, const struct ept_leaf *b)
{
    return a->perm == b->perm && a->memtype == b->memtype && a->ignore_pat == b->ignore_pat;
}

/* The table that composes with this kind of ept01 leaf. */
static const uint8_t *type_low(struct ept01_view *view, const struct ept_leaf *leaf)
{
    for (unsigned i = 0; i < EPT01_TYPES; i++)
        if (view->types[i].leaf.size && leaf_alike(&view->types[i].leaf, leaf))
            return view->types[i].low;
    unsigned i = view->next_type++ % EPT01_TYPES;
    for (unsigned k = 0; k < EPT01_WINDOWS; k++)
        if (view->windows[k].low == view->types[i].low)
            view->windows[k].size = 0;
    view->types[i].leaf = *leaf;
    for (unsigned low = 0; low < EPT_LOW_VALUES; low++)
        view->types[i].low[low] = (uint8_t)ept_compose_low(&view->rules, low, leaf, view->hw_exec_only);
    return view->types[i].low;
}

/* ept01 is in small pages around what is watched there, and they are as one large page nearly always. */
static bool region_uniform(struct ept01_view *view, uint64_t addr)
{
    uint32_t number = (uint32_t)(addr / PAGE_2M) + 1;
    unsigned i = number % EPT01_REGIONS;
    if (view->regions[i].number != number) {
        view->regions[i].uniform = ept01_table_uniform(view->root, gpa1(addr));
        view->regions[i].number = number;
        view->pieces += EPT_ENTRIES / 4;
    }
    return view->regions[i].uniform;
}

const struct ept01_window *ept01_window_miss(struct ept01_view *view, uint64_t addr)
{
    struct ept_leaf leaf = ept01_lookup(view->root, gpa1(addr));
    if (leaf.size == 0)
        return NULL;
    if (leaf.size == PAGE_SIZE && region_uniform(view, addr)) {
        leaf.base = align_down(leaf.base, PAGE_2M);
        leaf.size = PAGE_2M;
    }
    struct ept01_window *window = &view->windows[addr / EPT01_WINDOW_STEP % EPT01_WINDOWS];
    window->base = align_down(addr, leaf.size);
    window->size = leaf.size;
    window->delta = leaf.base - window->base;
    window->low = type_low(view, &leaf);
    return window;
}

/* Looks at every page of ept01 in the range. */
static bool pieces_uniform(struct ept01_view *view, uint64_t base, uint64_t size)
{
    struct ept_leaf whole = ept01_lookup(view->root, gpa1(base));
    uint64_t done = whole.size;
    for (unsigned piece = 1; done < size && piece < UNIFORM_PIECES; piece++) {
        view->pieces++;
        struct ept_leaf next = ept01_lookup(view->root, gpa1(base + done));
        if (next.size == 0 || next.base != whole.base + done || !leaf_alike(&next, &whole))
            return false;
        done += next.size;
    }
    return done >= size;
}

bool ept01_uniform(struct ept01_view *view, uint64_t base, uint64_t size)
{
    const struct ept01_window *first = ept01_window(view, base);
    if (!first)
        return false;
    if (base - first->base + size <= first->size)
        return true;
    if (size < PAGE_1G)
        return pieces_uniform(view, base, size);
    /* The same GiB is asked about again and again while the guest hypervisor fills it. */
    if (view->mixed == base + 1)
        return false;
    if (pieces_uniform(view, base, size))
        return true;
    view->mixed = base + 1;
    return false;
}
