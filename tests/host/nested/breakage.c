/*
 * Breaking one rule of a valid vmcs12 at a time; see breakage.h.
 */
#include "tests/host/nested/breakage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "tests/host/machine/processor_checks.h"

static void edit_apply(struct sample_vmcs *sample, const struct edit *edit)
{
    uint32_t word = (uint32_t)edit->value;

    switch (edit->op) {
    case EDIT_PUT:
        sample->values[edit->where] = edit->value;
        break;
    case EDIT_SET:
        sample->values[edit->where] |= edit->value;
        break;
    case EDIT_CLEAR:
        sample->values[edit->where] &= ~edit->value;
        break;
    case EDIT_IA32E:
        sample->view.ia32e = edit->value;
        break;
    case EDIT_WORD:
        memcpy(gpa1_ptr(gpa1(edit->where)), &word, sizeof(word));
        break;
    case EDIT_ALLOW:
        sample->caps.msr[edit->where - MSR_VMX_FIRST] &= ~edit->value;
        break;
    default:
        fail_msg("unknown edit");
    }
    if (edit->op == EDIT_PUT || edit->op == EDIT_SET)
        assert_true(sample->values[edit->where] ==
                    vmcs_field_trim((enum vmcs_row)edit->where, sample->values[edit->where]));
}

/* Asserts that no rule of the table but the named one fails; returns whether that did. */
static bool fails_alone(const struct check_table *table, const struct check_view *view, const char *name)
{
    bool failed = false;

    for (size_t i = 0; i < table->count; i++) {
        const struct check_table one = { &table->rules[i], 1 };
        if (!check_table_run(&one, view, CHECK_ALL))
            continue;
        if (!name || strcmp(table->rules[i].name, name))
            fail_msg("broken: %s; fails: %s", name ? name : "nothing", table->rules[i].name);
        failed = true;
    }
    return failed;
}

static void name_expect(const struct check_rule *rule, bool expected, const char *name)
{
    if (!expected && rule)
        fail_msg("%s fails for %s", rule->name, name ? name : "nothing broken");
    if (expected && (!rule || strcmp(rule->name, name)))
        fail_msg("%s is not found: %s", name, rule ? rule->name : "all hold");
}

static void breakage_run(const struct breakage *breakage)
{
    struct sample_vmcs sample;

    sample_make(&sample, breakage->kind);
    for (size_t i = 0; i < MAX_EDITS && breakage->edits[i].op != EDIT_END; i++)
        edit_apply(&sample, &breakage->edits[i]);

    bool controls_soft = fails_alone(&checks_controls, &sample.view, breakage->rule);
    bool controls = fails_alone(&processor_controls, &sample.view, breakage->rule);
    bool host = fails_alone(&checks_host, &sample.view, breakage->rule);
    bool guest_soft = fails_alone(&checks_guest, &sample.view, breakage->rule);
    bool guest = fails_alone(&processor_guest, &sample.view, breakage->rule);
    if (breakage->rule && !(controls_soft || controls || host || guest_soft || guest))
        fail_msg("broken: %s; all rules hold", breakage->rule);

    name_expect(check_controls_soft(&sample.view, CHECK_ALL), controls_soft, breakage->rule);
    name_expect(check_controls(&sample.view), controls_soft || controls, breakage->rule);
    name_expect(check_host_soft(&sample.view, CHECK_ALL), host, breakage->rule);
    name_expect(check_host(&sample.view), host, breakage->rule);
    name_expect(check_guest_soft(&sample.view), guest_soft, breakage->rule);
    name_expect(check_guest_state(&sample.view), guest_soft || guest, breakage->rule);
}

void breakages_run(const struct breakage *breakages, size_t count)
{
    for (size_t i = 0; i < count; i++)
        breakage_run(&breakages[i]);
}

void breakages_cover(const struct breakage *breakages, size_t count, const struct check_table *table)
{
    for (size_t rule = 0; rule < table->count; rule++) {
        bool covered = false;
        for (size_t i = 0; i < count; i++)
            covered |= breakages[i].rule && !strcmp(breakages[i].rule, table->rules[rule].name);
        if (!covered)
            fail_msg("no breakage of: %s", table->rules[rule].name);
    }
}
