/*
 * A guest for the tests of task switches on values: a GDT, an LDT, two tasks with 32-bit TSSs and one with a 16-bit TSS, page
 * tables. world_make() puts all of it into its place; then a test edits.
 */
#ifndef STRATA_TEST_TASK_SWITCH_H
#define STRATA_TEST_TASK_SWITCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "core/guest/task.h"
#include "core/lib/vmx.h"
#include "tests/host/support/support.h"

/* The guest's memory. Without paging linear addresses are physical ones; with paging they are, too, until a test edits. */
#define ARENA (64 * KIB)
#define GDT 0x1000u
#define LDT 0x2000u
#define OLD 0x3000u
#define NEW 0x4000u
#define NEW16 0x5000u
#define STACK 0x6000u
#define PDPT 0x7000u
#define TABLES 0x8000u /* page directory, page table */
#define NEW_TABLES 0xa000u

/* Selectors, and sizes of tables */
// clang-format off
enum {
    CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x1b, DATA3 = 0x23, TSS_OLD = 0x28, TSS_NEW = 0x30, LDT_SEL = 0x38,
    TSS_NEW16 = 0x40, CONFORMING = 0x48, EXECUTE_ONLY = 0x50, READ_ONLY = 0x58, STACK16 = 0x60, STACK_DOWN = 0x68,
    ABSENT_CODE = 0x70, ABSENT_DATA = 0x78, ABSENT_LDT = 0x80, CODE_SMALL = 0x88, TSS_END = 0x90, GDT_SIZE = 0x98,
    LOCAL_DATA = 0x04, LOCAL_CODE = 0x0c, LDT_SIZE = 0x10
};
// clang-format on

#define BUSY 2u
#define EFLAGS_OLD 0x00000202u
#define EIP_OLD 0x1234u
#define LENGTH 7u

/* Offsets in a TSS */
#define T32_CR3 0x1c
#define T32_EIP 0x20
#define T32_EFLAGS 0x24
#define T32_GPR 0x28
#define T32_ES 0x48 /* then CS SS DS FS GS */
#define T32_LDT 0x60
#define T32_TRAP 0x64
#define T16_IP 0x0e
#define T16_FLAGS 0x10
#define T16_GPR 0x12
#define T16_ES 0x22
#define T16_LDT 0x2a

static struct task_state state;
static struct task_request request;

static inline uint8_t *at(uint64_t gpa) { return hpa_ptr(hpa(gpa)); }
static inline uint32_t get32(uint64_t gpa)
{
    uint32_t v;
    memcpy(&v, at(gpa), 4);
    return v;
}
static inline uint16_t get16(uint64_t gpa)
{
    uint16_t v;
    memcpy(&v, at(gpa), 2);
    return v;
}
static inline void put64(uint64_t gpa, uint64_t v) { memcpy(at(gpa), &v, 8); }
static inline void put32(uint64_t gpa, uint32_t v) { memcpy(at(gpa), &v, 4); }
static inline void put16(uint64_t gpa, uint16_t v) { memcpy(at(gpa), &v, 2); }

/* flags: G and D/B as in bits 55:52 of a descriptor. */
static inline void descriptor(uint64_t gpa, uint32_t base, uint32_t limit, uint8_t rights, uint8_t flags)
{
    put64(gpa, (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)rights << 40 |
                   (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56);
}

static inline uint8_t rights_of(uint16_t selector) { return *at((selector & 4 ? LDT : GDT) + (selector & ~7u) + 5); }

static inline void *plain_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context, (void)use;
    return gpa1_ptr(gpa1(gpa));
}
static const struct guest_memory memory = { plain_pointer, NULL };

static inline void tables_make(void)
{
    descriptor(GDT + CODE0, 0, 0xfffff, 0x9a, 0xc);
    descriptor(GDT + DATA0, 0, 0xfffff, 0x92, 0xc);
    descriptor(GDT + (CODE3 & ~7), 0, 0xfffff, 0xfa, 0xc);
    descriptor(GDT + (DATA3 & ~7), 0, 0xfffff, 0xf2, 0xc);
    descriptor(GDT + TSS_OLD, OLD, 0x67, 0x8b, 0);
    descriptor(GDT + TSS_NEW, NEW, 0x67, 0x89, 0);
    descriptor(GDT + LDT_SEL, LDT, LDT_SIZE - 1, 0x82, 0);
    descriptor(GDT + TSS_NEW16, NEW16, 0x2b, 0x81, 0);
    descriptor(GDT + CONFORMING, 0, 0xfffff, 0x9e, 0xc);
    descriptor(GDT + EXECUTE_ONLY, 0, 0xfffff, 0x98, 0xc);
    descriptor(GDT + READ_ONLY, 0, 0xfffff, 0x90, 0xc);
    descriptor(GDT + STACK16, 0, 0xffff, 0x92, 0);
    descriptor(GDT + STACK_DOWN, 0, 0x5fff, 0x96, 0x4);
    descriptor(GDT + ABSENT_CODE, 0, 0xfffff, 0x1a, 0xc);
    descriptor(GDT + ABSENT_DATA, 0, 0xfffff, 0x12, 0xc);
    descriptor(GDT + ABSENT_LDT, LDT, LDT_SIZE - 1, 0x02, 0);
    descriptor(GDT + CODE_SMALL, 0, 0xfff, 0x9a, 0x4);
    descriptor(GDT + TSS_END, ARENA - 0x68, 0x67, 0x89, 0);
    descriptor(LDT + (LOCAL_DATA & ~7), 0x100, 0xfffff, 0x92, 0xc);
    descriptor(LDT + (LOCAL_CODE & ~7), 0, 0xfffff, 0x9a, 0xc);
}

static inline void tss_make(void)
{
    static const uint16_t selectors[] = { DATA0, CODE0, DATA0, DATA0, 0, LOCAL_DATA };
    for (uint32_t i = 0; i < 0x68; i++)
        *at(NEW + i) = *at(OLD + i) = (uint8_t)(0xa0 + i);
    put32(NEW + T32_EIP, 0x5678);
    put32(NEW + T32_EFLAGS, 0x00000046);
    put32(NEW + T32_CR3, NEW_TABLES | 0x18);
    put16(NEW + T32_TRAP, 0);
    put16(NEW + T32_LDT, LDT_SEL);
    put16(NEW16 + T16_IP, 0x9abc);
    put16(NEW16 + T16_FLAGS, 0x8839); /* three reserved bits */
    put16(NEW16 + T16_LDT, 0);
    for (uint32_t i = 0; i < TASK_GPRS; i++) {
        put32(NEW + T32_GPR + 4 * i, 0x11111100 * (i + 1));
        put16(NEW16 + T16_GPR + 2 * i, (uint16_t)(0x1100 * (i + 1)));
    }
    put32(NEW + T32_GPR + 4 * GPR_RSP, STACK + 0x800);
    put16(NEW16 + T16_GPR + 2 * GPR_RSP, STACK + 0x800);
    for (uint32_t i = 0; i < 6; i++)
        put32(NEW + T32_ES + 4 * i, selectors[i]);
    for (uint32_t i = 0; i < 4; i++)
        put16(NEW16 + T16_ES + 2 * i, selectors[i]);
}

/* Two sets of 32-bit page tables that map the arena to itself; a PAE page-directory-pointer table. */
static inline void paging_make(void)
{
    for (uint32_t base = TABLES; base <= NEW_TABLES; base += NEW_TABLES - TABLES) {
        put32(base, (base + 0x1000) | 7);
        for (uint32_t page = 0; page < ARENA / PAGE_SIZE; page++)
            put32(base + 0x1000 + 4 * page, page << 12 | 0x67);
    }
    put32(TABLES, (TABLES + 0x1000) | 0x27);
    put32(NEW_TABLES, (NEW_TABLES + 0x1000) | 0x27);
    put64(PDPT, TABLES | 1);
}

/* A task of 32-bit code at CPL 0 that JMPs to TSS_NEW. */
static inline void world_make(void)
{
    test_memory_reset(ARENA);
    tables_make();
    tss_make();
    paging_make();
    memset(&state, 0, sizeof(state));
    for (uint32_t i = 0; i < TASK_GPRS; i++)
        state.gpr[i] = 0x01010101 * (i + 1);
    state.eip = EIP_OLD;
    state.eflags = EFLAGS_OLD;
    state.dr7 = 0x7ff;
    for (uint16_t i = SEG_ES; i <= SEG_GS; i++)
        state.segment[i] = (struct task_segment){ .selector = DATA0, .limit = ~0u, .rights = 0xc093 };
    state.segment[SEG_CS] = (struct task_segment){ .selector = CODE0, .limit = ~0u, .rights = 0xc09b };
    state.segment[SEG_LDTR] = (struct task_segment){ .rights = AR_UNUSABLE };
    state.segment[SEG_TR] = (struct task_segment){ .selector = TSS_OLD, .base = OLD, .limit = 0x67, .rights = 0x8b };
    state.gdt_base = GDT;
    state.gdt_limit = GDT_SIZE - 1;
    state.paging = (struct guest_paging){ .cr0 = CR0_PE | CR0_NE, .maxphyaddr = 40, .rflags = EFLAGS_OLD };
    request = (struct task_request){ .source = TASK_JMP, .selector = TSS_NEW, .length = LENGTH };
}

static inline void paging_on(void)
{
    state.paging.cr0 |= CR0_PG | CR0_WP;
    state.paging.cr3 = TABLES;
}

/* The same with PAE paging; the new task has its pointers in PDPT. */
static inline void paging_on_pae(void)
{
    state.paging.cr0 |= CR0_PG;
    state.paging.cr4 = CR4_PAE;
    state.paging.cr3 = 0xdead0000; /* what counts is in the registers */
    state.paging.pdpte[0] = TABLES | 1;
    put64(TABLES, (TABLES + 0x1000) | 0x67);
    for (uint32_t page = 0; page < ARENA / PAGE_SIZE; page++)
        put64(TABLES + 0x1000 + 8 * page, page << 12 | 0x67);
    put32(NEW + T32_CR3, PDPT | 0x1b);
}

static inline struct task_result run(void) { return task_run(&state, &request, &memory); }

static inline struct task_result run_switched(void)
{
    struct task_result r = run();
    assert_int_equal(r.kind, TASK_SWITCHED);
    assert_true(r.committed);
    return r;
}

/* From a TSS that is busy. */
static inline void request_iret(void)
{
    request.source = TASK_IRET;
    *at(GDT + TSS_NEW + 5) |= BUSY;
    *at(GDT + TSS_NEW16 + 5) |= BUSY;
    state.eflags |= RFLAGS_NT;
}

static inline void request_event(uint64_t type, unsigned vector, bool has_error)
{
    request.source = TASK_GATE;
    request.event = INTR_VALID | type | vector | (has_error ? INTR_ERROR_VALID : 0);
    request.error = 0xbeef1234;
}

static inline void assert_segment(enum segment number, uint16_t selector, uint64_t base, uint32_t limit,
                                  uint32_t rights)
{
    const struct task_segment *s = &state.segment[number];
    assert_int_equal(s->selector, selector);
    assert_int_equal(s->base, base);
    assert_int_equal(s->limit, limit);
    assert_int_equal(s->rights, rights);
}

/* Member by member: padding may differ. */
static inline void assert_state(const struct task_state *want)
{
    assert_memory_equal(state.gpr, want->gpr, sizeof(want->gpr));
    assert_int_equal(state.eip, want->eip);
    assert_int_equal(state.eflags, want->eflags);
    assert_int_equal(state.dr7, want->dr7);
    for (enum segment i = SEG_ES; i < SEG_COUNT; i++) {
        const struct task_segment *s = &want->segment[i];
        assert_segment(i, s->selector, s->base, s->limit, s->rights);
    }
    assert_int_equal(state.paging.cr0, want->paging.cr0);
    assert_int_equal(state.paging.cr3, want->paging.cr3);
    assert_int_equal(state.paging.rflags, want->paging.rflags);
    assert_int_equal(state.paging.cpl, want->paging.cpl);
    assert_memory_equal(state.paging.pdpte, want->paging.pdpte, sizeof(want->paging.pdpte));
}

static inline void assert_old_saved(uint32_t eip, uint32_t eflags)
{
    assert_int_equal(get32(OLD + T32_EIP), eip);
    assert_int_equal(get32(OLD + T32_EFLAGS), eflags);
    for (uint32_t i = 0; i < TASK_GPRS; i++)
        assert_int_equal(get32(OLD + T32_GPR + 4 * i), 0x01010101 * (i + 1));
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(get32(OLD + T32_ES + 4 * i), i == SEG_CS ? CODE0 : DATA0);
    for (uint32_t i = 0; i < 0x68; i++)
        if (i < T32_EIP || i >= T32_LDT)
            assert_int_equal(*at(OLD + i), (uint8_t)(0xa0 + i));
}

#define TSS_SEL(seg) (NEW + T32_ES + 4 * SEG_##seg)

#endif
