/*
 * See l3.h.
 */
#include "tests/fuzz/hypervisor/l3.h"

#include <string.h>

#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/memory/ept.h"
#include "nested/nested.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/hypervisor/verdict.h"

#define TABLES_START GUEST_PAGE(TABLE_FIRST)
#define TABLES_SIZE (TABLE_COUNT * PAGE_SIZE)
#define INFO_REGISTERS (2u << 7 | BIT(10) | BIT(22) | BIT(27))
#define INFO_REG2_RBX ((uint64_t)GPR_RBX << 28)
#define REASON_FLAGS_SHIFT 27 /* enclave mode, pending MTF, exit from VMX root operation, ... */
#define TRIES 4u

/* ept12's tables at the last flush of each CPU. */
static uint8_t tables_then[2][TABLES_SIZE];
static bool flushed[2];

static uint64_t get02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }

void l3_begin(void) { flushed[0] = flushed[1] = false; }

void l3_flushed(void)
{
    unsigned index = nested_machine_cpu()->index;
    memcpy(tables_then[index], (void *)TABLES_START, TABLES_SIZE);
    flushed[index] = true;
}

static bool tables_as_flushed(const struct cpu *cpu)
{
    return flushed[cpu->index] && !memcmp(tables_then[cpu->index], (void *)TABLES_START, TABLES_SIZE);
}

/* --- exits --- */

static bool reason_possible(uint32_t reason)
{
    const struct nested_slot *slot = nested_machine_slot();
    switch (reason) {
    case REASON_ept_misconfig: /* ept01 has none */
        return slot->root != NULL;
    case REASON_vmread:
    case REASON_vmwrite:
    case REASON_rdmsr:
    case REASON_wrmsr:
    case REASON_ept_violation: /* made by others, when the processor would */
        return false;
    default:
        return true;
    }
}

void l3_exit(const struct step *s)
{
    uint32_t reason = s->which & 0x7f, flags = s->how & 0x40 ? s->which >> 12 & 3u : 0;
    if (!reason_possible(reason))
        return;
    nested_machine_exit(&(struct nested_exit_info){ .reason = reason | flags << REASON_FLAGS_SHIFT,
                                                    .qualification = s->value,
                                                    .intr_info = s->how & 1 ? INTR_VALID | (s->value & 0xfff) : 0,
                                                    .intr_error = s->value >> 16,
                                                    .idt_info = s->how & 2 ? INTR_VALID | (s->value >> 8 & 0xfff) : 0,
                                                    .idt_error = s->value >> 32,
                                                    .length = 1 + s->which % 15,
                                                    .instruction = s->value >> 32,
                                                    .gpa = s->value & (BIT(machine.hw.maxphyaddr) - 1),
                                                    .linear = s->value });
}

/* vmcs02 asks for an exit. */
static bool msr_exits(uint32_t msr, bool write)
{
    if (!(get02(FIELD_PROC_CONTROLS) & PROC_MSR_BITMAP))
        return true;
    const uint8_t *bitmap = hpa_ptr(hpa(get02(FIELD_MSR_BITMAP)));
    uint32_t index = msr & ~0xc0000000u;
    if (index >= MSR_BITMAP_PART_MSRS || (msr >= MSR_BITMAP_PART_MSRS && msr < 0xc0000000u))
        return true;
    uint32_t part = msr >= 0xc0000000u ? (write ? MSR_BITMAP_WRITE_HIGH : MSR_BITMAP_READ_HIGH)
                                       : (write ? MSR_BITMAP_WRITE_LOW : MSR_BITMAP_READ_LOW);
    return bitmap[part + index / 8] >> index % 8 & 1;
}

void l3_msr(const struct step *s)
{
    struct cpu *cpu = nested_machine_cpu();
    bool write = s->how & 1;
    uint32_t msr = l2_msr(s->which, s->value >> 32);
    if (!msr_exits(msr, write))
        return;
    cpu->regs[GPR_RCX] = msr;
    cpu->regs[GPR_RAX] = (uint32_t)s->value;
    cpu->regs[GPR_RDX] = s->value >> 32;
    nested_machine_exit(&(struct nested_exit_info){ .reason = write ? REASON_wrmsr : REASON_rdmsr, .length = 2 });
}

void l3_vmx(const struct step *s)
{
    struct cpu *cpu = nested_machine_cpu();
    bool write = s->how & 1;
    uint64_t value = s->value;
    uint32_t field = s->how & 2 ? s->which : vmcs_fields[s->which % FIELD_COUNT].encoding;
    enum fake_access access = write ? fake_guest_vmwrite(field, value) : fake_guest_vmread(field, &value);
    if (access != FAKE_EXITS)
        return;
    cpu->regs[GPR_RBX] = field;
    cpu->regs[GPR_RAX] = value;
    nested_machine_exit(
        &(struct nested_exit_info){ .reason = write ? REASON_vmwrite : REASON_vmread,
                                    .qualification = s->value,
                                    .instruction = s->how & 4 ? s->value : INFO_REGISTERS | INFO_REG2_RBX,
                                    .length = 3 });
}

void l3_state(const struct step *s)
{
    enum vmcs_row row = (enum vmcs_row)(s->which % FIELD_COUNT);
    bool guest = vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST && vmcs_fields[row].store == STORE_SHARED;
    if (guest && fake_caps.offered[vmcs_fields[row].cap])
        fake_vmcs_write(nested_machine_vmcs02(), row, s->how & 1 ? get02(row) ^ BIT(s->value & 63) : s->value);
}

/* --- memory --- */

/* Under ept01 alone the processor sets its dirty flag; under ept02 nobody is told. */
static void store(uint64_t hpa, uint64_t value)
{
    if (hpa < NESTED_MACHINE_START || hpa >= GUEST_END)
        return;
    if (!nested_machine_slot()->root)
        nested_machine_wrote_unlogged(hpa & PAGE_MASK);
    memcpy((void *)(hpa & ~7ull), &value, sizeof(value));
}

static void violation(uint64_t gpa2, uint64_t access, uint64_t perm)
{
    nested_machine_exit(&(struct nested_exit_info){
        .reason = REASON_ept_violation,
        .qualification = access | perm << EPT_QUAL_PERM_SHIFT | EPT_QUAL_LINEAR_VALID | EPT_QUAL_LINEAR_TRANSLATION,
        .gpa = gpa2,
        .linear = gpa2,
        .length = 3 });
}

/* The access was refused by an exception of Strata's. */
static bool refused(void) { return get02(FIELD_ENTRY_INTR_INFO) & INTR_VALID; }

void l3_touch(const struct step *s)
{
    struct cpu *cpu = nested_machine_cpu();
    uint64_t gpa2 = l2_address(s->how & 15, s->value) & (BIT(machine.hw.maxphyaddr) - 1);
    uint64_t access = BIT(s->which % 3);
    for (unsigned i = 0; i < TRIES && cpu->in_nested; i++) {
        struct verdict_leaf leaf = verdict_lookup(cpu, gpa2);
        if (leaf.perm & access) {
            fuzz_check(!tables_as_flushed(cpu) || verdict_allowed12(cpu, gpa2, leaf, access));
            if (access == EPT_W)
                store(leaf.hpa, s->which & 0x100 ? leaf.hpa | EPT_RWX : s->value);
            return;
        }
        violation(gpa2, access, leaf.perm);
    }
    fuzz_check(!cpu->in_nested || refused());
}
