/*
 * What a VMCS region keeps: every field through VMCLEAR, VMPTRLD, other VMCSs, VMXOFF and another CPU; launch state;
 * regions that start as garbage.
 */
#include "vmcs_fields.h"

const struct field fields[FIELDS] = {
#define ROW(name, encoding) { #name, encoding },
    VMCS_FIELDS(ROW)
#undef ROW
};
enum { MANY = 16, SEED_STEP = 0x1000193 };
bool supported[FIELDS];

bool is_access_rights(u32 f) { return f >= GUEST_ES_AR && f <= GUEST_TR_AR; }

/* A value of its own for each field and seed; undefined bits of access rights need not be kept. */
u64 pattern(u32 f, u32 seed)
{
    u64 v = (f + 0x9e3779b9u) * (0x9e3779b97f4a7c15ull + seed * (u64)SEED_STEP);
    return (v ^ v >> 29) & (is_access_rights(f) ? 0x1f0ff : field_mask(f));
}

bool writable(u32 f) { return field_kind(f) != KIND_EXIT || (rdmsr(MSR_VMX_MISC) >> 29 & 1); }
/* Any VMX instruction that fails rewrites it. */
bool volatile_field(u32 f) { return f == INSN_ERROR; }

u32 fill(u32 seed)
{
    u32 count = 0;
    for (u32 i = 0; i < FIELDS; i++) {
        u32 f = fields[i].encoding;
        supported[i] = false;
        if (!writable(f) || volatile_field(f))
            continue;
        outcome_t o = field_write(f, pattern(f, seed));
        if (o == FAIL_VALID(ERR_FIELD))
            continue;
        supported[i] = check_outcome(fields[i].name, o, VMX_OK);
        count++;
    }
    return count;
}

void compare(const char *when, u32 seed)
{
    for (u32 i = 0; i < FIELDS; i++) {
        u32 f = fields[i].encoding;
        u64 v;
        if (!supported[i] || !check_outcome(fields[i].name, field_read(f, &v), VMX_OK))
            continue;
        if (is_access_rights(f))
            v &= 0x1f0ff;
        check(v == pattern(f, seed), "%s %s: got %llx, expected %llx", fields[i].name, when, v, pattern(f, seed));
    }
}

static bool load(void *vmcs) { return check_outcome("VMPTRLD", vmptrld(phys(vmcs)), VMX_OK); }
static bool clear(void *vmcs) { return check_outcome("VMCLEAR", vmclear(phys(vmcs)), VMX_OK); }

static void keep(void)
{
    void *a = vmcs_alloc();
    load(a);
    check(fill(1) > 100, "fewer than 100 fields supported");
    compare("at once", 1);
    clear(a);
    load(a);
    compare("after VMCLEAR", 1);
    load(a);
    compare("after VMPTRLD of the current one", 1);
    clear(a);
    clear(a);
    clear(a);
    load(a);
    compare("after three VMCLEARs", 1);
}

static void alternate(void)
{
    void *a = vmcs_alloc(), *b = vmcs_alloc();
    load(a);
    fill(1);
    load(b);
    fill(2);
    load(a);
    compare("of the first, the second active", 1);
    fill(3);
    load(b);
    compare("of the second", 2);
    clear(a); /* not current, active */
    compare("of the second, the first cleared", 2);
    load(a);
    compare("of the first, cleared while not current", 3);
    clear(b);
    clear(a);
    load(b);
    compare("of the second, cleared", 2);
    clear(a); /* clear and not active: keeps its contents */
    load(a);
    compare("of the first, cleared twice", 3);
}

/* A cleared region is all of the VMCS: a copy of the memory is a copy of it. SDM 3, "Software Use of Virtual-Machine Control Structures". */
static void copied(void)
{
    u64 *a = vmcs_alloc(), *b = vmcs_alloc();
    load(a);
    fill(4);
    clear(a);
    for (u32 i = 0; i < PAGE / sizeof(u64); i++)
        b[i] = a[i];
    load(a);
    fill(5);
    load(b);
    compare("of the copy", 4);
    load(a);
    compare("of the original, changed since", 5);
    clear(a);
    clear(b);
    load(b);
    compare("of the copy, cleared", 4);
}

static void many(void)
{
    void *vmcs[MANY];
    for (u32 i = 0; i < MANY; i++) {
        vmcs[i] = vmcs_alloc();
        load(vmcs[i]);
        fill(i);
    }
    for (u32 i = 0; i < MANY; i++) {
        u32 pick = i * 5 % MANY;
        load(vmcs[pick]);
        compare("of one of many active", pick);
    }
    for (u32 i = 0; i < MANY; i++)
        clear(vmcs[i]);
    for (u32 i = MANY; i-- > 0;) {
        load(vmcs[i]);
        compare("of one of many, cleared", i);
    }
}

static void vmxoff_between(void)
{
    void *a = vmcs_alloc(), *b = vmcs_alloc();
    load(b);
    fill(6);
    load(a);
    fill(5);
    clear(a);
    clear(b);
    check_outcome("VMXOFF", vmxoff(), VMX_OK);
    check_outcome("VMXON", vmxon(phys(this_cpu()->vmxon)), VMX_OK);
    load(a);
    compare("after VMXOFF and VMXON", 5);
    load(b);
    compare("of the other after VMXOFF and VMXON", 6);
}

static void revision_first(void)
{
    u32 *a = vmcs_alloc();
    load(a);
    fill(7);
    a[0] = vmcs_revision(); /* as KVM does, before VMCLEAR */
    clear(a);
    a[0] = vmcs_revision();
    check_eq("revision identifier after VMCLEAR", a[0], vmcs_revision());
    load(a);
    compare("after the revision was written", 7);
}

/* ---- on the other CPU ---- */
static struct {
    void *vmcs;
    u32 seed;
    struct nest *nest;
    outcome_t outcome;
    const char *differs, *strange;
    u64 got;
} there;

static void visit(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    there.outcome = vmptrld(phys(there.vmcs));
    there.differs = NULL;
    for (u32 i = 0; i < FIELDS; i++) {
        u32 f = fields[i].encoding;
        u64 v;
        bool here = field_read(f, &v) == VMX_OK;
        if (here != supported[i] && !volatile_field(f) && writable(f))
            there.strange = fields[i].name;
        if (!supported[i])
            continue;
        if (is_access_rights(f))
            v &= 0x1f0ff;
        if (v != pattern(f, there.seed) && !there.differs) {
            there.differs = fields[i].name;
            there.got = v;
        }
        field_write(f, pattern(f, there.seed + 1));
    }
    vmclear(phys(there.vmcs));
    vmx_leave_operation();
}

static bool on_other(void (*fn)(void *))
{
    if (cpu_count < 2) {
        test_skip("one CPU");
        return false;
    }
    cpu_call(1, fn, NULL);
    return check(cpu_wait(1, 2000), "the other CPU did not finish");
}

static void migrate(void)
{
    there.vmcs = vmcs_alloc();
    load(there.vmcs);
    fill(9);
    clear(there.vmcs);
    for (there.seed = 9; there.seed < 13; there.seed += 2) {
        if (!on_other(visit))
            return;
        check_outcome("VMPTRLD there", there.outcome, VMX_OK);
        check(!there.differs, "%s on the other CPU: got %llx", there.differs, there.got);
        load(there.vmcs);
        compare("after its visit to the other CPU", there.seed + 1);
        fill(there.seed + 2);
        clear(there.vmcs);
    }
}

static void same_fields(void)
{
    there.vmcs = vmcs_alloc();
    there.strange = NULL;
    load(there.vmcs);
    fill(1);
    clear(there.vmcs);
    if (on_other(visit))
        check(!there.strange, "%s exists on one CPU only", there.strange);
}

static void nest_count(void)
{
    for (;;)
        asm volatile("inc %%ebx\nvmcall" : : : "ebx");
}

static void run_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    nest_adopt(there.nest);
    nest_expect(there.nest, REASON_VMCALL);
    nest_skip();
    vmclear(phys(there.nest->vmcs));
    vmx_leave_operation();
}

static void migrate_launched(void)
{
    struct nest *n = there.nest = nest_new(NEST_SAME, nest_count);
    if (!n)
        return;
    n->regs.bx = 0;
    NEST_RUN(n, REASON_VMCALL);
    nest_skip();
    for (u32 i = 0; i < 3; i++) {
        clear(n->vmcs);
        if (!on_other(run_there))
            return;
        nest_adopt(n);
        NEST_RUN(n, REASON_VMCALL);
        nest_skip();
    }
    check_eq("rounds counted by the nested guest", n->regs.bx, 7);
}

static void launch_state(void)
{
    struct nest *a = nest_new(NEST_SAME, nest_count), *b = a ? nest_new(NEST_SAME, nest_count) : NULL;
    if (!b)
        return;
    for (u32 i = 0; i < 3; i++) {
        load(a->vmcs);
        NEST_RUN(a, REASON_VMCALL); /* VMLAUNCH first, VMRESUME then: it stays launched while the other runs */
        nest_skip();
        load(b->vmcs);
        NEST_RUN(b, REASON_VMCALL);
        nest_skip();
    }
    check_outcome("VMLAUNCH of the launched one", vmlaunch(), FAIL_VALID(ERR_LAUNCH_NOT_CLEAR));
    clear(a->vmcs);
    check_outcome("VMLAUNCH, the other cleared", vmlaunch(), FAIL_VALID(ERR_LAUNCH_NOT_CLEAR));
    load(a->vmcs);
    check_outcome("VMRESUME of the cleared one", vmresume(), FAIL_VALID(ERR_RESUME_NOT_LAUNCHED));
}

static void garbage(u8 fill_with)
{
    vmcs_fill = fill_with;
    struct nest *n = nest_new(NEST_SAME, nest_count);
    if (!n)
        return;
    NEST_RUN(n, REASON_VMCALL);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    clear(n->vmcs);
}
static void garbage_ones(void) { garbage(0xff); }
static void garbage_a5(void) { garbage(0xa5); }
static void garbage_01(void) { garbage(0x01); }

/* A launched VMCS that is not VMCLEARed before its memory is written over and started again. */
static void overwritten(void)
{
    struct nest *n = nest_new(NEST_SAME, nest_count);
    if (!n)
        return;
    NEST_RUN(n, REASON_VMCALL);
    clear(n->vmcs);
    memset(n->vmcs, 0x5a, PAGE);
    *(u32 *)n->vmcs = vmcs_revision();
    clear(n->vmcs);
    load(n->vmcs);
    check_outcome("VMRESUME", vmresume(), FAIL_VALID(ERR_RESUME_NOT_LAUNCHED));
    ulong v;
    check_outcome("VMREAD", vmread(GUEST_RIP, &v), VMX_OK);
    fill(1);
    compare("of a region written over", 1);
}

// clang-format off
static const struct test tests[] = {
    { "keep", keep },
    { "alternate", alternate },
    { "copied", copied },
    { "many", many },
    { "vmxoff-between", vmxoff_between },
    { "revision-first", revision_first },
    { "migrate", migrate },
    { "same-fields", same_fields },
    { "migrate-launched", migrate_launched },
    { "launch-state", launch_state },
    { "garbage-ones", garbage_ones },
    { "garbage-a5", garbage_a5 },
    { "garbage-01", garbage_01 },
    { "overwritten", overwritten },
    { NULL, NULL },
};
// clang-format on

static void run(void)
{
    static const struct test *const lists[] = { tests, vmcs_owner_tests, vmcs_shadow_tests };
    for (u32 i = 0; i < COUNT(lists); i++)
        for (const struct test *t = lists[i]; t->name; t++)
            test_run(t->name, t->run, true);
}
const struct suite suite_vmcs = { "vmcs", NULL, run, true, true };
