/*
 * Virtual MTRRs: register semantics, and memory types of addresses. Pure.
 * Must never accept a value that the processor would refuse: guests probe the reserved bits.
 */
#include "core/memory/mtrr.h"

#include "core/memory/mem.h"
#include "core/lib/x86.h"

#define FIXED_END (1 * MIB)
#define MSR_PHYS_END (MSR_MTRR_PHYSBASE0 + 2 * MTRR_PAIRS_MAX)
#define MSR_FIX4K_END (MSR_MTRR_FIX4K_C0000 + 8)
#define PHYSBASE_TYPE_MASK 0xffull
#define FIXED_RANGES 8 /* per register, one byte each */
/* Steps that mtrr_range takes in one direction: the fixed ranges, both ends of each pair, and the rest. */
#define RANGE_STEPS (MTRR_FIXED_COUNT * FIXED_RANGES + 2 * MTRR_PAIRS_MAX + 1)

static bool type_valid(uint64_t type)
{
    return type == MEMTYPE_UC || type == MEMTYPE_WC || type == MEMTYPE_WT || type == MEMTYPE_WP || type == MEMTYPE_WB;
}

/* WC exists only if IA32_MTRRCAP says so. */
static bool type_allowed(const struct mtrr *mtrr, uint64_t type)
{
    return type_valid(type) && (type != MEMTYPE_WC || (mtrr->cap & MTRRCAP_WC));
}

void mtrr_init(struct mtrr *mtrr, uint64_t cap, unsigned maxphyaddr)
{
    memset(mtrr, 0, sizeof(*mtrr));
    uint64_t pairs = cap & MTRRCAP_VCNT_MASK;
    if (pairs > MTRR_PAIRS_MAX)
        pairs = MTRR_PAIRS_MAX;
    mtrr->cap = (cap & (MTRRCAP_FIX | MTRRCAP_WC)) | pairs;
    mtrr->address_mask = (BIT(maxphyaddr) - 1) & PAGE_MASK;
}

/* Index of a fixed-range register, or -1. */
static int fixed_index(uint32_t msr)
{
    switch (msr) {
    case MSR_MTRR_FIX64K_00000:
        return 0;
    case MSR_MTRR_FIX16K_80000:
        return 1;
    case MSR_MTRR_FIX16K_A0000:
        return 2;
    default:
        return msr >= MSR_MTRR_FIX4K_C0000 && msr < MSR_FIX4K_END ? 3 + (int)(msr - MSR_MTRR_FIX4K_C0000) : -1;
    }
}

static bool is_phys(uint32_t msr) { return msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_PHYS_END; }

bool mtrr_is_msr(uint32_t msr)
{
    return msr == MSR_MTRRCAP || msr == MSR_MTRR_DEF_TYPE || is_phys(msr) || fixed_index(msr) >= 0;
}

/* Where an implemented read-write register is kept in regs, or NULL. */
static uint64_t *reg_find(struct mtrr_regs *regs, uint64_t cap, uint32_t msr)
{
    int fixed = fixed_index(msr);
    if (msr == MSR_MTRR_DEF_TYPE)
        return &regs->def_type;
    if (fixed >= 0)
        return (cap & MTRRCAP_FIX) ? &regs->fixed[fixed] : NULL;
    uint32_t pair = (msr - MSR_MTRR_PHYSBASE0) / 2;
    if (!is_phys(msr) || pair >= (cap & MTRRCAP_VCNT_MASK))
        return NULL;
    return (msr - MSR_MTRR_PHYSBASE0) % 2 ? &regs->mask[pair] : &regs->base[pair];
}

bool mtrr_read(const struct mtrr *mtrr, uint32_t msr, uint64_t *value)
{
    if (msr == MSR_MTRRCAP) {
        *value = mtrr->cap;
        return true;
    }
    struct mtrr_regs regs = mtrr->regs;
    const uint64_t *reg = reg_find(&regs, mtrr->cap, msr);
    if (reg)
        *value = *reg;
    return reg != NULL;
}

static bool value_valid(const struct mtrr *mtrr, uint32_t msr, uint64_t value)
{
    if (msr == MSR_MTRR_DEF_TYPE) {
        uint64_t flags = MTRR_DEF_E | ((mtrr->cap & MTRRCAP_FIX) ? MTRR_DEF_FE : 0);
        return !(value & ~(flags | MTRR_DEF_TYPE_MASK)) && type_allowed(mtrr, value & MTRR_DEF_TYPE_MASK);
    }
    if (is_phys(msr) && (msr - MSR_MTRR_PHYSBASE0) % 2)
        return !(value & ~(mtrr->address_mask | MTRR_MASK_VALID));
    if (is_phys(msr))
        return !(value & ~(mtrr->address_mask | PHYSBASE_TYPE_MASK)) && type_allowed(mtrr, value & PHYSBASE_TYPE_MASK);
    for (unsigned i = 0; i < FIXED_RANGES; i++)
        if (!type_allowed(mtrr, value >> (8 * i) & 0xff))
            return false;
    return true;
}

bool mtrr_write(struct mtrr *mtrr, uint32_t msr, uint64_t value)
{
    uint64_t *reg = reg_find(&mtrr->regs, mtrr->cap, msr);
    if (!reg || !value_valid(mtrr, msr, value))
        return false;
    if (*reg != value) {
        *reg = value;
        mtrr->dirty = true;
    }
    return true;
}

/* The registers with everything that has no effect set to 0, so that equal types compare equal. */
static struct mtrr_regs effective(const struct mtrr_regs *regs)
{
    struct mtrr_regs result;
    memset(&result, 0, sizeof(result));
    if (!(regs->def_type & MTRR_DEF_E))
        return result;
    result.def_type = regs->def_type;
    if (regs->def_type & MTRR_DEF_FE)
        memcpy(result.fixed, regs->fixed, sizeof(result.fixed));
    for (unsigned i = 0; i < MTRR_PAIRS_MAX; i++)
        if (regs->mask[i] & MTRR_MASK_VALID) {
            result.base[i] = regs->base[i];
            result.mask[i] = regs->mask[i];
        }
    return result;
}

bool mtrr_pending(struct mtrr *mtrr)
{
    if (!mtrr->dirty || !(mtrr->regs.def_type & MTRR_DEF_E))
        return false;
    struct mtrr_regs now = effective(&mtrr->regs);
    mtrr->dirty = memcmp(&now, &mtrr->applied, sizeof(now)) != 0;
    return mtrr->dirty;
}

bool mtrr_commit(struct mtrr *mtrr)
{
    struct mtrr_regs now = effective(&mtrr->regs);
    bool changed = memcmp(&now, &mtrr->applied, sizeof(now)) != 0;
    mtrr->applied = now;
    mtrr->dirty = false;
    return changed;
}

/* Precedence between two variable ranges that both hold an address. */
static uint64_t type_combine(uint64_t a, uint64_t b)
{
    if (a == b)
        return a;
    if ((a == MEMTYPE_WT && b == MEMTYPE_WB) || (a == MEMTYPE_WB && b == MEMTYPE_WT))
        return MEMTYPE_WT;
    return MEMTYPE_UC;
}

/* A piece of the address space in which no register changes its mind. */
struct piece {
    uint64_t start, end;
    uint64_t type;
};

static struct piece fixed_piece(const struct mtrr_regs *regs, uint64_t addr)
{
    static const struct {
        uint64_t start, range;
        unsigned reg;
    } groups[] = {
        { 0xc0000, 4 * KIB, 3 },
        { 0x80000, 16 * KIB, 1 },
        { 0, 64 * KIB, 0 },
    };
    unsigned g = 0;
    while (addr < groups[g].start)
        g++;
    uint64_t number = (addr - groups[g].start) / groups[g].range, start = groups[g].start + number * groups[g].range;
    uint64_t reg = regs->fixed[groups[g].reg + number / FIXED_RANGES];
    return (struct piece){ start, start + groups[g].range, reg >> (8 * (number % FIXED_RANGES)) & 0xff };
}

static void piece_cut(struct piece *p, uint64_t start, uint64_t end)
{
    p->start = start > p->start ? start : p->start;
    p->end = end < p->end ? end : p->end;
}

static uint64_t highest_bit(uint64_t v) { return BIT(63 - __builtin_clzll(v)); }

/* Narrows the piece around addr to where pair i either matches throughout or nowhere; true when it matches. */
static bool pair_narrow(const struct mtrr_regs *regs, unsigned i, uint64_t address_mask, uint64_t addr, struct piece *p)
{
    uint64_t mask = regs->mask[i] & address_mask, base = regs->base[i] & mask;
    if (!mask)
        return true;
    uint64_t block = mask & -mask; /* address bits below the lowest mask bit do not matter */
    bool contiguous = mask == (address_mask & ~(block - 1));
    uint64_t difference = (addr & mask) ^ base;
    if (difference && contiguous) {
        uint64_t start = addr < base ? 0 : base + block;
        piece_cut(p, start, addr < base ? base : address_mask + PAGE_SIZE);
    } else {
        /* All addresses with the same bits from the highest differing mask bit up do not match either. */
        uint64_t same = difference ? highest_bit(difference) : block;
        piece_cut(p, align_down(addr, same), align_down(addr, same) + same);
    }
    return difference == 0;
}

static struct piece piece_at(const struct mtrr *mtrr, uint64_t addr)
{
    const struct mtrr_regs *regs = &mtrr->applied;
    struct piece p = { 0, mtrr->address_mask + PAGE_SIZE, MEMTYPE_UC };
    if (!(regs->def_type & MTRR_DEF_E))
        return p;
    if (regs->def_type & MTRR_DEF_FE) {
        if (addr < FIXED_END)
            return fixed_piece(regs, addr);
        p.start = FIXED_END;
    }
    bool matched = false;
    for (unsigned i = 0; i < MTRR_PAIRS_MAX; i++) {
        if (!(regs->mask[i] & MTRR_MASK_VALID) || !pair_narrow(regs, i, mtrr->address_mask, addr, &p))
            continue;
        uint64_t type = regs->base[i] & PHYSBASE_TYPE_MASK;
        p.type = matched ? type_combine(p.type, type) : type;
        matched = true;
    }
    if (!matched)
        p.type = regs->def_type & MTRR_DEF_TYPE_MASK;
    return p;
}

enum memtype mtrr_type(const struct mtrr *mtrr, uint64_t addr)
{
    return (enum memtype)piece_at(mtrr, addr & (mtrr->address_mask | (PAGE_SIZE - 1))).type;
}

enum memtype mtrr_range(const struct mtrr *mtrr, uint64_t addr, uint64_t *start, uint64_t *end)
{
    uint64_t limit = mtrr->address_mask + PAGE_SIZE;
    struct piece p = piece_at(mtrr, addr & (limit - 1));
    for (unsigned i = 0; i < RANGE_STEPS && p.start > 0; i++) {
        struct piece below = piece_at(mtrr, p.start - 1);
        if (below.type != p.type)
            break;
        p.start = below.start;
    }
    for (unsigned i = 0; i < RANGE_STEPS && p.end < limit; i++) {
        struct piece above = piece_at(mtrr, p.end);
        if (above.type != p.type)
            break;
        p.end = above.end;
    }
    *start = p.start;
    *end = p.end;
    return (enum memtype)p.type;
}
