/*
 * The MSR bitmap of vmcs02: Strata's wants and the guest hypervisor's, an access exits if either says so. Merged again only when
 * the guest hypervisor's page may have been written (core/watch.h, ept-cache/writable.h); where that cannot be known, at every entry.
 */
#include "core/machine.h"
#include "core/watch_log.h"
#include "nested/nested.h"

static void merge(struct cpu *cpu, struct nested_slot *slot, gpa1_t page)
{
    const uint64_t *want1 = hpa_ptr(machine.msr_bitmap01);
    const uint64_t *want2 = gpa1_ptr(page);
    uint64_t *merged = hpa_ptr(slot->msr_bitmap);
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(*merged); i++)
        merged[i] = want1[i] | want2[i];
    count(cpu, COUNT_BITMAP_MERGED);
}

void bitmap_forget(struct nested_slot *slot)
{
    if (slot->bitmap_watch)
        watch_page_put(slot->bitmap_watch);
    slot->bitmap_watch = NULL;
    slot->bitmap_version = 0;
    slot->bitmap_page.v = VMCS12_NONE;
}

/* What is merged is current. */
static bool current(const struct nested_slot *slot)
{
    return slot->bitmap_version && slot->bitmap_writable == writable_generation(&nested_ept_shared->writable) &&
           watch_page_quiet(slot->bitmap_watch, slot->bitmap_version);
}

void bitmap_refresh(struct cpu *cpu, struct nested_slot *slot)
{
    if (current(slot))
        return;
    gpa1_t page = gpa1(slot->v.soft[FIELD_MSR_BITMAP]);
    if (slot->bitmap_page.v != page.v) {
        bitmap_forget(slot);
        slot->bitmap_page = page;
        slot->bitmap_watch = watch_page_get(page);
    }
    uint32_t generation = writable_generation(&nested_ept_shared->writable), version = 0;
    if (slot->bitmap_watch && !writable_page(&nested_ept_shared->writable, page))
        version = watch_page_version(slot->bitmap_watch);
    if (!version || version != slot->bitmap_version || generation != slot->bitmap_writable)
        merge(cpu, slot, page);
    slot->bitmap_version = version;
    slot->bitmap_writable = generation;
}
