/*
 * Linear addresses of a guest: translation as its processor would do it, faults included, and copies to and from
 * them. SDM 3, "Paging". Serves the guest hypervisor (paging structures reached by gpa1) and the nested guest (through
 * ept12): the caller's guest_memory says how.
 *
 * Not modelled: protection keys, shadow stacks, HLAT, LAM. A guest that uses them gets what it would get without.
 */
#ifndef STRATA_GUEST_WALK_H
#define STRATA_GUEST_WALK_H

#include "core/lib/types.h"
#include "core/lib/x86.h"

/* The registers that decide about translation. */
struct guest_paging {
    uint64_t cr0, cr3, cr4, efer, rflags;
    uint64_t pdpte[4];  /* PDPTE registers: PAE paging uses these, not memory at CR3 */
    uint8_t maxphyaddr; /* bits */
    uint8_t cpl;
    bool pages_1g; /* CPUID says 1-GByte pages exist */
};

/* Kind of access; several may be or-ed. */
#define WALK_READ 0u
#define WALK_WRITE 1u
#define WALK_FETCH 2u
#define WALK_IMPLICIT 4u /* "implicit supervisor-mode access": to descriptor tables and the like, whatever CPL is */

enum guest_use { GUEST_USE_READ, GUEST_USE_WRITE };

/*
 * Access to guest-physical memory: a pointer to the byte at gpa, valid to the end of its 4-KiB page; NULL when that is
 * not possible now (an EPT violation of the nested guest). Any gpa below 2^52 may be asked for.
 */
struct guest_memory {
    void *(*pointer)(void *context, uint64_t gpa, enum guest_use use);
    void *context;
};

enum walk_result {
    WALK_OK,
    WALK_FAULT,  /* page fault: linear is for CR2, error is its error code */
    WALK_NO_GPA, /* guest_memory gave no pointer for gpa, for the use in `use` */
    WALK_RETRY,  /* another processor keeps changing the entries: let the guest execute the instruction again */
};

struct walk {
    enum walk_result result;
    uint64_t gpa;    /* WALK_OK: the translation (of a copy: of its last page); WALK_NO_GPA: what was not reached */
    uint64_t linear; /* the address that was being translated */
    uint32_t error;  /* PFERR_ bits */
    enum guest_use use;
    bool in_table; /* WALK_NO_GPA: gpa is that of an entry of a paging structure */
};

/*
 * Translates one linear address; accessed and dirty flags are set as by the processor. Outside 64-bit mode it is cut to 32
 * bits; the caller has checked that it is canonical otherwise.
 */
struct walk guest_walk(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                       unsigned access);

#define GUEST_COPY_MAX PAGE_SIZE /* bytes in one call: at most two pages are involved */

/*
 * Copies size bytes (at most GUEST_COPY_MAX) between `data` and linear address, which may cross a page. Unless the result is
 * WALK_OK nothing has been copied. access: WALK_READ or WALK_FETCH, and WALK_IMPLICIT; guest_write adds WALK_WRITE.
 */
struct walk guest_read(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                       void *data, size_t size, unsigned access);
struct walk guest_write(const struct guest_paging *paging, const struct guest_memory *memory, uint64_t linear,
                        const void *data, size_t size, unsigned access);

#endif
