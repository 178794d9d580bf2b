/*
 * Entries with VMCSs near the border: one that is valid, in each of a few modes, with a few bits flipped. The nested guests are fenced
 * in, so that one that runs wild meets an exit soon.
 */
#include "hostile.h"

enum { TIMER = 3000 };

/*
 * Fields that always exist; their bits may all be flipped. Not the host's: what is loaded there must work. Not the counts of MSRs at
 * exits: a wrong one is a VMX abort.
 */
static const u16 flipped[] = {
    PIN_CONTROLS,
    PROC_CONTROLS,
    PROC2_CONTROLS,
    EXIT_CONTROLS,
    ENTRY_CONTROLS,
    EXCEPTION_BITMAP,
    PF_MASK,
    PF_MATCH,
    CR3_TARGET_COUNT,
    ENTRY_INTR_INFO,
    ENTRY_ERROR_CODE,
    ENTRY_INSN_LENGTH,
    CR0_MASK,
    CR4_MASK,
    CR0_SHADOW,
    CR4_SHADOW,
    TSC_OFFSET,
    LINK_POINTER,
    GUEST_ES,
    GUEST_CS,
    GUEST_SS,
    GUEST_DS,
    GUEST_FS,
    GUEST_GS,
    GUEST_LDTR,
    GUEST_TR,
    GUEST_ES_LIMIT,
    GUEST_CS_LIMIT,
    GUEST_SS_LIMIT,
    GUEST_DS_LIMIT,
    GUEST_LDTR_LIMIT,
    GUEST_TR_LIMIT,
    GUEST_GDTR_LIMIT,
    GUEST_IDTR_LIMIT,
    GUEST_ES_AR,
    GUEST_CS_AR,
    GUEST_SS_AR,
    GUEST_DS_AR,
    GUEST_FS_AR,
    GUEST_GS_AR,
    GUEST_LDTR_AR,
    GUEST_TR_AR,
    GUEST_INTERRUPTIBILITY,
    GUEST_ACTIVITY,
    GUEST_SYSENTER_CS,
    GUEST_CR0,
    GUEST_CR3,
    GUEST_CR4,
    GUEST_ES_BASE,
    GUEST_CS_BASE,
    GUEST_SS_BASE,
    GUEST_DS_BASE,
    GUEST_FS_BASE,
    GUEST_GS_BASE,
    GUEST_LDTR_BASE,
    GUEST_TR_BASE,
    GUEST_GDTR_BASE,
    GUEST_IDTR_BASE,
    GUEST_DR7,
    GUEST_RSP,
    GUEST_RIP,
    GUEST_RFLAGS,
    GUEST_SYSENTER_ESP,
    GUEST_SYSENTER_EIP,
    GUEST_EFER,
    ENTRY_MSR_LOAD_COUNT,
};

/* Bits of host fields without which no entry succeeds. */
static const struct {
    u16 field;
    u8 bit;
} host_bits[] = {
    { HOST_CR0, 0 }, { HOST_CR0, 5 }, { HOST_CR0, 31 }, { HOST_CR4, 13 }, { HOST_CS, 0 }, { HOST_CS, 2 },
    { HOST_SS, 1 },  { HOST_DS, 2 },  { HOST_FS, 0 },   { HOST_TR, 1 },   { HOST_ES, 2 },
};

struct fields {
    u64 value[COUNT(flipped)];
    bool there[COUNT(flipped)];
};

static struct nest *nest[FENCED_MODES];
static struct fields before[FENCED_MODES];

static bool begin(void)
{
    bool any = false;
    if (!nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") || !nest_need(pin_msr(), PIN_TIMER, "the preemption timer"))
        return false;
    for (u32 m = 0; m < FENCED_MODES; m++) {
        nest[m] = fenced_new((enum nest_mode)m, nest_done);
        for (u32 i = 0; nest[m] && i < COUNT(flipped); i++)
            before[m].there[i] = field_read(flipped[i], &before[m].value[i]) == VMX_OK;
        any |= nest[m] != NULL;
    }
    return any && test_ok();
}

/* Controls that not every hypervisor offers, injections that the emulator itself does not survive. */
static u64 tame(u32 field, u64 value)
{
    switch (field) {
    case PROC2_CONTROLS: /* VM functions, ENCLS, PML, #VE, and what came later */
        return value & ~(u64)(PROC2_VMFUNC | PROC2_ENCLS | PROC2_PML | PROC2_VE | 0xfe480000 | PROC2_APIC_ACCESS |
                              PROC2_SHADOW | PROC2_VID | PROC2_APIC_REGS | PROC2_X2APIC);
    case EXIT_CONTROLS:
        return value & ~(u64)(EXIT_LOAD_PERF | 0xff800000);
    case ENTRY_CONTROLS:
        return value & ~(u64)(ENTRY_SMM | ENTRY_DUAL_MONITOR | ENTRY_LOAD_PERF | 0xffff0000);
    case PIN_CONTROLS:
        return value & ~(u64)(PIN_POSTED | 0xffffff00);
    case PROC_CONTROLS: /* the monitor trap flag, interrupt and NMI windows: their moment is not given */
        return value & ~(u64)(PROC_MTF | PROC_TPR_SHADOW | PROC_INT_WINDOW | PROC_NMI_WINDOW);
    case ENTRY_MSR_LOAD_COUNT: /* Bochs takes the size of the area modulo 4 GiB, and then finds its end wrong */
        return value & 0x0fffffff;
    case ENTRY_INTR_INFO:
        return (value & 0x700) == INTR_OTHER ? value & ~0x700ull : value;
    default:
        return value;
    }
}

static void flip(u32 m)
{
    u32 i = dice_below(COUNT(flipped));
    u32 bit = dice_below(field_width(flipped[i]) == WIDTH_16   ? 16
                         : field_width(flipped[i]) == WIDTH_32 ? 32
                         : IS64                                ? 64
                                                               : 32);
    u64 now;
    if (dice_one_in(12)) {
        u32 h = dice_below(COUNT(host_bits));
        vmset(host_bits[h].field, vmget(host_bits[h].field) ^ BIT(host_bits[h].bit));
    } else if (before[m].there[i] && field_read(flipped[i], &now) == VMX_OK) {
        if (flipped[i] == ENTRY_INTR_INFO && dice_one_in(2))
            now = INTR_VALID | (dice() & 0xfff);
        vmset(flipped[i], tame(flipped[i], now ^ BIT(bit)) & field_mask(flipped[i]));
    }
}

static void restore(u32 m)
{
    for (u32 i = 0; i < COUNT(flipped); i++)
        if (before[m].there[i])
            vmset(flipped[i], before[m].value[i]);
}

/* Where more than one bit is wrong, the SDM leaves open which of the checks of one kind finds it. */
static u32 outcome_of(const struct nest *n, outcome_t entry, bool one_flip)
{
    bool either = entry == FAIL_VALID(ERR_CONTROLS) || entry == FAIL_VALID(ERR_HOST_STATE);
    if (entry != VMX_OK)
        return either && !one_flip ? 0x278 : entry;
    u32 reason = n->reason & 0xffff;
    if (n->reason & REASON_ENTRY_FAILED)
        return 0x80000000 | reason << 8 |
               (one_flip || reason != REASON_BAD_GUEST ? (u32)vmget(EXIT_QUALIFICATION) & 0xff : 0xff);
    if (reason == REASON_TIMER || reason == REASON_EXT_INT)
        return OUTCOME_OPEN;
    return reason == REASON_EXCEPTION ? 0x1000 | ((u32)vmget(EXIT_INTR_INFO) & 0x7ff) : reason;
}

static u32 step(void)
{
    u32 m = dice_below(FENCED_MODES), flips = dice_below(4);
    struct nest *n = nest[m];
    u64 host[COUNT(host_bits)];
    if (!n)
        return OUTCOME_OPEN;
    check_outcome("VMPTRLD", vmptrld(phys(n->vmcs)), VMX_OK);
    restore(m);
    for (u32 i = 0; i < COUNT(host_bits); i++)
        host[i] = vmget(host_bits[i].field);
    for (u32 i = 0; i < flips; i++)
        flip(m);
    fence(n);
    u32 outcome = outcome_of(n, nest_run(n), flips < 2);
    for (u32 i = 0; i < COUNT(host_bits); i++)
        vmset(host_bits[i].field, host[i]);
    return outcome;
}

const struct hostile hostile_vmcs = { "vmcs", begin, step };

/* ---- fences ---- */

/* The image of this guest with its stacks and page tables, and nothing else; nothing can be written. */
struct ept *fence_new(void)
{
    struct ept *e = ept_new(2 * MIB);
    for (u64 gpa = 0; gpa < 4 * GIB; gpa += 2 * MIB)
        ept_set(e, gpa, 2 * MIB, gpa >= 16 * MIB ? 0 : gpa | EPT_R | EPT_X | EPT_WB | EPT_LARGE);
    return e;
}

void fence(const struct nest *n)
{
    u64 pin = vmget(PIN_CONTROLS), proc = vmget(PROC_CONTROLS), proc2 = vmget(PROC2_CONTROLS);
    vmset(PIN_CONTROLS, pin | PIN_TIMER);
    vmset(PREEMPTION_TIMER, TIMER);
    vmset(PROC_CONTROLS, (proc | PROC_IO | PROC_HLT | PROC_MWAIT | PROC_MONITOR | PROC_RDTSC | PROC_RDPMC |
                          PROC_MOV_DR | PROC_SECONDARY) &
                             ~(u64)(PROC_IO_BITMAPS | PROC_MSR_BITMAPS));
    vmset(PROC2_CONTROLS, proc2 | PROC2_EPT);
    vmset(EPTP, n->ept->eptp);
    if (vmget(GUEST_ACTIVITY) <= ACTIVITY_WAIT_SIPI) /* nothing that happens here ends the inactive states */
        vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
}

struct nest *fenced_new(enum nest_mode mode, void (*fn)(void))
{
    bool unrestricted = mode == NEST_REAL || mode == NEST_FLAT32;
    if ((unrestricted && !proc2_supported(PROC2_UNRESTRICTED)) ||
        (mode != NEST_SAME && !control_supported(entry_msr(), ENTRY_LOAD_EFER)))
        return NULL;
    struct nest *n = nest_new(mode, fn);
    if (!n)
        return NULL;
    nest_ept(n, fence_new());
    if (proc2_supported(PROC2_RDRAND | PROC2_RDSEED))
        nest_control(PROC2_CONTROLS, PROC2_RDRAND | PROC2_RDSEED, 0);
    vmset(EXCEPTION_BITMAP, 0xffffffff);
    fence(n);
    return test_ok() ? n : NULL;
}
