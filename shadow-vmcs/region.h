/*
 * A VMCS region in the guest's memory, and what a CPU knows of it. Between VMCLEAR and VMPTRLD the region is an ordinary page of the
 * guest's, which it may copy, edit or reuse: what is written here is the whole VMCS, and nothing is ever written but by the
 * instruction that SDM 3 lets write there (VMCLEAR; the eviction of an active VMCS).
 */
#ifndef STRATA_REGION_H
#define STRATA_REGION_H

#include "core/cpu/vmcs_fields.h"
#include "core/lib/types.h"

/* What a region holds of a VMCS. The order of the values is the writer's own (vmcs12.c); any bytes are a VMCS. */
struct region_image {
    uint64_t launched; /* launch state: 1 "launched", all else "clear" */
    uint64_t values[FIELD_COUNT];
};

/* What memory says now; each word is read once. What is not RAM of the guest reads as all ones. */
void region_read(gpa1_t region, struct region_image *image);
/* Whether memory says exactly this. */
bool region_equals(gpa1_t region, const struct region_image *image);
/* Writes the launch state and the first so many values; memory says what the image says of the others. */
void region_write(gpa1_t region, const struct region_image *image, unsigned values);
/* Launch state "clear", of a VMCS whose values are in memory. */
void region_clear(gpa1_t region);

#endif
