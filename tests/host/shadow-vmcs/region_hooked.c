/*
 * See region_hooked.h.
 */
#include "tests/host/shadow-vmcs/region_hooked.h"

#include <string.h>

void region_read_plain(gpa1_t region, struct region_image *image);
bool region_equals_plain(gpa1_t region, const struct region_image *image);
void region_write_plain(gpa1_t region, const struct region_image *image, unsigned values);
void region_clear_plain(gpa1_t region);

#define region_read region_read_plain
#define region_equals region_equals_plain
#define region_write region_write_plain
#define region_clear region_clear_plain
#include "shadow-vmcs/region.c"
#undef region_read
#undef region_equals
#undef region_write
#undef region_clear

enum region_mistake region_mistake;
void (*region_yield)(void);

#define HALF (FIELD_COUNT / 2)
#define SECOND_HALF (sizeof(uint64_t) * (FIELD_COUNT - HALF))

static gpa1_t written;
static struct region_image written_image;

static void yield(void)
{
    if (region_yield)
        region_yield();
}

void region_read(gpa1_t region, struct region_image *image)
{
    struct region_image later;
    yield();
    if (region_mistake == MISTAKE_WRITTEN_AGAIN && written.v)
        region_write_plain(written, &written_image, FIELD_COUNT);
    region_read_plain(region, image);
    yield();
    region_read_plain(region, &later);
    memcpy(&image->values[HALF], &later.values[HALF], SECOND_HALF);
}

bool region_equals(gpa1_t region, const struct region_image *image)
{
    yield();
    if (region_mistake == MISTAKE_KEPT_BELIEVED)
        return true;
    if (region_mistake == MISTAKE_HALF_COMPARED) {
        struct region_image now;
        region_read_plain(region, &now);
        memcpy(&now.values[HALF], &image->values[HALF], SECOND_HALF);
        return memcmp(&now, image, sizeof(now)) == 0;
    }
    return region_equals_plain(region, image);
}

void region_write(gpa1_t region, const struct region_image *image, unsigned values)
{
    struct region_image half;
    if (region_mistake == MISTAKE_NOT_WRITTEN)
        return;
    written = region;
    written_image = *image;
    yield();
    region_read_plain(region, &half);
    struct region_image first = *image;
    memcpy(&first.values[HALF], &half.values[HALF], SECOND_HALF);
    region_write_plain(region, &first, values < HALF ? values : HALF);
    yield();
    region_read_plain(region, &half);
    memcpy(&half.values[HALF], &image->values[HALF], SECOND_HALF);
    region_write_plain(region, &half, values);
}

void region_clear(gpa1_t region)
{
    yield();
    if (region_mistake != MISTAKE_NOT_CLEARED)
        region_clear_plain(region);
}
