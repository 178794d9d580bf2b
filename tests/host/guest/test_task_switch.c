/* sources: core/guest/task.c core/guest/task_access.c core/guest/fault.c core/guest/task_segments.c core/guest/guest_walk.c */
/*
 * Task switches on values that succeed: what is saved and loaded.
 */
#include "core/guest/task.h"

#include "tests/host/guest/test_task_switch.h"

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
        paging_on_pae();
        put64(PDPT + 8, bad < 64 ? BIT(bad) | 1 : 0x5000 | 0xe19);
        put64(PDPT + 24, ~1ull); /* not present: nothing is reserved */
        struct task_state old = state;
        struct task_result r = run();
        if (reserved) {
            assert_int_equal(r.kind, TASK_FAULTED);
            assert_int_equal(r.vector, VECTOR_GP);
            assert_int_equal(r.error, 0);
            assert_false(r.committed || r.page_fault || r.cr3_changed);
            assert_state(&old);
            assert_int_equal(rights_of(TSS_OLD), 0x8b);
        } else {
            assert_int_equal(r.kind, TASK_SWITCHED);
            assert_true(r.cr3_changed);
            assert_true(state.paging.cr3 == (PDPT | 0x1b));
            assert_memory_equal(state.paging.pdpte, at(PDPT), 32);
        }
    }
}

/* The registers stay as they are when CR3 does, whatever memory says now. */
static void pae_pointers_of_the_same_cr3(void **unused)
{
    (void)unused;
    world_make();
    paging_on_pae();
    state.paging.cr3 = PDPT | 0x1b;
    put64(PDPT, 0x1e7);
    assert_false(run_switched().cr3_changed);
    assert_true(state.paging.pdpte[0] == (TABLES | 1));
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
        cmocka_unit_test(page_tables_change),
        cmocka_unit_test(pae_pointers_are_loaded),
        cmocka_unit_test(pae_pointers_of_the_same_cr3),
        cmocka_unit_test(trap_flag_of_a_task),
        cmocka_unit_test(overlapping_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
