/*
 * What the two files of the fake machine say to each other.
 */
#ifndef STRATA_FAKE_VMCS_H
#define STRATA_FAKE_VMCS_H

#include "tests/host/machine/fake_hw.h"

/* No VMCS is active on any processor, none is in VMX operation. */
void fake_vmcs_reset(void);
/* The selected processor. */
int fake_cpu(void);
void fake_record(enum fake_op op, uint64_t a, uint64_t b, uint64_t c);

#endif
