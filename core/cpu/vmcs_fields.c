/*
 * The VMCS field table as data, and look-up by encoding. Pure.
 * Nothing here touches a VMCS: it only says what fields there are.
 */
#include "core/cpu/vmcs_fields.h"

#define F(name, encoding, width, store, group, exists)                                                                 \
    _Static_assert(((encoding) >> 13 & 3) == WIDTH_##width, #name ": width disagrees with encoding");                  \
    _Static_assert(((encoding) & ~0x6ffeu) == 0, #name ": not the encoding of a full field");
#include "core/cpu/vmcs_fields.def"
#undef F

const struct vmcs_field vmcs_fields[FIELD_COUNT] = {
#define F(name, encoding, width, store, group, exists)                                                                 \
    [FIELD_##name] = { encoding, WIDTH_##width, STORE_##store, GROUP_##group, CAP_##exists, #name },
#include "core/cpu/vmcs_fields.def"
#undef F
};

/* Row + 1 of each encoding without its bit 0 ("high"); 0 = no field. */
const uint8_t vmcs_row_of[VMCS_ENCODINGS / 2] = {
#define F(name, encoding, width, store, group, exists) [(encoding) >> 1] = FIELD_##name + 1,
#include "core/cpu/vmcs_fields.def"
#undef F
};
_Static_assert(FIELD_COUNT < 256, "vmcs_row_of holds bytes");

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
