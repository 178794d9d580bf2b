/*
 * Test doubles for what pure code may call: memory; see support.h.
 */
#include "tests/host/support/support.h"

#include <stdlib.h>

#include "core/memory/mem.h"

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
