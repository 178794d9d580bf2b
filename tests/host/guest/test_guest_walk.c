/* sources: core/guest/guest_walk.c */
/*
 * Translation of linear addresses against a model that follows the SDM's figures mode by mode, over random paging
 * structures; then flags, races and copies.
 */
#include "core/guest/guest_walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "tests/host/support/support.h"

#define PAGES 16
#define ARENA (PAGES * PAGE_SIZE)

static struct test_random seed;

static void *plain_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context;
    (void)use;
    assert_true(gpa < BIT(52));
    return gpa1_ptr(gpa1(gpa));
}

static const struct guest_memory plain_memory = { plain_pointer, NULL };

static uint64_t read64(uint64_t gpa) { return *(uint64_t *)gpa1_ptr(gpa1(gpa)); }
static uint32_t read32(uint64_t gpa) { return *(uint32_t *)gpa1_ptr(gpa1(gpa)); }
static void write64(uint64_t gpa, uint64_t value) { *(uint64_t *)hpa_ptr(hpa(gpa)) = value; }
static void write32(uint64_t gpa, uint32_t value) { *(uint32_t *)hpa_ptr(hpa(gpa)) = value; }

/* The model: what one walk found. */
struct model {
    bool missing, reserved; /* ended at an entry like this */
    bool user, writable, no_execute;
    uint64_t gpa;
    unsigned used; /* entries, and where they are */
    uint64_t entry_at[5];
    bool narrow;
};

static bool bits(uint64_t v, unsigned high, unsigned low) { return (v >> low & (BIT(high - low + 1) - 1)) != 0; }

/* Common to all 8-byte entries; ends the walk when it returns false. */
static bool model_entry(struct model *m, const struct guest_paging *p, uint64_t at, uint64_t *entry)
{
    *entry = read64(at);
    if (!(*entry & 1)) {
        m->missing = true;
        return false;
    }
    if (p->maxphyaddr < 52 && bits(*entry, 51, p->maxphyaddr))
        m->reserved = true;
    if (!(p->efer & EFER_NXE) && (*entry >> 63))
        m->reserved = true;
    m->entry_at[m->used++] = at;
    m->writable &= *entry >> 1 & 1;
    m->user &= *entry >> 2 & 1;
    m->no_execute |= *entry >> 63;
    return true;
}

static uint64_t frame(uint64_t entry, unsigned low) { return entry & ((BIT(52) - 1) & ~(BIT(low) - 1)); }

static void model_long(struct model *m, const struct guest_paging *p, uint64_t linear)
{
    uint64_t entry, table = frame(p->cr3, 12);
    if (p->cr4 & CR4_LA57) {
        if (!model_entry(m, p, table + 8 * (linear >> 48 & 511), &entry) || (m->reserved |= entry >> 7 & 1))
            return;
        table = frame(entry, 12);
    }
    if (!model_entry(m, p, table + 8 * (linear >> 39 & 511), &entry) || (m->reserved |= entry >> 7 & 1))
        return;
    if (!model_entry(m, p, frame(entry, 12) + 8 * (linear >> 30 & 511), &entry) || m->reserved)
        return;
    if (entry >> 7 & 1) {
        m->reserved = !p->pages_1g || bits(entry, 29, 13);
        m->gpa = frame(entry, 30) | (linear & (GIB - 1));
        return;
    }
    if (!model_entry(m, p, frame(entry, 12) + 8 * (linear >> 21 & 511), &entry) || m->reserved)
        return;
    if (entry >> 7 & 1) {
        m->reserved = bits(entry, 20, 13);
        m->gpa = frame(entry, 21) | (linear & (2 * MIB - 1));
        return;
    }
    if (!model_entry(m, p, frame(entry, 12) + 8 * (linear >> 12 & 511), &entry))
        return;
    m->gpa = frame(entry, 12) | (linear & 0xfff);
}

static void model_pae(struct model *m, const struct guest_paging *p, uint64_t linear)
{
    uint64_t entry = p->pdpte[linear >> 30];
    m->missing = !(entry & 1);
    if (m->missing || !model_entry(m, p, frame(entry, 12) + 8 * (linear >> 21 & 511), &entry))
        return;
    m->reserved |= bits(entry, 62, 52);
    if (m->reserved)
        return;
    if (entry >> 7 & 1) {
        m->reserved = bits(entry, 20, 13);
        m->gpa = frame(entry, 21) | (linear & (2 * MIB - 1));
        return;
    }
    if (!model_entry(m, p, frame(entry, 12) + 8 * (linear >> 12 & 511), &entry))
        return;
    m->reserved |= bits(entry, 62, 52);
    m->gpa = frame(entry, 12) | (linear & 0xfff);
}

static void model_32(struct model *m, const struct guest_paging *p, uint64_t linear)
{
    uint64_t at = (p->cr3 & 0xfffff000) + 4 * (linear >> 22);
    uint32_t entry = read32(at);
    m->narrow = true;
    m->missing = !(entry & 1);
    if (m->missing)
        return;
    m->entry_at[m->used++] = at;
    m->writable = entry >> 1 & 1;
    m->user = entry >> 2 & 1;
    if ((entry >> 7 & 1) && (p->cr4 & CR4_PSE)) {
        unsigned width = p->maxphyaddr < 40 ? p->maxphyaddr : 40;
        m->reserved = bits(entry, 21, width - 32 + 13);
        m->gpa = (entry & 0xffc00000) | (uint64_t)(entry >> 13 & 0xff) << 32 | (linear & 0x3fffff);
        return;
    }
    at = (entry & 0xfffff000) + 4 * (linear >> 12 & 1023);
    entry = read32(at);
    m->missing = !(entry & 1);
    if (m->missing)
        return;
    m->entry_at[m->used++] = at;
    m->writable &= entry >> 1 & 1;
    m->user &= entry >> 2 & 1;
    m->gpa = (entry & 0xfffff000) | (linear & 0xfff);
}

/* SDM 3, "Determination of Access Rights", as a list. */
static bool model_permits(const struct model *m, const struct guest_paging *p, unsigned access)
{
    bool user_access = p->cpl == 3 && !(access & WALK_IMPLICIT), write = access & WALK_WRITE,
         fetch = access & WALK_FETCH;
    if (user_access) {
        if (!m->user)
            return false;
        if (fetch)
            return !m->no_execute;
        return !write || m->writable;
    }
    if (fetch)
        return !m->no_execute && !(m->user && (p->cr4 & CR4_SMEP));
    if (m->user && (p->cr4 & CR4_SMAP) && ((access & WALK_IMPLICIT) || !(p->rflags & RFLAGS_AC)))
        return false;
    return !write || !(p->cr0 & CR0_WP) || m->writable;
}

/* The expected result; 0 in *error: no fault. */
static struct model model_walk(const struct guest_paging *p, uint64_t linear, unsigned access, uint32_t *error)
{
    struct model m = { .user = true, .writable = true };
    *error = 0;
    if (!(p->cr0 & CR0_PG)) {
        m.gpa = (uint32_t)linear;
        return m;
    }
    if (!(p->cr4 & CR4_PAE))
        model_32(&m, p, (uint32_t)linear);
    else if (p->efer & EFER_LMA)
        model_long(&m, p, linear);
    else
        model_pae(&m, p, (uint32_t)linear);
    if (!m.missing && !m.reserved && model_permits(&m, p, access))
        return m;
    bool fetch_bit = ((p->cr4 & CR4_PAE) && (p->efer & EFER_NXE)) || (p->cr4 & CR4_SMEP);
    *error = (uint32_t)((m.missing ? 0 : 1) | (access & WALK_WRITE ? 2 : 0) |
                        (p->cpl == 3 && !(access & WALK_IMPLICIT) ? 4 : 0) | (m.reserved ? 8 : 0) |
                        ((access & WALK_FETCH) && fetch_bit ? 16 : 0)) |
             BIT(31);
    m.used = 0;
    return m;
}

/* An entry that often leads on: a page of the arena, mostly usable rights, now and then something odd. */
static uint64_t random_entry(unsigned maxphyaddr)
{
    uint64_t entry = test_random_below(&seed, PAGES) * PAGE_SIZE | 7;
    entry ^= test_random(&seed) & (test_random_below(&seed, 3) ? 0 : 0x67);
    if (test_random_below(&seed, 5) == 0)
        entry ^= BIT(7);
    if (test_random_below(&seed, 6) == 0)
        entry ^= BIT(63);
    if (test_random_below(&seed, 12) == 0)
        entry ^= BIT(test_random_below(&seed, 64));
    if (test_random_below(&seed, 20) == 0)
        entry ^= BIT(maxphyaddr) >> test_random_below(&seed, 2);
    if (test_random_below(&seed, 2) && (entry & BIT(7)))
        entry &= ~(BIT(30) - BIT(13));
    if (test_random_below(&seed, 4) == 0 && (entry & BIT(7)))
        entry |= BIT(13 + test_random_below(&seed, 17));
    return entry;
}

static struct guest_paging random_paging(void)
{
    static const uint8_t widths[] = { 36, 39, 40, 46, 52 };
    struct guest_paging p = { .cr0 = CR0_PE | CR0_PG, .cpl = test_random_below(&seed, 2) ? 3 : 0 };
    p.maxphyaddr = widths[test_random_below(&seed, sizeof(widths))];
    p.pages_1g = test_random_below(&seed, 2);
    p.cr0 |= test_random_below(&seed, 2) ? CR0_WP : 0;
    p.cr4 = test_random(&seed) & (CR4_PSE | CR4_SMEP | CR4_SMAP);
    p.rflags = test_random(&seed) & RFLAGS_AC;
    p.efer = test_random_below(&seed, 4) ? EFER_NXE : 0;
    switch (test_random_below(&seed, 5)) {
    case 0:
        p.cr0 &= test_random_below(&seed, 4) ? ~0ull : ~CR0_PG;
        break;
    case 1:
        p.cr4 |= CR4_PAE;
        break;
    case 2:
        p.cr4 |= CR4_LA57; /* and as below */
        /* fall through */
    default:
        p.cr4 |= CR4_PAE;
        p.efer |= EFER_LME | EFER_LMA;
    }
    p.cr3 = test_random_below(&seed, PAGES) * PAGE_SIZE | (test_random(&seed) & 0x18);
    for (unsigned i = 0; i < 4; i++)
        p.pdpte[i] = test_random_below(&seed, PAGES) * PAGE_SIZE | (test_random_below(&seed, 8) != 0);
    return p;
}

static void random_arena(const struct guest_paging *p)
{
    bool narrow = !(p->cr4 & CR4_PAE);
    for (uint64_t at = 0; at < ARENA; at += narrow ? 4 : 8) {
        uint64_t entry = random_entry(p->maxphyaddr);
        if (narrow)
            write32(at, (uint32_t)entry);
        else
            write64(at, entry);
    }
}

/* Sets in `memory` what the processor must have set in the arena. */
static void model_flags(const struct model *m, unsigned access, uint8_t *memory)
{
    for (unsigned i = 0; i < m->used; i++) {
        if (m->entry_at[i] >= ARENA)
            continue;
        memory[m->entry_at[i]] |= 0x20;
        if (i == m->used - 1 && (access & WALK_WRITE))
            memory[m->entry_at[i]] |= 0x40;
    }
}

static void test_random_structures(void **state)
{
    (void)state;
    static const unsigned accesses[] = { WALK_READ, WALK_WRITE, WALK_FETCH, WALK_IMPLICIT, WALK_IMPLICIT | WALK_WRITE };
    static uint8_t before[ARENA];
    unsigned counts[2] = { 0 };
    seed.state = 20;
    test_memory_reset(ARENA);
    for (unsigned round = 0; round < 1500; round++) {
        struct guest_paging p = random_paging();
        if (round % 20 == 0)
            random_arena(&p);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t linear = test_random_value(&seed);
            unsigned access = accesses[test_random_below(&seed, ARRAY_SIZE(accesses))];
            uint32_t error;
            memcpy(before, hpa_ptr(hpa(0)), ARENA);
            struct model m = model_walk(&p, linear, access, &error);
            struct walk got = guest_walk(&p, &plain_memory, linear, access);
            counts[error != 0]++;
            assert_true(got.linear == ((p.efer & EFER_LMA) && (p.cr0 & CR0_PG) ? linear : (uint32_t)linear));
            if (error) {
                assert_int_equal(got.result, WALK_FAULT);
                assert_int_equal(got.error, error & ~(uint32_t)BIT(31));
            } else {
                assert_int_equal(got.result, WALK_OK);
                assert_true(got.gpa == m.gpa);
                model_flags(&m, access, before);
            }
            assert_memory_equal(hpa_ptr(hpa(0)), before, ARENA);
        }
    }
    assert_in_range(counts[0], 3000, 27000);
    assert_in_range(counts[1], 3000, 27000);
}

/* A plain 4-level table at page 1: linear 0..2M maps to gpa 0..2M by 4-KiB entries, all rights. */
#define TABLE_PT (4 * PAGE_SIZE)
static struct guest_paging simple_paging(void)
{
    struct guest_paging p = {
        .cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = CR4_PAE, .efer = EFER_LMA | EFER_NXE, .cr3 = PAGE_SIZE, .maxphyaddr = 40
    };
    test_memory_reset(ARENA);
    for (uint64_t level = 1; level < 4; level++)
        write64(level * PAGE_SIZE, (level + 1) * PAGE_SIZE | 7);
    for (uint64_t i = 0; i < 512; i++)
        write64(TABLE_PT + 8 * i, i * PAGE_SIZE | 7);
    return p;
}

/* guest_memory with obstacles. */
struct obstacle {
    uint64_t gpa; /* page */
    enum guest_use use;
    unsigned changes; /* how often the entry at gpa changes just before its flags are written */
    unsigned calls;
};

static void *refusing_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    struct obstacle *o = context;
    return (gpa & PAGE_MASK) == o->gpa && use == o->use ? NULL : gpa1_ptr(gpa1(gpa));
}

static void *racing_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    struct obstacle *o = context;
    o->calls++;
    if (gpa == o->gpa && use == GUEST_USE_WRITE && o->changes) {
        o->changes--;
        write64(gpa, read64(gpa) ^ BIT(11)); /* a bit that is ignored */
    }
    return gpa1_ptr(gpa1(gpa));
}

static void test_unreachable_memory(void **state)
{
    (void)state;
    for (uint64_t level = 1; level <= 4; level++)
        for (unsigned use = GUEST_USE_READ; use <= GUEST_USE_WRITE; use++) {
            struct guest_paging p = simple_paging();
            struct obstacle o = { .gpa = level * PAGE_SIZE, .use = use };
            struct guest_memory memory = { refusing_pointer, &o };
            struct walk got = guest_walk(&p, &memory, 0x9123, WALK_READ);
            assert_int_equal(got.result, WALK_NO_GPA);
            assert_int_equal(got.gpa, level * PAGE_SIZE + (level == 4 ? 9 * 8 : 0));
            assert_int_equal(got.use, use);
            assert_int_equal(got.linear, 0x9123);
            /* Once the flags are set, nothing needs to be written. */
            assert_int_equal(guest_walk(&p, &plain_memory, 0x9123, WALK_READ).result, WALK_OK);
            got = guest_walk(&p, &memory, 0x9123, WALK_READ);
            assert_int_equal(got.result, use == GUEST_USE_READ ? WALK_NO_GPA : WALK_OK);
        }
}

static void test_race(void **state)
{
    (void)state;
    struct guest_paging p = simple_paging();
    struct obstacle o = { .gpa = TABLE_PT + 9 * 8, .changes = 3 };
    struct guest_memory memory = { racing_pointer, &o };
    struct walk got = guest_walk(&p, &memory, 0x9123, WALK_WRITE);
    assert_int_equal(got.result, WALK_OK);
    assert_int_equal(got.gpa, 0x9123);
    assert_int_equal(read64(TABLE_PT + 9 * 8), 9 * PAGE_SIZE | 7 | 0x60 | BIT(11));
    /* Without end: given up, flags not set, after a bounded number of steps. */
    p = simple_paging();
    o.changes = ~0u;
    o.calls = 0;
    got = guest_walk(&p, &memory, 0x9123, WALK_WRITE);
    assert_int_equal(got.result, WALK_RETRY);
    assert_int_equal(read64(TABLE_PT + 9 * 8) & 0x60, 0);
    assert_in_range(o.calls, 10, 1000);
}

static void fill_pattern(uint64_t gpa, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)hpa_ptr(hpa(gpa)))[i] = (uint8_t)(i * 7 + gpa);
}

/* Pages 9 and 15 follow each other in the linear space. */
static void test_copy_across_pages(void **state)
{
    (void)state;
    struct guest_paging p = simple_paging();
    write64(TABLE_PT + 8 * 10, 15 * PAGE_SIZE | 7);
    fill_pattern(9 * PAGE_SIZE, PAGE_SIZE);
    fill_pattern(15 * PAGE_SIZE, PAGE_SIZE);
    uint8_t linear_view[2 * PAGE_SIZE], data[PAGE_SIZE], *page9 = hpa_ptr(hpa(9 * PAGE_SIZE)),
                                                         *page15 = hpa_ptr(hpa(15 * PAGE_SIZE));
    memcpy(linear_view, page9, PAGE_SIZE);
    memcpy(linear_view + PAGE_SIZE, page15, PAGE_SIZE);
    for (size_t size = 0; size <= PAGE_SIZE; size += size < 40 ? 1 : 507)
        for (size_t offset = PAGE_SIZE - 24; offset <= PAGE_SIZE; offset += 3) {
            struct walk got = guest_read(&p, &plain_memory, 0x9000 + offset, data, size, WALK_READ);
            assert_int_equal(got.result, WALK_OK);
            assert_memory_equal(data, linear_view + offset, size);
            for (size_t i = 0; i < size; i++)
                data[i] = linear_view[offset + i] = (uint8_t)test_random(&seed);
            assert_int_equal(guest_write(&p, &plain_memory, 0x9000 + offset, data, size, WALK_READ).result, WALK_OK);
            assert_memory_equal(page9, linear_view, PAGE_SIZE);
            assert_memory_equal(page15, linear_view + PAGE_SIZE, PAGE_SIZE);
        }
    expect_assert_failure(guest_read(&p, &plain_memory, 0x9000, data, PAGE_SIZE + 1, WALK_READ));
}

/* A fault on the second page: its address in CR2, and not one byte written to the first. */
static void test_copy_fault(void **state)
{
    (void)state;
    struct guest_paging p = simple_paging();
    uint8_t data[16], before[PAGE_SIZE];
    write64(TABLE_PT + 8 * 10, 15 * PAGE_SIZE | 5); /* read-only */
    memset(data, 0xaa, sizeof(data));
    memcpy(before, hpa_ptr(hpa(9 * PAGE_SIZE)), PAGE_SIZE);
    struct walk got = guest_write(&p, &plain_memory, 0x9ff8, data, sizeof(data), WALK_READ);
    assert_int_equal(got.result, WALK_FAULT);
    assert_int_equal(got.linear, 0xa000);
    assert_int_equal(got.error, PFERR_PRESENT | PFERR_WRITE);
    assert_memory_equal(before, hpa_ptr(hpa(9 * PAGE_SIZE)), PAGE_SIZE);
    assert_int_equal(guest_read(&p, &plain_memory, 0x9ff8, data, sizeof(data), WALK_READ).result, WALK_OK);
    /* The data itself out of reach. */
    struct obstacle o = { .gpa = 15 * PAGE_SIZE, .use = GUEST_USE_READ };
    struct guest_memory memory = { refusing_pointer, &o };
    memset(data, 0x55, sizeof(data));
    memcpy(before, data, sizeof(data));
    got = guest_read(&p, &memory, 0x9ff8, data, sizeof(data), WALK_READ);
    assert_int_equal(got.result, WALK_NO_GPA);
    assert_int_equal(got.gpa, 15 * PAGE_SIZE);
    assert_int_equal(got.use, GUEST_USE_READ);
    assert_memory_equal(data, before, sizeof(data));
}

/* Addresses wrap at 4 GiB outside 64-bit mode. */
static void test_wrap(void **state)
{
    (void)state;
    struct guest_paging p = { .cr0 = CR0_PE, .maxphyaddr = 40 };
    uint8_t data[8];
    test_memory_reset(ARENA);
    fill_pattern(0, PAGE_SIZE);
    assert_int_equal(guest_read(&p, &plain_memory, 0xfffffffc, data, 8, WALK_READ).result, WALK_OK);
    assert_memory_equal(data, "\xff\xff\xff\xff", 4);
    assert_memory_equal(data + 4, hpa_ptr(hpa(0)), 4);
    assert_int_equal(guest_walk(&p, &plain_memory, 0xabcd00001234, WALK_READ).gpa, 0x1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_structures),
        cmocka_unit_test(test_unreachable_memory),
        cmocka_unit_test(test_race),
        cmocka_unit_test(test_copy_across_pages),
        cmocka_unit_test(test_copy_fault),
        cmocka_unit_test(test_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
