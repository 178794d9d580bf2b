/*
 * The memory of machines that Strata itself runs on in a test: physical addresses are pointers, as in the image, so that
 * core/memory/memory.c can be linked with the guest's memory map. A test that names it among its sources has no arena
 * at address 0: memory lies between NESTED_MACHINE_START and the size that test_memory_reset is given.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "core/memory/mem.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

static size_t memory_end;

void test_memory_reset(size_t bytes)
{
    void *start = (void *)NESTED_MACHINE_START;
    if (memory_end)
        munmap(start, memory_end - NESTED_MACHINE_START);
    memory_end = bytes;
    if (bytes == 0)
        return;
    void *got = mmap(start, bytes - NESTED_MACHINE_START, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got != start)
        panic("test: the addresses from %llxh on are taken", (unsigned long long)NESTED_MACHINE_START);
}

size_t test_memory_size(void) { return memory_end; }
