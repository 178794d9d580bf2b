/* sources: core/boot/kernel.c core/boot/kernel_elf.c core/boot/kernel_linux.c core/boot/kernel_multiboot.c */
/*
 * Any bytes as a kernel's image: nothing outside is read, and what is to be loaded lies in the image and below 4 GiB.
 */
#include "core/boot/kernel.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

static void check_segments(const struct kernel *k, uint64_t size)
{
    fuzz_check(k->segment_count >= 1 && k->segment_count <= KERNEL_SEGMENTS);
    for (unsigned i = 0; i < k->segment_count; i++) {
        const struct kernel_segment *s = &k->segment[i];
        fuzz_check(s->from <= size && s->size <= size - s->from && s->size <= s->memory);
        fuzz_check(s->to >= k->start && s->to + s->memory <= k->end);
        for (unsigned j = 0; j < i; j++)
            fuzz_check(s->to + s->memory <= k->segment[j].to || k->segment[j].to + k->segment[j].memory <= s->to);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kernel k;
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    const char *reason = kernel_read(copy, size, &k);
    if (reason) {
        fuzz_check(*reason);
    } else {
        fuzz_check(k.start < k.end && k.end <= 4 * GIB && k.entry >= k.start && k.entry < k.end);
        fuzz_check((k.align & (k.align - 1)) == 0 && k.module_below <= 4 * GIB);
        check_segments(&k, size);
    }
    free(copy);
    return 0;
}
