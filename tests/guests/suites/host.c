/*
 * Suite host: the machine as a plain guest sees it, and as a hostile one tries it. Most tests ask only that the machine
 * goes on as the SDM says, whatever a hypervisor below keeps for itself.
 */
#include "host.h"

static void run(void)
{
    for (const struct test *t = host_register_tests; t->name; t++)
        test_run(t->name, t->run, false);
    for (const struct test *t = host_memory_tests; t->name; t++)
        test_run(t->name, t->run, true);
}
const struct suite suite_host = { "host", NULL, run, false, false };
