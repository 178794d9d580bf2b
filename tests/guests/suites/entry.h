/*
 * Suite entry: rows that break one rule of a valid VMCS. A row's changes are applied, the entry is tried, the changes
 * are taken back, and the VMCS must enter again.
 */
#ifndef GUESTS_ENTRY_H
#define GUESTS_ENTRY_H
#include "suites.h"

/* Changes of one field. OR of a control bit that is not offered makes the row a SKIP; FORCE sets it regardless. */
enum change_op { END, SET, OR, CLEAR, FORCE };
struct change {
    u32 field;
    enum change_op op;
    u64 value;
};
/* Values known at run time only. */
#define BEYOND 0xbad0000000000001ull   /* the first address beyond MAXPHYADDR */
#define PAGE_OK 0xbad0000000000002ull  /* a page of zeroes */
#define PAGE_ODD 0xbad0000000000003ull /* the same, not aligned */
#define PAGE_TOP 0xbad0000000000004ull /* 16 bytes below the end of the physical addresses */
#define EPTP_OK 0xbad0000000000005ull  /* a right EPT pointer */
#define NOT_CANONICAL 0x8000000000000000ull

enum base { PLAIN, WITH_EPT, PAE, PAE_EPT, REAL, V86 };
enum { ONLY64 = 1, ONLY32 = 2, NOT_IF_ANY_ERROR_CODE = 4 /* IA32_VMX_BASIC[56] */, NOT_IF_EPTP_BIT7 = 8 };
#define ENTERS 0u
#define BAD_CONTROL FAIL_VALID(ERR_CONTROLS)
#define BAD_HOST FAIL_VALID(ERR_HOST_STATE)
#define BAD_GUEST (REASON_BAD_GUEST | REASON_ENTRY_FAILED)

struct entry_row {
    const char *name;
    enum base base;
    u32 want;
    struct change changes[5];
    u32 only, qualification;
};
extern const struct entry_row entry_control_rows[], entry_host_rows[], entry_guest_rows[], entry_segment_rows[],
    entry_accept_rows[]; /* each ends with a NULL name */

#endif
