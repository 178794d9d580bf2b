/*
 * memcpy and its family, for a program without a C library. Compiled code calls these, too, by itself.
 * Copies move 8 bytes per string iteration: the emulators that Strata is measured on count each iteration.
 */
#include "core/lib/string.h"

#define WORD_SIZE sizeof(uint64_t)

/* Link-time optimization looks for callers before the compiler has made all calls of these. */
#define CALLED_BY_COMPILER __attribute__((used))

CALLED_BY_COMPILER void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    void *destination = to;
    const void *source = from;
    size_t words = size / WORD_SIZE, bytes = size % WORD_SIZE;
    __asm__ volatile("rep movsq" : "+D"(destination), "+S"(source), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(bytes) : : "memory");
    return to;
}

CALLED_BY_COMPILER void *memmove(void *to, const void *from, size_t size)
{
    if ((uintptr_t)to - (uintptr_t)from >= size)
        return memcpy(to, from, size);
    /* The destination starts inside the source: copy from the end. */
    uint8_t *last_to = (uint8_t *)to + size - 1;
    const uint8_t *last_from = (const uint8_t *)from + size - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(last_to), "+S"(last_from), "+c"(size) : : "memory", "cc");
    return to;
}

CALLED_BY_COMPILER void *memset(void *to, int byte, size_t size)
{
    void *destination = to;
    uint64_t pattern = (uint8_t)byte * 0x0101010101010101ull;
    size_t words = size / WORD_SIZE, bytes = size % WORD_SIZE;
    __asm__ volatile("rep stosq" : "+D"(destination), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(destination), "+c"(bytes) : "a"(pattern) : "memory");
    return to;
}

CALLED_BY_COMPILER int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *left = a, *right = b;
    for (size_t i = 0; i < size; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}
