/*
 * What ept_world.h asks of a program, in a test program: a failure is the test's. Part of the `sources` of each that has a world.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "tests/host/ept-cache/ept_world.h"

void hw_invept(enum invept_type type, uint64_t eptp) { world_hw_invept(type, eptp); }

_Noreturn void world_fail(const char *text)
{
    fail_msg("%s", text);
    abort();
}
