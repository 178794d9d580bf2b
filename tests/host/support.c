/*
 * Test doubles for what pure code may call; see support.h.
 */
#include "tests/host/support.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/mem.h"

#define PANIC_TEXT_SIZE 512

static uint8_t *arena;
static size_t arena_size;

void test_memory_reset(size_t bytes)
{
    free(arena);
    arena = NULL;
    arena_size = bytes;
    if (bytes == 0)
        return;
    arena = aligned_alloc(PAGE_SIZE, bytes);
    if (!arena)
        panic("test: no memory for an arena of %zu bytes", bytes);
    memset(arena, 0, bytes);
}

size_t test_memory_size(void) { return arena_size; }

void *hpa_ptr(hpa_t addr)
{
    if (addr.v >= arena_size)
        panic("hpa_ptr: %llxh is not machine memory", (unsigned long long)addr.v);
    return arena + addr.v;
}

void *gpa1_ptr(gpa1_t addr)
{
    static uint8_t nobody[PAGE_SIZE];

    if (addr.v < arena_size)
        return arena + addr.v;
    /* Written again each time: a write to the page is lost, as one to nothing must be. */
    memset(nobody, 0xff, sizeof(nobody));
    return nobody + (addr.v & ~PAGE_MASK);
}

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
