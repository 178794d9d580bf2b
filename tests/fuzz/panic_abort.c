/*
 * panic() in a fuzz target: the end of the process, which the fuzzer records with its input.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/host/support/support.h"

void test_panic(const char *text)
{
    fprintf(stderr, "panic: %s\n", text);
    abort();
}
