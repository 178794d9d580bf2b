/* sources: checks */
/*
 * What the tables of Strata's own entry checks promise about their inputs: rows stored SOFT only, so that vmcs02 is
 * not read for them, and only the groups that a rule names, so that it may be passed over when they have not changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "nested/checks.h"
#include "tests/host/machine/sample_vmcs.h"
#include "tests/host/support/support.h"

#define ROUNDS 2000
#define DISTURBED_ROWS 24
#define BAD_MEMTYPE 7

static const struct check_table *const soft_tables[] = { &checks_controls, &checks_host, &checks_guest };

static bool rule_holds(const struct check_rule *rule, const struct check_view *view)
{
    return (rule->applies && !rule->applies(view)) || rule->holds(view, (enum vmcs_row)rule->row);
}

/* Changes a few rows of a sample at random; those where may_change says no stay. */
static void rows_disturb(uint64_t *values, struct test_random *random, bool (*may_change)(int row, uint32_t inputs),
                         uint32_t inputs)
{
    for (int i = 0; i < DISTURBED_ROWS; i++) {
        int row = (int)test_random_below(random, FIELD_COUNT);
        if (may_change(row, inputs))
            values[row] = vmcs_field_trim((enum vmcs_row)row, test_random_value(random));
    }
}

static bool any_row(int row, uint32_t inputs)
{
    (void)row;
    (void)inputs;
    return true;
}

static bool row_not_soft(int row, uint32_t inputs)
{
    (void)inputs;
    return vmcs_fields[row].store != STORE_SOFT;
}

static bool row_no_input(int row, uint32_t inputs) { return !(inputs & BIT(vmcs_fields[row].group)); }

static void each_soft_rule_keeps_to(bool (*may_change)(int row, uint32_t inputs))
{
    struct test_random random = { 1 };
    struct sample_vmcs sample;

    sample_make(&sample, SAMPLE_LONG);
    for (size_t t = 0; t < ARRAY_SIZE(soft_tables); t++) {
        for (size_t i = 0; i < soft_tables[t]->count; i++) {
            const struct check_rule *rule = &soft_tables[t]->rules[i];
            for (int round = 0; round < ROUNDS; round++) {
                uint64_t before[FIELD_COUNT];
                rows_disturb(sample.values, &random, any_row, 0);
                /* Rules on the EPTP may hold only for want of a capability, or fail only for want of one. */
                sample.caps.msr[MSR_VMX_EPT_VPID - MSR_VMX_FIRST] = test_random(&random);
                memcpy(before, sample.values, sizeof(before));
                bool held = rule_holds(rule, &sample.view);
                rows_disturb(sample.values, &random, may_change, rule->inputs);
                if (rule_holds(rule, &sample.view) != held)
                    fail_msg("%s: depends on what it should not", rule->name);
                memcpy(sample.values, before, sizeof(before));
            }
        }
    }
}

static void soft_rules_read_soft_rows_only(void **state)
{
    (void)state;
    each_soft_rule_keeps_to(row_not_soft);
}

static void soft_rules_read_their_inputs_only(void **state)
{
    (void)state;
    each_soft_rule_keeps_to(row_no_input);
}

/* A group that is not stale is passed over; one that is, is not. */
static void only_stale_groups_are_checked(void **state)
{
    struct sample_vmcs sample;

    (void)state;
    sample_make(&sample, SAMPLE_LONG);
    sample.values[FIELD_EPTP] |= BAD_MEMTYPE;
    assert_null(check_controls_soft(&sample.view, 0));
    assert_null(check_controls_soft(&sample.view, BIT(GROUP_APIC) | BIT(GROUP_BITMAPS) | BIT(GROUP_MSR_AREAS)));
    assert_string_equal(check_controls_soft(&sample.view, BIT(GROUP_EPT))->name, "EPTP: memory type");
    assert_string_equal(check_controls_soft(&sample.view, BIT(GROUP_CONTROLS))->name, "EPTP: memory type");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(soft_rules_read_soft_rows_only),
        cmocka_unit_test(soft_rules_read_their_inputs_only),
        cmocka_unit_test(only_stale_groups_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
