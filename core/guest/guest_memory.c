/*
 * See guest_memory.h.
 */
#include "core/guest/guest_memory.h"

#include "core/cpu/machine.h"
#include "core/cpu/watch_log.h"
#include "core/guest/guest.h"

static void *guest1_pointer(void *context, uint64_t gpa, enum guest_use use)
{
    (void)context;
    if (use == GUEST_USE_WRITE)
        watch_note_write(gpa1(gpa));
    return gpa1_ptr(gpa1(gpa));
}

const struct guest_memory guest_memory1 = { guest1_pointer, NULL };

struct guest_paging guest_paging_state(void)
{
    struct guest_paging p = {
        .cr0 = vmread(GUEST_CR0),
        .cr3 = vmread(GUEST_CR3),
        .cr4 = vmread(GUEST_CR4),
        .efer = vmread(GUEST_EFER),
        .rflags = vmread(GUEST_RFLAGS),
        .maxphyaddr = machine.hw.maxphyaddr,
        .cpl = (uint8_t)guest_cpl(),
        .pages_1g = machine.has_1g_pages,
    };
    if ((p.cr0 & CR0_PG) && (p.cr4 & CR4_PAE) && !(p.efer & EFER_LMA))
        for (unsigned i = 0; i < 4; i++)
            p.pdpte[i] = hw_vmread(VMCS_GUEST_PDPTE0 + 2 * i);
    return p;
}
