/*
 * A guest hypervisor's own registers: MSRs, control registers, XSETBV, CPUID, all with random values. What a write changes is put
 * back at once.
 */
#include "hostile.h"

/* MSRs whose value no more than this guest depends on. */
static const u32 writable[] = { MSR_STAR,         MSR_LSTAR, MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_ESP,
                                MSR_SYSENTER_EIP, MSR_PAT };
/* The hypervisor below has them to itself, or they steer the machine: only read. */
static const u32 readable[] = {
    MSR_APIC_BASE, MSR_FEATURE_CONTROL, MSR_MTRRCAP,   MSR_MTRR_PHYSBASE0, MSR_MTRR_DEF_TYPE,
    MSR_VMX_BASIC, MSR_VMX_MISC,        MSR_VMX_PROC2, MSR_VMX_VMFUNC,     MSR_EFER
};
static const u32 refused[] = { MSR_VMX_BASIC,      MSR_VMX_PIN,         MSR_VMX_MISC,
                               MSR_VMX_TRUE_ENTRY, MSR_FEATURE_CONTROL, MSR_MTRRCAP };

static bool begin(void)
{
    print("note state: CR0 %lx\n", read_cr0());
    return true;
}

static u32 step_write(void)
{
    u32 msr = writable[dice_below(COUNT(writable))];
    u64 old, value = dice_value(), got = 0;
    if (!IS64 && (msr == MSR_STAR || msr == MSR_LSTAR || msr == MSR_KERNEL_GS_BASE))
        return OUTCOME_OPEN;
    if (rdmsr_try(msr, &old) >= 0)
        return OUTCOME_OPEN;
    int vector = wrmsr_try(msr, value);
    rdmsr_try(msr, &got);
    wrmsr(msr, old);
    check(vector == VEC_GP ? got == old : msr == MSR_SYSENTER_CS || got == value,
          "MSR %x: wrote %llx (vector %d), read %llx", msr, value, vector, got);
    return (u32)vector & 0xff;
}

static u32 step_read(void)
{
    u64 value;
    return (u32)rdmsr_try(readable[dice_below(COUNT(readable))], &value) & 0xff;
}

static u32 step_refused(void) { return (u32)wrmsr_try(refused[dice_below(COUNT(refused))], dice()) & 0xff; }

/* No such MSR: the emulator may be told to ignore that. */
static u32 step_unknown(void)
{
    u32 msr = (dice_one_in(2) ? 0x40000200 : 0x2000) + dice_below(0x1000);
    u64 value;
    rdmsr_try(msr, &value);
    wrmsr_try(msr, dice());
    return OUTCOME_OPEN;
}

/* Reserved bits below 32 are ignored; bit 4 is always 1. */
#define CR0_DEFINED ((ulong)(CR0_PG | CR0_CD | CR0_NW | CR0_AM | CR0_WP | CR0_NE | CR0_TS | CR0_EM | CR0_MP | CR0_PE))

/* Bits without which this guest does not go on are left alone where they can be changed. */
static u32 step_cr0(void)
{
    ulong old = read_cr0(), value = old ^ (ulong)BIT(dice_below(IS64 ? 64 : 32));
    if ((value ^ old) & (CR0_PG | CR0_PE) && !this_cpu()->vmx)
        return OUTCOME_OPEN;
    int vector = write_cr0_try(value);
    ulong seen = read_cr0();
    write_cr0(old);
    check(vector == VEC_GP ? seen == old : ((seen ^ value) & CR0_DEFINED) == 0,
          "CR0 was %lx: wrote %lx (vector %d), read %lx", old, value, vector, seen);
    return (u32)vector & 0xff;
}

static u32 step_cr4(void)
{
    static const u8 bits[] = { 0, 1, 2, 3, 6, 7, 8, 9, 10, 13, 14, 15, 17, 19, 25, 26, 27, 28, 29, 30, 31 };
    ulong old = read_cr4(), value = old ^ (ulong)BIT(bits[dice_below(COUNT(bits))]);
    int vector = write_cr4_try(value);
    ulong seen = read_cr4();
    write_cr4(old);
    check(seen == (vector == VEC_GP ? old : value), "CR4: wrote %lx (vector %d), read %lx", value, vector, seen);
    return (u32)vector & 0xff;
}

static u32 step_xsetbv(void)
{
    u64 value = dice_one_in(3) ? dice_value() : dice_below(16);
    u32 index = dice_one_in(3) ? dice_below(8) : 0, low, high;
    if (!(cpuid(1, 0).c & 1u << 26))
        return OUTCOME_OPEN;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    int vector = TRY("xsetbv", "c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
    asm volatile("xsetbv" : : "c"(0), "a"(low), "d"(high));
    write_cr4(read_cr4() & ~(ulong)CR4_OSXSAVE);
    return (u32)vector & 0xff;
}

static u32 step_cpuid(void)
{
    static const u32 bases[] = { 0, 0x40000000, 0x80000000, 0x40000100, 0x20000000, 0xffffff00 };
    cpuid(bases[dice_below(COUNT(bases))] + dice_below(dice_one_in(4) ? 0x10000 : 0x40), dice_below(64));
    return 0;
}

static u32 step(void)
{
    static u32 (*const steps[])(void) = { step_write, step_read, step_refused, step_unknown,
                                          step_cr0,   step_cr4,  step_xsetbv,  step_cpuid };
    return steps[dice_below(COUNT(steps))]();
}

const struct hostile hostile_state = { "state", begin, step };
