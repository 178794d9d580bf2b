/*
 * The walk through a guest's paging structures, and copies over page boundaries. Pure.
 * Every entry is guest data that other processors of the guest may be changing: it is read once per walk, and flags
 * are set only by compare-exchange with what was read.
 */
#include "core/guest/guest_walk.h"

#include "core/memory/mem.h"

#define PTE_P BIT(0)
#define PTE_RW BIT(1)
#define PTE_US BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_XD BIT(63)
#define ADDRESS_WIDE 0x000ffffffffff000ull    /* bits 51:12 of an 8-byte entry */
#define ADDRESS_NARROW 0xfffff000ull          /* bits 31:12 of a 4-byte entry */
#define PAE_RESERVED_HIGH (BIT(63) - BIT(52)) /* ignored in 4-level and 5-level paging */
/* A 4-MByte page's PDE: bits 20:13 are bits 39:32 of the address, those beyond MAXPHYADDR and bit 21 are reserved. */
#define PSE36_SHIFT 13
#define PSE36_MASK 0xffull
#define PSE36_END BIT(22)
#define PSE36_BITS_MIN 32
#define PSE36_BITS_MAX 40
#define LINEAR_32 0xffffffffull
#define CPL_USER 3
#define LEVELS_MAX 5
#define TRIES_MAX 16

/* Paging mode. SDM 3, "Paging Modes and Control Bits". */
struct mode {
    int top;             /* level of the first table in memory; 1 = page table */
    unsigned index_bits; /* of a table */
    bool wide;           /* 8-byte entries */
    bool long_mode;
};

/* An entry that the walk used and whose flags may have to be set. */
struct step {
    void *entry;
    uint64_t gpa, value;
};

struct state {
    const struct guest_paging *paging;
    const struct guest_memory *memory;
    struct mode mode;
    unsigned access;
    bool user;       /* user-mode access */
    uint64_t rights; /* PTE_RW and PTE_US if all entries have them, PTE_XD if one has */
    unsigned step_count;
    struct step steps[LEVELS_MAX];
    struct walk walk;
};

static struct mode paging_mode(const struct guest_paging *p)
{
    if (!(p->cr4 & CR4_PAE))
        return (struct mode){ .top = 2, .index_bits = 10 };
    if (!(p->efer & EFER_LMA))
        return (struct mode){ .top = 2, .index_bits = 9, .wide = true };
    return (struct mode){ .top = p->cr4 & CR4_LA57 ? 5 : 4, .index_bits = 9, .wide = true, .long_mode = true };
}

/* Execute-disable exists. */
static bool has_xd(const struct guest_paging *p) { return (p->cr4 & CR4_PAE) && (p->efer & EFER_NXE); }

/* SDM 3, "Page-Fault Exceptions". cause: PFERR_PRESENT and PFERR_RESERVED as they apply. */
static bool fault(struct state *s, uint64_t cause)
{
    uint64_t error = cause;
    if (s->access & WALK_WRITE)
        error |= PFERR_WRITE;
    if (s->user)
        error |= PFERR_USER;
    if ((s->access & WALK_FETCH) && (has_xd(s->paging) || (s->paging->cr4 & CR4_SMEP)))
        error |= PFERR_FETCH;
    s->walk.result = WALK_FAULT;
    s->walk.error = (uint32_t)error;
    return false;
}

/* An entry of a paging structure, or NULL with the result set. */
static void *reach(struct state *s, uint64_t gpa, enum guest_use use)
{
    void *pointer = s->memory->pointer(s->memory->context, gpa, use);
    if (!pointer) {
        s->walk.result = WALK_NO_GPA;
        s->walk.gpa = gpa;
        s->walk.use = use;
        s->walk.in_table = true;
    }
    return pointer;
}

/* Bytes that one entry of this level maps. */
static uint64_t level_span(const struct state *s, int level)
{
    return 1ull << (PAGE_SHIFT + s->mode.index_bits * (unsigned)(level - 1));
}

/* SDM 3, "32-Bit Paging": only a 4-MByte page has reserved bits. */
static uint64_t reserved_narrow(const struct state *s, int level, uint64_t entry)
{
    unsigned bits = s->paging->maxphyaddr;
    if (level == 1 || !(entry & PTE_PS) || !(s->paging->cr4 & CR4_PSE))
        return 0;
    bits = bits > PSE36_BITS_MAX ? PSE36_BITS_MAX : bits < PSE36_BITS_MIN ? PSE36_BITS_MIN : bits;
    return PSE36_END - BIT(PSE36_SHIFT + bits - PSE36_BITS_MIN);
}

/* SDM 3, "PAE Paging" and "4-Level Paging and 5-Level Paging". */
static uint64_t reserved_wide(const struct state *s, int level, uint64_t entry)
{
    uint64_t reserved = ADDRESS_WIDE & ~(BIT(s->paging->maxphyaddr) - 1);
    if (!has_xd(s->paging))
        reserved |= PTE_XD;
    if (!s->mode.long_mode)
        reserved |= PAE_RESERVED_HIGH;
    if (level > 3 || (level == 3 && !s->paging->pages_1g))
        reserved |= PTE_PS;
    else if (level > 1 && (entry & PTE_PS))
        reserved |= level_span(s, level) - 2 * PAGE_SIZE; /* from bit 13 up: bit 12 is PAT */
    return reserved;
}

static bool is_page(const struct state *s, int level, uint64_t entry)
{
    if (level == 1)
        return true;
    return (entry & PTE_PS) && (s->mode.wide || (s->paging->cr4 & CR4_PSE));
}

static uint64_t page_gpa(const struct state *s, int level, uint64_t entry)
{
    uint64_t inside = level_span(s, level) - 1;
    uint64_t base = entry & (s->mode.wide ? ADDRESS_WIDE : ADDRESS_NARROW) & ~inside;
    if (!s->mode.wide && level > 1)
        base |= (entry >> PSE36_SHIFT & PSE36_MASK) << PSE36_BITS_MIN;
    return base | (s->walk.linear & inside);
}

static uint64_t entry_load(const struct state *s, const void *entry)
{
    if (s->mode.wide)
        return __atomic_load_n((const uint64_t *)entry, __ATOMIC_RELAXED);
    return __atomic_load_n((const uint32_t *)entry, __ATOMIC_RELAXED);
}

static bool entry_exchange(const struct state *s, void *entry, uint64_t old, uint64_t value)
{
    uint32_t old_narrow = (uint32_t)old;
    if (s->mode.wide)
        return __atomic_compare_exchange_n((uint64_t *)entry, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    return __atomic_compare_exchange_n((uint32_t *)entry, &old_narrow, (uint32_t)value, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}

/* Address of the first table in memory. False: PAE paging, and the PDPTE register is not present. */
static bool first_table(struct state *s, uint64_t *table)
{
    const struct guest_paging *p = s->paging;
    *table = p->cr3 & (s->mode.wide ? ADDRESS_WIDE : ADDRESS_NARROW);
    if (!s->mode.wide || s->mode.long_mode)
        return true;
    uint64_t pdpte = p->pdpte[s->walk.linear >> 30 & 3];
    *table = pdpte & ADDRESS_WIDE;
    return (pdpte & PTE_P) || fault(s, 0);
}

/* From the first table to the page: fills steps, rights and walk.gpa. */
static bool descend(struct state *s)
{
    uint64_t table;
    s->step_count = 0;
    s->rights = PTE_RW | PTE_US;
    if (!first_table(s, &table))
        return false;
    for (int level = s->mode.top;; level--) {
        uint64_t index = s->walk.linear / level_span(s, level) & (BIT(s->mode.index_bits) - 1);
        uint64_t gpa = table + index * (s->mode.wide ? sizeof(uint64_t) : sizeof(uint32_t));
        void *pointer = reach(s, gpa, GUEST_USE_READ);
        if (!pointer)
            return false;
        uint64_t entry = entry_load(s, pointer);
        if (!(entry & PTE_P))
            return fault(s, 0);
        if (entry & (s->mode.wide ? reserved_wide(s, level, entry) : reserved_narrow(s, level, entry)))
            return fault(s, PFERR_PRESENT | PFERR_RESERVED);
        s->steps[s->step_count++] = (struct step){ pointer, gpa, entry };
        s->rights = (s->rights & (entry | PTE_XD)) | (entry & PTE_XD);
        if (is_page(s, level, entry)) {
            s->walk.gpa = page_gpa(s, level, entry);
            return true;
        }
        table = entry & (s->mode.wide ? ADDRESS_WIDE : ADDRESS_NARROW);
    }
}

/* SDM 3, "Determination of Access Rights". */
static bool allowed(const struct state *s)
{
    const struct guest_paging *p = s->paging;
    bool user_page = s->rights & PTE_US;
    if (s->user && !user_page)
        return false;
    if (s->access & WALK_FETCH)
        return !(s->rights & PTE_XD) && (s->user || !user_page || !(p->cr4 & CR4_SMEP));
    bool smap_open = (p->rflags & RFLAGS_AC) && !(s->access & WALK_IMPLICIT);
    if (!s->user && user_page && (p->cr4 & CR4_SMAP) && !smap_open)
        return false;
    bool any_write = !s->user && !(p->cr0 & CR0_WP);
    return !(s->access & WALK_WRITE) || any_write || (s->rights & PTE_RW);
}

/* SDM 3, "Accessed and Dirty Flags". False: an entry has changed since (WALK_RETRY) or cannot be written. */
static bool set_flags(struct state *s)
{
    for (unsigned i = 0; i < s->step_count; i++) {
        struct step *step = &s->steps[i];
        bool dirty = i == s->step_count - 1 && (s->access & WALK_WRITE);
        uint64_t value = step->value | PTE_A | (dirty ? PTE_D : 0);
        if (value == step->value)
            continue;
        void *pointer = reach(s, step->gpa, GUEST_USE_WRITE);
        if (!pointer)
            return false;
        if (!entry_exchange(s, pointer, step->value, value)) {
            s->walk.result = WALK_RETRY;
            return false;
        }
    }
    return true;
}

static void translate(struct state *s)
{
    s->walk.result = WALK_OK;
    if (!descend(s))
        return;
    if (!allowed(s)) {
        fault(s, PFERR_PRESENT);
        return;
    }
    uint64_t gpa = s->walk.gpa;
    if (set_flags(s))
        s->walk.gpa = gpa;
}

struct walk guest_walk(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                       unsigned access)
{
    struct state s = { .paging = paging, .memory = memory, .mode = paging_mode(paging), .access = access };
    s.user = paging->cpl == CPL_USER && !(access & WALK_IMPLICIT);
    bool paged = paging->cr0 & CR0_PG;
    s.walk.linear = paged && (paging->efer & EFER_LMA) ? linear : linear & LINEAR_32;
    if (!paged) {
        s.walk.gpa = s.walk.linear;
        return s.walk;
    }
    unsigned tries = 0;
    do
        translate(&s);
    while (s.walk.result == WALK_RETRY && ++tries < TRIES_MAX);
    return s.walk;
}

/* Pointers to all bytes of a copy: one or two pieces. */
#define PIECES 2
struct pieces {
    void *pointer[PIECES];
    size_t size[PIECES];
};

static struct walk pieces_find(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                               size_t size, unsigned access, struct pieces *out)
{
    struct walk walk = { .result = WALK_OK, .linear = linear };
    if (size > GUEST_COPY_MAX)
        panic("guest copy of %zu bytes", size);
    enum guest_use use = access & WALK_WRITE ? GUEST_USE_WRITE : GUEST_USE_READ;
    size_t to_page_end = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
    out->size[0] = size < to_page_end ? size : to_page_end;
    out->size[1] = size - out->size[0];
    for (unsigned i = 0; i < PIECES && out->size[i]; i++) {
        walk = guest_walk(paging, memory, linear + (i ? out->size[0] : 0), access);
        if (walk.result != WALK_OK)
            return walk;
        out->pointer[i] = memory->pointer(memory->context, walk.gpa, use);
        if (!out->pointer[i]) {
            walk.result = WALK_NO_GPA;
            walk.use = use;
            return walk;
        }
    }
    return walk;
}

struct walk guest_read(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                       void *data, size_t size, unsigned access)
{
    struct pieces pieces = { 0 };
    struct walk walk = pieces_find(paging, memory, linear, size, access, &pieces);
    if (walk.result != WALK_OK)
        return walk;
    char *to = data;
    for (unsigned i = 0; i < PIECES && pieces.size[i]; to += pieces.size[i++])
        memcpy(to, pieces.pointer[i], pieces.size[i]);
    return walk;
}

struct walk guest_write(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                        const void *data, size_t size, unsigned access)
{
    struct pieces pieces = { 0 };
    struct walk walk = pieces_find(paging, memory, linear, size, access | WALK_WRITE, &pieces);
    if (walk.result != WALK_OK)
        return walk;
    const char *from = data;
    for (unsigned i = 0; i < PIECES && pieces.size[i]; from += pieces.size[i++])
        memcpy(pieces.pointer[i], from, pieces.size[i]);
    return walk;
}
