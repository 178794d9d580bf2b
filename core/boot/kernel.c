/*
 * What kind of kernel a module is. Pure.
 */
#include "core/boot/kernel.h"

#include "core/memory/mem.h"

#define LOAD_LIMIT (4 * GIB) /* kernels are loaded below: what enters them has no more address bits */

const char KERNEL_OTHER[] = "it is no kernel: neither a Linux bzImage nor a multiboot2 or multiboot image";

const char *kernel_add_segment(struct kernel *kernel, struct kernel_segment segment, uint64_t image_size)
{
    if (segment.memory == 0)
        return NULL;
    if (segment.from > image_size || segment.size > image_size - segment.from)
        return "it is cut off: a segment lies behind the end of the file";
    if (segment.size > segment.memory || segment.to >= LOAD_LIMIT || segment.memory > LOAD_LIMIT - segment.to)
        return "a segment of it does not fit below 4 GiB";
    if (kernel->segment_count == KERNEL_SEGMENTS)
        return "it has more than 16 segments";
    for (unsigned i = 0; i < kernel->segment_count; i++) {
        const struct kernel_segment *other = &kernel->segment[i];
        if (segment.to < other->to + other->memory && other->to < segment.to + segment.memory)
            return "its segments overlap";
    }
    uint64_t end = segment.to + segment.memory;
    if (kernel->segment_count == 0 || segment.to < kernel->start)
        kernel->start = segment.to;
    if (end > kernel->end)
        kernel->end = end;
    kernel->segment[kernel->segment_count++] = segment;
    return NULL;
}

static bool is_compressed(const uint8_t *image, uint64_t size)
{
    static const uint8_t gzip[] = { 0x1f, 0x8b }, xz[] = { 0xfd, '7', 'z', 'X', 'Z' };
    return size >= sizeof(xz) && (!memcmp(image, gzip, sizeof(gzip)) || !memcmp(image, xz, sizeof(xz)));
}

const char *kernel_read(const uint8_t *image, uint64_t size, struct kernel *out)
{
    static const char *(*const readers[])(const uint8_t *, uint64_t, struct kernel *) = {
        kernel_read_linux,
        kernel_read_multiboot2,
        kernel_read_multiboot,
    };
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
        memset(out, 0, sizeof(*out));
        out->module_below = LOAD_LIMIT;
        out->command_line = UINT32_MAX;
        const char *reason = readers[i](image, size, out);
        if (reason != KERNEL_OTHER)
            return reason;
    }
    if (is_compressed(image, size))
        return "it is compressed: GRUB unpacks it where its module gzio or xzio is loaded";
    return KERNEL_OTHER;
}
