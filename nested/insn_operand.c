/*
 * See insn.h.
 */
#include "core/guest/guest.h"
#include "core/guest/guest_memory.h"
#include "nested/insn.h"
#include "nested/nested.h"
#include "nested/operand.h"

#define PTE_PRESENT BIT(0)
#define PTE_USER BIT(2)
#define PTE_ACCESSED BIT(5)
#define PTE_LARGE BIT(7)
#define PTE_LARGE_PAT BIT(12)
#define PTE_ADDRESS_MAX 0x000ffffffffff000ull

/* Linear address of the memory operand, or false after #GP or #SS. */
static bool linear_of(struct insn i, const struct operand *o, unsigned size, enum operand_access access,
                      uint64_t *linear)
{
    struct cpu *cpu = i.cpu;
    cpu->regs[GPR_RSP] = vmread(GUEST_RSP); /* its place among the registers is otherwise unused */
    uint32_t row = 2u * o->segment;
    struct operand_segment segment = {
        .base = hw_vmread(VMCS_GUEST_ES_BASE + row),
        .limit = (uint32_t)hw_vmread(VMCS_GUEST_ES_LIMIT + row),
        .access_rights = (uint32_t)hw_vmread(VMCS_GUEST_ES_AR + row),
    };
    struct operand_mode mode = { i.mode_64, vmread(GUEST_CR4) & CR4_LA57 ? 57 : 48 };
    switch (operand_linear(o, vmread(EXIT_QUALIFICATION), cpu->regs, &segment, mode, size, access, linear)) {
    case OPERAND_OK:
        return true;
    case OPERAND_SS:
        guest_fault(cpu, VECTOR_SS, 0);
        return false;
    default:
        guest_fault(cpu, VECTOR_GP, 0);
        return false;
    }
}

/* The outcome of an access to guest memory: done, a page fault, or let the guest try again. */
static bool access_done(struct cpu *cpu, struct walk walk)
{
    if (walk.result == WALK_FAULT)
        guest_page_fault(cpu, walk.linear, walk.error);
    else if (walk.result == WALK_NO_GPA)
        nested_miss(cpu, &walk);
    return walk.result == WALK_OK;
}

/*
 * Linear address of the usual memory operand: 64-bit code, flat segment, canonical. False: the general way decides. The fields of the
 * instruction information are those of operand_decode.
 */
static bool linear_quickly(struct insn i, uint64_t *linear)
{
    if (!operand_is_flat_64(i.info) || !i.mode_64)
        return false;
    i.cpu->regs[GPR_RSP] = vmread(GUEST_RSP);
    uint64_t address = vmread(EXIT_QUALIFICATION) + operand_flat_64(i.info, i.cpu->regs);
    *linear = address;
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* What page_quickly expects of each entry. */
struct usual {
    uint64_t mask, value;
    uint64_t linear;
};

/* The entry of a paging structure for the address, one level down from `above`. False: it is not a usual one. */
static inline __attribute__((always_inline)) bool entry_quickly(const struct usual *usual, uint64_t above, int shift,
                                                                uint64_t *entry)
{
    const uint64_t *table = gpa1_ptr(gpa1(above & PTE_ADDRESS_MAX));
    *entry = __atomic_load_n(&table[usual->linear >> shift & 511], __ATOMIC_RELAXED);
    return (*entry & usual->mask) == usual->value;
}

/* The byte in the page of 2^shift bytes that entry maps; NULL: the entry has reserved bits set. */
static const uint8_t *byte_quickly(uint64_t entry, int shift, uint64_t linear)
{
    uint64_t in_page = BIT(shift) - 1;
    if (entry & PTE_ADDRESS_MAX & in_page & ~PTE_LARGE_PAT)
        return NULL;
    return gpa1_ptr(gpa1((entry & PTE_ADDRESS_MAX & ~in_page) + (linear & in_page)));
}

/*
 * The page of a read with four levels of paging, when nothing about it is special: every entry present and accessed, not a user page
 * under SMAP, without reserved bits. NULL: the general walk decides. SDM 3, "4-Level Paging".
 */
static const uint8_t *page_quickly(uint64_t linear)
{
    const uint64_t value = PTE_PRESENT | PTE_ACCESSED;
    uint64_t cr4 = vmread(GUEST_CR4), entry;
    if (cr4 & CR4_LA57)
        return NULL;
    const uint64_t reserved_address = ~(BIT(nested_caps.maxphyaddr) - 1) & PTE_ADDRESS_MAX;
    const struct usual usual = { value | reserved_address | (cr4 & CR4_SMAP ? PTE_USER : 0), value, linear };
    if (!entry_quickly(&usual, vmread(GUEST_CR3), 39, &entry) || (entry & PTE_LARGE)) /* reserved there */
        return NULL;
    if (!entry_quickly(&usual, entry, 30, &entry))
        return NULL;
    if (entry & PTE_LARGE)
        return byte_quickly(entry, 30, linear);
    if (!entry_quickly(&usual, entry, 21, &entry))
        return NULL;
    if (entry & PTE_LARGE)
        return byte_quickly(entry, 21, linear);
    if (!entry_quickly(&usual, entry, PAGE_SHIFT, &entry))
        return NULL;
    return gpa1_ptr(gpa1((entry & PTE_ADDRESS_MAX) + (linear & (PAGE_SIZE - 1))));
}

/* Reads words of 8 bytes of the instruction's memory operand, if it is a usual one. */
static bool read_quickly(struct insn i, uint64_t *data, unsigned words)
{
    uint64_t linear;
    if (i.cpu->in_nested || !linear_quickly(i, &linear) || (linear & (PAGE_SIZE - 1)) > PAGE_SIZE - 8 * words)
        return false;
    typedef uint64_t __attribute__((aligned(1), may_alias)) word;
    const volatile word *from = (const volatile word *)page_quickly(linear);
    if (!from)
        return false;
    for (unsigned k = 0; k < words; k++)
        data[k] = from[k];
    guest_note_access(linear, 8 * words, GUEST_USE_READ);
    return true;
}

static bool copy_in(struct insn i, void *data, unsigned size)
{
    struct operand o = operand_decode(i.info);
    uint64_t linear;
    if (!linear_of(i, &o, size, OPERAND_READ, &linear))
        return false;
    struct guest_paging paging = guest_paging_state();
    struct guest_memory memory = nested_memory(i.cpu);
    if (!access_done(i.cpu, guest_read(&paging, &memory, linear, data, size, WALK_READ)))
        return false;
    guest_note_access(linear, size, GUEST_USE_READ);
    return true;
}

static bool copy_out(struct insn i, const void *data, unsigned size)
{
    struct operand o = operand_decode(i.info);
    uint64_t linear;
    if (!linear_of(i, &o, size, OPERAND_WRITE, &linear))
        return false;
    struct guest_paging paging = guest_paging_state();
    struct guest_memory memory = nested_memory(i.cpu);
    if (!access_done(i.cpu, guest_write(&paging, &memory, linear, data, size, WALK_READ)))
        return false;
    guest_note_access(linear, size, GUEST_USE_WRITE);
    return true;
}

bool insn_read_pointer(struct insn i, uint64_t *pointer)
{
    return read_quickly(i, pointer, 1) || copy_in(i, pointer, sizeof(*pointer));
}

bool insn_write_pointer(struct insn i, uint64_t pointer) { return copy_out(i, &pointer, sizeof(pointer)); }

static unsigned value_size(struct insn i) { return i.mode_64 ? 8 : 4; }

bool insn_write_memory(struct insn i, uint64_t value) { return copy_out(i, &value, value_size(i)); }

bool insn_read_memory(struct insn i, uint64_t *value)
{
    *value = 0;
    return copy_in(i, value, value_size(i));
}

bool insn_read_descriptor(struct insn i, uint64_t descriptor[2])
{
    return read_quickly(i, descriptor, 2) || copy_in(i, descriptor, 16);
}
