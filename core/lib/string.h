/*
 * The rest of what compiled code may ask of a C library's <string.h>; memcpy, memset and memcmp are in mem.h.
 */
#ifndef STRATA_STRING_H
#define STRATA_STRING_H

#include "core/lib/mem.h"

/* Like memcpy, but the ranges may overlap. */
void *memmove(void *to, const void *from, size_t size);

#endif
