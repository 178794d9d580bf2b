/* sources: ept-cache */
/*
 * Any sequence of edits of ept12, accesses, INVEPTs, changes of ept01: ept02 never maps what the oracle does not allow,
 * outcomes are the oracle's, and all pages come back. The input is the sequence of decisions.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/lib/hw.h"
#include "tests/fuzz/fuzz.h"
#include "tests/host/ept-cache/ept_steps.h"
#include "tests/host/ept-cache/ept_world.h"

#define STEPS_MAX 200

static const uint8_t *input;
static size_t left;

void hw_invept(enum invept_type type, uint64_t eptp) { world_hw_invept(type, eptp); }

_Noreturn void world_fail(const char *text)
{
    fprintf(stderr, "%s\n", text);
    abort();
}

static uint64_t next_byte(void)
{
    if (left == 0)
        return 0;
    left--;
    return *input++;
}

static uint64_t choose(uint64_t limit)
{
    uint64_t value = next_byte();
    if (limit > 256)
        value |= next_byte() << 8;
    return value % limit;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input = data;
    left = size;
    uint64_t switches = next_byte(), machine = next_byte();
    struct world_config config = {
        .seed = 1,
        .large = !(switches & 1),
        .coalesce = !(switches & 2),
        .history = !(switches & 4),
        .prefill = !(switches & 8),
        .watch = !(switches & 16),
        .watch_moody = switches & 32,
        .one_root = switches & 64,
        .out_of_reach = switches & 128,
        .hw_single = !(machine & 1),
        .exec_only = machine & 2,
        .pages_1g = machine & 4,
        .pool_pages = EPT02_PAGES_MIN + (unsigned)(machine >> 3) * 3,
    };
    config.pages = 48;
    config.check_every = 4;
    world_reset(&config);
    world_choices(choose);
    steps_begin();
    for (unsigned i = 0; i < STEPS_MAX && left; i++)
        steps_one();
    world_flush(0, INVEPT_GLOBAL, 0);
    world_flush(1, INVEPT_GLOBAL, 0);
    const char *wrong = world_wrong();
    if (wrong)
        world_fail(wrong);
    world_end();
    return 0;
}
