/*
 * See insn.h.
 */
#include "core/guest.h"
#include "core/lapic_store.h"
#include "nested/insn.h"
#include "nested/nested.h"
#include "nested/operand.h"

#define PTE_PRESENT BIT(0)
#define PTE_USER BIT(2)
#define PTE_ACCESSED BIT(5)
#define PTE_LARGE BIT(7)
#define PTE_LARGE_PAT BIT(12)
#define PTE_ADDRESS_MAX 0x000ffffffffff000ull

static uint64_t gpr_read(const struct cpu *cpu, unsigned reg)
{
    uint64_t value = reg == GPR_RSP ? vmread(GUEST_RSP) : cpu->regs[reg];
    return guest_is_64bit() ? value : (uint32_t)value;
}

static void gpr_write(struct cpu *cpu, unsigned reg, uint64_t value)
{
    if (!guest_is_64bit())
        value = (uint32_t)value;
    if (reg == GPR_RSP)
        vmwrite(GUEST_RSP, value);
    else
        cpu->regs[reg] = value;
}

/* Linear address of the memory operand, or false after #GP or #SS. */
static bool linear_of(struct cpu *cpu, const struct operand *o, unsigned size, enum operand_access access,
                      uint64_t *linear)
{
    cpu->regs[GPR_RSP] = vmread(GUEST_RSP); /* its place among the registers is otherwise unused */
    uint32_t i = 2u * o->segment;
    struct operand_segment segment = {
        .base = hw_vmread(VMCS_GUEST_ES_BASE + i),
        .limit = (uint32_t)hw_vmread(VMCS_GUEST_ES_LIMIT + i),
        .access_rights = (uint32_t)hw_vmread(VMCS_GUEST_ES_AR + i),
    };
    struct operand_mode mode = { guest_is_64bit(), vmread(GUEST_CR4) & CR4_LA57 ? 57 : 48 };
    switch (operand_linear(o, vmread(EXIT_QUALIFICATION), cpu->regs, &segment, mode, size, access, linear)) {
    case OPERAND_OK:
        return true;
    case OPERAND_SS:
        guest_fault(VECTOR_SS, 0);
        return false;
    default:
        guest_fault(VECTOR_GP, 0);
        return false;
    }
}

/* The outcome of an access to guest memory: done, a page fault, or let the guest try again. */
static bool access_done(struct cpu *cpu, struct walk walk)
{
    if (walk.result == WALK_OK)
        return true;
    if (walk.result == WALK_FAULT) {
        hw_write_cr2(walk.linear);
        guest_fault(VECTOR_PF, walk.error);
    } else if (walk.result == WALK_NO_GPA) {
        nested_miss(cpu, walk.gpa, walk.linear, walk.use == GUEST_USE_WRITE ? EPT_QUAL_WRITE : EPT_QUAL_READ);
    }
    return false;
}

/*
 * Linear address of the usual memory operand: 64-bit code, flat segment, canonical. False: the general way decides. The fields of the
 * instruction information are those of operand_decode.
 */
static bool linear_quickly(struct cpu *cpu, uint64_t *linear)
{
    uint64_t info = vmread(EXIT_INSTRUCTION_INFO);
    if (!operand_is_flat_64(info) || !guest_is_64bit())
        return false;
    cpu->regs[GPR_RSP] = vmread(GUEST_RSP);
    uint64_t address = vmread(EXIT_QUALIFICATION) + operand_flat_64(info, cpu->regs);
    *linear = address;
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/*
 * The page of a read with four levels of paging, when nothing about it is special: every entry present and accessed, not a user page
 * under SMAP, without reserved bits. NULL: the general walk decides. SDM 3, "4-Level Paging".
 */
static const uint8_t *page_quickly(uint64_t linear)
{
    const uint64_t wanted = PTE_PRESENT | PTE_ACCESSED;
    uint64_t cr4 = vmread(GUEST_CR4);
    if (cr4 & CR4_LA57)
        return NULL;
    const uint64_t reserved_address = ~(BIT(nested_caps.maxphyaddr) - 1) & PTE_ADDRESS_MAX;
    const uint64_t unwanted = (cr4 & CR4_SMAP ? PTE_USER : 0) | reserved_address;
    uint64_t entry = vmread(GUEST_CR3);
    for (int shift = 39; shift >= PAGE_SHIFT; shift -= 9) {
        const uint64_t *table = gpa1_ptr(gpa1(entry & PTE_ADDRESS_MAX));
        entry = __atomic_load_n(&table[linear >> shift & 511], __ATOMIC_RELAXED);
        if ((entry & (wanted | unwanted)) != wanted)
            return NULL;
        if (shift < 39 && shift > PAGE_SHIFT && (entry & PTE_LARGE)) {
            uint64_t in_page = BIT(shift) - 1;
            bool reserved = entry & PTE_ADDRESS_MAX & in_page & ~PTE_LARGE_PAT;
            return reserved ? NULL : gpa1_ptr(gpa1((entry & PTE_ADDRESS_MAX & ~in_page) + (linear & in_page)));
        }
        if (shift == 39 && (entry & PTE_LARGE)) /* reserved in a PML4 entry */
            return NULL;
    }
    return gpa1_ptr(gpa1((entry & PTE_ADDRESS_MAX) + (linear & (PAGE_SIZE - 1))));
}

/* Reads words of 8 bytes of the instruction's memory operand, if it is a usual one. */
static bool read_quickly(struct cpu *cpu, uint64_t *data, unsigned words)
{
    uint64_t linear;
    if (cpu->in_nested || !linear_quickly(cpu, &linear) || (linear & (PAGE_SIZE - 1)) > PAGE_SIZE - 8 * words)
        return false;
    const uint8_t *from = page_quickly(linear);
    for (unsigned i = 0; from && i < words; i++)
        memcpy(&data[i], from + 8 * i, sizeof(*data));
    return from;
}

static bool copy_in(struct cpu *cpu, const struct operand *o, void *data, unsigned size)
{
    uint64_t linear;
    if (!linear_of(cpu, o, size, OPERAND_READ, &linear))
        return false;
    struct guest_paging paging = guest_paging_state();
    struct guest_memory memory = nested_memory(cpu);
    return access_done(cpu, guest_read(&paging, &memory, linear, data, size, WALK_READ));
}

static bool copy_out(struct cpu *cpu, const struct operand *o, const void *data, unsigned size)
{
    uint64_t linear;
    if (!linear_of(cpu, o, size, OPERAND_WRITE, &linear))
        return false;
    struct guest_paging paging = guest_paging_state();
    struct guest_memory memory = nested_memory(cpu);
    return access_done(cpu, guest_write(&paging, &memory, linear, data, size, WALK_READ));
}

static struct operand decode(enum operand_form form) { return operand_decode(vmread(EXIT_INSTRUCTION_INFO), form); }

bool insn_read_pointer(struct cpu *cpu, uint64_t *pointer)
{
    if (read_quickly(cpu, pointer, 1))
        return true;
    struct operand o = decode(OPERAND_MEMORY);
    return copy_in(cpu, &o, pointer, sizeof(*pointer));
}

bool insn_write_pointer(struct cpu *cpu, uint64_t pointer)
{
    struct operand o = decode(OPERAND_MEMORY);
    return copy_out(cpu, &o, &pointer, sizeof(pointer));
}

uint64_t insn_field_operand(const struct cpu *cpu)
{
    return gpr_read(cpu, operand_reg2(vmread(EXIT_INSTRUCTION_INFO)));
}

static unsigned value_size(void) { return guest_is_64bit() ? 8 : 4; }

bool insn_write_value(struct cpu *cpu, uint64_t value)
{
    struct operand o = decode(OPERAND_FIELD);
    if (!o.in_register)
        return copy_out(cpu, &o, &value, value_size());
    gpr_write(cpu, o.reg1, value);
    return true;
}

bool insn_read_value(struct cpu *cpu, uint64_t *value)
{
    struct operand o = decode(OPERAND_FIELD);
    *value = 0;
    if (!o.in_register)
        return copy_in(cpu, &o, value, value_size());
    *value = gpr_read(cpu, o.reg1);
    return true;
}

uint64_t insn_type_operand(const struct cpu *cpu) { return gpr_read(cpu, operand_reg2(vmread(EXIT_INSTRUCTION_INFO))); }

bool insn_read_descriptor(struct cpu *cpu, uint64_t descriptor[2])
{
    if (read_quickly(cpu, descriptor, 2))
        return true;
    struct operand o = decode(OPERAND_TYPED);
    return copy_in(cpu, &o, descriptor, 16);
}
