/*
 * See l2.h.
 */
#include "tests/fuzz/hypervisor/l2.h"

#include <string.h>

#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/memory/ept.h"
#include "nested/nested.h"
#include "tests/fuzz/hypervisor/snapshot.h"
#include "tests/host/support/support.h"

/* Instruction information: a memory operand in DS without base and index. SDM 3, "Format of the VM-Exit Instruction-...". */
#define INFO_PLAIN (3u << 15 | BIT(22) | BIT(27))
#define INFO_ADDRESS_32 (1u << 7)
#define INFO_ADDRESS_64 (2u << 7)
#define INFO_REG2_RBX ((uint64_t)GPR_RBX << 28)
#define PAGE_DIRECTORY_32 GUEST_PAGE(7)
#define LEAVES_MAX 3u
#define CODE_32 (0xbu | AR_S | AR_PRESENT | AR_DB | AR_G)

uint64_t l2_address(unsigned kind, uint64_t value)
{
    const struct cpu *cpu = nested_machine_cpu();
    uint64_t page = value * PAGE_SIZE;
    switch (kind % 16) {
    case 0:
        return VMCS12(value % REGION_COUNT);
    case 1:
        return VMCS12(value % REGION_COUNT) + (value >> 8 & 0xfff);
    case 2:
        return L2_VMXON + cpu->index * PAGE_SIZE;
    case 3:
        return GUEST_PAGE(TABLE_FIRST + value % TABLE_COUNT);
    case 4:
        return HIDDEN_START + page % (NESTED_MACHINE_END - HIDDEN_START);
    case 5:
        return cpu->vmcs01.region.v;
    case 6:
        return MMIO_PAGE + (page & 0xfffff);
    case 7:
        return NESTED_MACHINE_END + page % GIB;
    case 8:
        return BIT(machine.hw.maxphyaddr) | page % GIB;
    case 9:
        return value;
    case 10:
        return GUEST_PAGE(value % 128);
    case 11:
        return GUEST_END - PAGE_SIZE + (value & 0xfff);
    case 12:
        return cpu->nested->current ? cpu->nested->current->v.vmcs02.region.v : memory01.junk.v;
    case 13:
        return machine.msr_bitmap01.v;
    case 14:
        return memory01.ept01.root.v;
    default:
        return value & BIT(machine.hw.maxphyaddr) - 1 & PAGE_MASK;
    }
}

/* --- its state --- */

static void set01(enum vmcs_row row, uint64_t value)
{
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, row, value);
}

static uint64_t get01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }

static bool begins_legacy;

void l2_begin(bool legacy)
{
    begins_legacy = legacy;
    for (uint32_t i = 0; i < PAGE_SIZE / sizeof(uint32_t); i++) { /* 4-MiB pages, to themselves */
        uint32_t entry = i << 22 | 0xe3;
        memcpy((void *)(PAGE_DIRECTORY_32 + i * sizeof(entry)), &entry, sizeof(entry));
    }
}

/* 64-bit mode, or flat 32-bit mode where the last exit has led there: in VMX operation nothing else changes that. */
static void state_restore(void)
{
    struct cpu *cpu = nested_machine_cpu();
    const uint64_t *before = snapshot_vmcs01[cpu->index];
    bool legacy = cpu->nested->in_vmx ? !cpu->nested->ia32e : begins_legacy;
    for (int row = 0; row < FIELD_COUNT; row++)
        if (vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST && row != FIELD_VMCS_LINK_POINTER &&
            row != FIELD_GUEST_PML_INDEX)
            set01((enum vmcs_row)row, before[row]);
    uint64_t cr4 = before[FIELD_CR4_SHADOW], entry = before[FIELD_ENTRY_CONTROLS];
    if (legacy) {
        cr4 = (cr4 & ~(uint64_t)CR4_PAE) | CR4_PSE;
        entry &= ~(uint64_t)ENTRY_IA32E;
        set01(FIELD_GUEST_EFER, before[FIELD_GUEST_EFER] & ~(uint64_t)(EFER_LME | EFER_LMA));
        set01(FIELD_GUEST_CS_AR, CODE_32);
        set01(FIELD_GUEST_CR3, PAGE_DIRECTORY_32);
        set01(FIELD_GUEST_CR4, cr4 | CR4_VMXE);
    }
    set01(FIELD_CR0_SHADOW, cpu->cr0_shadow = before[FIELD_CR0_SHADOW]);
    set01(FIELD_CR4_SHADOW, cpu->cr4_shadow = cr4);
    set01(FIELD_ENTRY_CONTROLS, entry);
    set01(FIELD_ENTRY_INTR_INFO, 0);
}

void l2_user(unsigned how)
{
    if ((how & (HOW_USER | HOW_AS_IT_IS)) != HOW_USER)
        return;
    for (enum segment segment = SEG_CS; segment <= SEG_SS; segment++) {
        uint64_t selector = get01(FIELD_GUEST_ES_SEL + segment), rights = get01(FIELD_GUEST_ES_AR + segment);
        set01(FIELD_GUEST_ES_SEL + segment, selector | 3);
        set01(FIELD_GUEST_ES_AR + segment, rights | AR_DPL_MASK);
    }
}

/* An exit that every nested guest can take as it is. */
static void leave_l3(void)
{
    const struct cpu *cpu = nested_machine_cpu();
    uint64_t activity = fake_vmcs_read(cpu->current->region, FIELD_GUEST_ACTIVITY);
    nested_machine_exit_reason(activity == ACTIVITY_WAIT_SIPI ? REASON_sipi : REASON_cpuid, 0);
}

bool l2_ready(unsigned how)
{
    const struct cpu *cpu = nested_machine_cpu();
    for (unsigned i = 0; cpu->in_nested && i < LEAVES_MAX; i++)
        leave_l3();
    if (cpu->in_nested)
        return false;
    if (get01(FIELD_GUEST_ACTIVITY) == ACTIVITY_WAIT_SIPI)
        nested_machine_exit_reason(REASON_sipi, 0x10);
    if (!(how & HOW_AS_IT_IS))
        state_restore();
    return true;
}

/* --- VMX instructions --- */

static bool succeeded(void)
{
    return !(get01(FIELD_ENTRY_INTR_INFO) & INTR_VALID) && !(get01(FIELD_GUEST_RFLAGS) & (RFLAGS_CF | RFLAGS_ZF));
}

bool l2_instruction(enum exit_reason reason, uint64_t first, uint64_t second, uint64_t reg2)
{
    struct cpu *cpu = nested_machine_cpu();
    uint64_t operand[2] = { first, second };
    uint64_t address_size = get01(FIELD_GUEST_EFER) & EFER_LMA ? INFO_ADDRESS_64 : INFO_ADDRESS_32;
    memcpy((void *)L2_OPERAND, operand, sizeof(operand));
    cpu->regs[GPR_RBX] = reg2;
    l2_odd_instruction(reason, INFO_PLAIN | address_size | INFO_REG2_RBX, L2_OPERAND);
    return succeeded();
}

void l2_odd_instruction(enum exit_reason reason, uint64_t info, uint64_t displacement)
{
    set01(FIELD_GUEST_RFLAGS, (get01(FIELD_GUEST_RFLAGS) & ~RFLAGS_ARITHMETIC) | RFLAGS_OF);
    nested_machine_exit(&(struct nested_exit_info){
        .reason = reason, .qualification = displacement, .instruction = info & 0xffffffff, .length = 3 });
}

/* --- its memory --- */

static bool in_memory(uint64_t gpa, uint64_t size) { return gpa >= NESTED_MACHINE_START && gpa <= GUEST_END - size; }

void l2_write(uint64_t gpa, uint64_t value)
{
    if (!in_memory(gpa, sizeof(value)))
        return;
    nested_machine_wrote(gpa & PAGE_MASK);
    memcpy((void *)gpa, &value, sizeof(value));
}

static uint64_t table_entry(struct test_random *random)
{
    uint64_t kind = test_random_below(random, 8), rights = EPT_RWX, type = MEMTYPE_WB << EPT_MEMTYPE_SHIFT;
    if (kind == 0)
        return test_random(random);
    if (kind == 1)
        rights = test_random_below(random, 8);
    if (kind < 5) /* a table, maybe this one */
        return l2_address(3, test_random(random)) | rights;
    if (kind == 5)
        return (test_random(random) & (BIT(40) - 1) & ~(PAGE_2M - 1)) | EPT_LARGE | type | rights;
    return l2_address((unsigned)test_random_below(random, 16), test_random(random)) | type | rights;
}

static uint64_t word_of(unsigned kind, unsigned i, uint64_t value, struct test_random *random)
{
    switch (kind % 8) {
    case 0:
        return value;
    case 1:
        return test_random_value(random);
    case 2:
        return table_entry(random);
    case 3: /* neighbours that can become one large page */
        return ((value & (BIT(36) - 1) & ~(PAGE_2M - 1)) + i * PAGE_SIZE) | EPT_RWX | MEMTYPE_WB << EPT_MEMTYPE_SHIFT;
    case 4: /* the same from large pages */
        return ((value & (BIT(36) - 1) & ~(PAGE_1G - 1)) + i * PAGE_2M) | EPT_RWX | EPT_LARGE |
               MEMTYPE_WB << EPT_MEMTYPE_SHIFT;
    case 5: /* an MSR area */
        return i % 2 ? test_random_value(random) : l2_msr((unsigned)test_random(random), test_random(random));
    case 6: /* a few bits, as in a bitmap */
        return test_random_below(random, 4) ? 0 : BIT(test_random_below(random, 64));
    default:
        return 0;
    }
}

void l2_fill(uint64_t page, unsigned kind, uint64_t value)
{
    struct test_random random = { value | 1 };
    if (!in_memory(page, PAGE_SIZE))
        return;
    nested_machine_wrote(page & PAGE_MASK);
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(value); i++) {
        uint64_t word = word_of(kind, i, value, &random);
        memcpy((void *)(page + i * sizeof(word)), &word, sizeof(word));
    }
    if (kind % 8 == 7) { /* a VMCS region, of either kind, without contents */
        uint64_t basic = vmx_caps_msr(&nested_caps, MSR_VMX_BASIC);
        uint32_t revision = (uint32_t)((basic & VMX_BASIC_REVISION_MASK) | (value & 1 ? VMCS_SHADOW_INDICATOR : 0));
        memcpy((void *)page, &revision, sizeof(revision));
    }
}

void l2_copy(uint64_t from, uint64_t to)
{
    if (!in_memory(from, PAGE_SIZE) || !in_memory(to, PAGE_SIZE))
        return;
    nested_machine_wrote(to & PAGE_MASK);
    memmove((void *)to, (void *)from, PAGE_SIZE);
}

/* --- other exits --- */

uint32_t l2_msr(unsigned which, uint64_t value)
{
    static const uint32_t msrs[] = { MSR_APIC_BASE,
                                     MSR_FEATURE_CONTROL,
                                     MSR_BIOS_UPDT_TRIG,
                                     MSR_MTRRCAP,
                                     MSR_MTRR_PHYSBASE0,
                                     MSR_MTRR_DEF_TYPE,
                                     MSR_MTRR_FIX64K_00000,
                                     MSR_VMX_FIRST,
                                     MSR_VMX_LAST,
                                     MSR_X2APIC_ICR,
                                     MSR_EFER,
                                     MSR_PAT,
                                     MSR_DEBUGCTL,
                                     MSR_KERNEL_GS_BASE,
                                     MSR_SYSENTER_ESP,
                                     MSR_SYSENTER_CS,
                                     MSR_FS_BASE,
                                     MSR_TSC,
                                     MSR_LSTAR,
                                     0x9b };
    unsigned i = which % (ARRAY_SIZE(msrs) + 4);
    return i < ARRAY_SIZE(msrs) ? msrs[i] : (uint32_t)value;
}

/* vmcs01 asks for an exit. SDM 3, "MSR-Bitmap Address". */
static bool msr_exits(uint32_t msr, bool write)
{
    const uint8_t *bitmap = hpa_ptr(machine.msr_bitmap01);
    uint32_t index = msr & ~0xc0000000u;
    if (index >= MSR_BITMAP_PART_MSRS || (msr >= MSR_BITMAP_PART_MSRS && msr < 0xc0000000u))
        return true;
    uint32_t part = msr >= 0xc0000000u ? (write ? MSR_BITMAP_WRITE_HIGH : MSR_BITMAP_READ_HIGH)
                                       : (write ? MSR_BITMAP_WRITE_LOW : MSR_BITMAP_READ_LOW);
    return bitmap[part + index / 8] >> index % 8 & 1;
}

static void msr_exit(unsigned which, bool write, uint64_t value)
{
    struct cpu *cpu = nested_machine_cpu();
    uint32_t msr = l2_msr(which, value >> 32);
    if (!msr_exits(msr, write))
        return;
    cpu->regs[GPR_RCX] = msr;
    cpu->regs[GPR_RAX] = (uint32_t)value;
    cpu->regs[GPR_RDX] = value >> 32;
    nested_machine_exit_reason(write ? REASON_wrmsr : REASON_rdmsr, 0);
}

/* MOV to CR0 or CR4 exits where a bit that Strata owns differs. SDM 3, "Instructions That Cause VM Exits Conditionally". */
static void cr_exit(bool cr4, uint64_t value)
{
    struct cpu *cpu = nested_machine_cpu();
    uint64_t mask = get01(cr4 ? FIELD_CR4_MASK : FIELD_CR0_MASK);
    uint64_t shadow = get01(cr4 ? FIELD_CR4_SHADOW : FIELD_CR0_SHADOW);
    if (!((value ^ shadow) & mask))
        value ^= mask & -mask;
    cpu->regs[GPR_RAX] = value;
    nested_machine_exit_reason(REASON_cr_access, cr4 ? 4 : 0);
}

static void violation(uint64_t gpa, unsigned how)
{
    struct ept_leaf leaf = ept01_lookup(memory01.ept01.root, gpa1(gpa));
    uint64_t access = BIT(how % 3);
    if (!(leaf.perm & access) && !(gpa >> machine.hw.maxphyaddr))
        nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                        .qualification = access | leaf.perm << EPT_QUAL_PERM_SHIFT,
                                                        .gpa = gpa,
                                                        .linear = gpa });
}

void l2_other_exit(unsigned which, unsigned how, uint64_t value)
{
    static const enum exit_reason plain[] = { REASON_cpuid, REASON_getsec, REASON_invd, REASON_vmcall, REASON_vmfunc };
    struct cpu *cpu = nested_machine_cpu();
    switch (which % 12) {
    case 0:
    case 1:
        msr_exit(which / 12, which % 2, value);
        break;
    case 2:
    case 3:
        cr_exit(which % 2, value);
        break;
    case 4:
        cpu->regs[GPR_RCX] = how & 1;
        cpu->regs[GPR_RAX] = value;
        nested_machine_exit_reason(REASON_xsetbv, 0);
        break;
    case 5:
        violation(l2_address(how & 15, value), which / 12);
        break;
    case 6:
        nested_machine_exit_reason(REASON_init, 0);
        break;
    default:
        nested_machine_exit_reason(plain[which % ARRAY_SIZE(plain)], 0);
        break;
    }
}
