/*
 * The fake machine but for its VMCSs: the journal, MSRs, CPUID, control registers, ports. See fake_hw.h.
 */
#include "tests/host/machine/fake_hw.h"

#include <stdlib.h>

#include "core/memory/mem.h"
#include "tests/host/machine/fake_tlb.h"
#include "tests/host/machine/fake_vmcs.h"
#include "tests/host/support/support.h"

#define MAX_MSRS 256
#define MAX_LEAVES 256
#define PORTS 65536
#define XCR0_LEGAL_X87 BIT(0)

struct vmx_caps fake_caps;

static struct {
    struct {
        uint32_t number;
        bool refuses;
        uint64_t value;
        void (*written)(uint64_t value);
    } msrs[MAX_MSRS];
    int msr_count;
    struct {
        uint32_t leaf, subleaf;
        struct cpuid_regs regs;
    } leaves[MAX_LEAVES];
    int leaf_count;
    uint8_t ports[PORTS];
    uint64_t cr[FAKE_CPUS][5], xcr0[FAKE_CPUS], breakpoints[FAKE_CPUS][BREAKPOINTS], tsc;
    int cpu;
} machine_state;
#define M machine_state

static struct fake_event *journal;
static size_t journal_size, journal_room;
static void (*interrupt)(void);
static size_t interrupt_wait;

void fake_hw_reset(size_t memory)
{
    test_memory_reset(memory);
    memset(&M, 0, sizeof(M));
    fake_caps_all(&fake_caps);
    fake_tlb_reset(NULL);
    fake_vmcs_reset();
    fake_journal_clear();
    interrupt = NULL;
    for (int cpu = 0; cpu < FAKE_CPUS; cpu++) {
        M.cr[cpu][0] = CR0_PE | CR0_NE | CR0_PG | CR0_WP;
        M.cr[cpu][4] = CR4_PAE | CR4_VMXE;
        M.xcr0[cpu] = XCR0_LEGAL_X87;
    }
    fake_cpuid_set(0x80000000, 0, (struct cpuid_regs){ .eax = 0x80000008 });
    fake_cpuid_set(0x80000001, 0,
                   (struct cpuid_regs){ .edx = (uint32_t)(CPUID8_EDX_SYSCALL | CPUID8_EDX_NX | CPUID8_EDX_1G |
                                                          CPUID8_EDX_RDTSCP | CPUID8_EDX_LM) });
    fake_cpuid_set(0x80000008, 0, (struct cpuid_regs){ .eax = 0x3000u | fake_caps.maxphyaddr });
    fake_msr_set(MSR_EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);
    fake_msr_set(MSR_PAT, 0x0007040600070406ull);
    for (uint32_t msr = MSR_SYSENTER_CS; msr <= MSR_SYSENTER_EIP; msr++)
        fake_msr_set(msr, 0);
}

void fake_cpu_select(int cpu) { M.cpu = cpu; }
int fake_cpu(void) { return M.cpu; }

/* The journal */

void fake_interrupt_after(size_t n, void (*arrives)(void))
{
    interrupt = arrives;
    interrupt_wait = n;
}

static void interrupt_arrive(void)
{
    void (*arrives)(void) = interrupt;
    if (!arrives || interrupt_wait-- > 0)
        return;
    interrupt = NULL;
    arrives();
}

void fake_record(enum fake_op op, uint64_t a, uint64_t b, uint64_t c)
{
    if (journal_size == journal_room) {
        journal_room = journal_room ? 2 * journal_room : 1024;
        journal = realloc(journal, journal_room * sizeof(*journal));
        if (!journal)
            panic("fake: no memory for the journal");
    }
    journal[journal_size++] = (struct fake_event){ op, M.cpu, fake_current(), a, b, c };
    interrupt_arrive();
}

size_t fake_journal_size(void) { return journal_size; }

const struct fake_event *fake_journal(size_t index)
{
    if (index >= journal_size)
        panic("fake: the journal has %zu events, not %zu", journal_size, index + 1);
    return &journal[index];
}

void fake_journal_clear(void)
{
    free(journal);
    journal = NULL;
    journal_size = journal_room = 0;
}

size_t fake_count(enum fake_op op)
{
    size_t count = 0;
    for (size_t i = 0; i < journal_size; i++)
        count += journal[i].op == op;
    return count;
}

size_t fake_count_of(enum fake_op op, uint64_t a)
{
    size_t count = 0;
    for (size_t i = 0; i < journal_size; i++)
        count += journal[i].op == op && journal[i].a == a;
    return count;
}

/* MSRs: one set for all processors */

static int msr_find(uint32_t msr)
{
    for (int i = 0; i < M.msr_count; i++)
        if (M.msrs[i].number == msr)
            return i;
    return -1;
}

static int msr_make(uint32_t msr)
{
    int i = msr_find(msr);
    if (i >= 0)
        return i;
    if (M.msr_count == MAX_MSRS)
        panic("fake: more than %d MSRs", MAX_MSRS);
    M.msrs[M.msr_count].number = msr;
    return M.msr_count++;
}

void fake_msr_set(uint32_t msr, uint64_t value) { M.msrs[msr_make(msr)].value = value; }
void fake_msr_on_write(uint32_t msr, void (*written)(uint64_t value)) { M.msrs[msr_make(msr)].written = written; }
void fake_msr_refuse(uint32_t msr) { M.msrs[msr_make(msr)].refuses = true; }

static bool msr_read(uint32_t msr, uint64_t *value)
{
    if (msr >= MSR_VMX_FIRST && msr <= MSR_VMX_LAST) {
        if (vmx_caps_msr_exists(&fake_caps, msr))
            *value = vmx_caps_msr(&fake_caps, msr);
        return vmx_caps_msr_exists(&fake_caps, msr);
    }
    int i = msr_find(msr);
    if (i < 0)
        return false;
    *value = M.msrs[i].value;
    return true;
}

uint64_t fake_msr_get(uint32_t msr)
{
    uint64_t value = 0;
    if (!msr_read(msr, &value))
        panic("fake: MSR %xh does not exist", msr);
    return value;
}

bool hw_rdmsr_try(uint32_t msr, uint64_t *value)
{
    if (!msr_read(msr, value))
        return false;
    fake_record(FAKE_RDMSR, msr, *value, 0);
    return true;
}

bool fake_msr_load(uint32_t msr, uint64_t value)
{
    int i = msr_find(msr);
    if (i < 0 || M.msrs[i].refuses)
        return false;
    M.msrs[i].value = value;
    return true;
}

bool hw_wrmsr_try(uint32_t msr, uint64_t value)
{
    if (!fake_msr_load(msr, value))
        return false;
    fake_record(FAKE_WRMSR, msr, value, 0);
    int i = msr_find(msr);
    if (M.msrs[i].written)
        M.msrs[i].written(value);
    return true;
}

uint64_t hw_rdmsr(uint32_t msr)
{
    uint64_t value = 0;
    if (!hw_rdmsr_try(msr, &value))
        panic("fake: RDMSR of %xh raises #GP", msr);
    return value;
}

void hw_wrmsr(uint32_t msr, uint64_t value)
{
    if (!hw_wrmsr_try(msr, value))
        panic("fake: WRMSR of %xh raises #GP", msr);
}

/* CPUID, time, ports */

void fake_cpuid_set(uint32_t leaf, uint32_t subleaf, struct cpuid_regs regs)
{
    int i = 0;
    while (i < M.leaf_count && (M.leaves[i].leaf != leaf || M.leaves[i].subleaf != subleaf))
        i++;
    if (i == MAX_LEAVES)
        panic("fake: more than %d leaves of CPUID", MAX_LEAVES);
    if (i == M.leaf_count)
        M.leaf_count++;
    M.leaves[i].leaf = leaf;
    M.leaves[i].subleaf = subleaf;
    M.leaves[i].regs = regs;
}

struct cpuid_regs hw_cpuid(uint32_t leaf, uint32_t subleaf)
{
    for (int i = 0; i < M.leaf_count; i++)
        if (M.leaves[i].leaf == leaf && M.leaves[i].subleaf == subleaf)
            return M.leaves[i].regs;
    return (struct cpuid_regs){ 0 };
}

void fake_tsc_set(uint64_t tsc) { M.tsc = tsc; }
uint64_t hw_rdtsc(void) { return M.tsc++; }
void fake_port_set(uint16_t port, uint8_t value) { M.ports[port] = value; }
uint8_t hw_inb(uint16_t port) { return M.ports[port]; }

void hw_outb(uint16_t port, uint8_t value)
{
    M.ports[port] = value;
    fake_record(FAKE_OUT, port, value, 0);
}

/* Control registers */

static void cr_write(int number, uint64_t value)
{
    M.cr[M.cpu][number] = value;
    fake_record(FAKE_CR_WRITE, (uint64_t)number, value, 0);
}

uint64_t hw_read_cr0(void) { return M.cr[M.cpu][0]; }
void hw_write_cr0(uint64_t value) { cr_write(0, value); }
uint64_t hw_read_cr2(void) { return M.cr[M.cpu][2]; }
void hw_write_cr2(uint64_t value) { cr_write(2, value); }
uint64_t hw_read_cr3(void) { return M.cr[M.cpu][3]; }
void hw_write_cr3(uint64_t value) { cr_write(3, value); }
uint64_t hw_read_cr4(void) { return M.cr[M.cpu][4]; }
void hw_write_cr4(uint64_t value) { cr_write(4, value); }
void fake_cr2_set(uint64_t value) { M.cr[M.cpu][2] = value; }
void fake_breakpoint_set(unsigned number, uint64_t address) { M.breakpoints[M.cpu][number] = address; }
uint64_t hw_read_breakpoint(unsigned number) { return M.breakpoints[M.cpu][number]; }
uint64_t hw_xgetbv(uint32_t index) { return index == 0 ? M.xcr0[M.cpu] : 0; }

bool hw_xsetbv_try(uint32_t index, uint64_t value)
{
    if (index != 0 || !(value & XCR0_LEGAL_X87))
        return false;
    M.xcr0[M.cpu] = value;
    fake_record(FAKE_XSETBV, index, value, 0);
    return true;
}

void hw_wbinvd(void) { fake_record(FAKE_WBINVD, 0, 0, 0); }
void hw_verw(void) { fake_record(FAKE_VERW, 0, 0, 0); }
void hw_pause(void) {}
void hw_halt(void) { panic("fake: the processor halts for good"); }

void hw_lgdt(const struct descriptor_table *table) { fake_record(FAKE_LOAD_TABLE, table->limit, table->base, 0); }
void hw_lidt(const struct descriptor_table *table) { fake_record(FAKE_LOAD_TABLE, table->limit, table->base, 1); }

void hw_load_segments(uint16_t code, uint16_t data, uint16_t task) { fake_record(FAKE_LOAD_TABLE, code, data, task); }

/* Invalidation: the processor refuses a type that it does not have. */

void hw_invept(enum invept_type type, uint64_t eptp)
{
    uint64_t needed = EPT_CAP_INVEPT | (type == INVEPT_SINGLE ? EPT_CAP_INVEPT_SINGLE : EPT_CAP_INVEPT_GLOBAL);
    if ((vmx_caps_msr(&fake_caps, MSR_VMX_EPT_VPID) & needed) != needed)
        panic("fake: INVEPT type %d fails", (int)type);
    fake_record(FAKE_INVEPT, type, eptp, 0);
    fake_tlb_invept(M.cpu, type, eptp);
}

void hw_invvpid(enum invvpid_type type, uint16_t vpid, uint64_t linear)
{
    uint64_t needed = EPT_CAP_INVVPID | EPT_CAP_INVVPID_ADDR << type;
    bool needs_vpid = type != INVVPID_ALL;
    if ((vmx_caps_msr(&fake_caps, MSR_VMX_EPT_VPID) & needed) != needed || (needs_vpid && vpid == 0))
        panic("fake: INVVPID type %d of VPID %u fails", (int)type, vpid);
    fake_record(FAKE_INVVPID, type, vpid, linear);
    fake_tlb_invvpid(M.cpu, type, vpid, linear);
}
