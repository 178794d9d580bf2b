/* sources: ept-cache tests/host/ept-cache/ept_cmocka.c */
/*
 * ept02 against the oracle in random sequences, with every combination of switches and with too little memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/lib/hw.h"
#include "tests/host/ept-cache/ept_steps.h"
#include "tests/host/ept-cache/ept_world.h"

#define STEPS 1000

static void run_once(const struct world_config *config)
{
    world_reset(config);
    steps_begin();
    for (unsigned i = 0; i < STEPS; i++)
        steps_one();
    world_end();
}

/* With tables of ept12 that nested guests can write, which makes all others suspect as well, and without. */
static void run(struct world_config *config)
{
    for (unsigned reach = 0; reach < 2; reach++) {
        config->out_of_reach = !reach;
        run_once(config);
    }
}

static struct world_config everything(uint64_t seed)
{
    struct world_config config = world_all_on(512);
    config.seed = seed;
    return config;
}

static void random_all_on(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world_config config = everything(seed * 7919);
        run(&config);
    }
}

static void random_switches(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 64; bits++) {
        struct world_config config = everything(1000 + bits);
        config.large = bits & 1;
        config.coalesce = bits & 2;
        config.history = bits & 4;
        config.prefill = bits & 8;
        config.watch = bits & 16;
        config.exec_only = config.pages_1g = bits & 32;
        config.hw_single = bits % 3;
        run(&config);
    }
}

static void random_little_memory(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 32; i++) {
        struct world_config config = everything(2000 + i);
        config.one_root = i % 2;
        config.pool_pages = EPT02_PAGES_MIN + i / 2 * (config.one_root ? 1 : 3);
        config.coalesce = i % 3;
        run(&config);
    }
}

static void random_moody_watch(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        struct world_config config = everything(3000 + i);
        config.watch_moody = true;
        config.pool_pages = i % 2 ? 40 : 512;
        run(&config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_all_on),
        cmocka_unit_test(random_switches),
        cmocka_unit_test(random_little_memory),
        cmocka_unit_test(random_moody_watch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
