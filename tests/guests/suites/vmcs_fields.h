/* The parts of suite vmcs: every field of a VMCS with a value of its own. */
#ifndef GUESTS_VMCS_FIELDS_H
#define GUESTS_VMCS_FIELDS_H
#include "suites.h"

enum {
#define FIELD_COUNT(name, encoding) FIELD_##name,
    VMCS_FIELDS(FIELD_COUNT)
#undef FIELD_COUNT
        FIELDS
};
struct field {
    const char *name;
    u32 encoding;
};
extern const struct field fields[FIELDS];
extern bool supported[FIELDS]; /* by the CPU that filled last */
extern const struct test vmcs_shadow_tests[], vmcs_owner_tests[];

/* A value of its own for each field and seed; undefined bits of access rights need not be kept. */
u64 pattern(u32 encoding, u32 seed);
bool is_access_rights(u32 encoding);
bool writable(u32 encoding);
bool volatile_field(u32 encoding); /* any VMX instruction that fails rewrites it */
/* The current VMCS. fill gives the number of fields there are. */
u32 fill(u32 seed);
void compare(const char *when, u32 seed);

#endif
