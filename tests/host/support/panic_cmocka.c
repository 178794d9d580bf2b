/*
 * panic() in a unit test: a failed assertion, which expect_assert_failure() catches where the test wants it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

void test_panic(const char *text)
{
    mock_assert(0, text, "panic", 0);
    abort();
}
