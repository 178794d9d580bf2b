/*
 * Nested guests that do as they like: random instructions in each mode; accesses through an ept12 made of random bytes and of tables
 * that name themselves.
 */
#include "hostile.h"

enum { CODE_BYTES = 48, EXITS_MAX = 6, TABLES = 24, ACCESSES = 4, WINDOW_FIRST = 1, WINDOWS = 2, PROBES = 8 };

static u8 code[PAGE] __attribute__((aligned(4096)));

/* ---- random instructions ---- */

static struct nest *nest[FENCED_MODES];
static ulong start_rip[FENCED_MODES];
static u64 start[FENCED_MODES][20];

/* What running wild changes. */
static const u16 kept[] = { GUEST_RSP,   GUEST_RFLAGS,  GUEST_CR0,     GUEST_CR3,     GUEST_CR4,
                            GUEST_EFER,  GUEST_DR7,     GUEST_ES,      GUEST_DS,      GUEST_FS,
                            GUEST_GS,    GUEST_SS,      GUEST_ES_AR,   GUEST_DS_AR,   GUEST_FS_AR,
                            GUEST_GS_AR, GUEST_ES_BASE, GUEST_DS_BASE, GUEST_SS_BASE, GUEST_SS_AR };
_Static_assert(COUNT(kept) == COUNT(start[0]), "one value a field");

static bool code_begin(void)
{
    if (!nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") || !nest_need(pin_msr(), PIN_TIMER, "the preemption timer"))
        return false;
    for (u32 m = 0; m < FENCED_MODES; m++) {
        nest[m] = fenced_new((enum nest_mode)m, nest_done);
        if (!nest[m])
            continue;
        vmset(GUEST_RIP, phys(code));
        if (m == NEST_REAL) {
            vmset(GUEST_RIP, 0);
            vmset(GUEST_CS, phys(code) >> 4 & 0xffff);
            vmset(GUEST_CS_BASE, phys(code));
        }
        start_rip[m] = (ulong)vmget(GUEST_RIP);
        for (u32 i = 0; i < COUNT(kept); i++)
            field_read(kept[i], &start[m][i]);
    }
    return test_ok();
}

/* No XCHG: the emulator's debugger stops at one. */
static u8 random_byte(void)
{
    u8 byte = (u8)dice();
    return byte == 0x87 ? 0x90 : byte;
}

static void code_fill(void)
{
    static const char *const common[] = {
        "\x0f\xa2",     "\x0f\x01\xc1", "\x0f\x32",     "\x0f\x30",
        "\x0f\x20\xc0", "\x0f\x22\xc0", "\x0f\x20\xe0", "\x0f\x22\xe0",
        "\x0f\x22\xd8", "\xf4",         "\xfa",         "\xfb",
        "\x9c\x9d",     "\xcc",         "\xcd\x80",     "\x0f\x0b",
        "\x0f\x01\xd1", "\x0f\x01\xd0", "\x0f\x01\xc4", "\x0f\x01\xc2",
        "\x0f\x78\xd8", "\x0f\x79\xd8", "\x0f\x08",     "\x0f\x09",
        "\x0f\x06",     "\xe4\x70",     "\xe6\x80",     "\x0f\xae\xf0",
        "\x0f\x01\xf8", "\xcf",         "\xf1",         "\x66\x0f\x3a\x0f\xc1\x04",
        "\x0f\x01\xd4", "\x0f\x01\xd9",
    };
    memset(code, 0, PAGE);
    for (u32 at = 0; at < CODE_BYTES;) {
        const char *pick = common[dice_below(COUNT(common))];
        u32 n = dice_one_in(3) ? 1 + dice_below(6) : 0;
        for (u32 i = 0; i < n; i++)
            code[at++] = random_byte();
        for (; !n && *pick; pick++)
            code[at++] = (u8)*pick;
    }
}

static u32 mix(u32 hash, u32 value) { return (hash ^ value) * 16777619; }

/* The exit is that of an instruction, which can be passed over. */
static bool passable(u32 reason)
{
    static const u8 reasons[] = { REASON_CPUID,  REASON_HLT,     REASON_VMCALL, REASON_RDMSR,
                                  REASON_WRMSR,  REASON_IO,      REASON_RDTSC,  REASON_RDPMC,
                                  REASON_XSETBV, REASON_MWAIT,   REASON_INVD,   REASON_MONITOR,
                                  REASON_VMREAD, REASON_VMWRITE, REASON_VMXOFF, REASON_VMCLEAR };
    for (u32 i = 0; i < COUNT(reasons); i++)
        if (reasons[i] == reason)
            return true;
    return false;
}

static u32 code_step(void)
{
    u32 m = dice_below(FENCED_MODES), hash = 2166136261u;
    struct nest *n = nest[m];
    if (!n)
        return OUTCOME_OPEN;
    code_fill();
    check_outcome("VMPTRLD", vmptrld(phys(n->vmcs)), VMX_OK);
    for (u32 i = 0; i < COUNT(kept); i++)
        field_write(kept[i], start[m][i]);
    vmset(GUEST_RIP, start_rip[m]);
    vmset(GUEST_INTERRUPTIBILITY, 0);
    vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    vmset(GUEST_PENDING_DEBUG, 0);
    vmset(ENTRY_INTR_INFO, 0);
    n->regs = (struct nest_regs){
        (ulong)dice_value(), (ulong)dice_value(), dice_below(0x1000), (ulong)dice_value(), 1, 2, 3
    };
    for (u32 i = 0; i < EXITS_MAX; i++) {
        fence(n);
        outcome_t o = nest_run(n);
        u32 reason = n->reason & 0xffff;
        if (o != VMX_OK || n->reason & REASON_ENTRY_FAILED)
            return mix(hash, o != VMX_OK ? o : n->reason);
        if (reason == REASON_TIMER || reason == REASON_EXT_INT)
            return OUTCOME_OPEN;
        hash = mix(mix(hash, reason), (u32)(vmget(GUEST_RIP) - start_rip[m]));
        if (reason == REASON_EXCEPTION)
            return mix(hash, (u32)vmget(EXIT_INTR_INFO) & 0x7ff) & 0x7fffffff;
        if (!passable(reason))
            break;
        nest_skip();
    }
    return hash & 0x7fffffff;
}

const struct hostile hostile_code = { "code", code_begin, code_step };

/* ---- ept12 ---- */

static struct ept *ept;
static struct nest *walker;
static u64 *tables; /* TABLES pages */
static ulong probe_at;
static u32 probe_op;
static volatile ulong probe_got;

static void g_probe(void)
{
    switch (probe_op) {
    case 0:
        probe_got = *(volatile ulong *)probe_at;
        break;
    case 1:
        *(volatile ulong *)probe_at = probe_at; /* as an entry: not present */
        break;
    default:
        ((void (*)(void))probe_at)();
    }
}

/* Everything 1:1 but the windows: two PDPT entries, and, where linear addresses reach them, nothing else. */
static bool ept_begin(void)
{
    if (!nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") || !nest_need(pin_msr(), PIN_TIMER, "the preemption timer"))
        return false;
    tables = page_alloc(TABLES + 1);
    walker = nest_new(NEST_SAME, g_probe);
    ept = ept_new(2 * MIB);
    if (walker)
        nest_ept(walker, ept);
    return walker && test_ok();
}

static u64 *table(u32 i) { return tables + i * 512; }

/* Device memory that answers reads by doing something is left out, and so is what this guest needs to live. */
static u64 leaf_address(void)
{
    switch (dice_below(5)) {
    case 0:
        return HIGH_RAM + dice_below((HIGH_RAM_END - HIGH_RAM) / PAGE) * (u64)PAGE;
    case 1:
        return 0xe0000000 + dice_below(64) * (u64)PAGE;
    case 2:
        return (dice() & 0xfffffff000) | 1ull << 38;
    default:
        return phys(table(dice_below(TABLES)));
    }
}

/* Nothing is executed where there is no memory: the emulator ends there, with or without a hypervisor. */
static u64 entry(void)
{
    u64 rights = dice_one_in(4) ? dice_below(8) : EPT_RWX, target;
    switch (dice_below(8)) {
    case 0: /* any bytes, but no address that is in use */
        return (dice() & ~(u64)(0xfffffffff000 | EPT_X)) | (dice() & 0x7fffff000) | 1ull << 38;
    case 1: /* a large page, of nothing */
        return (dice() & 0x3fffe00000) | 1ull << 38 | (rights & ~(u64)EPT_X) | EPT_WB | EPT_LARGE;
    case 2:
    case 3:
        target = leaf_address();
        if (target >= HIGH_RAM_END)
            rights &= ~(u64)EPT_X;
        return target | rights | (dice_one_in(2) ? EPT_WB : dice_below(8) << 3);
    default:
        return phys(table(dice_below(TABLES))) | rights;
    }
}

static u32 probe(void)
{
    probe_at = (ulong)(WINDOW_FIRST + dice_below(WINDOWS)) * (ulong)GIB + ((ulong)dice() & (GIB - 8));
    if (dice_one_in(2)) /* few indices, so that edits are met */
        probe_at &= ~(ulong)0x3fc00000 & ~(ulong)0x1fc000;
    probe_op = dice_below(3);
    vmset(GUEST_RIP, 0);
    nest_restart(walker, g_probe);
    fence(walker);
    outcome_t o = nest_run(walker);
    if (o != VMX_OK || walker->reason & REASON_ENTRY_FAILED)
        return o != VMX_OK ? o : 0x800;
    u32 reason = walker->reason & 0xffff;
    if (reason == REASON_TIMER || reason == REASON_EXT_INT)
        return OUTCOME_OPEN;
    bool ours = reason == REASON_EPT_VIOLATION || reason == REASON_EPT_MISCONFIG;
    if (ours && vmget(GUEST_PHYSICAL) != probe_at)
        return OUTCOME_OPEN; /* what it executed there led elsewhere */
    if (probe_op == 2 && !ours)
        return OUTCOME_OPEN;
    return reason << 4 | (reason == REASON_EPT_VIOLATION ? (u32)vmget(EXIT_QUALIFICATION) >> 3 & 7 : 0);
}

static u32 ept_step(void)
{
    u32 hash = 2166136261u;
    check_outcome("VMPTRLD", vmptrld(phys(walker->vmcs)), VMX_OK);
    for (u32 i = 0, edits = dice_below(12); i < edits; i++)
        table(dice_below(TABLES))[dice_one_in(2) ? dice_below(512) : dice_below(4)] = entry();
    u64 *pdpt = (u64 *)(ulong)(ept->root[0] & ~(u64)(PAGE - 1));
    for (u32 w = 0; w < WINDOWS; w++)
        pdpt[WINDOW_FIRST + w] = dice_one_in(8) ? entry() : phys(table(dice_below(TABLES))) | EPT_RWX;
    nest_flush(walker);
    for (u32 i = 0; i < ACCESSES; i++) {
        u32 outcome = probe();
        if (outcome == OUTCOME_OPEN)
            return OUTCOME_OPEN;
        hash = mix(hash, outcome);
    }
    return hash & 0x7fffffff;
}

const struct hostile hostile_ept = { "ept", ept_begin, ept_step };
