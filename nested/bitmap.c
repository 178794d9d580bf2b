/*
 * Bitmaps of vmcs02 that are Strata's wants and the guest hypervisor's together: an access exits if either says so. Merged again only
 * when the guest hypervisor's page may have been written (core/cpu/watch.h, ept-cache/writable.h); where that cannot be known, at
 * every entry.
 */
#include "core/cpu/machine.h"
#include "core/cpu/watch_log.h"
#include "core/lib/string.h"
#include "nested/nested.h"

/*
 * Nobody can say whether the page was written: another CPU sits in its guest without an exit, say. Then the page is compared with what was
 * merged, which costs a fifth of merging. True: it is the same.
 */
static bool unchanged(const struct merged_bitmap *m)
{
    return m->seen_valid && words_equal(gpa1_ptr(m->source), hpa_ptr(m->seen), PAGE_SIZE / 8);
}

static void merge(struct merged_bitmap *m, const uint64_t *want1)
{
    uint64_t *want2 = hpa_ptr(m->seen);
    memcpy(want2, gpa1_ptr(m->source), PAGE_SIZE); /* from the copy: the original may change meanwhile */
    m->seen_valid = true;
    uint64_t *merged = hpa_ptr(m->page);
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(*merged); i++)
        merged[i] = want1[i] | want2[i];
}

void bitmap_forget(struct merged_bitmap *m)
{
    if (m->watch)
        watch_page_put(m->watch);
    m->watch = NULL;
    m->version = 0;
    m->seen_valid = false;
    m->source.v = VMCS12_NONE;
}

/* What is merged is current. */
static bool current(const struct merged_bitmap *m)
{
    return m->version && m->writable == writable_generation(&nested_ept_shared->writable) &&
           watch_page_quiet(m->watch, m->version);
}

bool bitmap_pages_ready(struct cpu *cpu, struct merged_bitmap *m)
{
    if (!m->page.v)
        m->page = pool_alloc(&cpu->pool);
    if (!m->seen.v)
        m->seen = pool_alloc(&cpu->pool);
    return m->page.v && m->seen.v;
}

bool bitmap_refresh(struct cpu *cpu, struct merged_bitmap *m, gpa1_t source, hpa_t want1)
{
    if (current(m))
        return false;
    if (m->source.v != source.v) {
        bitmap_forget(m);
        m->source = source;
        m->watch = watch_page_get(source);
    }
    uint32_t generation = writable_generation(&nested_ept_shared->writable), version = 0;
    if (m->watch && !writable_page(&nested_ept_shared->writable, hpa((uint64_t)gpa1_ptr(source))))
        version = watch_page_version(m->watch);
    bool stale = !version ? !unchanged(m) : version != m->version || generation != m->writable;
    if (stale) {
        merge(m, hpa_ptr(want1));
        count(cpu, COUNT_BITMAP_MERGED);
    }
    m->version = version;
    m->writable = generation;
    return stale;
}
