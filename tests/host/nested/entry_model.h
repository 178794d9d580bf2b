/*
 * The checks of VM entry once more, as one reads them in the SDM from top to bottom, sharing nothing with
 * nested/checks*: an oracle for random vmcs12s. It says only whether all holds, not what does not.
 */
#ifndef STRATA_ENTRY_MODEL_H
#define STRATA_ENTRY_MODEL_H

#include "nested/checks.h"

/* The rules that Strata checks itself: control fields, host state, VMCS link pointer. */
bool model_controls(const struct check_view *view);
bool model_host(const struct check_view *view);
bool model_link(const struct check_view *view);

#endif
