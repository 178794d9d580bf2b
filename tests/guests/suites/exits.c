/* Suite exits: a nested guest's way out and back in, by subject. */
#include "exits.h"

static void run_list(const struct test *t)
{
    for (; t->name; t++)
        test_run(t->name, t->run, true);
}

static void run(void)
{
    exit_insn_run();
    run_list(exit_control_tests);
    run_list(exit_event_tests);
    run_list(exit_inject_tests);
    run_list(exit_state_tests);
    run_list(exit_mode_tests);
    run_list(exit_pae_tests);
    run_list(exit_pic_tests);
    run_list(exit_msr_tests);
}
const struct suite suite_exits = { "exits", NULL, run, true, false };
