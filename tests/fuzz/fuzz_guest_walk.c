/* sources: core/guest/guest_walk.c */
/*
 * Any registers and any paging structures: a bounded number of accesses, only to memory that was offered, and a result
 * that a second walk confirms.
 */
#include "core/guest/guest_walk.h"

#include <string.h>

#include "core/memory/mem.h"
#include "tests/fuzz/fuzz.h"

#define MEMORY_MAX (4 * PAGE_SIZE)
#define CALLS_MAX 400

struct input {
    uint64_t cr3, linear, pdpte[4];
    uint32_t cr4, rflags;
    uint8_t cr0_bits, efer_bits, maxphyaddr, cpl, access, pages_1g, refuse, spread;
};

struct memory {
    uint8_t *bytes;
    size_t pages;
    uint8_t refuse; /* this page, of either use */
    unsigned calls;
};

/* The few pages there are appear again and again, so that most entries lead somewhere. */
static void *pointer(void *context, uint64_t gpa, enum guest_use use)
{
    struct memory *memory = context;
    fuzz_check(gpa < BIT(52));
    fuzz_check(memory->calls++ < CALLS_MAX);
    uint64_t page = gpa / PAGE_SIZE % memory->pages;
    if (memory->refuse == page * 2 + use)
        return NULL;
    return memory->bytes + page * PAGE_SIZE + gpa % PAGE_SIZE;
}

static struct guest_paging paging_of(const struct input *in)
{
    struct guest_paging p = { .cr3 = in->cr3, .cr4 = in->cr4, .rflags = in->rflags, .cpl = in->cpl & 3 };
    p.cr0 = CR0_PE | (in->cr0_bits & 1 ? 0 : CR0_PG) | (in->cr0_bits & 2 ? CR0_WP : 0);
    p.efer = (in->efer_bits & 1 ? EFER_NXE : 0) | (in->efer_bits & 2 ? EFER_LMA : 0);
    p.maxphyaddr = (uint8_t)(32 + in->maxphyaddr % 21);
    p.pages_1g = in->pages_1g & 1;
    memcpy(p.pdpte, in->pdpte, sizeof(p.pdpte));
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in;
    struct memory memory = { .pages = 1 };
    memset(&in, 0, sizeof(in));
    memcpy(&in, data, size < sizeof(in) ? size : sizeof(in));
    data += size < sizeof(in) ? size : sizeof(in);
    size -= size < sizeof(in) ? size : sizeof(in);
    memory.pages = 1 + in.spread % (MEMORY_MAX / PAGE_SIZE);
    memory.refuse = in.refuse;
    memory.bytes = aligned_alloc(PAGE_SIZE, memory.pages * PAGE_SIZE);
    memset(memory.bytes, 0, memory.pages * PAGE_SIZE);
    for (size_t at = 0; at < memory.pages * PAGE_SIZE && size; at += size) /* the input, repeated */
        memcpy(memory.bytes + at, data, size < memory.pages * PAGE_SIZE - at ? size : memory.pages * PAGE_SIZE - at);

    struct guest_paging paging = paging_of(&in);
    struct guest_memory guest = { pointer, &memory };
    struct walk walk = guest_walk(&paging, &guest, in.linear, in.access & 7);
    fuzz_check(walk.result <= WALK_RETRY);
    if (walk.result == WALK_OK) {
        memory.calls = 0;
        struct walk again = guest_walk(&paging, &guest, in.linear, in.access & 7);
        fuzz_check(again.result == WALK_OK && again.gpa == walk.gpa);
        uint8_t copy[24];
        memory.calls = 0;
        guest_read(&paging, &guest, in.linear, copy, sizeof(copy), in.access & WALK_IMPLICIT);
    }
    free(memory.bytes);
    return 0;
}
