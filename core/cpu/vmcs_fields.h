/*
 * VMCS field numbers and properties, generated from the one table in vmcs_fields.def.
 * VMCS_x is the encoding (what VMREAD takes), FIELD_x the row (what arrays are indexed by).
 */
#ifndef STRATA_VMCS_FIELDS_H
#define STRATA_VMCS_FIELDS_H

#include "core/lib/types.h"

enum vmcs_encoding {
#define F(name, encoding, width, store, group, exists) VMCS_##name = (encoding),
#include "core/cpu/vmcs_fields.def"
#undef F
};

enum vmcs_row {
#define F(name, encoding, width, store, group, exists) FIELD_##name,
#include "core/cpu/vmcs_fields.def"
#undef F
    FIELD_COUNT
};

/* Width codes as bits 14:13 of the encoding have them. */
enum vmcs_width { WIDTH_W16 = 0, WIDTH_W64 = 1, WIDTH_W32 = 2, WIDTH_NAT = 3 };
enum vmcs_type { TYPE_CONTROL = 0, TYPE_INFO = 1, TYPE_GUEST = 2, TYPE_HOST = 3 };
enum vmcs_store { STORE_SHARED, STORE_INFO, STORE_SOFT };

/* What a write makes stale. GROUP_NONE: nothing, the processor checks the value itself. */
enum vmcs_group {
    GROUP_NONE,
    GROUP_CONTROLS,
    GROUP_HOST,
    GROUP_BITMAPS,
    GROUP_MSR_AREAS,
    GROUP_APIC,
    GROUP_EPT,
    GROUP_LINK,
    GROUP_COUNT
};

/* What must be offered to the guest hypervisor for a field to exist. CAP_NEVER: the field is known, the feature is not offered. */
enum vmcs_cap {
    CAP_ALWAYS,
    CAP_NEVER,
    CAP_PROC2,
    CAP_MSR_BITMAP,
    CAP_TPR_SHADOW,
    CAP_VIRT_APIC,
    CAP_EPT,
    CAP_VPID,
    CAP_VID,
    CAP_POSTED_INTR,
    CAP_SHADOW,
    CAP_XSAVES,
    CAP_TSC_SCALING,
    CAP_PAT,
    CAP_EFER,
    CAP_PLE,
    CAP_PREEMPTION_TIMER,
    CAP_COUNT
};

struct vmcs_field {
    uint16_t encoding;
    uint8_t width; /* enum vmcs_width */
    uint8_t store; /* enum vmcs_store */
    uint8_t group; /* enum vmcs_group */
    uint8_t cap;   /* enum vmcs_cap */
    const char *name;
};

extern const struct vmcs_field vmcs_fields[FIELD_COUNT];

#define VMCS_ENCODINGS 0x8000 /* bits 31:15 of an encoding are reserved */
extern const uint8_t vmcs_row_of[VMCS_ENCODINGS / 2];

/* Row of an encoding (bit 0, "high", is ignored), or -1 when the table has no such field. */
static inline int vmcs_field_find(uint64_t encoding)
{
    return encoding < VMCS_ENCODINGS ? vmcs_row_of[encoding >> 1] - 1 : -1;
}
/* Value cut to the field's width. Natural-width fields have 64 bits. */
uint64_t vmcs_field_trim(enum vmcs_row row, uint64_t value);

static inline enum vmcs_width vmcs_encoding_width(uint32_t encoding) { return (enum vmcs_width)((encoding >> 13) & 3); }
static inline enum vmcs_type vmcs_encoding_type(uint32_t encoding) { return (enum vmcs_type)((encoding >> 10) & 3); }
static inline bool vmcs_encoding_high(uint32_t encoding) { return encoding & 1; }

#endif
