/*
 * See region.h. The format is Strata's own, but for the first two words: SDM 3, "Format of the VMCS Region".
 */
#include "shadow-vmcs/region.h"

#include "core/memory/memory.h"
#include "core/cpu/watch_log.h"
#include "core/lib/string.h"

struct region {
    uint32_t revision, abort; /* the guest's */
    struct region_image image;
};
_Static_assert(sizeof(struct region) <= PAGE_SIZE, "a region is one page");

#define IMAGE_WORDS (sizeof(struct region_image) / sizeof(uint64_t))

static struct region_image *image_at(gpa1_t region) { return &((struct region *)gpa1_ptr(region))->image; }

/* The page that stands for what is no RAM of the guest's is nobody's: it stays as it is. */
static bool is_ram(const struct region_image *image)
{
    return (uint64_t)image - (uint64_t)hpa_ptr(memory01.junk) >= PAGE_SIZE;
}

void region_read(gpa1_t region, struct region_image *image) { memcpy(image, image_at(region), sizeof(*image)); }

bool region_equals(gpa1_t region, const struct region_image *image)
{
    return words_equal(image_at(region), image, IMAGE_WORDS);
}

void region_write(gpa1_t region, const struct region_image *image, unsigned values)
{
    struct region_image *to = image_at(region);
    if (!is_ram(to))
        return;
    memcpy(to, image, offsetof(struct region_image, values) + values * sizeof(uint64_t));
    watch_note_write(region);
}

void region_clear(gpa1_t region)
{
    struct region_image *to = image_at(region);
    if (to->launched == 0 || !is_ram(to))
        return;
    to->launched = 0;
    watch_note_write(region);
}
