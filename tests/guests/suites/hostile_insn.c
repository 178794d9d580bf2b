/*
 * VMX instructions in any order with any operands; and two CPUs that do so on the same regions, for which the SDM promises nothing,
 * so that only the machine's going on counts.
 */
#include "hostile.h"

enum { REGIONS = 8, RACE_ROUNDS = 24 };

static u8 regions[REGIONS][PAGE] __attribute__((aligned(4096)));
static enum { UNKNOWN, CLEARED, ACTIVE } known[REGIONS]; /* what the SDM says of its launch state */
static int current;                                      /* -1: none */
static u64 operand[2];

static int region_of(u64 address)
{
    for (int i = 0; i < REGIONS; i++)
        if (address == phys(regions[i]))
            return i;
    return -1;
}

static u64 address(void)
{
    switch (dice_below(8)) {
    case 0:
        return dice_odd_address();
    case 1:
        return phys(this_cpu()->vmxon);
    case 2:
        return HIGH_RAM + dice_below((HIGH_RAM_END - HIGH_RAM) / PAGE) * (u64)PAGE;
    case 3:
        return phys(regions[dice_below(REGIONS)]) + 1 + dice_below(PAGE - 1);
    default:
        return phys(regions[dice_below(REGIONS)]);
    }
}

static void region_fill(u32 i)
{
    u32 *words = (u32 *)regions[i];
    for (u32 k = 1; k < PAGE / 4; k++)
        words[k] = (u32)dice_value();
    words[0] = dice_one_in(4) ? (u32)dice() : vmcs_revision();
}

static bool begin(void)
{
    for (u32 i = 0; i < REGIONS; i++) {
        memset(regions[i], 0, PAGE);
        *(u32 *)regions[i] = vmcs_revision();
        known[i] = UNKNOWN;
    }
    current = -1;
    return true;
}

static u32 step_vmptrld(void)
{
    u64 at = address();
    int region = region_of(at);
    outcome_t o = vmptrld(at);
    if (o != VMX_OK)
        return o;
    if (region < 0) {
        test_failed("VMPTRLD of %llx succeeds", at);
        return o;
    }
    current = region;
    if (known[region] == CLEARED)
        known[region] = ACTIVE;
    return o;
}

static u32 step_vmclear(void)
{
    u64 at = address();
    int region = region_of(at);
    outcome_t o = vmclear(at);
    if (o == VMX_OK && region >= 0) {
        known[region] = CLEARED;
        current = current == region ? -1 : current;
    }
    return o;
}

static u32 step_vmptrst(void)
{
    u64 got = 0;
    outcome_t o = vmptrst(&got);
    check(got == (current < 0 ? ~0ull : phys(regions[current])), "VMPTRST says %llx, current is %d", got, current);
    return o;
}

/* A field that always exists, or none. */
static ulong field(void)
{
    static const u16 always[] = { GUEST_ES,   GUEST_TR,      GUEST_ES_BASE,    GUEST_GDTR_LIMIT, GUEST_CR0,
                                  GUEST_CR3,  GUEST_RIP,     GUEST_RFLAGS,     HOST_CS,          HOST_CR3,
                                  HOST_RIP,   HOST_GS_BASE,  PF_MASK,          CR0_MASK,         CR4_SHADOW,
                                  TSC_OFFSET, LINK_POINTER,  EXCEPTION_BITMAP, GUEST_DR7,        GUEST_TR_BASE,
                                  HOST_RSP,   GUEST_ACTIVITY };
    static const u16 never[] = { 0x0001, 0x0bfe, 0x07fe, 0x4fff, 0x6bfe, 0x7ffe, 0x2ffe };
    return dice_one_in(4) ? never[dice_below(COUNT(never))] | (dice_one_in(3) ? (ulong)1 << 20 : 0)
                          : always[dice_below(COUNT(always))];
}

static u32 step_access(void)
{
    ulong f = field(), value = (ulong)dice_value(), got = 0;
    outcome_t o = vmwrite(f, value);
    if (o != VMX_OK)
        return o;
    o = vmread(f, &got);
    check(got == (value & (ulong)field_mask((u32)f)), "field %lx: wrote %lx, read %lx", f, value, got);
    return o;
}

/* Controls are never written: such an entry always fails. */
static u32 step_enter(void)
{
    bool open = current >= 0 && known[current] != ACTIVE;
    outcome_t o = dice_one_in(2) ? vmlaunch() : vmresume();
    if (o == VMX_OK)
        test_failed("an entry with nothing but zeroes succeeds");
    return open ? OUTCOME_OPEN : o;
}

static u32 step_invalidate(void)
{
    bool vpid = dice_one_in(2);
    ulong type = dice_one_in(3) ? (ulong)dice_value() : dice_below(5);
    struct inv d = { vpid ? dice_value() : (address() & ~(u64)0xfff) | 0x1e, dice_value() };
    if (!ept_has(vpid ? 32 : 20))
        return OUTCOME_OPEN;
    return vpid ? invvpid(type, &d) : invept(type, &d);
}

static u32 step_vmx(void)
{
    if (dice_one_in(2))
        return vmxon(address());
    outcome_t off = vmxoff();
    current = -1;
    u64 at = address();
    outcome_t on = vmxon(at);
    if (on == VMX_OK)
        this_cpu()->vmxon = (u8 *)(ulong)at;
    else
        check_outcome("VMXON", vmxon(phys(this_cpu()->vmxon)), VMX_OK);
    return off ^ on << 4;
}

/* An operand that cannot be read. */
static u32 step_fault(void)
{
    const struct inv *nowhere = (const struct inv *)(hole_va + 8);
    hole_map(0, 0);
    switch (dice_below(3)) {
    case 0:
        return VMX_TRY("vmptrld %[m]", [m] "m"(*nowhere));
    case 1:
        return VMX_TRY("vmclear %[m]", [m] "m"(*nowhere));
    default:
        return VMX_TRY("vmptrst %[m]", [m] "m"(*nowhere));
    }
}

static u32 step_fill(void)
{
    u32 i = dice_below(REGIONS);
    if (known[i] != CLEARED) /* it may be active: not to be touched */
        return OUTCOME_OPEN;
    region_fill(i);
    known[i] = UNKNOWN;
    return 0;
}

static u32 step(void)
{
    static u32 (*const steps[])(void) = { step_vmptrld, step_vmclear, step_vmptrst, step_access,
                                          step_enter,   step_access,  step_vmptrld, step_invalidate,
                                          step_vmx,     step_fault,   step_fill,    step_vmclear };
    operand[0] = dice();
    return steps[dice_below(COUNT(steps))]();
}

const struct hostile hostile_insn = { "insn", begin, step };

/* ---- a race ---- */

struct racer {
    u64 seed;
};

static void race(void *arg)
{
    u64 random = ((const struct racer *)arg)->seed;
    if (!this_cpu()->vmx)
        vmx_enter_operation();
    for (u32 i = 0; i < RACE_ROUNDS; i++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        u32 what = (u32)(random >> 60), region = (u32)(random >> 40) % 2;
        ulong value;
        if (what < 5)
            vmptrld(phys(regions[region]));
        else if (what < 9)
            vmclear(phys(regions[region]));
        else if (what < 12)
            vmwrite(GUEST_RIP, (ulong)random);
        else if (what < 14)
            vmread(GUEST_RIP, &value);
        else
            what & 1 ? vmlaunch() : vmresume();
    }
}

static void race_end(void *arg)
{
    (void)arg;
    for (u32 i = 0; i < REGIONS; i++)
        vmclear(phys(regions[i]));
    vmx_leave_operation();
}

static bool race_begin(void)
{
    if (cpu_count < 2) {
        test_skip("one CPU");
        return false;
    }
    return begin();
}

static u32 race_step(void)
{
    struct racer here = { dice() }, there = { dice() };
    cpu_call(1, race, &there);
    race(&here);
    check(cpu_wait(1, 2000), "the other CPU does not come back");
    cpu_call(1, race_end, NULL);
    check(cpu_wait(1, 2000), "the other CPU does not leave VMX operation");
    return OUTCOME_OPEN;
}

const struct hostile hostile_race = { "race", race_begin, race_step };
