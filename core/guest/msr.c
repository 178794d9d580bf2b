/*
 * The MSRs that Strata keeps from the guest or emulates: one table, from which both the bitmap and the handlers follow.
 * All others belong to the guest and never exit. Outside the bitmap's ranges no processor has any: those are the machine's
 * below, if that is a hypervisor, and name addresses in its guest's memory, which is Strata's.
 */
#include "core/guest/msr.h"

#include "core/guest/cpuid_hide.h"
#include "core/guest/dispatch.h"
#include "core/guest/ept01_exit.h"
#include "core/guest/guest.h"
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"

#define PERF_CAPS_LBR_FORMAT 0x3full
#define PERF_CAPS_LBR_ARCHITECTURAL 0x3f
#define PERF_CAPS_PEBS                                                                                                 \
    (BIT(6) | BIT(7) | 0xf00ull | BIT(14) | BIT(16) | BIT(17)) /* trap, registers, format, baseline, to PT */
#define CORE_CAPS_HIDDEN (BIT(1) | BIT(2))                     /* remote action request, in-field scan */

struct msr_range {
    uint32_t first, last;
    uint32_t step;                               /* 0: every MSR of the range */
    bool (*read)(uint32_t msr, uint64_t *value); /* NULL: reads do not exit */
    bool (*write)(uint32_t msr, uint64_t value); /* NULL: writes do not exit */
};

/* The guest finds VMX enabled and the register locked, as firmware leaves it; and local machine checks as they are. */
static bool feature_control_read(uint32_t msr, uint64_t *value)
{
    uint64_t found = 0;
    hw_rdmsr_try(msr, &found);
    *value = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX | (found & FEATURE_CONTROL_LMCE);
    return true;
}

static bool refuse_read(uint32_t msr, uint64_t *value)
{
    (void)msr, (void)value;
    return false;
}

static bool refuse_write(uint32_t msr, uint64_t value)
{
    (void)msr, (void)value;
    return false;
}

/* Microcode updates name a linear address: Strata takes none. Linux tries and reads back the revision. */
static bool ignore_write(uint32_t msr, uint64_t value)
{
    (void)msr, (void)value;
    return true;
}

static bool mtrr_msr_read(uint32_t msr, uint64_t *value)
{
    memory_lock();
    bool ok = memory01.has_mtrr && mtrr_read(&memory01.mtrr, msr, value);
    memory_unlock();
    return ok;
}

static bool mtrr_msr_write(uint32_t msr, uint64_t value)
{
    memory_lock();
    bool ok = memory01.has_mtrr && mtrr_write(&memory01.mtrr, msr, value);
    if (ok && mtrr_pending(&memory01.mtrr)) {
        mtrr_commit(&memory01.mtrr);
        count((struct cpu *)hw_rdmsr(MSR_GS_BASE), COUNT_MTRR_APPLIED);
        if (ept01_retype(&memory01.ept01))
            ept01_announce_change();
    }
    memory_unlock();
    return ok;
}

static bool apic_base_write(uint32_t msr, uint64_t value)
{
    (void)msr;
    return x2apic_base_write(value);
}

static bool icr_write(uint32_t msr, uint64_t value)
{
    (void)msr;
    x2apic_icr_write((uint32_t)value, (uint32_t)(value >> 32));
    return true;
}

/* Without the debug store, as CPUID says. */
static bool misc_enable_read(uint32_t msr, uint64_t *value)
{
    if (!hw_rdmsr_try(msr, value))
        return false;
    *value |= MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
    return true;
}

/* With execute-disable off, the EFER that every VM exit loads would have a reserved bit set. */
static bool misc_enable_write(uint32_t msr, uint64_t value)
{
    uint64_t found;
    if ((value & MISC_ENABLE_XD_DISABLE) || !hw_rdmsr_try(msr, &found))
        return false;
    const uint64_t read_only = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
    return hw_wrmsr_try(msr, (value & ~read_only) | (found & read_only));
}

static bool perf_caps_read(uint32_t msr, uint64_t *value)
{
    if (!hw_rdmsr_try(msr, value))
        return false;
    *value &= ~PERF_CAPS_PEBS;
    if ((*value & PERF_CAPS_LBR_FORMAT) == PERF_CAPS_LBR_ARCHITECTURAL)
        *value &= ~PERF_CAPS_LBR_FORMAT;
    return true;
}

static bool core_caps_read(uint32_t msr, uint64_t *value)
{
    if (!hw_rdmsr_try(msr, value))
        return false;
    *value &= ~CORE_CAPS_HIDDEN;
    return true;
}

static bool xss_write(uint32_t msr, uint64_t value) { return !(value & ~XSS_ALLOWED) && hw_wrmsr_try(msr, value); }

/* Neither read nor written; the same, but it may be read. */
#define REFUSED(first, last)                                                                                           \
    {                                                                                                                  \
        first, last, 0, refuse_read, refuse_write                                                                      \
    }
#define READ_ONLY(first, last)                                                                                         \
    {                                                                                                                  \
        first, last, 0, NULL, refuse_write                                                                             \
    }
#define ONE(msr, read, write)                                                                                          \
    {                                                                                                                  \
        msr, msr, 0, read, write                                                                                       \
    }

/* A row that hides a feature has its like in cpuid_hide.c. Names of MSRs that stand nowhere else are those of SDM 4. */
// clang-format off
static const struct msr_range ranges[] = {
    /* What Strata virtualizes. */
    ONE(MSR_APIC_BASE, NULL, apic_base_write),
    ONE(MSR_FEATURE_CONTROL, feature_control_read, refuse_write),
    ONE(MSR_BIOS_UPDT_TRIG, NULL, ignore_write),
    ONE(MSR_MTRRCAP, mtrr_msr_read, refuse_write),
    { MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 0x1f, 0, mtrr_msr_read, mtrr_msr_write },
    ONE(MSR_MTRR_FIX64K_00000, mtrr_msr_read, mtrr_msr_write),
    { MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, 0, mtrr_msr_read, mtrr_msr_write },
    { MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7, 0, mtrr_msr_read, mtrr_msr_write },
    ONE(MSR_MTRR_DEF_TYPE, mtrr_msr_read, mtrr_msr_write),
    { MSR_VMX_FIRST, MSR_VMX_LAST, 0, nested_caps_msr, refuse_write },
    ONE(MSR_X2APIC_ICR, NULL, icr_write),

    /* The processor writes to, or reads, a physical address that no EPT translates. */
    REFUSED(MSR_RTIT_OUTPUT_BASE, MSR_RTIT_OUTPUT_BASE + 1),
    REFUSED(MSR_RTIT_CTL, MSR_RTIT_CTL + 2),
    REFUSED(MSR_RTIT_ADDR0_A, MSR_RTIT_ADDR0_A + 7),
    REFUSED(MSR_HW_FEEDBACK_PTR, MSR_HW_FEEDBACK_PTR + 4), /* and thread director */
    READ_ONLY(0x80, 0x80),                                 /* MSR_TRACE_HUB_STH_ACPIBAR_BASE */
    REFUSED(0xed, 0xf0),                                   /* remote action request: IA32_RAR_CTRL .. INFO */
    ONE(MSR_CORE_CAPABILITIES, core_caps_read, NULL),
    ONE(MSR_XSS, NULL, xss_write), /* XRSTORS loads the MSRs of a component */

    /* A linear address, and used while Strata runs: through Strata's page tables. */
    REFUSED(MSR_DS_AREA, MSR_DS_AREA),
    REFUSED(MSR_PEBS_ENABLE, MSR_PEBS_ENABLE + 1),   /* MSR_PEBS_DATA_CFG */
    REFUSED(0x3f4, 0x3f5),                           /* architectural PEBS: IA32_PEBS_BASE, _INDEX */
    { 0x1903, 0x19ff, 4, refuse_read, refuse_write }, /* IA32_PMC_GPn_CFG_C, _FXn_CFG_C */
    ONE(MSR_PERF_CAPABILITIES, perf_caps_read, NULL),
    ONE(MSR_MISC_ENABLE, misc_enable_read, misc_enable_write),

    /* Strata's own branches would be recorded. */
    REFUSED(MSR_LBR_CTL, MSR_LBR_CTL + 1),

    /* Where memory is encrypted, reserved, or belongs to nobody: firmware's, which locks it, but not all firmware does. */
    REFUSED(MSR_TME_CAPABILITY, MSR_TME_ACTIVATE + 2), /* and IA32_TME_EXCLUDE_MASK, _BASE */
    REFUSED(0x87, 0x87),                               /* IA32_MKTME_KEYID_PARTITIONING */
    READ_ONLY(0x9fb, 0x9fb),                           /* IA32_TME_CLEAR_SAVED_KEY */
    READ_ONLY(0x1f2, 0x1f5),                           /* SMRR, PRMRR */
    READ_ONLY(0x2a0, 0x2a0),                           /* MSR_PRMRR_BASE_0 */
    READ_ONLY(0x2f4, 0x2f5),                           /* MSR_UNCORE_PRMRR_PHYS_BASE, _MASK */
    READ_ONLY(0x1400, 0x1401),                         /* IA32_SEAMRR_PHYS_BASE, _MASK */

    /* In-field scan: takes linear addresses and stops the core, whoever runs there. */
    REFUSED(0x2b8, 0x2bc),
    REFUSED(0x2c2, 0x2c7),

    /* KVM's old clock, if that is the machine: an address that it writes to. Its new ones are outside the bitmap's ranges. */
    REFUSED(0x11, 0x12),
};
// clang-format on

static bool range_has(const struct msr_range *range, uint32_t msr)
{
    return msr >= range->first && msr <= range->last && (!range->step || (msr - range->first) % range->step == 0);
}

static const struct msr_range *range_find(uint32_t msr)
{
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
        if (range_has(&ranges[i], msr))
            return &ranges[i];
    return NULL;
}

/* One of those that an MSR bitmap has bits for. */
static bool in_bitmap(uint32_t msr)
{
    return msr < MSR_BITMAP_PART_MSRS || msr - MSR_BITMAP_HIGH_FIRST < MSR_BITMAP_PART_MSRS;
}

bool msr_is_guests(uint32_t msr)
{
    const struct msr_range *range = range_find(msr);
    return in_bitmap(msr) && !(range && range->write);
}

bool msr_read(uint32_t msr, uint64_t *value)
{
    const struct msr_range *range = range_find(msr);
    if (range && range->read)
        return range->read(msr, value);
    return in_bitmap(msr) && hw_rdmsr_try(msr, value);
}

bool msr_write(uint32_t msr, uint64_t value)
{
    const struct msr_range *range = range_find(msr);
    if (range && range->write)
        return range->write(msr, value);
    return in_bitmap(msr) && hw_wrmsr_try(msr, value);
}

/* All intercepted MSRs are in the low range of the bitmap. */
static void bitmap_set(uint8_t *part, uint32_t msr, bool on)
{
    uint8_t bit = (uint8_t)(1u << (msr & 7));
    part[msr >> 3] = (uint8_t)(on ? part[msr >> 3] | bit : part[msr >> 3] & ~bit);
}

void msr_bitmap_init(uint8_t *bitmap)
{
    memset(bitmap, 0, PAGE_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
        for (uint32_t msr = ranges[i].first; msr <= ranges[i].last; msr += ranges[i].step ? ranges[i].step : 1) {
            bitmap_set(bitmap + MSR_BITMAP_READ_LOW, msr, ranges[i].read != NULL);
            bitmap_set(bitmap + MSR_BITMAP_WRITE_LOW, msr, ranges[i].write != NULL);
        }
}

/* Other CPUs' processors read the bitmap meanwhile. */
void msr_bitmap_take_icr(uint8_t *bitmap)
{
    uint8_t *byte = bitmap + MSR_BITMAP_WRITE_LOW + MSR_X2APIC_ICR / 8;
    __atomic_or_fetch(byte, (uint8_t)(1u << (MSR_X2APIC_ICR & 7)), __ATOMIC_SEQ_CST);
}

void msr_bitmap_release_icr(uint8_t *bitmap) { bitmap_set(bitmap + MSR_BITMAP_WRITE_LOW, MSR_X2APIC_ICR, false); }

/* Exits, of whomever: an MSR that Strata does not know is never accessed in root mode, where some are Strata's own. */
void msr_handle_read(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t value;
    const struct msr_range *range = range_find((uint32_t)cpu->regs[GPR_RCX]);
    if (!range || !range->read || !range->read((uint32_t)cpu->regs[GPR_RCX], &value)) {
        guest_fault(cpu, VECTOR_GP, 0);
        return;
    }
    cpu->regs[GPR_RAX] = (uint32_t)value;
    cpu->regs[GPR_RDX] = value >> 32;
    guest_skip(cpu);
}

void msr_handle_write(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t value = cpu->regs[GPR_RDX] << 32 | (uint32_t)cpu->regs[GPR_RAX];
    const struct msr_range *range = range_find((uint32_t)cpu->regs[GPR_RCX]);
    if (range && range->write && range->write((uint32_t)cpu->regs[GPR_RCX], value))
        guest_skip(cpu);
    else
        guest_fault(cpu, VECTOR_GP, 0);
}
