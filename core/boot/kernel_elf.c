/*
 * Reads an ELF file, of 32 or 64 bits, whose segments go to their physical addresses. Pure.
 * Tool Interface Standard, "Executable and Linking Format"; System V ABI, AMD64 supplement.
 */
#include "core/boot/kernel.h"
#include "core/memory/mem.h"

#define ELF_MAGIC "\177ELF"
#define CLASS_AT 4
#define CLASS_32 1
#define CLASS_64 2
#define DATA_AT 5
#define DATA_LITTLE 1
#define MACHINE_AT 18
#define MACHINE_386 3
#define MACHINE_X86_64 62
#define PT_LOAD 1
#define HEADER_SIZE_32 52
#define HEADER_SIZE_64 64
#define PROGRAM_HEADERS_MAX 64

/* Where the fields are in the file header and in a program header. */
struct layout {
    uint8_t word; /* bytes of an address */
    uint8_t entry, table, table_step, table_count;
    uint8_t offset, virtual, physical, file_size, memory_size;
    uint8_t size; /* of a program header */
};
static const struct layout layout_32 = { 4, 24, 28, 42, 44, 4, 8, 12, 16, 20, 32 };
static const struct layout layout_64 = { 8, 24, 32, 54, 56, 8, 16, 24, 32, 40, 56 };

static const struct layout *find_layout(const uint8_t *image, uint64_t size)
{
    if (size < HEADER_SIZE_64 || memcmp(image, ELF_MAGIC, sizeof(ELF_MAGIC) - 1) || image[DATA_AT] != DATA_LITTLE)
        return NULL;
    uint64_t machine = kernel_number(image + MACHINE_AT, 2);
    if (image[CLASS_AT] == CLASS_32 && machine == MACHINE_386)
        return &layout_32;
    /* Multiboot kernels are entered in 32-bit code: some are 64-bit files that say they are for a 386, or the reverse. */
    return image[CLASS_AT] == CLASS_64 && (machine == MACHINE_X86_64 || machine == MACHINE_386) ? &layout_64 : NULL;
}

const char *kernel_read_elf(const uint8_t *image, uint64_t size, uint64_t physical_entry, struct kernel *out)
{
    const struct layout *l = find_layout(image, size);
    if (!l)
        return "it is neither an ELF file for x86 nor does its multiboot header give addresses";
    uint64_t entry = kernel_number(image + l->entry, l->word), table = kernel_number(image + l->table, l->word);
    uint64_t step = kernel_number(image + l->table_step, 2), count = kernel_number(image + l->table_count, 2);
    if (count > PROGRAM_HEADERS_MAX || step < l->size || table > size || count * step > size - table)
        return "its ELF header is damaged";
    out->entry = physical_entry;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *p = image + table + i * step;
        if (kernel_number(p, 4) != PT_LOAD)
            continue;
        struct kernel_segment segment = {
            kernel_number(p + l->offset, l->word),
            kernel_number(p + l->file_size, l->word),
            kernel_number(p + l->physical, l->word),
            kernel_number(p + l->memory_size, l->word),
        };
        const char *reason = kernel_add_segment(out, segment, size);
        if (reason)
            return reason;
        uint64_t inside = entry - kernel_number(p + l->virtual, l->word);
        if (!physical_entry && !out->entry && inside < segment.memory)
            out->entry = segment.to + inside;
    }
    if (!out->segment_count)
        return "its ELF header is damaged: nothing is to be loaded";
    if (out->entry < out->start || out->entry >= out->end)
        return "its entry lies outside what is to be loaded";
    return NULL;
}
