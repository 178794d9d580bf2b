/* sources: core/task.c core/task_access.c core/task_segments.c core/guest_walk.c */
/*
 * Task switches on values: what is saved and loaded, each fault with its error code and the task that it is raised in, and
 * that a fault in the old task has changed nothing.
 */
#include "core/task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/mem.h"
#include "core/vmx.h"
#include "tests/host/support.h"

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

/* Selectors */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x1b,
    DATA3 = 0x23,
    TSS_OLD = 0x28,
    TSS_NEW = 0x30,
    LDT_SEL = 0x38,
    TSS_NEW16 = 0x40,
    CONFORMING = 0x48,
    EXECUTE_ONLY = 0x50,
    READ_ONLY = 0x58,
    STACK16 = 0x60,
    STACK_DOWN = 0x68,
    ABSENT_CODE = 0x70,
    ABSENT_DATA = 0x78,
    ABSENT_LDT = 0x80,
    CODE_SMALL = 0x88,
    TSS_END = 0x90,
    GDT_SIZE = 0x98,
    LOCAL_DATA = 0x04,
    LOCAL_CODE = 0x0c,
    LDT_SIZE = 0x10
};

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

static uint8_t *at(uint64_t gpa) { return hpa_ptr(hpa(gpa)); }
static uint32_t get32(uint64_t gpa)
{
    uint32_t v;
    memcpy(&v, at(gpa), 4);
    return v;
}
static uint16_t get16(uint64_t gpa)
{
    uint16_t v;
    memcpy(&v, at(gpa), 2);
    return v;
}
static void put64(uint64_t gpa, uint64_t v) { memcpy(at(gpa), &v, 8); }
static void put32(uint64_t gpa, uint32_t v) { memcpy(at(gpa), &v, 4); }
static void put16(uint64_t gpa, uint16_t v) { memcpy(at(gpa), &v, 2); }

/* flags: G and D/B as in bits 55:52 of a descriptor. */
static void descriptor(uint64_t gpa, uint32_t base, uint32_t limit, uint8_t rights, uint8_t flags)
{
    put64(gpa, (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)rights << 40 |
                   (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56);
}

static uint8_t rights_of(uint16_t selector) { return *at((selector & 4 ? LDT : GDT) + (selector & ~7u) + 5); }

static void *plain_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context, (void)use;
    return gpa1_ptr(gpa1(gpa));
}
static const struct guest_memory memory = { plain_pointer, NULL };

static void tables_make(void)
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

static void tss_make(void)
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
static void paging_make(void)
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
static void world_make(void)
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

static void paging_on(void)
{
    state.paging.cr0 |= CR0_PG | CR0_WP;
    state.paging.cr3 = TABLES;
}

static struct task_result run(void) { return task_run(&state, &request, &memory); }

static struct task_result run_switched(void)
{
    struct task_result r = run();
    assert_int_equal(r.kind, TASK_SWITCHED);
    assert_true(r.committed);
    return r;
}

/* From a TSS that is busy. */
static void request_iret(void)
{
    request.source = TASK_IRET;
    *at(GDT + TSS_NEW + 5) |= BUSY;
    *at(GDT + TSS_NEW16 + 5) |= BUSY;
    state.eflags |= RFLAGS_NT;
}

static void request_event(uint64_t type, unsigned vector, bool has_error)
{
    request.source = TASK_GATE;
    request.event = INTR_VALID | type | vector | (has_error ? INTR_ERROR_VALID : 0);
    request.error = 0xbeef1234;
}

static void assert_segment(enum segment number, uint16_t selector, uint64_t base, uint32_t limit, uint32_t rights)
{
    const struct task_segment *s = &state.segment[number];
    assert_int_equal(s->selector, selector);
    assert_int_equal(s->base, base);
    assert_int_equal(s->limit, limit);
    assert_int_equal(s->rights, rights);
}

static void assert_old_saved(uint32_t eip, uint32_t eflags)
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

static void jmp_saves_and_loads_everything(void **unused)
{
    (void)unused;
    world_make();
    struct task_result r = run_switched();
    assert_false(r.cr3_changed || r.debug_trap);
    assert_old_saved(EIP_OLD + LENGTH, EFLAGS_OLD);
    assert_int_equal(state.eip, 0x5678);
    assert_int_equal(state.eflags, 0x46);
    assert_int_equal(state.paging.rflags, 0x46);
    for (uint32_t i = 0; i < TASK_GPRS; i++)
        assert_int_equal(state.gpr[i], i == GPR_RSP ? STACK + 0x800 : 0x11111100 * (i + 1));
    assert_segment(SEG_CS, CODE0, 0, ~0u, 0xc09b);
    assert_segment(SEG_SS, DATA0, 0, ~0u, 0xc093);
    assert_segment(SEG_DS, DATA0, 0, ~0u, 0xc093);
    assert_segment(SEG_ES, DATA0, 0, ~0u, 0xc093);
    assert_segment(SEG_FS, 0, 0, 0, AR_UNUSABLE);
    assert_segment(SEG_GS, LOCAL_DATA, 0x100, ~0u, 0xc093);
    assert_segment(SEG_LDTR, LDT_SEL, LDT, LDT_SIZE - 1, 0x82);
    assert_segment(SEG_TR, TSS_NEW, NEW, 0x67, 0x8b);
    assert_int_equal(state.dr7, 0x7ff & ~0x155);
    assert_int_equal(state.paging.cr0, CR0_PE | CR0_NE | CR0_TS);
    assert_int_equal(state.paging.cr3, 0);
    assert_int_equal(state.paging.cpl, 0);
    /* Busy and accessed flags in memory. */
    assert_int_equal(rights_of(TSS_OLD), 0x89);
    assert_int_equal(rights_of(TSS_NEW), 0x8b);
    assert_int_equal(rights_of(CODE0), 0x9b);
    assert_int_equal(rights_of(DATA0), 0x93);
    assert_int_equal(rights_of(LOCAL_DATA), 0x93);
    assert_int_equal(rights_of(CODE3), 0xfa);
    assert_int_equal(get16(NEW), 0xa1a0); /* no link */
}

static void call_nests_and_iret_returns(void **unused)
{
    (void)unused;
    world_make();
    request.source = TASK_CALL;
    run_switched();
    assert_old_saved(EIP_OLD + LENGTH, EFLAGS_OLD);
    assert_int_equal(get16(NEW), TSS_OLD);
    assert_int_equal(get16(NEW + 2), 0xa3a2);
    assert_int_equal(state.eflags, 0x46 | RFLAGS_NT);
    assert_int_equal(rights_of(TSS_OLD), 0x8b);
    assert_int_equal(rights_of(TSS_NEW), 0x8b);

    /* And back: the old task is as it was, but for what a switch changes. */
    request = (struct task_request){ .source = TASK_IRET, .selector = TSS_OLD, .length = 1 };
    put32(OLD + T32_LDT, 0);
    run_switched();
    assert_int_equal(state.eip, EIP_OLD + LENGTH);
    assert_int_equal(state.eflags, EFLAGS_OLD);
    for (uint32_t i = 0; i < TASK_GPRS; i++)
        assert_int_equal(state.gpr[i], 0x01010101 * (i + 1));
    assert_int_equal(get32(NEW + T32_EFLAGS), 0x46); /* NT is cleared in what is saved */
    assert_int_equal(get32(NEW + T32_EIP), 0x5679);
    assert_int_equal(rights_of(TSS_OLD), 0x8b);
    assert_int_equal(rights_of(TSS_NEW), 0x89);
    assert_int_equal(get16(NEW), TSS_OLD);
}

static void a_16bit_task(void **unused)
{
    (void)unused;
    world_make();
    paging_on();
    request.selector = TSS_NEW16;
    struct task_result r = run_switched();
    assert_false(r.cr3_changed);
    assert_int_equal(state.paging.cr3, TABLES);
    assert_int_equal(state.eip, 0x9abc);
    assert_int_equal(state.eflags, 0x813);
    for (uint32_t i = 0; i < TASK_GPRS; i++)
        if (i != GPR_RSP)
            assert_int_equal(state.gpr[i], 0xffff0000 + 0x1100 * (i + 1));
    assert_segment(SEG_FS, 0, 0, 0, AR_UNUSABLE);
    assert_segment(SEG_GS, 0, 0, 0, AR_UNUSABLE);
    assert_segment(SEG_LDTR, 0, 0, 0, AR_UNUSABLE);
    assert_segment(SEG_TR, TSS_NEW16, NEW16, 0x2b, 0x83);

    /* And out of it. */
    request = (struct task_request){ .source = TASK_JMP, .selector = TSS_OLD, .length = 3 };
    uint32_t first = state.gpr[GPR_RAX];
    put32(OLD + T32_LDT, 0);
    put32(OLD + T32_CR3, TABLES);
    memset(at(NEW16), 0x77, 0x2c);
    run_switched();
    assert_int_equal(get16(NEW16 + T16_IP), 0x9abf);
    assert_int_equal(get16(NEW16 + T16_FLAGS), 0x813);
    assert_int_equal(get16(NEW16 + T16_GPR), (uint16_t)first);
    assert_int_equal(get16(NEW16 + T16_ES), DATA0);
    assert_int_equal(get16(NEW16 + T16_ES + 2), CODE0);
    assert_int_equal(get16(NEW16 + T16_LDT), 0x7777);
    assert_int_equal(get16(NEW16 + T16_IP - 2), 0x7777);
    assert_int_equal(rights_of(TSS_NEW16), 0x81);
}

static void reserved_eflags_are_not_loaded(void **unused)
{
    (void)unused;
    world_make();
    put32(NEW + T32_EFLAGS, ~(uint32_t)RFLAGS_VM);
    run_switched();
    assert_int_equal(state.eflags, 0x3f7fd7 & ~(uint32_t)RFLAGS_VM);
}

static void virtual_8086_tasks(void **unused)
{
    (void)unused;
    world_make();
    put32(NEW + T32_EFLAGS, (uint32_t)RFLAGS_VM | 0x3202);
    put32(NEW + T32_EIP, 0xfff0);
    for (uint32_t i = 0; i < 6; i++)
        put32(NEW + T32_ES + 4 * i, 0xfff0 + i); /* no descriptors are read */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_GP, true);
    put32(NEW + T32_ES + 4 * SEG_SS, 0x700);
    put32(NEW + T32_GPR + 4 * GPR_RSP, 0x55550002);
    struct task_result r = run();
    assert_int_equal(r.kind, TASK_FAULTED); /* the push at FFFEh crosses the limit */
    assert_int_equal(r.vector, VECTOR_DF);
    for (uint16_t i = SEG_ES; i <= SEG_GS; i++) {
        uint16_t selector = i == SEG_SS ? 0x700 : (uint16_t)(0xfff0 + i);
        assert_segment((enum segment)i, selector, (uint64_t)selector << 4, 0xffff, 0xf3);
    }
    assert_int_equal(state.paging.cpl, 3);

    /* From there by an interrupt: an external one saves where it was, INT n what follows. */
    state.eip = 0x10;
    request_event(INTR_TYPE_EXTERNAL, 0x20, false);
    request.selector = TSS_OLD;
    *at(GDT + TSS_OLD + 5) &= (uint8_t)~BUSY;
    put32(OLD + T32_EIP, 0x100);
    put32(OLD + T32_EFLAGS, 2);
    put32(OLD + T32_LDT, 0);
    memcpy(at(OLD + T32_ES), (uint32_t[]){ 0, CODE3, DATA3, 0, 0, 0 }, 24);
    run_switched();
    assert_int_equal(get32(NEW + T32_EIP), 0x10);
    assert_int_equal(get32(NEW + T32_EFLAGS), (uint32_t)RFLAGS_VM | (uint32_t)RFLAGS_NT | 0x3202);
    assert_int_equal(state.paging.cpl, 3);
    assert_segment(SEG_SS, DATA3, 0, ~0u, 0xc0f3);
    assert_segment(SEG_CS, CODE3, 0, ~0u, 0xc0fb);
}

static void bad_ldt_of_a_virtual_8086_task(void **unused)
{
    (void)unused;
    world_make();
    put32(NEW + T32_EFLAGS, (uint32_t)RFLAGS_VM | 2);
    put16(NEW + T32_LDT, DATA0);
    struct task_result r = run();
    assert_int_equal(r.kind, TASK_FAULTED);
    assert_int_equal(r.vector, VECTOR_TS);
    assert_int_equal(r.error, DATA0);
    assert_segment(SEG_CS, CODE0, CODE0 << 4, 0xffff, 0xf3); /* nothing else may be there in this mode */
    assert_segment(SEG_LDTR, DATA0, 0, 0, AR_UNUSABLE);
}

static void instruction_pointer_saved(void **unused)
{
    (void)unused;
    static const struct {
        uint64_t type;
        unsigned vector;
        uint32_t skipped;
    } events[] = {
        { INTR_TYPE_EXTERNAL, 0x40, 0 },
        { INTR_TYPE_NMI, VECTOR_NMI, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DB, 0 },
        { INTR_TYPE_SW_INTR, 0x80, LENGTH },
        { INTR_TYPE_PRIV_SW_EXCEPTION, VECTOR_DB, LENGTH },
        { INTR_TYPE_SW_EXCEPTION, VECTOR_BP, LENGTH },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(events); i++) {
        world_make();
        request_event(events[i].type, events[i].vector, false);
        run_switched();
        assert_old_saved(EIP_OLD + events[i].skipped, EFLAGS_OLD);
        assert_int_equal(get16(NEW), TSS_OLD);
        assert_true(state.eflags & RFLAGS_NT);
        assert_int_equal(state.gpr[GPR_RSP], STACK + 0x800);
    }
}

static void error_code_on_the_new_stack(void **unused)
{
    (void)unused;
    world_make();
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_DF, true);
    run_switched();
    assert_int_equal(state.gpr[GPR_RSP], STACK + 0x7fc);
    assert_int_equal(get32(STACK + 0x7fc), 0xbeef1234);

    world_make(); /* 16-bit TSS: 16 bits of it; and a 32-bit stack pointer with FFFFh on top is used as it is */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_GP, true);
    request.selector = TSS_NEW16;
    put16(NEW16 + T16_ES + 2 * SEG_SS, STACK16);
    put32(STACK + 0x7fa, 0x55555555);
    run_switched();
    assert_int_equal(state.gpr[GPR_RSP], 0xffff0000 + STACK + 0x7fe);
    assert_int_equal(get32(STACK + 0x7fc), 0x12345555);

    world_make(); /* SP wraps in 64 KiB, the upper half of ESP stays */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_GP, true);
    put32(NEW + T32_ES + 4 * SEG_SS, STACK16);
    put32(NEW + T32_GPR + 4 * GPR_RSP, 0x12340000);
    run_switched();
    assert_int_equal(state.gpr[GPR_RSP], 0x1234fffc);
    assert_int_equal(get32(0xfffc), 0xbeef1234);

    world_make(); /* expand-down: above the limit */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_TS, true);
    put32(NEW + T32_ES + 4 * SEG_SS, STACK_DOWN);
    put32(NEW + T32_GPR + 4 * GPR_RSP, 0x6004);
    run_switched();
    assert_int_equal(get32(0x6000), 0xbeef1234);
}

/* A change of the world, and what comes of it. Values are written as 16 bits, or 32 where W32 says so. */
enum where { MEMORY16, MEMORY32, RIGHTS, TR_LIMIT, GDT_LIMIT, TR_RIGHTS, SOURCE };
struct edit {
    enum where where;
    uint64_t place;
    uint32_t value;
};
struct faulting {
    struct edit edits[3];
    enum vector vector;
    uint32_t error;
};

static void edit_apply(const struct edit *e)
{
    switch (e->where) {
    case MEMORY16:
        if (e->place)
            put16(e->place, (uint16_t)e->value);
        break;
    case MEMORY32:
        put32(e->place, e->value);
        break;
    case RIGHTS:
        *at(GDT + e->place + 5) = (uint8_t)e->value;
        break;
    case TR_LIMIT:
        state.segment[SEG_TR].limit = e->value;
        break;
    case GDT_LIMIT:
        state.gdt_limit = e->value;
        break;
    case TR_RIGHTS:
        state.segment[SEG_TR].rights = e->value;
        break;
    case SOURCE:
        request.source = (enum task_source)e->value;
        request.selector = e->place ? (uint16_t)e->place : request.selector;
        break;
    }
}

static struct task_result run_edited(const struct faulting *f)
{
    for (unsigned i = 0; i < ARRAY_SIZE(f->edits); i++)
        edit_apply(&f->edits[i]);
    return run();
}

#define TSS_SEL(seg) (NEW + T32_ES + 4 * SEG_##seg)

static void faults_of_the_old_task(void **unused)
{
    (void)unused;
    static const struct faulting faults[] = {
        { { { SOURCE, 0x03, TASK_JMP } }, VECTOR_GP, 0 },
        { { { SOURCE, 0x34, TASK_JMP } }, VECTOR_GP, 0x34 },
        { { { SOURCE, 0x34, TASK_IRET } }, VECTOR_TS, 0x34 },
        { { { SOURCE, 0x03, TASK_IRET } }, VECTOR_TS, 0 },
        { { { SOURCE, GDT_SIZE, TASK_CALL } }, VECTOR_GP, GDT_SIZE },
        { { { SOURCE, 0xfffb, TASK_IRET } }, VECTOR_TS, 0xfff8 },
        { { { GDT_LIMIT, 0, TSS_NEW + 6 } }, VECTOR_GP, TSS_NEW },
        { { { SOURCE, 0x33, TASK_JMP }, { RIGHTS, TSS_NEW, 0x8b } }, VECTOR_GP, TSS_NEW },
        { { { SOURCE, 0, TASK_IRET } }, VECTOR_TS, TSS_NEW },
        { { { RIGHTS, TSS_NEW, 0x99 } }, VECTOR_GP, TSS_NEW },
        { { { RIGHTS, TSS_NEW, 0x82 } }, VECTOR_GP, TSS_NEW },
        { { { RIGHTS, TSS_NEW, 0x80 } }, VECTOR_GP, TSS_NEW },
        { { { RIGHTS, TSS_NEW, 0x09 } }, VECTOR_NP, TSS_NEW },
        { { { MEMORY16, GDT + TSS_NEW, 0x66 } }, VECTOR_TS, TSS_NEW },
        { { { MEMORY16, GDT + TSS_NEW16, 0x2a }, { SOURCE, TSS_NEW16, TASK_CALL } }, VECTOR_TS, TSS_NEW16 },
        { { { TR_LIMIT, 0, 0x5e } }, VECTOR_TS, TSS_OLD },
        { { { TR_LIMIT, 0, 0x28 }, { TR_RIGHTS, 0, 0x83 } }, VECTOR_TS, TSS_OLD },
    };
    static uint8_t before[ARENA];
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
        world_make();
        for (unsigned k = 0; k < ARRAY_SIZE(faults[i].edits); k++)
            edit_apply(&faults[i].edits[k]);
        struct task_state old = state;
        memcpy(before, at(0), ARENA);
        struct task_result r = run();
        if (r.kind != TASK_FAULTED || r.vector != faults[i].vector || r.error != faults[i].error)
            fail_msg("row %u: kind %d, vector %d, error %xh", i, (int)r.kind, (int)r.vector, r.error);
        assert_false(r.committed || r.page_fault || r.cr3_changed);
        assert_memory_equal(&state, &old, sizeof(state));
        assert_memory_equal(at(0), before, ARENA);
    }
}

static void no_task_switch_in_ia32e_mode(void **unused)
{
    (void)unused;
    world_make();
    state.paging.efer = EFER_LMA;
    struct task_result r = run();
    assert_int_equal(r.kind, TASK_FAULTED);
    assert_int_equal(r.vector, VECTOR_GP);
    assert_int_equal(r.error, TSS_NEW);
    assert_false(r.committed);
}

static void faults_of_the_new_task(void **unused)
{
    (void)unused;
    static const struct faulting faults[] = {
        { { { MEMORY16, NEW + T32_LDT, LOCAL_DATA } }, VECTOR_TS, LOCAL_DATA },
        { { { MEMORY16, NEW + T32_LDT, DATA0 } }, VECTOR_TS, DATA0 },
        { { { MEMORY16, NEW + T32_LDT, TSS_NEW16 } }, VECTOR_TS, TSS_NEW16 },
        { { { MEMORY16, NEW + T32_LDT, ABSENT_LDT | 1 } }, VECTOR_TS, ABSENT_LDT },
        { { { MEMORY16, NEW + T32_LDT, GDT_SIZE } }, VECTOR_TS, GDT_SIZE },
        { { { MEMORY16, TSS_SEL(SS), 0 } }, VECTOR_TS, 0 },
        { { { MEMORY16, TSS_SEL(SS), GDT_SIZE } }, VECTOR_TS, GDT_SIZE },
        { { { MEMORY16, TSS_SEL(SS), CODE0 } }, VECTOR_TS, CODE0 },
        { { { MEMORY16, TSS_SEL(SS), READ_ONLY } }, VECTOR_TS, READ_ONLY },
        { { { MEMORY16, TSS_SEL(SS), TSS_NEW16 } }, VECTOR_TS, TSS_NEW16 },
        { { { MEMORY16, TSS_SEL(SS), ABSENT_DATA } }, VECTOR_SS, ABSENT_DATA },
        { { { MEMORY16, TSS_SEL(SS), DATA0 | 1 } }, VECTOR_TS, DATA0 },
        { { { MEMORY16, TSS_SEL(SS), DATA3 } }, VECTOR_TS, DATA3 & ~3u },
        { { { MEMORY16, TSS_SEL(SS), DATA3 }, { MEMORY16, TSS_SEL(CS), CODE0 | 3 } }, VECTOR_TS, CODE0 },
        { { { MEMORY16, TSS_SEL(CS), 0 } }, VECTOR_TS, 0 },
        { { { MEMORY16, TSS_SEL(CS), GDT_SIZE } }, VECTOR_TS, GDT_SIZE },
        { { { MEMORY16, TSS_SEL(CS), LDT_SIZE | 4 } }, VECTOR_TS, LDT_SIZE | 4 },
        { { { MEMORY16, TSS_SEL(CS), DATA0 } }, VECTOR_TS, DATA0 },
        { { { MEMORY16, TSS_SEL(CS), LDT_SEL } }, VECTOR_TS, LDT_SEL },
        { { { MEMORY16, TSS_SEL(CS), CODE3 & ~3u } }, VECTOR_TS, CODE3 & ~3u },
        { { { MEMORY16, TSS_SEL(CS), ABSENT_CODE } }, VECTOR_NP, ABSENT_CODE },
        { { { MEMORY16, TSS_SEL(CS), CONFORMING }, { RIGHTS, CONFORMING, 0xfe } }, VECTOR_TS, CONFORMING },
        { { { MEMORY16, TSS_SEL(DS), GDT_SIZE } }, VECTOR_TS, GDT_SIZE },
        { { { MEMORY16, TSS_SEL(ES), EXECUTE_ONLY } }, VECTOR_TS, EXECUTE_ONLY },
        { { { MEMORY16, TSS_SEL(FS), TSS_NEW } }, VECTOR_TS, TSS_NEW },
        { { { MEMORY16, TSS_SEL(GS), ABSENT_DATA } }, VECTOR_NP, ABSENT_DATA },
        { { { MEMORY16, TSS_SEL(DS), DATA0 | 3 } }, VECTOR_TS, DATA0 },
        { { { MEMORY16, TSS_SEL(DS), CODE0 | 3 } }, VECTOR_TS, CODE0 },
        { { { MEMORY16, TSS_SEL(CS), CODE3 }, { MEMORY16, TSS_SEL(SS), DATA3 } }, VECTOR_TS, DATA0 },
        { { { MEMORY16, NEW + T32_LDT, 0 } }, VECTOR_TS, LOCAL_DATA },
        { { { MEMORY16, TSS_SEL(CS), CODE_SMALL } }, VECTOR_GP, 0 },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
        world_make();
        struct task_result r = run_edited(&faults[i]);
        if (r.kind != TASK_FAULTED || r.vector != faults[i].vector || r.error != faults[i].error)
            fail_msg("row %u: kind %d, vector %d, error %xh", i, (int)r.kind, (int)r.vector, r.error);
        assert_true(r.committed);
        assert_false(r.debug_trap || r.page_fault);
        assert_int_equal(state.eip, 0x5678);
        assert_int_equal(state.segment[SEG_TR].selector, TSS_NEW);
        for (uint16_t s = SEG_ES; s <= SEG_GS; s++)
            assert_int_equal(state.segment[s].selector, get16(NEW + T32_ES + 4u * s));
        assert_old_saved(EIP_OLD + LENGTH, EFLAGS_OLD);
        assert_int_equal(rights_of(TSS_NEW), 0x8b);
    }
}

/* What is left in the registers gives no rights, and CPL 3 while there is no stack. */
static void registers_after_a_fault(void **unused)
{
    (void)unused;
    world_make();
    put16(TSS_SEL(SS), READ_ONLY);
    assert_int_equal(run().kind, TASK_FAULTED);
    assert_segment(SEG_SS, READ_ONLY, 0, 0, AR_UNUSABLE | 0x60);
    assert_segment(SEG_CS, CODE0, 0, 0, 0xfb);
    assert_segment(SEG_DS, DATA0, 0, 0, AR_UNUSABLE);
    assert_segment(SEG_LDTR, LDT_SEL, LDT, LDT_SIZE - 1, 0x82);
    assert_int_equal(state.paging.cpl, 3);

    world_make();
    put16(TSS_SEL(CS), ABSENT_CODE);
    assert_int_equal(run().kind, TASK_FAULTED);
    assert_segment(SEG_SS, DATA0, 0, ~0u, 0xc093);
    assert_segment(SEG_CS, ABSENT_CODE, 0, 0, 0x9b);
    assert_int_equal(state.paging.cpl, 0);
}

static void segments_that_are_allowed(void **unused)
{
    (void)unused;
    static const struct edit edits[][2] = {
        { { MEMORY16, TSS_SEL(CS), CONFORMING }, { 0 } },
        { { MEMORY16, TSS_SEL(CS), LOCAL_CODE }, { 0 } },
        { { MEMORY16, TSS_SEL(CS), EXECUTE_ONLY }, { 0 } },
        { { MEMORY16, TSS_SEL(CS), CONFORMING | 3 }, { MEMORY16, TSS_SEL(SS), DATA3 } },
        { { MEMORY16, TSS_SEL(DS), CONFORMING | 3 }, { 0 } },
        { { MEMORY16, TSS_SEL(DS), READ_ONLY }, { MEMORY16, TSS_SEL(ES), CODE0 } },
        { { MEMORY16, TSS_SEL(GS), 3 }, { MEMORY16, TSS_SEL(FS), 2 } },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(edits); i++) {
        world_make();
        memcpy(at(TSS_SEL(DS)), (uint32_t[]){ 0, 0, 0 }, 12);
        put32(TSS_SEL(ES), 0);
        edit_apply(&edits[i][0]);
        edit_apply(&edits[i][1]);
        run_switched();
        assert_int_equal(state.paging.cpl, state.segment[SEG_CS].selector & 3);
    }
}

static void faults_during_delivery(void **unused)
{
    (void)unused;
    static const struct {
        uint64_t type;
        unsigned vector;
        bool page_fault; /* the second exception, else #TS */
        enum task_kind kind;
        enum vector result;
        uint32_t error;
    } rows[] = {
        { INTR_TYPE_EXTERNAL, 0x20, false, TASK_FAULTED, VECTOR_TS, READ_ONLY | 1 },
        { INTR_TYPE_NMI, VECTOR_NMI, false, TASK_FAULTED, VECTOR_TS, READ_ONLY | 1 },
        { INTR_TYPE_SW_INTR, VECTOR_GP, false, TASK_FAULTED, VECTOR_TS, READ_ONLY },
        { INTR_TYPE_SW_EXCEPTION, VECTOR_BP, false, TASK_FAULTED, VECTOR_TS, READ_ONLY },
        { INTR_TYPE_PRIV_SW_EXCEPTION, VECTOR_DB, false, TASK_FAULTED, VECTOR_TS, READ_ONLY | 1 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DB, false, TASK_FAULTED, VECTOR_TS, READ_ONLY | 1 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_UD, true, TASK_FAULTED, VECTOR_PF, 2 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DE, false, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DE, true, TASK_FAULTED, VECTOR_PF, 2 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_GP, false, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, 21, false, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_PF, false, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_PF, true, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, 20, true, TASK_FAULTED, VECTOR_DF, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DF, false, TASK_SHUTDOWN, 0, 0 },
        { INTR_TYPE_HW_EXCEPTION, VECTOR_DF, true, TASK_SHUTDOWN, 0, 0 },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        world_make();
        request_event(rows[i].type, rows[i].vector, false);
        put16(TSS_SEL(SS), READ_ONLY);
        if (rows[i].page_fault) {
            paging_on();
            put32(TABLES + 0x1000 + 4 * (OLD >> 12), 0);
        }
        struct task_result r = run();
        if (r.kind != rows[i].kind)
            fail_msg("row %u: kind %d", i, (int)r.kind);
        assert_int_equal(r.committed, !rows[i].page_fault);
        assert_int_equal(r.page_fault, rows[i].page_fault);
        if (rows[i].page_fault)
            assert_int_equal(r.linear, OLD + T32_EIP);
        if (r.kind == TASK_FAULTED) {
            assert_int_equal(r.vector, rows[i].result);
            assert_int_equal(r.error, rows[i].error);
        }
    }
}

static void faults_behind_the_segments(void **unused)
{
    (void)unused;
    world_make();                                    /* the error code does not fit on the stack */
    request_event(INTR_TYPE_HW_EXCEPTION, 17, true); /* #AC: benign */
    put32(TSS_SEL(SS), STACK_DOWN);
    put32(NEW + T32_GPR + 4 * GPR_RSP, 0x6003);
    struct task_result r = run();
    assert_int_equal(r.vector, VECTOR_SS);
    assert_int_equal(r.error, 1);
    assert_int_equal(state.gpr[GPR_RSP], 0x6003);

    world_make(); /* nor is EIP inside of CS; the error code is there by then */
    request_event(INTR_TYPE_HW_EXCEPTION, 17, true);
    put32(TSS_SEL(CS), CODE_SMALL);
    r = run();
    assert_int_equal(r.vector, VECTOR_GP);
    assert_int_equal(r.error, 1);
    assert_int_equal(state.gpr[GPR_RSP], STACK + 0x7fc);
    assert_int_equal(get32(STACK + 0x7fc), 0xbeef1234);

    world_make(); /* the stack's page is missing; the access is the new task's own, of its privilege level */
    paging_on();
    request_event(INTR_TYPE_HW_EXCEPTION, 17, true);
    put32(TSS_SEL(CS), CODE3);
    put32(TSS_SEL(SS), DATA3);
    memcpy(at(TSS_SEL(DS)), (uint32_t[]){ 0, 0, 0 }, 12);
    put32(TSS_SEL(ES), 0);
    put32(NEW_TABLES + 0x1000 + 4 * (STACK >> 12), 0);
    r = run();
    assert_int_equal(r.kind, TASK_FAULTED);
    assert_true(r.committed && r.page_fault && r.cr3_changed);
    assert_int_equal(r.vector, VECTOR_PF);
    assert_int_equal(r.error, PFERR_WRITE | PFERR_USER);
    assert_int_equal(r.linear, STACK + 0x7fc);
    assert_int_equal(state.gpr[GPR_RSP], STACK + 0x800);
}

/* Each page in turn is missing or read-only: the old task gets a page fault, and nothing has been written. */
static void page_faults_of_the_old_task(void **unused)
{
    (void)unused;
    static const struct {
        enum task_source source;
        uint32_t page, entry, error;
        uint64_t linear;
    } rows[] = {
        { TASK_JMP, GDT, 0, 0, GDT + TSS_NEW },
        { TASK_JMP, GDT, GDT | 5, PFERR_PRESENT | PFERR_WRITE, GDT + TSS_OLD + 5 },
        { TASK_CALL, GDT, GDT | 5, PFERR_PRESENT | PFERR_WRITE, GDT + TSS_NEW + 5 },
        { TASK_IRET, GDT, GDT | 5, PFERR_PRESENT | PFERR_WRITE, GDT + TSS_OLD + 5 },
        { TASK_JMP, OLD, 0, PFERR_WRITE, OLD + T32_EIP },
        { TASK_JMP, OLD, OLD | 5, PFERR_PRESENT | PFERR_WRITE, OLD + T32_EIP },
        { TASK_IRET, NEW, 0, 0, NEW },
        { TASK_CALL, NEW, NEW | 5, PFERR_PRESENT | PFERR_WRITE, NEW },
    };
    static uint8_t before[ARENA];
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        world_make();
        paging_on();
        request.source = rows[i].source;
        if (rows[i].source == TASK_IRET)
            request_iret();
        put32(TABLES + 0x1000 + 4 * (rows[i].page >> 12), rows[i].entry);
        struct task_state old = state;
        memcpy(before, at(0), ARENA);
        struct task_result r = run();
        if (r.kind != TASK_FAULTED || r.vector != VECTOR_PF || r.error != rows[i].error || r.linear != rows[i].linear)
            fail_msg("row %u: kind %d, vector %d, error %xh at %llxh", i, (int)r.kind, (int)r.vector, r.error,
                     (unsigned long long)r.linear);
        assert_true(r.page_fault);
        assert_false(r.committed);
        assert_memory_equal(&state, &old, sizeof(state));
        assert_memory_equal(at(0), before, TABLES); /* but for accessed flags */
    }

    /* A JMP does not write to the new TSS, and both TSSs may cross pages. */
    world_make();
    paging_on();
    put32(TABLES + 0x1000 + 4 * (NEW >> 12), NEW | 5);
    put32(NEW_TABLES + 0x1000 + 4 * (NEW >> 12), NEW | 5);
    run_switched();

    world_make();
    paging_on();
    descriptor(GDT + TSS_NEW, NEW - 0x20, 0x67, 0x89, 0);
    put32(TABLES + 0x1000 + 4 * (NEW >> 12), 0);
    struct task_result r = run();
    assert_int_equal(r.linear, NEW + 0x47);
    assert_false(r.committed);
}

static void page_tables_change(void **unused)
{
    (void)unused;
    world_make();
    paging_on();
    put32(TSS_SEL(CS), LOCAL_CODE);
    /* The new task has the LDT elsewhere: descriptors are read through its tables. */
    memcpy(at(STACK + LOCAL_CODE - 4), at(LDT + LOCAL_CODE - 4), 8);
    memcpy(at(STACK), at(LDT), 8);
    memset(at(LDT), 0, LDT_SIZE);
    put32(NEW_TABLES + 0x1000 + 4 * (LDT >> 12), STACK | 7);
    struct task_result r = run_switched();
    assert_true(r.cr3_changed);
    assert_int_equal(state.paging.cr3, NEW_TABLES | 0x18);

    world_make(); /* a page fault in the new task: at the LDT */
    paging_on();
    put32(NEW_TABLES + 0x1000 + 4 * (LDT >> 12), 0);
    r = run();
    assert_int_equal(r.vector, VECTOR_PF);
    assert_int_equal(r.error, 0);
    assert_int_equal(r.linear, LDT + (LOCAL_DATA & ~7));
    assert_true(r.committed && r.cr3_changed && r.page_fault);
    assert_segment(SEG_GS, LOCAL_DATA, 0, 0, AR_UNUSABLE);

    world_make(); /* the accessed flag cannot be set */
    paging_on();
    put32(NEW_TABLES + 0x1000 + 4 * (LDT >> 12), LDT | 5);
    r = run();
    assert_int_equal(r.error, PFERR_PRESENT | PFERR_WRITE);
    assert_int_equal(r.linear, LDT + 5);

    world_make(); /* the same CR3 is no change */
    paging_on();
    put32(NEW + T32_CR3, TABLES);
    assert_false(run_switched().cr3_changed);
}

static void pae_pointers_are_loaded(void **unused)
{
    (void)unused;
    for (unsigned bad = 0; bad <= 64; bad++) {
        bool reserved = bad == 1 || bad == 2 || (bad >= 5 && bad <= 8) || (bad >= 40 && bad < 64);
        world_make();
        /* PAE tables that map the arena to itself, in the same place. */
        state.paging.cr0 |= CR0_PG;
        state.paging.cr4 = CR4_PAE;
        state.paging.cr3 = 0xdead0000;
        state.paging.pdpte[0] = TABLES | 1;
        put64(TABLES, (TABLES + 0x1000) | 0x67);
        for (uint32_t page = 0; page < ARENA / PAGE_SIZE; page++)
            put64(TABLES + 0x1000 + 8 * page, page << 12 | 0x67);
        put32(NEW + T32_CR3, PDPT | 0x1b);
        put64(PDPT + 8, bad < 64 ? BIT(bad) | 1 : 0x5000 | 0xe19);
        put64(PDPT + 24, ~1ull); /* not present: nothing is reserved */
        struct task_state old = state;
        struct task_result r = run();
        if (reserved) {
            assert_int_equal(r.kind, TASK_FAULTED);
            assert_int_equal(r.vector, VECTOR_GP);
            assert_int_equal(r.error, 0);
            assert_false(r.committed || r.page_fault || r.cr3_changed);
            assert_memory_equal(&state, &old, sizeof(state));
            assert_int_equal(rights_of(TSS_OLD), 0x8b);
        } else {
            assert_int_equal(r.kind, TASK_SWITCHED);
            assert_true(r.cr3_changed);
            assert_true(state.paging.cr3 == (PDPT | 0x1b));
            assert_memory_equal(state.paging.pdpte, at(PDPT), 32);
        }
    }
}

static void trap_flag_of_a_task(void **unused)
{
    (void)unused;
    world_make();
    put16(NEW + T32_TRAP, 0xfffe);
    assert_false(run_switched().debug_trap);

    world_make();
    state.dr7 = 0x27ff;
    put16(NEW + T32_TRAP, 1);
    assert_true(run_switched().debug_trap);
    assert_int_equal(state.dr7, 0x7ff & ~0x155); /* GD, too */

    world_make(); /* a fault comes instead */
    put16(NEW + T32_TRAP, 1);
    put16(TSS_SEL(FS), EXECUTE_ONLY);
    assert_false(run().debug_trap);
}

/* Another processor that changes a descriptor, or keeps changing a page table, when it is about to be written. */
static unsigned interfere_calls, interfere_at;
static uint64_t interfere_gpa;

static void *interfering_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context;
    if (use == GUEST_USE_WRITE && gpa == interfere_gpa && ++interfere_calls >= interfere_at)
        *at(gpa) ^= 0x20;
    return gpa1_ptr(gpa1(gpa));
}
static const struct guest_memory interfering = { interfering_pointer, NULL };

static void interference(void **unused)
{
    (void)unused;
    world_make(); /* the busy flag is tested and set in one */
    interfere_calls = 0;
    interfere_at = 1;
    interfere_gpa = GDT + TSS_NEW + 5;
    struct task_result r = task_run(&state, &request, &interfering);
    assert_int_equal(r.kind, TASK_RETRY);
    assert_false(r.committed);
    assert_int_equal(rights_of(TSS_NEW), 0x89 ^ 0x20);
    /* Trying again is no different from doing it once. */
    run_switched();
    assert_old_saved(EIP_OLD + LENGTH, EFLAGS_OLD);

    world_make(); /* in the old task: again */
    paging_on();
    interfere_calls = 0;
    interfere_gpa = TABLES + 0x1000 + 4 * (OLD >> 12);
    put32(interfere_gpa, OLD | 7);
    assert_int_equal(task_run(&state, &request, &interfering).kind, TASK_RETRY);

    world_make(); /* in the new task: a page fault, as there is no way back */
    paging_on();
    interfere_calls = 0;
    interfere_gpa = NEW_TABLES + 0x1000 + 4 * (LDT >> 12);
    put32(interfere_gpa, LDT | 7);
    r = task_run(&state, &request, &interfering);
    assert_int_equal(r.kind, TASK_FAULTED);
    assert_true(r.committed && r.page_fault);
    assert_int_equal(r.vector, VECTOR_PF);
}

/* Memory that is not there at all: reads as ones, takes no writes. */
static void nowhere(void **unused)
{
    (void)unused;
    world_make();
    state.segment[SEG_TR].base = 0xfffffff0;
    descriptor(GDT + TSS_NEW, 0xffffffc0, 0xfffff, 0x89, 8);
    struct task_result r = run(); /* wraps around the end of the linear addresses; LDT selector FFFFh */
    assert_true(r.committed);
    assert_int_equal(r.kind, TASK_FAULTED);

    world_make();
    state.gdt_base = 0xfffff000;
    r = run();
    assert_int_equal(r.kind, TASK_FAULTED);
    assert_int_equal(r.vector, VECTOR_GP);
}

/* A TSS at the very end of memory, and the same memory under two descriptors. */
static void overlapping_tasks(void **unused)
{
    (void)unused;
    world_make();
    descriptor(GDT + TSS_END, OLD, 0x67, 0x89, 0);
    request.selector = TSS_END;
    put32(OLD + T32_LDT, 0);
    run_switched();
    assert_int_equal(state.eip, EIP_OLD + LENGTH); /* saved first, then loaded */
    assert_int_equal(state.segment[SEG_TR].selector, TSS_END);

    world_make();
    request.selector = TSS_END;
    put32(ARENA - 0x68 + T32_LDT, 0);
    struct task_result r = run();
    assert_int_equal(r.vector, VECTOR_TS); /* SS is null there */
    assert_int_equal(r.error, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jmp_saves_and_loads_everything),
        cmocka_unit_test(call_nests_and_iret_returns),
        cmocka_unit_test(a_16bit_task),
        cmocka_unit_test(reserved_eflags_are_not_loaded),
        cmocka_unit_test(virtual_8086_tasks),
        cmocka_unit_test(bad_ldt_of_a_virtual_8086_task),
        cmocka_unit_test(instruction_pointer_saved),
        cmocka_unit_test(error_code_on_the_new_stack),
        cmocka_unit_test(faults_of_the_old_task),
        cmocka_unit_test(no_task_switch_in_ia32e_mode),
        cmocka_unit_test(faults_of_the_new_task),
        cmocka_unit_test(registers_after_a_fault),
        cmocka_unit_test(segments_that_are_allowed),
        cmocka_unit_test(faults_during_delivery),
        cmocka_unit_test(faults_behind_the_segments),
        cmocka_unit_test(page_faults_of_the_old_task),
        cmocka_unit_test(page_tables_change),
        cmocka_unit_test(pae_pointers_are_loaded),
        cmocka_unit_test(trap_flag_of_a_task),
        cmocka_unit_test(interference),
        cmocka_unit_test(nowhere),
        cmocka_unit_test(overlapping_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
