/*
 * Out of Strata for good: the kernel's page tables get Strata's image for as long as this code runs, and the rest of the way is
 * a piece of code in a page of the kernel's own memory (handover.S).
 */
#include "core/boot/handover.h"

#include "core/lib/hw.h"
#include "core/memory/mem.h"

#define TRAMPOLINE_AT 64
#define IMAGE_SLOT 511 /* of a PML4: the highest 512 GiB, where the image is linked */
_Static_assert(TRAMPOLINE_AT >= KERNEL_GDT_SIZE, "the trampoline lies behind the GDT");
_Static_assert(offsetof(struct guest_entry, rip) == ENTRY_AT_RIP && offsetof(struct guest_entry, rax) == ENTRY_AT_RAX &&
                   offsetof(struct guest_entry, rbx) == ENTRY_AT_RBX &&
                   offsetof(struct guest_entry, rsi) == ENTRY_AT_RSI &&
                   offsetof(struct guest_entry, cr3) == ENTRY_AT_CR3 &&
                   offsetof(struct guest_entry, gdt_base) == ENTRY_AT_GDT &&
                   offsetof(struct guest_entry, page) == ENTRY_AT_PAGE &&
                   offsetof(struct guest_entry, long_mode) == ENTRY_AT_LONG,
               "handover.S finds the fields there");

extern const uint8_t handover_blob[], handover_blob_end[];
extern _Noreturn void handover_jump(const struct guest_entry *entry, uint64_t trampoline);

void handover_enter(const struct guest_entry *entry)
{
    uint64_t *tables = hpa_ptr(hpa(entry->cr3)), *own = hpa_ptr(hpa(hw_read_cr3() & PAGE_MASK));
    tables[IMAGE_SLOT] = own[IMAGE_SLOT];
    memcpy(hpa_ptr(hpa(entry->page + TRAMPOLINE_AT)), handover_blob, (size_t)(handover_blob_end - handover_blob));
    handover_jump(entry, entry->page + TRAMPOLINE_AT);
}
