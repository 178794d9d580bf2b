/*
 * See insn.h.
 */
#include "core/guest.h"
#include "core/lapic_store.h"
#include "nested/insn.h"
#include "nested/nested.h"
#include "nested/operand.h"

static void read_gprs(const struct cpu *cpu, uint64_t gpr[GPR_COUNT])
{
    memcpy(gpr, cpu->regs, sizeof(cpu->regs));
    gpr[GPR_RSP] = vmread(GUEST_RSP);
}

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
    uint64_t gpr[GPR_COUNT];
    read_gprs(cpu, gpr);
    uint32_t i = 2u * o->segment;
    struct operand_segment segment = {
        .base = hw_vmread(VMCS_GUEST_ES_BASE + i),
        .limit = (uint32_t)hw_vmread(VMCS_GUEST_ES_LIMIT + i),
        .access_rights = (uint32_t)hw_vmread(VMCS_GUEST_ES_AR + i),
    };
    struct operand_mode mode = { guest_is_64bit(), vmread(GUEST_CR4) & CR4_LA57 ? 57 : 48 };
    switch (operand_linear(o, vmread(EXIT_QUALIFICATION), gpr, &segment, mode, size, access, linear)) {
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

bool insn_read_memory(struct cpu *cpu, void *data, unsigned size)
{
    struct operand o = decode(OPERAND_MEMORY);
    return copy_in(cpu, &o, data, size);
}

bool insn_write_memory(struct cpu *cpu, const void *data, unsigned size)
{
    struct operand o = decode(OPERAND_MEMORY);
    return copy_out(cpu, &o, data, size);
}

uint64_t insn_field_operand(const struct cpu *cpu) { return gpr_read(cpu, decode(OPERAND_FIELD).reg2); }

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

uint64_t insn_type_operand(const struct cpu *cpu) { return gpr_read(cpu, decode(OPERAND_TYPED).reg2); }

bool insn_read_descriptor(struct cpu *cpu, uint64_t descriptor[2])
{
    struct operand o = decode(OPERAND_TYPED);
    return copy_in(cpu, &o, descriptor, 16);
}
