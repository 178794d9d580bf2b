/*
 * Engine of suite entry (rows: entry_*.c), and the checks that are loops rather than rows: reserved control bits,
 * PDPTEs.
 */
#include "entry.h"
#include "nest_code.h"

enum { V86_CODE = 0x9000 };
static const struct entry_row *row;
static u8 *page;

static u64 value_of(u64 v)
{
    u64 beyond = BIT(maxphyaddr());
    switch (v) {
    case BEYOND:
        return beyond;
    case PAGE_OK:
        return phys(page);
    case PAGE_ODD:
        return phys(page) + 8;
    case PAGE_TOP:
        return beyond - 16;
    case EPTP_OK:
        return ept_new(2 * MIB)->eptp;
    }
    return v;
}

static u32 capability_msr(u32 field)
{
    switch (field) {
    case PIN_CONTROLS:
        return pin_msr();
    case PROC_CONTROLS:
        return proc_msr();
    case PROC2_CONTROLS:
        return MSR_VMX_PROC2;
    case EXIT_CONTROLS:
        return exit_msr();
    case ENTRY_CONTROLS:
        return entry_msr();
    }
    return 0;
}

static bool field_exists(u32 field)
{
    u64 v;
    return field_read(field, &v) == VMX_OK;
}

/* Everything the row's changes need is there? Else the test is skipped, with the reason. */
static bool possible(void)
{
    if ((row->only & NOT_IF_ANY_ERROR_CODE && rdmsr(MSR_VMX_BASIC) & BIT(56)) ||
        (row->only & NOT_IF_EPTP_BIT7 && ept_has(23))) {
        test_skip("this CPU has no such rule");
        return false;
    }
    for (const struct change *c = row->changes; c->op; c++) {
        u32 msr = capability_msr(c->field);
        if (!field_exists(c->field)) {
            test_skip("no field %04x", c->field);
            return false;
        }
        if (c->op == OR && msr && !nest_need(msr, (u32)c->value, "a control of the row"))
            return false;
        if (c->op == CLEAR && msr && ((u32)rdmsr(msr) & (u32)c->value)) {
            test_skip("a control of the row must be 1");
            return false;
        }
    }
    return true;
}

static void apply(u64 *saved)
{
    for (const struct change *c = row->changes; c->op; c++) {
        u64 old = vmget(c->field), v = value_of(c->value);
        *saved++ = old;
        vmset(c->field, c->op == SET ? v : c->op == CLEAR ? old & ~v : old | v);
    }
}

static void restore(const u64 *saved)
{
    u32 count = 0;
    while (row->changes[count].op)
        count++;
    while (count-- > 0) /* backwards: a field may change twice */
        vmset(row->changes[count].field, saved[count]);
}

static void make_v86(void)
{
    memcpy((void *)V86_CODE, (void *)real_handler, (size_t)(real_handler_end - (char *)real_handler));
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_VM);
    for (u32 i = 0; i < 6; i++) {
        u32 selector = i == 1 ? V86_CODE >> 4 : 0;
        vmset(GUEST_ES + 2 * i, selector);
        vmset(GUEST_ES_BASE + 2 * i, selector << 4);
        vmset(GUEST_ES_LIMIT + 2 * i, 0xffff);
        vmset(GUEST_ES_AR + 2 * i, 0xf3);
    }
    vmset(GUEST_RIP, 0);
    vmset(GUEST_RSP, 0x7000);
}

static void g_nothing(void) {}

static struct nest *base_new(enum base base)
{
    // clang-format off
    static const struct { enum nest_mode mode; void (*fn)(void); bool ept; } bases[] = {
        [PLAIN] = { NEST_SAME, g_nothing, false },   [WITH_EPT] = { NEST_SAME, g_nothing, true },
        [PAE] = { NEST_PAE32, code32_hello, false }, [PAE_EPT] = { NEST_PAE32, code32_hello, true },
        [REAL] = { NEST_REAL, real_hello, false },   [V86] = { NEST_PAE32, code32_hello, false },
    };
    // clang-format on
    if (bases[base].ept && !nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        return NULL;
    struct nest *n = nest_new(bases[base].mode, bases[base].fn);
    if (!n)
        return NULL;
    if (bases[base].ept)
        nest_ept(n, ept_new(2 * MIB));
    if (base == V86)
        make_v86();
    if (base == REAL)
        vmset(GUEST_IDTR_LIMIT, 0); /* an event that should not have been delivered ends in a triple fault */
    if (!(vmget(PROC_CONTROLS) & PROC_SECONDARY) && control_supported(proc_msr(), PROC_SECONDARY)) {
        nest_control(PROC_CONTROLS, PROC_SECONDARY, 0); /* so that rows need only name the secondary bit */
        vmset(PROC2_CONTROLS, 0);
    }
    return n;
}

/* Where a valid VMCS of this base exits first. A row that must enter may come out with another exit of its own. */
static bool enters(struct nest *n, enum base base)
{
    return nest_expect(n, base == PAE || base == PAE_EPT ? REASON_CPUID : REASON_VMCALL);
}

static void expect_refusal(struct nest *n)
{
    outcome_t got = nest_run(n);
    if (row->want != BAD_GUEST) {
        check_outcome("VM entry", got, row->want);
        if (got == VMX_OK)
            test_failed("it left with exit reason %x, qualification %llx", n->reason, vmget(EXIT_QUALIFICATION));
        return;
    }
    if (!check_outcome("VM entry", got, VMX_OK))
        return;
    if (check_eq("exit reason", n->reason, row->want))
        check_eq("exit qualification", vmget(EXIT_QUALIFICATION), row->qualification);
}

static void one_row(void)
{
    u64 saved[COUNT(row->changes)];
    page = page_alloc(1);
    struct nest *n = base_new(row->base);
    if (!n || !possible())
        return;
    u64 rip = vmget(GUEST_RIP), rsp = vmget(GUEST_RSP), rflags = vmget(GUEST_RFLAGS);
    apply(saved);
    if (row->want == ENTERS) {
        enters(n, row->base);
        return;
    }
    expect_refusal(n);
    if (!test_ok())
        return;
    restore(saved);
    if (row->want == BAD_GUEST) { /* a failed entry saves nothing */
        check_eq("RIP after the failure", vmget(GUEST_RIP), rip);
        check_eq("RSP after the failure", vmget(GUEST_RSP), rsp);
        check_eq("RFLAGS after the failure", vmget(GUEST_RFLAGS), rflags);
    }
    if (!enters(n, row->base))
        test_failed("the valid VMCS, afterwards");
}

/* Each bit that may not be 1, set; each that must be 1, cleared: VMfail 7. */
static void reserved_bits(void)
{
    static const u32 fields[] = { PIN_CONTROLS, PROC_CONTROLS, PROC2_CONTROLS, EXIT_CONTROLS, ENTRY_CONTROLS };
    struct nest *n = base_new(PLAIN);
    for (u32 i = 0; n && i < COUNT(fields); i++) {
        u32 msr = capability_msr(fields[i]);
        if (msr == MSR_VMX_PROC2 && !control_supported(proc_msr(), PROC_SECONDARY))
            continue;
        u64 cap = rdmsr(msr), old = vmget(fields[i]);
        for (u32 bit = 0; bit < 32; bit++) {
            bool may = cap >> 32 >> bit & 1, must = (u32)cap >> bit & 1;
            if (may && !must)
                continue;
            vmset(fields[i], may ? old & ~BIT(bit) : old | BIT(bit));
            outcome_t got = nest_run(n);
            if (got != BAD_CONTROL)
                test_failed("field %04x bit %u: outcome %x, expected VMfailValid 7", fields[i], bit, got);
        }
        vmset(fields[i], old);
    }
    if (n)
        enters(n, PLAIN);
}

/* SDM 3, "Checks on Guest Page-Directory-Pointer-Table Entries": a present one with a reserved bit fails, number 2. */
static void pdptes(enum base base)
{
    static const u64 reserved[] = { BIT(1), BIT(2), BIT(5), BIT(8), BIT(62) };
    struct nest *n = base_new(base);
    for (u32 i = 0; n && i < 4; i++) {
        for (u32 k = 0; k <= COUNT(reserved); k++) {
            u64 good = n->pdpt[i], bad = good | (k < COUNT(reserved) ? reserved[k] : BIT(maxphyaddr()));
            if (base == PAE_EPT)
                vmset(GUEST_PDPTE0 + 2 * i, bad);
            else
                n->pdpt[i] = bad;
            if (!check_outcome("VM entry", nest_run(n), VMX_OK))
                return;
            check(n->reason == BAD_GUEST, "PDPTE %u = %llx: exit reason %x", i, bad, n->reason);
            check_eq("exit qualification", vmget(EXIT_QUALIFICATION), 2);
            if (base == PAE_EPT)
                vmset(GUEST_PDPTE0 + 2 * i, good);
            n->pdpt[i] = good;
        }
    }
    if (n)
        enters(n, base);
}
static void pdptes_memory(void) { pdptes(PAE); }
static void pdptes_fields(void) { pdptes(PAE_EPT); }

static void link_pointer_revision(void)
{
    struct nest *n = base_new(PLAIN);
    u32 *other = page_alloc(1);
    if (!n)
        return;
    *other = vmcs_revision() ^ 1;
    vmset(LINK_POINTER, phys(other));
    NEST_RUN(n, BAD_GUEST);
    check_eq("exit qualification", vmget(EXIT_QUALIFICATION), 4);
    vmset(LINK_POINTER, ~0ull);
    enters(n, PLAIN);
}

static void run(void)
{
    static const struct entry_row *const lists[] = { entry_control_rows, entry_host_rows, entry_guest_rows,
                                                     entry_segment_rows, entry_accept_rows };
    test_run("reserved-bits", reserved_bits, true);
    test_run("pdptes", pdptes_memory, true);
    test_run("pdptes-ept", pdptes_fields, true);
    test_run("link-pointer-revision", link_pointer_revision, true);
    for (u32 i = 0; i < COUNT(lists); i++)
        for (row = lists[i]; row->name; row++)
            if ((row->only & 3) != (IS64 ? ONLY32 : ONLY64))
                test_run(row->name, one_row, true);
}
const struct suite suite_entry = { "entry", NULL, run, true, false };
