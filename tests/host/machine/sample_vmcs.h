/*
 * Valid vmcs12s to start from: what a test changes is then all that is wrong with them.
 */
#ifndef STRATA_SAMPLE_VMCS_H
#define STRATA_SAMPLE_VMCS_H

#include "nested/checks.h"

/* What the nested guest of a sample is. All use nearly every feature; LEGACY and V86 are without unrestricted guest. */
enum sample { SAMPLE_LONG, SAMPLE_LEGACY, SAMPLE_V86, SAMPLE_REAL, SAMPLE_COUNT };

struct sample_vmcs {
    uint64_t values[FIELD_COUNT];
    struct vmx_caps caps;
    struct check_view view; /* of the two above */
};

/* With capabilities for everything, SMM included, so that no rule hides behind "reserved bits", and new memory. */
void sample_make(struct sample_vmcs *sample, enum sample kind);

/* Addresses that samples use. */
#define SAMPLE_MEMORY (64 * KIB)
#define SAMPLE_VMCS 0x1000u
#define SAMPLE_LINK 0x2000u
#define SAMPLE_VIRTUAL_APIC 0x3000u
#define SAMPLE_PAGE 0x4000u
#define SAMPLE_VTPR (SAMPLE_VIRTUAL_APIC + 0x80)
#define SAMPLE_REVISION 0x12u

#endif
