/* sources: checks */
/*
 * Strata's own entry checks against the model, on samples in which a few fields, capabilities and words of memory are
 * changed at random.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/mem.h"
#include "tests/host/nested/entry_model.h"
#include "tests/host/machine/sample_vmcs.h"
#include "tests/host/support/support.h"

#define ROUNDS 100000
#define MAX_CHANGES 4
/* A seen verdict of each kind and table, or the test proves nothing. */
#define ENOUGH (ROUNDS / 200)

static void change(struct sample_vmcs *sample, struct test_random *random)
{
    uint64_t value = test_random_value(random);
    uint64_t row = test_random_below(random, FIELD_COUNT);

    switch (test_random_below(random, 16)) {
    case 0:
        sample->caps.msr[test_random_below(random, MSR_VMX_COUNT)] ^= BIT(value & 63);
        break;
    case 1:
        memcpy(gpa1_ptr(gpa1(SAMPLE_LINK)), &value, sizeof(uint32_t));
        break;
    case 2:
        sample->view.ia32e = !sample->view.ia32e;
        break;
    case 3: /* somewhere near the samples' memory: also the current VMCS */
        sample->values[FIELD_VMCS_LINK_POINTER] = test_random_below(random, 8) * PAGE_SIZE;
        break;
    default:
        value = value & 1 ? sample->values[row] ^ BIT(value >> 1 & 63) : value;
        sample->values[row] = vmcs_field_trim((enum vmcs_row)row, value);
    }
}

static void the_model_agrees(void **state)
{
    struct test_random random = { 2026 };
    struct sample_vmcs sample;
    unsigned seen[3][2] = { { 0 } };

    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        sample_make(&sample, (enum sample)test_random_below(&random, SAMPLE_COUNT));
        for (uint64_t i = test_random_below(&random, MAX_CHANGES + 1); i > 0; i--)
            change(&sample, &random);
        const struct check_rule *found[] = {
            check_controls_soft(&sample.view, CHECK_ALL),
            check_host_soft(&sample.view, CHECK_ALL),
            check_guest_soft(&sample.view),
        };
        const bool holds[] = { model_controls(&sample.view), model_host(&sample.view), model_link(&sample.view) };
        for (int i = 0; i < 3; i++) {
            if (!found[i] != holds[i])
                fail_msg("round %d: found %s, the model says %s", round, found[i] ? found[i]->name : "nothing",
                         holds[i] ? "all hold" : "something does not hold");
            seen[i][holds[i]]++;
        }
    }
    for (int i = 0; i < 3; i++)
        assert_true(seen[i][0] > ENOUGH && seen[i][1] > ENOUGH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_model_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
