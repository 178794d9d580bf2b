/*
 * Test doubles that do not depend on what stands for the machine's memory: panic, random numbers; see support.h.
 */
#include "tests/host/support/support.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/memory/mem.h"

#define PANIC_TEXT_SIZE 512

void panic(const char *format, ...)
{
    static char text[PANIC_TEXT_SIZE]; /* static: cmocka prints it after a longjmp out of here */
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    test_panic(text);
}

uint64_t test_random(struct test_random *random)
{
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return random->state * 0x2545f4914f6cdd1dull;
}

uint64_t test_random_below(struct test_random *random, uint64_t limit) { return (test_random(random) >> 1) % limit; }

uint64_t test_random_value(struct test_random *random)
{
    uint64_t any = test_random(random);

    switch (test_random_below(random, 8)) {
    case 0:
        return 0;
    case 1:
        return ~0ull;
    case 2:
        return BIT(any & 63);
    case 3:
        return ~BIT(any & 63);
    case 4: /* a page below 2^n */
        return any >> (any & 63) & PAGE_MASK;
    case 5: /* a small number */
        return any & 0xff;
    case 6: /* sign-extended from some bit */
        return (uint64_t)((int64_t)any >> (any & 31));
    default:
        return any;
    }
}
