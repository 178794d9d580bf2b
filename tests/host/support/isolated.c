/*
 * Tests in processes of their own; see nested_machine.h.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/host/support/isolated.h"

/* Of the runtime that counts lines, where a program has it: what ends by _exit must call it. */
int __llvm_profile_write_file(void) __attribute__((weak));

static void isolated(void **state)
{
    const struct isolated_test *test = *state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever gives up on the program does not leave this behind */
        const struct CMUnitTest alone[] = { { test->name, test->function, NULL, NULL, NULL } };
        dup2(STDERR_FILENO, STDOUT_FILENO); /* its own "ok" is not one of the program's */
        cmocka_set_message_output(CM_OUTPUT_STDOUT);
        int failed = cmocka_run_group_tests(alone, NULL, NULL);
        fflush(NULL);
        if (__llvm_profile_write_file)
            __llvm_profile_write_file();
        _exit(failed != 0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int isolated_tests_run(const struct isolated_test *tests, size_t count)
{
    struct CMUnitTest *all = calloc(count, sizeof(*all));
    for (size_t i = 0; i < count; i++) {
        void *test = NULL;
        const struct isolated_test *from = &tests[i];
        memcpy(&test, &from, sizeof(test));
        all[i] = (struct CMUnitTest){ tests[i].name, isolated, NULL, NULL, test };
    }
    int failed = _cmocka_run_group_tests("nested", all, count, NULL, NULL);
    free(all);
    return failed;
}
