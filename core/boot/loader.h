/*
 * Boots the first module: decides where everything is to lie, puts it there and says how it is entered. What was loaded below
 * is never written over before it has been read. Pure, but that memory is written through hpa_ptr.
 */
#ifndef STRATA_LOADER_H
#define STRATA_LOADER_H

#include "core/boot/guest_info.h"
#include "core/cpu/guest_entry.h"

struct loader_input {
    struct guest_view view;    /* module and module_count are the loader's affair */
    const struct memmap *free; /* the memory that things are put into, where it does: part of view.memmap's */
    struct memmap_range info;  /* where the boot loader's information lies */
    unsigned avoid_count;      /* what must not be written to, besides what the memory map reserves */
    const struct memmap_range *avoid;
};

/* Most ranges in loader_input.avoid. */
#define LOADER_AVOID_MAX 4

/*
 * Checks the modules and chooses places; nothing is written. NULL, or one line that says what is wrong, valid until the next
 * call.
 */
const char *loader_plan(const struct loader_input *in);
/* Carries the last plan out: from then on the boot loader's information is gone. NULL, or one line that says what is wrong. */
const char *loader_load(struct guest_entry *entry);

#endif
