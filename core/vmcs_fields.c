/*
 * The VMCS field table as data, and look-up by encoding. Pure.
 * Nothing here touches a VMCS: it only says what fields there are.
 */
#include "core/vmcs_fields.h"

#define F(name, encoding, width, store, group, exists)                                                                 \
    _Static_assert(((encoding) >> 13 & 3) == WIDTH_##width, #name ": width disagrees with encoding");                  \
    _Static_assert(((encoding) & ~0x6ffeu) == 0, #name ": not the encoding of a full field");
#include "core/vmcs_fields.def"
#undef F

const struct vmcs_field vmcs_fields[FIELD_COUNT] = {
#define F(name, encoding, width, store, group, exists)                                                                 \
    [FIELD_##name] = { encoding, WIDTH_##width, STORE_##store, GROUP_##group, CAP_##exists, #name },
#include "core/vmcs_fields.def"
#undef F
};

/* An encoding's width, type and index fold into 9 bits: the index has at most 5 bits in every field of the table. */
#define INDEX_BITS 5
#define SLOT(encoding)                                                                                                 \
    (((encoding) >> 13 & 3) << (INDEX_BITS + 2) | ((encoding) >> 10 & 3) << INDEX_BITS |                               \
     ((encoding) >> 1 & ((1 << INDEX_BITS) - 1)))

/* Row + 1 of each slot; 0 = no field. */
static const uint8_t row_of_slot[1 << (INDEX_BITS + 4)] = {
#define F(name, encoding, width, store, group, exists) [SLOT(encoding)] = FIELD_##name + 1,
#include "core/vmcs_fields.def"
#undef F
};
_Static_assert(FIELD_COUNT < 256, "row_of_slot holds bytes");

int vmcs_field_find(uint32_t encoding)
{
    if (encoding >> 15)
        return -1;
    int row = row_of_slot[SLOT(encoding)] - 1;
    if (row < 0 || vmcs_fields[row].encoding != (encoding & ~1u))
        return -1;
    return row;
}

uint64_t vmcs_field_trim(enum vmcs_row row, uint64_t value)
{
    switch (vmcs_fields[row].width) {
    case WIDTH_W16:
        return value & 0xffff;
    case WIDTH_W32:
        return value & 0xffffffff;
    default:
        return value;
    }
}
