/*
 * The MSRs that Strata keeps from the guest or emulates: one table, from which both the bitmap and the handlers follow.
 * All others belong to the guest and never exit (or, outside the bitmap's ranges, exit and go through).
 */
#include "core/guest/msr.h"

#include "core/guest/dispatch.h"
#include "core/guest/ept01_exit.h"
#include "core/guest/guest.h"
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/guest/start.h"
#include "core/upcall.h"

struct msr_range {
    uint32_t first, last;
    bool (*read)(uint32_t msr, uint64_t *value); /* NULL: reads do not exit */
    bool (*write)(uint32_t msr, uint64_t value); /* NULL: writes do not exit */
};

/* The guest finds VMX enabled and the register locked, as firmware leaves it. */
static bool feature_control_read(uint32_t msr, uint64_t *value)
{
    (void)msr;
    *value = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
    return true;
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
    start_icr_write((uint32_t)value, (uint32_t)(value >> 32));
    return true;
}

static const struct msr_range ranges[] = {
    { MSR_APIC_BASE, MSR_APIC_BASE, NULL, apic_base_write },
    { MSR_FEATURE_CONTROL, MSR_FEATURE_CONTROL, feature_control_read, refuse_write },
    { MSR_BIOS_UPDT_TRIG, MSR_BIOS_UPDT_TRIG, NULL, ignore_write },
    { MSR_MTRRCAP, MSR_MTRRCAP, mtrr_msr_read, refuse_write },
    { MSR_MTRR_PHYSBASE0, MSR_MTRR_PHYSBASE0 + 0x1f, mtrr_msr_read, mtrr_msr_write },
    { MSR_MTRR_FIX64K_00000, MSR_MTRR_FIX64K_00000, mtrr_msr_read, mtrr_msr_write },
    { MSR_MTRR_FIX16K_80000, MSR_MTRR_FIX16K_A0000, mtrr_msr_read, mtrr_msr_write },
    { MSR_MTRR_FIX4K_C0000, MSR_MTRR_FIX4K_C0000 + 7, mtrr_msr_read, mtrr_msr_write },
    { MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, mtrr_msr_read, mtrr_msr_write },
    { MSR_VMX_FIRST, MSR_VMX_LAST, nested_caps_msr, refuse_write },
    { MSR_X2APIC_ICR, MSR_X2APIC_ICR, NULL, icr_write },
};

static const struct msr_range *range_find(uint32_t msr)
{
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
        if (msr >= ranges[i].first && msr <= ranges[i].last)
            return &ranges[i];
    return NULL;
}

bool msr_read(uint32_t msr, uint64_t *value)
{
    const struct msr_range *range = range_find(msr);
    return range && range->read ? range->read(msr, value) : hw_rdmsr_try(msr, value);
}

bool msr_write(uint32_t msr, uint64_t value)
{
    const struct msr_range *range = range_find(msr);
    if (!range || !range->write)
        return hw_wrmsr_try(msr, value);
    return range->write(msr, value);
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
        for (uint32_t msr = ranges[i].first; msr <= ranges[i].last; msr++) {
            bitmap_set(bitmap + MSR_BITMAP_READ_LOW, msr, ranges[i].read != NULL);
            bitmap_set(bitmap + MSR_BITMAP_WRITE_LOW, msr, ranges[i].write != NULL);
        }
}

void msr_bitmap_release_icr(uint8_t *bitmap) { bitmap_set(bitmap + MSR_BITMAP_WRITE_LOW, MSR_X2APIC_ICR, false); }

void msr_handle_read(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t value;
    if (!msr_read((uint32_t)cpu->regs[GPR_RCX], &value)) {
        guest_fault(VECTOR_GP, 0);
        return;
    }
    cpu->regs[GPR_RAX] = (uint32_t)value;
    cpu->regs[GPR_RDX] = value >> 32;
    guest_skip();
}

void msr_handle_write(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t value = cpu->regs[GPR_RDX] << 32 | (uint32_t)cpu->regs[GPR_RAX];
    if (msr_write((uint32_t)cpu->regs[GPR_RCX], value))
        guest_skip();
    else
        guest_fault(VECTOR_GP, 0);
}
