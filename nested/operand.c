/*
 * Decoding of VM-exit instruction information and segmentation of memory operands. Pure.
 * Everything here comes from the guest hypervisor by way of the processor: every input gives a result or a fault.
 */
#include "nested/operand.h"

#include "core/lib/vmx.h"

/* Bits of the instruction-information field. */
#define INFO_SCALE_SHIFT 0
#define INFO_SCALE_MASK 3
#define INFO_ADDRESS_SIZE_SHIFT 7
#define INFO_ADDRESS_SIZE_MASK 7
#define INFO_SEGMENT_SHIFT 15
#define INFO_SEGMENT_MASK 7
#define INFO_INDEX_SHIFT 18
#define INFO_INDEX_INVALID BIT(22)
#define INFO_BASE_SHIFT 23
#define INFO_BASE_INVALID BIT(27)
#define INFO_REG_MASK 15

/* Segment types: SDM 3, "Code- and Data-Segment Descriptor Types". */
#define TYPE_CODE 8u
#define TYPE_CODE_READABLE 2u
#define TYPE_DATA_WRITABLE 2u
#define TYPE_DATA_EXPAND_DOWN 4u
#define LIMIT_16 0xffffull
#define LIMIT_32 0xffffffffull

struct operand operand_decode(uint64_t info)
{
    unsigned address_size = info >> INFO_ADDRESS_SIZE_SHIFT & INFO_ADDRESS_SIZE_MASK;
    struct operand operand = {
        .segment = info >> INFO_SEGMENT_SHIFT & INFO_SEGMENT_MASK,
        .address_bits = address_size == 0   ? 16
                        : address_size == 1 ? 32
                                            : 64,
        .scale = info >> INFO_SCALE_SHIFT & INFO_SCALE_MASK,
        .base = OPERAND_NONE,
        .index = OPERAND_NONE,
    };
    if (!(info & INFO_BASE_INVALID))
        operand.base = info >> INFO_BASE_SHIFT & INFO_REG_MASK;
    if (!(info & INFO_INDEX_INVALID))
        operand.index = info >> INFO_INDEX_SHIFT & INFO_REG_MASK;
    return operand;
}

/* The offset in the segment, cut to the address size. */
static uint64_t effective_address(const struct operand *o, uint64_t displacement, const uint64_t *gpr)
{
    uint64_t address = displacement;
    if (o->base != OPERAND_NONE)
        address += gpr[o->base];
    if (o->index != OPERAND_NONE)
        address += gpr[o->index] << o->scale;
    return o->address_bits == 64 ? address : address & (BIT(o->address_bits) - 1);
}

static bool is_canonical(uint64_t linear, unsigned bits)
{
    unsigned unused = 64 - bits;
    return (uint64_t)((int64_t)(linear << unused) >> unused) == linear;
}

/* Segments in 64-bit mode: only FS and GS have a base, none has a limit. */
static enum operand_fault linear_64(const struct operand *o, uint64_t offset, const struct operand_segment *segment,
                                    unsigned linear_bits, unsigned size, uint64_t *linear)
{
    uint64_t base = o->segment == SEG_FS || o->segment == SEG_GS ? segment->base : 0;
    uint64_t first = base + offset;
    if (!is_canonical(first, linear_bits) || !is_canonical(first + size - 1, linear_bits))
        return o->segment == SEG_SS ? OPERAND_SS : OPERAND_GP;
    *linear = first;
    return OPERAND_OK;
}

static bool type_allows(uint32_t access_rights, enum operand_access access)
{
    uint32_t type = access_rights & AR_TYPE_MASK;
    if (access == OPERAND_WRITE)
        return !(type & TYPE_CODE) && (type & TYPE_DATA_WRITABLE);
    return !(type & TYPE_CODE) || (type & TYPE_CODE_READABLE);
}

/* A flat expand-up segment: processors with VMX do not check its limit, addresses wrap. */
static bool is_flat(const struct operand_segment *segment)
{
    uint32_t type = segment->access_rights & AR_TYPE_MASK;
    bool expand_down = !(type & TYPE_CODE) && (type & TYPE_DATA_EXPAND_DOWN);
    return segment->base == 0 && segment->limit == LIMIT_32 && !expand_down;
}

/* SDM 3, "Limit Checking". All of [offset, offset+size) must be inside. */
static bool limit_allows(const struct operand_segment *segment, uint64_t offset, unsigned size)
{
    uint32_t type = segment->access_rights & AR_TYPE_MASK;
    uint64_t last = offset + size - 1;
    if ((type & TYPE_CODE) || !(type & TYPE_DATA_EXPAND_DOWN))
        return last <= segment->limit;
    uint64_t upper = segment->access_rights & AR_DB ? LIMIT_32 : LIMIT_16;
    return offset > segment->limit && last <= upper;
}

static enum operand_fault linear_32(const struct operand *o, uint64_t offset, const struct operand_segment *segment,
                                    unsigned size, enum operand_access access, uint64_t *linear)
{
    enum operand_fault outside = o->segment == SEG_SS ? OPERAND_SS : OPERAND_GP;
    if (segment->access_rights & AR_UNUSABLE)
        return outside;
    if (!type_allows(segment->access_rights, access))
        return OPERAND_GP;
    if (!is_flat(segment) && !limit_allows(segment, offset, size))
        return outside;
    *linear = (segment->base + offset) & LIMIT_32;
    return OPERAND_OK;
}

enum operand_fault operand_linear(const struct operand *operand, uint64_t displacement, const uint64_t gpr[GPR_COUNT],
                                  const struct operand_segment *segment, struct operand_mode mode, unsigned size,
                                  enum operand_access access, uint64_t *linear)
{
    uint64_t offset = effective_address(operand, displacement, gpr);
    if (mode.mode_64)
        return linear_64(operand, offset, segment, mode.linear_bits, size, linear);
    return linear_32(operand, offset & LIMIT_32, segment, size, access, linear);
}
