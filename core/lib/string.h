/*
 * What compiled code may ask of a C library's <string.h>.
 */
#ifndef STRATA_STRING_H
#define STRATA_STRING_H

#include "core/lib/types.h"

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
/* Like memcpy, but the ranges may overlap. */
void *memmove(void *to, const void *from, size_t size);

#endif
