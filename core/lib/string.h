/*
 * What compiled code may ask of a C library's <string.h>; and comparing words.
 */
#ifndef STRATA_STRING_H
#define STRATA_STRING_H

#include "core/lib/types.h"

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
/* Like memcpy, but the ranges may overlap. */
void *memmove(void *to, const void *from, size_t size);

/* Whether these words of 8 bytes are the same. They may change meanwhile. */
static inline bool words_equal(const void *a, const void *b, size_t words)
{
    bool equal;
    __asm__ volatile("cmp %%ecx, %%ecx; repe cmpsq" : "+S"(a), "+D"(b), "+c"(words), "=@cce"(equal) : : "memory");
    return equal;
}

#endif
