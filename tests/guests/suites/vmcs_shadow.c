/*
 * VMCS shadowing as a guest hypervisor uses it for its nested guest: VMREAD and VMWRITE there reach the VMCS of the link
 * pointer, field by field, or exit by the bitmaps' bits. SDM 3, "VMCS Types: Ordinary and Shadow".
 * And a VMCS whose entry has failed after edits in place.
 */
#include "vmcs_fields.h"

#define SHADOW_INDICATOR 0x80000000u
enum { OLD = 20, NEW = 21, BEYOND_BITMAPS = 0x8000 };

static struct {
    struct nest *n;
    u8 *reads, *writes; /* bitmaps */
    outcome_t read[FIELDS], written[FIELDS];
    u64 value[FIELDS];
    u32 field;
    ulong out;
    outcome_t outcome;
} sh;

/* In the nested guest: every field is read, then written. */
static void g_all(void)
{
    for (u32 i = 0; i < FIELDS; i++)
        sh.read[i] = field_read(fields[i].encoding, &sh.value[i]);
    for (u32 i = 0; i < FIELDS; i++)
        if (!volatile_field(fields[i].encoding))
            sh.written[i] = field_write(fields[i].encoding, pattern(fields[i].encoding, NEW));
}
static void g_read(void) { sh.outcome = vmread(sh.field, &sh.out); }
static void g_write(void) { sh.outcome = vmwrite(sh.field, sh.out); }

static u32 *shadow_new(u32 seed)
{
    u32 *region = vmcs_alloc();
    check_outcome("VMPTRLD", vmptrld(phys(region)), VMX_OK);
    fill(seed);
    check_outcome("VMCLEAR", vmclear(phys(region)), VMX_OK);
    region[0] |= SHADOW_INDICATOR;
    return region;
}

/* The nested guest with `shadow` behind it; bitmaps that let everything through. */
static bool start(const u32 *shadow, void (*fn)(void))
{
    struct nest *n = sh.n = nest_new(NEST_SAME, fn);
    if (!n)
        return false;
    sh.reads = page_alloc(1);
    sh.writes = page_alloc(1);
    nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
    vmset(PROC2_CONTROLS, PROC2_SHADOW);
    vmset(VMREAD_BITMAP, phys(sh.reads));
    vmset(VMWRITE_BITMAP, phys(sh.writes));
    vmset(LINK_POINTER, shadow ? phys(shadow) : ~0ull);
    return test_ok();
}

static bool need_shadowing(void) { return nest_need(MSR_VMX_PROC2, PROC2_SHADOW, "VMCS shadowing"); }

/* The region becomes an ordinary VMCS again, and current. */
static void load_ordinary(u32 *region)
{
    check_outcome("VMCLEAR of the shadow VMCS", vmclear(phys(region)), VMX_OK);
    region[0] &= ~SHADOW_INDICATOR;
    check_outcome("VMPTRLD of what was the shadow VMCS", vmptrld(phys(region)), VMX_OK);
}

static void every_field(void)
{
    u32 *shadow = need_shadowing() ? shadow_new(OLD) : NULL;
    if (!shadow || !start(shadow, g_all))
        return;
    NEST_RUN(sh.n, REASON_VMCALL);
    for (u32 i = 0; i < FIELDS; i++) {
        u32 f = fields[i].encoding;
        u64 got = is_access_rights(f) ? sh.value[i] & 0x1f0ff : sh.value[i];
        if (volatile_field(f) || !writable(f))
            continue;
        check_outcome(fields[i].name, sh.read[i], supported[i] ? VMX_OK : FAIL_VALID(ERR_FIELD));
        check_outcome(fields[i].name, sh.written[i], supported[i] ? VMX_OK : FAIL_VALID(ERR_FIELD));
        if (supported[i])
            check_eq(fields[i].name, got, pattern(f, OLD));
    }
    check_eq("launched all the time: RIP", vmget(GUEST_RIP) != pattern(GUEST_RIP, NEW), 1);
    load_ordinary(shadow);
    compare("written by the nested guest", NEW);
}

static void bitmaps(void)
{
    u32 *shadow = need_shadowing() ? shadow_new(OLD) : NULL;
    if (!shadow || !start(shadow, g_read))
        return;
    sh.reads[GUEST_RIP / 8] |= 1 << GUEST_RIP % 8;
    sh.writes[GUEST_RSP / 8] |= 1 << GUEST_RSP % 8;
    static const struct {
        void (*fn)(void);
        u32 field, reason;
    } rows[] = {
        { g_read, GUEST_RIP, REASON_VMREAD },      { g_read, GUEST_RSP, REASON_VMCALL },
        { g_write, GUEST_RSP, REASON_VMWRITE },    { g_write, GUEST_RIP, REASON_VMCALL },
        { g_read, BEYOND_BITMAPS, REASON_VMREAD }, { g_write, BEYOND_BITMAPS, REASON_VMWRITE },
        { g_read, HOST_RIP, REASON_VMCALL },       { g_write, HOST_RIP, REASON_VMCALL },
        { g_read, PROC_CONTROLS, REASON_VMCALL },  { g_write, PROC_CONTROLS, REASON_VMCALL },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        sh.field = rows[i].field;
        sh.out = (ulong)pattern(sh.field, NEW);
        nest_restart(sh.n, rows[i].fn);
        if (!nest_expect(sh.n, rows[i].reason)) {
            test_failed("field %04x", sh.field);
            return;
        }
        if (rows[i].reason != REASON_VMCALL)
            continue;
        check_outcome("VMREAD or VMWRITE there", sh.outcome, VMX_OK);
        if (rows[i].fn == g_read)
            check_eq("value read there", sh.out, (ulong)pattern(sh.field, OLD));
    }
    load_ordinary(shadow);
    check_eq("RSP, whose writes exit", vmget(GUEST_RSP), pattern(GUEST_RSP, OLD));
    check_eq("RIP, whose writes do not", vmget(GUEST_RIP), pattern(GUEST_RIP, NEW));
    check_eq("host RIP", vmget(HOST_RIP), pattern(HOST_RIP, NEW));
    check_eq("controls", vmget(PROC_CONTROLS), pattern(PROC_CONTROLS, NEW));
}

static void no_link(void) /* there is no current VMCS, then */
{
    if (!need_shadowing() || !start(NULL, g_read))
        return;
    sh.field = GUEST_RIP;
    NEST_RUN(sh.n, REASON_VMCALL);
    check_outcome("VMREAD without a link pointer", sh.outcome, VMX_INVALID);
    nest_restart(sh.n, g_write);
    NEST_RUN(sh.n, REASON_VMCALL);
    check_outcome("VMWRITE without a link pointer", sh.outcome, VMX_INVALID);
}

static void link_current(void)
{
    if (!need_shadowing() || !start(NULL, g_read))
        return;
    vmset(LINK_POINTER, phys(sh.n->vmcs));
    NEST_RUN(sh.n, REASON_ENTRY_FAILED | REASON_BAD_GUEST);
    check_eq("exit qualification", vmget(EXIT_QUALIFICATION), 4);
}

/* One VMCS, current and shadow in turn, without VMCLEAR: either way shows what was written the other way. */
static void two_paths(void)
{
    static const u32 some[] = { GUEST_RIP, GUEST_CR3, HOST_RIP, PROC_CONTROLS, EPTP, GUEST_CS, TSC_OFFSET };
    u32 *shadows[2] = { need_shadowing() ? shadow_new(OLD) : NULL, NULL };
    if (!shadows[0])
        return;
    shadows[1] = shadow_new(OLD);
    if (!start(shadows[0], g_write))
        return;
    for (u32 round = 0; round < 4; round++)
        for (u32 i = 0; i < COUNT(some); i++) {
            u32 *shadow = shadows[round & 1];
            ulong want = (ulong)pattern(some[i], 30 + round), v;
            check_outcome("VMPTRLD of the shadow VMCS", vmptrld(phys(shadow)), VMX_OK);
            if (vmwrite(some[i], want) != VMX_OK)
                continue;
            check_outcome("VMPTRLD back", vmptrld(phys(sh.n->vmcs)), VMX_OK);
            vmset(LINK_POINTER, phys(shadow));
            sh.field = some[i];
            nest_restart(sh.n, g_read);
            NEST_RUN(sh.n, REASON_VMCALL);
            check_eq("written by the hypervisor, read by the nested guest", sh.out, want);
            sh.out = want = (ulong)pattern(some[i], 40 + round);
            nest_restart(sh.n, g_write);
            NEST_RUN(sh.n, REASON_VMCALL);
            check_outcome("VMPTRLD of the shadow VMCS", vmptrld(phys(shadow)), VMX_OK);
            check_outcome("VMREAD", vmread(some[i], &v), VMX_OK);
            check_eq("written by the nested guest, read by the hypervisor", v, want);
            check_outcome("VMPTRLD back", vmptrld(phys(sh.n->vmcs)), VMX_OK);
        }
    check_outcome("VMPTRLD of the shadow VMCS", vmptrld(phys(shadows[0])), VMX_OK);
    outcome_t o = vmlaunch();
    check(o != VMX_OK && o < VMX_FLAGS, "VMLAUNCH of a shadow VMCS: outcome %x", o);
}

/* ---- an entry that fails after edits in place ---- */
static void g_nothing(void) {}

static void failed_entry(void)
{
    static const struct {
        u32 field;
        u64 bad;
        u32 reason; /* 0: VMfailValid */
    } rows[] = {
        { GUEST_RFLAGS, 0, REASON_BAD_GUEST },
        { GUEST_ACTIVITY, 9, REASON_BAD_GUEST },
        { GUEST_CS_AR, 0x1f0ff, REASON_BAD_GUEST },
        { CR3_TARGET_COUNT, 99, 0 },
        { HOST_CS, 0, 0 },
        { GUEST_TR_AR, 0x10000, REASON_BAD_GUEST },
    };
    static const u32 kept[] = { GUEST_CR3, GUEST_RSP, GUEST_SYSENTER_EIP, CR4_SHADOW, TSC_OFFSET, GUEST_DS_LIMIT };
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    NEST_RUN(n, REASON_VMCALL);
    for (u32 i = 0; i < COUNT(rows); i++) {
        u64 good = vmget(rows[i].field), before[COUNT(kept)];
        for (u32 k = 0; k < COUNT(kept); k++)
            before[k] = vmget(kept[k]);
        vmset(rows[i].field, rows[i].bad);
        outcome_t o = nest_run(n);
        if (rows[i].reason)
            check_eq("exit reason", o == VMX_OK ? n->reason : ~0u, REASON_ENTRY_FAILED | rows[i].reason);
        else
            check(o == FAIL_VALID(ERR_CONTROLS) || o == FAIL_VALID(ERR_HOST_STATE), "outcome %x", o);
        check_eq("the bad value", vmget(rows[i].field), rows[i].bad);
        for (u32 k = 0; k < COUNT(kept); k++)
            check_eq("a field after the failed entry", vmget(kept[k]), before[k]);
        if (i & 1) { /* the failed one goes away and comes back */
            check_outcome("VMCLEAR", vmclear(phys(n->vmcs)), VMX_OK);
            check_outcome("VMPTRLD", vmptrld(phys(n->vmcs)), VMX_OK);
            check_eq("the bad value after VMCLEAR", vmget(rows[i].field), rows[i].bad);
            n->launched = false;
        }
        vmset(rows[i].field, good);
        nest_restart(n, g_nothing);
        NEST_RUN(n, REASON_VMCALL);
    }
}

// clang-format off
const struct test vmcs_shadow_tests[] = {
    { "shadow-every-field", every_field },
    { "shadow-bitmaps", bitmaps },
    { "shadow-no-link", no_link },
    { "shadow-link-current", link_current },
    { "shadow-two-paths", two_paths },
    { "failed-entry", failed_entry },
    { NULL, NULL },
};
// clang-format on
