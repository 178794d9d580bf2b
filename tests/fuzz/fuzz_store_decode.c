/* sources: x2apic/store_decode.c */
/*
 * Any bytes as an instruction: bounded reads, a length that fits, and an answer that does not depend on what follows.
 * The first byte chooses the code size.
 */
#include "x2apic/store_decode.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

static struct store decode_exact(const uint8_t *code, size_t size, enum code_size code_size)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, code, size);
    struct store store = store_decode(copy, size, code_size);
    free(copy);
    return store;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum code_size sizes[] = { CODE_16, CODE_32, CODE_64 };
    if (size == 0)
        return 0;
    enum code_size code_size = sizes[data[0] % ARRAY_SIZE(sizes)];
    struct store store = decode_exact(data + 1, size - 1, code_size);
    if (store.kind == STORE_UNSUPPORTED || store.kind == STORE_TRUNCATED) {
        fuzz_check(store.length == 0);
        return 0;
    }
    fuzz_check(store.length >= 2 && store.length <= INSTRUCTION_MAX && store.length < size);
    fuzz_check(store.reg < GPR_COUNT && (code_size == CODE_64 || store.reg < GPR_R8));
    const struct store_address *a = &store.address;
    fuzz_check((a->base < GPR_COUNT || a->base == STORE_NO_REGISTER) &&
               (a->index < GPR_COUNT || a->index == STORE_NO_REGISTER));
    fuzz_check(a->scale < 4 && a->segment < SEG_LDTR && (code_size == CODE_64 || !a->rip_relative));
    struct store again = decode_exact(data + 1, store.length, code_size);
    fuzz_check(again.kind == store.kind && again.length == store.length && again.immediate == store.immediate);
    fuzz_check(decode_exact(data + 1, (size_t)store.length - 1, code_size).kind == STORE_TRUNCATED);
    return 0;
}
