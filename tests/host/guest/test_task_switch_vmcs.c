/* sources: checks core/guest/task_switch.c core/guest/task.c core/guest/task_access.c core/guest/fault.c core/guest/task_segments.c core/guest/guest.c core/guest/guest_walk.c */
/*
 * The exit handler for task switches on the fake machine: what becomes of VMCS fields, and that whatever a guest puts into
 * its tables the processor accepts what the handler leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/guest/guest_memory.h"
#include "core/lib/log.h"
#include "core/memory/mem.h"
#include "core/upcall.h"
#include "tests/host/machine/fake_hw.h"
#include "tests/host/machine/sample_vmcs.h"
#include "tests/host/support/support.h"

#define MEMORY (128 * KIB)
#define VMCS hpa(0x1000)
#define VMXON hpa(0x2000)
#define GDT 0x10000u
#define OLD 0x11000u
#define NEW 0x12000u
#define LDT 0x13000u
#define STACK 0x14000u
#define TABLES 0x15000u /* page directory, page table */
#define PDPT 0x17000u
#define CODE 0x08u
#define DATA 0x10u
#define TSS_OLD 0x18u
#define TSS_NEW 0x20u
#define BUSY 2u
#define QUAL(source, selector) ((uint64_t)(source) << 30 | (selector))
enum { CALL, IRET, JMP, GATE };

static struct cpu cpu;
static uint64_t dr6;
static jmp_buf reset;
static struct test_random seed;

/* Doubles of what the handler calls outside of the files under test. */

void task_switch_dr6_set(uint64_t bits);
void task_switch_dr6_set(uint64_t bits) { dr6 |= bits; }

_Noreturn void machine_reset(void) { longjmp(reset, 1); }
bool nested_fault(struct cpu *c, const struct fault *fault)
{
    panic("test: exception %d, CPU %u", (int)fault->vector, c->index);
}
void nested_shutdown(struct cpu *c) { panic("test: shutdown, CPU %u", c->index); }
void nested_retired(struct cpu *c) { panic("test: an instruction, CPU %u", c->index); }

void log_line(enum log_level level, const char *format, ...) { (void)level, (void)format; }

static void *guest1_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context, (void)use;
    return gpa1_ptr(gpa1(gpa));
}
const struct guest_memory guest_memory1 = { guest1_pointer, NULL };

struct guest_paging guest_paging_state(void)
{
    struct guest_paging p = { .cr0 = vmread(GUEST_CR0),
                              .cr3 = vmread(GUEST_CR3),
                              .cr4 = vmread(GUEST_CR4),
                              .efer = vmread(GUEST_EFER),
                              .rflags = vmread(GUEST_RFLAGS),
                              .maxphyaddr = fake_caps.maxphyaddr,
                              .cpl = (uint8_t)guest_cpl() };
    for (unsigned i = 0; i < 4; i++)
        p.pdpte[i] = hw_vmread(VMCS_GUEST_PDPTE0 + 2 * i);
    return p;
}

/* Guest memory */

static void put(uint64_t gpa, uint64_t value, size_t size) { memcpy(hpa_ptr(hpa(gpa)), &value, size); }
static uint32_t get32(uint64_t gpa)
{
    uint32_t v;
    memcpy(&v, hpa_ptr(hpa(gpa)), 4);
    return v;
}
static uint8_t *byte(uint64_t gpa) { return hpa_ptr(hpa(gpa)); }

static void descriptor(uint64_t gpa, uint32_t base, uint32_t limit, uint32_t rights, uint32_t flags)
{
    put(gpa,
        (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(rights & 0xff) << 40 |
            (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56,
        8);
}

static void tables_make(void)
{
    descriptor(GDT + CODE, 0, 0xfffff, 0x9b, 0xc);
    descriptor(GDT + DATA, 0, 0xfffff, 0x93, 0xc);
    descriptor(GDT + TSS_OLD, OLD, 0x67, 0x8b, 0);
    descriptor(GDT + TSS_NEW, NEW, 0x67, 0x89, 0);
    put(NEW + 0x1c, TABLES, 4);
    put(NEW + 0x20, 0x7000, 4);
    put(NEW + 0x24, 0x202, 4);
    for (uint32_t i = 0; i < 8; i++)
        put(NEW + 0x28 + 4 * i, 0x1000 + i, 4);
    put(NEW + 0x38, STACK + 0x800, 4);
    for (uint32_t i = 0; i < 6; i++)
        put(NEW + 0x48 + 4 * i, i == SEG_CS ? CODE : DATA, 4);
    put(TABLES, (TABLES + 0x1000) | 0x27, 4);
    for (uint32_t page = 0; page < 1024; page++)
        put(TABLES + 0x1000 + 4 * page, page << 12 | 0x67, 4);
}

/* VMCS */

static void segment(enum segment number, uint16_t selector, uint64_t base, uint32_t limit, uint32_t rights)
{
    uint32_t i = 2 * (uint32_t)number;
    hw_vmwrite(VMCS_GUEST_ES_SEL + i, selector);
    hw_vmwrite(VMCS_GUEST_ES_BASE + i, base);
    hw_vmwrite(VMCS_GUEST_ES_LIMIT + i, limit);
    hw_vmwrite(VMCS_GUEST_ES_AR + i, rights);
}

/* A guest in flat 32-bit code without paging. */
static void guest_make(void)
{
    for (enum segment s = SEG_ES; s <= SEG_GS; s++)
        segment(s, s == SEG_CS ? CODE : DATA, 0, ~0u, s == SEG_CS ? 0xc09b : 0xc093);
    segment(SEG_LDTR, 0, 0, 0, AR_UNUSABLE);
    segment(SEG_TR, TSS_OLD, OLD, 0x67, 0x8b);
    vmwrite(GUEST_GDTR_BASE, GDT);
    vmwrite(GUEST_GDTR_LIMIT, 0xff);
    vmwrite(GUEST_CR0, CR0_PE | CR0_NE);
    vmwrite(GUEST_CR3, 0);
    vmwrite(GUEST_CR4, CR4_VMXE);
    vmwrite(GUEST_EFER, 0);
    vmwrite(GUEST_DR7, 0x4ff);
    vmwrite(GUEST_RFLAGS, 0x202);
    vmwrite(GUEST_RIP, 0x100);
    vmwrite(GUEST_RSP, STACK + 0x100);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    vmwrite(GUEST_PENDING_DEBUG, 0);
    vmwrite(GUEST_DEBUGCTL, 0);
    vmwrite(ENTRY_INTR_INFO, 0);
    for (unsigned i = 0; i < 4; i++)
        hw_vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, 0);
    memset(cpu.regs, 0x5a, sizeof(cpu.regs));
    dr6 = 0xffff0ff0;
}

static int machine_make(void **state)
{
    struct sample_vmcs sample;
    (void)state;
    sample_make(&sample, SAMPLE_REAL);
    fake_hw_reset(MEMORY);
    put(VMXON.v, SAMPLE_REVISION, 4);
    put(VMCS.v, SAMPLE_REVISION, 4);
    assert_true(hw_vmxon(VMXON));
    hw_vmclear(VMCS);
    hw_vmptrld(VMCS);
    for (int row = 0; row < FIELD_COUNT; row++)
        if (fake_caps.offered[vmcs_fields[row].cap])
            hw_vmwrite(vmcs_fields[row].encoding, sample.values[row]);
    vmwrite(VMCS_LINK_POINTER, ~0ull);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 0); /* there is no area */
    tables_make();
    guest_make();
    cpu.vmcs01.region = VMCS;
    assert_int_equal(fake_enter(FAKE_VMLAUNCH).result, FAKE_ENTERED);
    fake_journal_clear();
    return 0;
}

/* An exit, handled, and what has been left for the entry accepted by the processor. event: 0 or without the valid bit. */
static void handle(uint64_t qualification, uint64_t event)
{
    fake_exit(REASON_task_switch, qualification);
    vmwrite(IDT_VECTORING_INFO, event ? event | INTR_VALID : 0);
    vmwrite(IDT_VECTORING_ERROR, 0x1230);
    vmwrite(EXIT_INSTRUCTION_LEN, 7);
    task_switch_handle(&cpu, REASON_task_switch);
    struct fake_entry entry = fake_enter(FAKE_VMRESUME);
    if (entry.result != FAKE_ENTERED)
        fail_msg("entry fails: %s", entry.rule ? entry.rule->name : "?");
}

/* The same; false: the handler has reset the machine. */
static bool handle_or_reset(uint64_t qualification, uint64_t event)
{
    if (setjmp(reset))
        return false;
    handle(qualification, event);
    return true;
}

static bool injected(void) { return vmread(ENTRY_INTR_INFO) & INTR_VALID; }

static void registers_come_from_the_new_task(void **state)
{
    (void)state;
    hw_vmwrite(VMCS_GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS);
    vmwrite(GUEST_PENDING_DEBUG, BIT(12) | 1);
    handle(QUAL(JMP, TSS_NEW), 0);
    assert_false(injected());
    assert_int_equal(vmread(GUEST_RIP), 0x7000);
    assert_int_equal(vmread(GUEST_RSP), STACK + 0x800);
    assert_int_equal(vmread(GUEST_RFLAGS), 0x202);
    assert_int_equal(vmread(GUEST_TR_SEL), TSS_NEW);
    assert_int_equal(vmread(GUEST_TR_BASE), NEW);
    assert_int_equal(vmread(GUEST_TR_AR), 0x8b);
    assert_int_equal(vmread(GUEST_CR0), CR0_PE | CR0_NE | CR0_TS);
    assert_int_equal(vmread(GUEST_DR7), 0x4ff & ~0x155);
    assert_int_equal(vmread(GUEST_INTERRUPTIBILITY), 0);
    assert_int_equal(vmread(GUEST_PENDING_DEBUG), 0);
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (i != GPR_RSP)
            assert_true(cpu.regs[i] == (i < 8 ? 0x1000 + i : 0x5a5a5a5a5a5a5a5a));
        if (i < 8)
            assert_int_equal(get32(OLD + 0x28 + 4 * i), i == GPR_RSP ? STACK + 0x100 : 0x5a5a5a5a);
    }
    assert_int_equal(get32(OLD + 0x20), 0x107);
    assert_int_equal(fake_count(FAKE_INVVPID), 0);
}

static void another_address_space(void **state)
{
    (void)state;
    vmwrite(GUEST_CR0, CR0_PE | CR0_NE | CR0_PG);
    vmwrite(GUEST_CR3, TABLES | 0x10);
    handle(QUAL(CALL, TSS_NEW), 0);
    assert_int_equal(vmread(GUEST_CR3), TABLES);
    assert_int_equal(vmread(GUEST_PDPTE0), 0);
    assert_int_equal(fake_count(FAKE_INVVPID), 1);
    assert_int_equal(vmread(GUEST_RFLAGS), 0x202 | RFLAGS_NT);

    tables_make(); /* and PAE */
    guest_make();
    put(TABLES, (TABLES + 0x1000) | 0x67, 8);
    for (uint64_t page = 0; page < 512; page++)
        put(TABLES + 0x1000 + 8 * page, page << 12 | 0x67, 8);
    put(PDPT, TABLES | 1, 8);
    put(PDPT + 16, TABLES | 9, 8);
    put(NEW + 0x1c, PDPT, 4);
    vmwrite(GUEST_CR0, CR0_PE | CR0_NE | CR0_PG);
    vmwrite(GUEST_CR4, CR4_VMXE | CR4_PAE);
    vmwrite(GUEST_PDPTE0, TABLES | 1);
    handle(QUAL(CALL, TSS_NEW), 0);
    assert_false(injected());
    assert_int_equal(vmread(GUEST_CR3), PDPT);
    assert_int_equal(vmread(GUEST_PDPTE2), TABLES | 9);
    assert_int_equal(fake_count(FAKE_INVVPID), 2);
}

static void faults_are_injected(void **state)
{
    (void)state;
    *byte(GDT + TSS_NEW + 5) = 0x09;
    vmwrite(GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    handle(QUAL(JMP, TSS_NEW), 0);
    assert_int_equal(vmread(ENTRY_INTR_INFO), INTR_VALID | INTR_ERROR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_NP);
    assert_int_equal(vmread(ENTRY_EXCEPTION_ERROR), TSS_NEW);
    assert_int_equal(vmread(GUEST_RIP), 0x100);
    assert_int_equal(vmread(GUEST_TR_SEL), TSS_OLD);
    assert_int_equal(vmread(GUEST_CR0), CR0_PE | CR0_NE);
    assert_int_equal(vmread(GUEST_INTERRUPTIBILITY), BLOCKING_NMI);

    tables_make(); /* in the new task */
    guest_make();
    put(NEW + 0x50, 0, 4);
    handle(QUAL(JMP, TSS_NEW), 0);
    assert_int_equal(vmread(ENTRY_INTR_INFO), INTR_VALID | INTR_ERROR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_TS);
    assert_int_equal(vmread(GUEST_RIP), 0x7000);
    assert_int_equal(vmread(GUEST_TR_SEL), TSS_NEW);
    assert_int_equal(guest_cpl(), 3);

    tables_make(); /* a page fault, of an interrupt that ends HLT */
    guest_make();
    vmwrite(GUEST_CR0, CR0_PE | CR0_NE | CR0_PG);
    vmwrite(GUEST_CR3, TABLES);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_HLT);
    put(TABLES + 0x1000 + 4 * (NEW >> 12), 0, 4);
    handle(QUAL(GATE, TSS_NEW), INTR_TYPE_EXTERNAL | 0x20);
    assert_int_equal(vmread(ENTRY_INTR_INFO), INTR_VALID | INTR_ERROR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_PF);
    assert_int_equal(vmread(ENTRY_EXCEPTION_ERROR), 0);
    assert_int_equal(hw_read_cr2(), NEW);
    assert_int_equal(vmread(GUEST_RIP), 0x100);
    assert_int_equal(vmread(GUEST_ACTIVITY), ACTIVITY_ACTIVE);
}

static void events_and_what_they_block(void **state)
{
    (void)state;
    /* An NMI, that blocks others, in HLT; the handling task's IRET ends that. */
    vmwrite(GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_HLT);
    handle(QUAL(GATE, TSS_NEW), INTR_TYPE_NMI | VECTOR_NMI);
    assert_int_equal(vmread(GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    assert_int_equal(vmread(GUEST_ACTIVITY), ACTIVITY_ACTIVE);
    assert_int_equal(get32(OLD + 0x20), 0x100);
    assert_int_equal(get32(NEW) & 0xffff, TSS_OLD);
    put(OLD + 0x60, 0, 4);
    handle(QUAL(IRET, TSS_OLD), 0);
    assert_int_equal(vmread(GUEST_INTERRUPTIBILITY), 0);
    assert_int_equal(vmread(GUEST_RIP), 0x100);
    assert_int_equal(vmread(GUEST_RFLAGS), 0x202);

    /* An exception with an error code. */
    handle(QUAL(GATE, TSS_NEW), INTR_TYPE_HW_EXCEPTION | VECTOR_GP | INTR_ERROR_VALID);
    assert_int_equal(vmread(GUEST_RSP), STACK + 0x7fc);
    assert_int_equal(get32(STACK + 0x7fc), 0x1230);

    /* The fields mean nothing when an instruction switched. */
    handle(QUAL(IRET, TSS_OLD), INTR_TYPE_HW_EXCEPTION | VECTOR_GP | INTR_ERROR_VALID);
    assert_int_equal(vmread(GUEST_RSP), STACK + 0x100);
}

static void debug_trap_has_its_own_bit(void **state)
{
    (void)state;
    put(NEW + 0x64, 1, 2);
    vmwrite(GUEST_DR7, 0x2400);
    vmwrite(GUEST_DEBUGCTL, 3);
    handle(QUAL(JMP, TSS_NEW), 0);
    assert_int_equal(vmread(ENTRY_INTR_INFO), INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_DB);
    assert_int_equal(dr6, 0xffff8ff0);
    assert_int_equal(vmread(GUEST_DR7), 0x400);
    assert_int_equal(vmread(GUEST_DEBUGCTL), 0);
    assert_int_equal(vmread(GUEST_RIP), 0x7000);
}

static void a_third_fault_resets(void **state)
{
    (void)state;
    *byte(GDT + TSS_NEW + 5) = 0x09;
    assert_false(handle_or_reset(QUAL(GATE, TSS_NEW), INTR_TYPE_HW_EXCEPTION | VECTOR_DF | INTR_ERROR_VALID));
}

/* Random tables. Most of what is in them is nearly right, so that switches go a long way. */

static uint32_t some_selector(void)
{
    uint32_t selector = (uint32_t)test_random_below(&seed, 32) << 3 | (uint32_t)(test_random_below(&seed, 6) == 0) << 2;
    switch (test_random_below(&seed, 4)) {
    case 0:
        return selector | (uint32_t)test_random_below(&seed, 4);
    case 1:
        return CODE | 3 * (uint32_t)test_random_below(&seed, 2);
    case 2:
        return test_random_below(&seed, 3) ? DATA | 3 * (uint32_t)test_random_below(&seed, 2) : 0;
    default:
        return selector;
    }
}

static void random_tables(void)
{
    static const uint8_t rights[] = { 0x92, 0x93, 0xf2, 0xf3, 0x9a, 0x9b, 0xfa, 0xfb, 0x9e,
                                      0xfe, 0x96, 0xf6, 0x82, 0x89, 0x81, 0x8b, 0x83 };
    for (uint32_t i = 0; i < 0x100; i += 8) {
        uint32_t at = test_random_below(&seed, 4) ? NEW : OLD + (uint32_t)test_random_below(&seed, 0x10000);
        uint32_t limit = test_random_below(&seed, 3) ? 0x67 : (uint32_t)test_random_value(&seed);
        uint8_t r = test_random_below(&seed, 8) ? rights[test_random_below(&seed, sizeof(rights))]
                                                : (uint8_t)test_random(&seed);
        bool system = !(r & AR_S);
        descriptor(GDT + i, system ? at : (uint32_t)test_random_value(&seed),
                   system ? limit : (uint32_t)test_random(&seed), r, (uint32_t)test_random_below(&seed, 16));
        descriptor(LDT + i, 0, (uint32_t)test_random(&seed), r, 0xc);
    }
    tables_make();
    if (test_random_below(&seed, 2)) {
        descriptor(GDT + CODE, 0, 0xfffff, 0xfa, 0xc);
        descriptor(GDT + DATA, 0, 0xfffff, 0xf2, 0xc);
    }
    for (uint32_t i = 0; i < 6; i++)
        put(NEW + 0x48 + 4 * i,
            test_random_below(&seed, 3) ? (i == SEG_CS ? CODE : DATA) | (*byte(GDT + CODE + 5) >> 5 & 3)
                                        : some_selector(),
            4);
    put(NEW + 0x60, test_random_below(&seed, 2) ? 0 : some_selector(), 4);
    put(NEW + 0x24, test_random(&seed) & (test_random_below(&seed, 3) ? ~RFLAGS_VM : ~0ull), 4);
    put(NEW + 0x64, test_random_below(&seed, 4) == 0, 2);
    put(NEW + 0x38, test_random_below(&seed, 3) ? STACK + 0x100 : test_random_value(&seed), 4);
    if (test_random_below(&seed, 4) == 0)
        put(NEW + 0x20, test_random_value(&seed), 4);
    if (test_random_below(&seed, 8) == 0)
        *byte(NEW + test_random_below(&seed, 0x68)) = (uint8_t)test_random(&seed);
}

static void random_guest(void)
{
    static const uint8_t states[] = { 0, BLOCKING_MOV_SS, BLOCKING_NMI, BLOCKING_STI };
    guest_make();
    if (test_random_below(&seed, 2)) {
        vmwrite(GUEST_CR0, CR0_PE | CR0_NE | CR0_PG | (test_random(&seed) & CR0_WP));
        vmwrite(GUEST_CR3, TABLES | (test_random(&seed) & 0x18));
        if (test_random_below(&seed, 3) == 0) {
            uint32_t page = OLD + (uint32_t)test_random_below(&seed, 6) * 0x1000;
            put(TABLES + 0x1000 + 4 * (page >> 12), page | test_random_below(&seed, 8), 4);
        }
    }
    if (test_random_below(&seed, 4) == 0)
        segment(SEG_TR, TSS_OLD, OLD, test_random_below(&seed, 2) ? 0x2b : 0x67, 0x83);
    vmwrite(GUEST_INTERRUPTIBILITY, states[test_random_below(&seed, sizeof(states))]);
}

static uint64_t random_event(void)
{
    static const uint16_t events[] = { INTR_TYPE_EXTERNAL | 0x20,
                                       INTR_TYPE_NMI | VECTOR_NMI,
                                       INTR_TYPE_SW_INTR | 0x80,
                                       INTR_TYPE_SW_EXCEPTION | VECTOR_BP,
                                       INTR_TYPE_PRIV_SW_EXCEPTION | VECTOR_DB,
                                       INTR_TYPE_HW_EXCEPTION | VECTOR_UD,
                                       INTR_TYPE_HW_EXCEPTION | VECTOR_PF | INTR_ERROR_VALID,
                                       INTR_TYPE_HW_EXCEPTION | VECTOR_GP | INTR_ERROR_VALID,
                                       INTR_TYPE_HW_EXCEPTION | VECTOR_DF | INTR_ERROR_VALID };
    return events[test_random_below(&seed, ARRAY_SIZE(events))];
}

static void whatever_the_tables_say(void **state)
{
    (void)state;
    unsigned switched = 0, faulted_old = 0, faulted_new = 0, resets = 0;
    seed.state = 9;
    for (unsigned round = 0; round < 20000; round++) {
        random_tables();
        random_guest();
        unsigned source = (unsigned)test_random_below(&seed, 4);
        uint32_t selector = test_random_below(&seed, 4) ? TSS_NEW : some_selector();
        if (source == IRET)
            *byte(GDT + TSS_NEW + 5) |= BUSY;
        if (!handle_or_reset(QUAL(source, selector), source == GATE ? random_event() : 0))
            resets++;
        else if (!injected() || (vmread(ENTRY_INTR_INFO) & INTR_VECTOR_MASK) == VECTOR_DB)
            switched++;
        else if (vmread(GUEST_CR0) & CR0_TS)
            faulted_new++;
        else
            faulted_old++;
        fake_journal_clear();
    }
    assert_true(switched > 1000 && faulted_old > 1000 && faulted_new > 1000 && resets > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(registers_come_from_the_new_task, machine_make),
        cmocka_unit_test_setup(another_address_space, machine_make),
        cmocka_unit_test_setup(faults_are_injected, machine_make),
        cmocka_unit_test_setup(events_and_what_they_block, machine_make),
        cmocka_unit_test_setup(debug_trap_has_its_own_bit, machine_make),
        cmocka_unit_test_setup(a_third_fault_resets, machine_make),
        cmocka_unit_test_setup(whatever_the_tables_say, machine_make),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
