/* sources: core/guest/task.c core/guest/task_access.c core/guest/fault.c core/guest/task_segments.c core/guest/guest_walk.c */
/*
 * Faults of task switches: each with its error code and the task that it is raised in, and that a fault in the old task has
 * changed nothing.
 */
#include "core/guest/task.h"

#include "tests/host/guest/test_task_switch.h"

/* A change of the world, and what comes of it. */
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
        assert_state(&old);
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
    world_make();                                           /* the error code does not fit on the stack */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_AC, true); /* benign */
    put32(TSS_SEL(SS), STACK_DOWN);
    put32(NEW + T32_GPR + 4 * GPR_RSP, 0x6003);
    struct task_result r = run();
    assert_int_equal(r.vector, VECTOR_SS);
    assert_int_equal(r.error, 1);
    assert_int_equal(state.gpr[GPR_RSP], 0x6003);

    world_make(); /* nor is EIP inside of CS; the error code is there by then */
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_AC, true);
    put32(TSS_SEL(CS), CODE_SMALL);
    r = run();
    assert_int_equal(r.vector, VECTOR_GP);
    assert_int_equal(r.error, 1);
    assert_int_equal(state.gpr[GPR_RSP], STACK + 0x7fc);
    assert_int_equal(get32(STACK + 0x7fc), 0xbeef1234);

    world_make(); /* the stack's page is missing; the access is the new task's own, of its privilege level */
    paging_on();
    request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_AC, true);
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
        assert_state(&old);
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

/* Memory that fails once, at a given access. */
static unsigned accesses_left;

static void *failing_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    return accesses_left-- == 0 ? NULL : plain_pointer(context, gpa, use);
}
static const struct guest_memory failing = { failing_pointer, NULL };

static void case_make(unsigned number)
{
    world_make();
    request.source = (enum task_source)(number % 4);
    if (number / 4 == 0)
        paging_on();
    else
        paging_on_pae();
    if (request.source == TASK_IRET)
        request_iret();
    else if (request.source == TASK_GATE)
        request_event(INTR_TYPE_HW_EXCEPTION, VECTOR_AC, true);
    if (number / 4 == 2) { /* from a 16-bit TSS to the other one */
        state.segment[SEG_TR].rights = 0x83;
        request.selector = TSS_NEW16;
        put16(NEW16 + T16_ES + 2 * SEG_SS, STACK16);
    }
}

/* Whatever access fails: before the commit all of it can be done again, with the result that it would have had. */
static void every_access_can_fail(void **unused)
{
    (void)unused;
    static uint8_t after[ARENA];
    for (unsigned number = 0; number < 12; number++) {
        case_make(number);
        run_switched();
        struct task_state done = state;
        memcpy(after, at(0), ARENA);
        unsigned retries = 0, faults = 0;
        for (unsigned n = 0;; n++) {
            case_make(number);
            struct task_state old = state;
            accesses_left = n;
            struct task_result r = task_run(&state, &request, &failing);
            if (r.kind == TASK_SWITCHED)
                break;
            if (r.committed) {
                assert_int_equal(r.kind, TASK_FAULTED);
                assert_int_equal(r.vector, VECTOR_PF);
                assert_true(r.page_fault);
                faults++;
                continue;
            }
            assert_int_equal(r.kind, TASK_RETRY);
            assert_state(&old);
            run_switched();
            assert_state(&done);
            assert_memory_equal(at(0), after, ARENA);
            retries++;
        }
        assert_true(retries > 10 && faults > 3);
    }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_of_the_old_task),
        cmocka_unit_test(no_task_switch_in_ia32e_mode),
        cmocka_unit_test(faults_of_the_new_task),
        cmocka_unit_test(registers_after_a_fault),
        cmocka_unit_test(segments_that_are_allowed),
        cmocka_unit_test(faults_during_delivery),
        cmocka_unit_test(faults_behind_the_segments),
        cmocka_unit_test(page_faults_of_the_old_task),
        cmocka_unit_test(interference),
        cmocka_unit_test(every_access_can_fail),
        cmocka_unit_test(nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
