/* sources: core/guest/fault.c */
/*
 * Double faults against the table of SDM 3, "Interrupt 8 - Double Fault Exception", which flags are pushed with RF, and data
 * breakpoints against a model that looks at every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/guest/fault.h"
#include "core/lib/vmx.h"

#define HW(vector) (INTR_VALID | INTR_TYPE_HW_EXCEPTION | (vector))
#define VECTORS 32

/* b: benign, c: contributory, p: page fault (or virtualization exception), d: double fault. */
static const char classes[VECTORS + 1] = "cbbbbbbbdbccccpbbbbbpcbbbbbbbbbb";

static char class_of(unsigned vector) { return classes[vector]; }

enum expected { SECOND, DOUBLE, SHUTDOWN };
static enum expected expected(char first, char second)
{
    switch (first) {
    case 'c':
        return second == 'c' ? DOUBLE : SECOND;
    case 'p':
        return second == 'c' || second == 'p' ? DOUBLE : SECOND;
    case 'd':
        return second == 'c' || second == 'p' ? SHUTDOWN : SECOND;
    default:
        return SECOND;
    }
}

static void expect(uint64_t event, unsigned vector, enum expected want)
{
    struct fault in = { .vector = (enum vector)vector, .error = 0x77, .linear = 0x1234 };
    struct fault out = fault_combine(event, in);
    assert_int_equal(out.shutdown, want == SHUTDOWN);
    assert_int_equal(out.linear, 0x1234);
    if (want == SECOND) {
        assert_int_equal(out.vector, vector);
        assert_int_equal(out.error, 0x77);
    } else if (want == DOUBLE) {
        assert_int_equal(out.vector, VECTOR_DF);
        assert_int_equal(out.error, 0);
    }
}

static void double_faults(void **state)
{
    (void)state;
    static const uint64_t others[] = { INTR_TYPE_EXTERNAL, INTR_TYPE_NMI, INTR_TYPE_SW_INTR,
                                       INTR_TYPE_PRIV_SW_EXCEPTION, INTR_TYPE_SW_EXCEPTION };
    for (unsigned first = 0; first < VECTORS; first++)
        for (unsigned second = 0; second < VECTORS; second++) {
            if (class_of(second) == 'd')
                continue;
            expect(HW(first), second, expected(class_of(first), class_of(second)));
            expect(HW(first) & ~INTR_VALID, second, SECOND);
            for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
                expect(INTR_VALID | others[i] | first, second, SECOND);
        }
}

static void external_events(void **state)
{
    (void)state;
    assert_true(fault_event_external(INTR_VALID | INTR_TYPE_EXTERNAL | 0x31));
    assert_true(fault_event_external(INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI));
    assert_true(fault_event_external(HW(VECTOR_GP)));
    assert_true(fault_event_external(INTR_VALID | INTR_TYPE_PRIV_SW_EXCEPTION | VECTOR_DB));
    assert_false(fault_event_external(INTR_VALID | INTR_TYPE_SW_INTR | 0x80));
    assert_false(fault_event_external(INTR_VALID | INTR_TYPE_SW_EXCEPTION | VECTOR_BP));
    assert_false(fault_event_external(INTR_TYPE_EXTERNAL));
}

static void flags_pushed(void **state)
{
    (void)state;
    static const enum vector faults[] = { VECTOR_DE, VECTOR_BR, VECTOR_UD, VECTOR_NM, VECTOR_TS, VECTOR_NP, VECTOR_SS,
                                          VECTOR_GP, VECTOR_PF, VECTOR_MF, VECTOR_AC, VECTOR_XM, VECTOR_VE, VECTOR_CP };
    static const enum vector others[] = { VECTOR_DB, VECTOR_NMI, VECTOR_BP, VECTOR_OF, VECTOR_DF, VECTOR_MC };
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        assert_true(fault_sets_rf(faults[i]));
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(fault_sets_rf(others[i]));
}

/* A breakpoint of length n covers the n bytes at its address aligned to n; any byte in common is a match. */
static void breakpoints(void **state)
{
    (void)state;
    static const unsigned lengths[] = { 1, 2, 8, 4 }, sizes[] = { 4, 8, 16 };
    for (unsigned number = 0; number < BREAKPOINTS; number++)
        for (unsigned field = 0; field < 16; field++)
            for (uint64_t address = 0x1000; address < 0x1030; address++)
                for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
                    for (unsigned write = 0; write < 2; write++) {
                        unsigned length = lengths[field >> 2], when = field & 3;
                        bool common = false;
                        for (uint64_t byte = 0x1011; byte < 0x1011 + sizes[i]; byte++)
                            common |= byte / length == address / length;
                        bool kind = when == 3 || (when == 1 && write);
                        uint64_t dr7 = (uint64_t)field << (16 + 4 * number);
                        assert_int_equal(fault_breakpoint_met(dr7, number, address, 0x1011, sizes[i], write),
                                         common && kind);
                    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(double_faults),
        cmocka_unit_test(external_events),
        cmocka_unit_test(flags_pushed),
        cmocka_unit_test(breakpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
