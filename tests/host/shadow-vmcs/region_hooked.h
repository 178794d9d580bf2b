/*
 * shadow-vmcs/region.c for a test that looks at what several CPUs do: a point where another CPU may go on before each access to a region
 * and in the middle of reading and writing one; and mistakes that a test of ownership must find.
 */
#ifndef STRATA_TEST_REGION_HOOKED_H
#define STRATA_TEST_REGION_HOOKED_H

#include "shadow-vmcs/region.h"

enum region_mistake {
    MISTAKE_NONE,
    MISTAKE_KEPT_BELIEVED, /* a kept slot counts whatever memory says */
    MISTAKE_HALF_COMPARED, /* ... whatever its second half says */
    MISTAKE_NOT_WRITTEN,   /* VMCLEAR keeps the values for itself */
    MISTAKE_WRITTEN_AGAIN, /* what was written is written once more, later */
    MISTAKE_NOT_CLEARED,   /* VMCLEAR leaves the launch state in memory */
    MISTAKE_COUNT
};

extern enum region_mistake region_mistake;
extern void (*region_yield)(void); /* NULL: none */

#endif
