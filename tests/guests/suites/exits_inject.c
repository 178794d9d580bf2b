/*
 * Events injected on entry, and IDT-vectoring information when a delivery is cut short by an exit
 * (SDM 3, "Event Injection", "Information for VM Exits That Occur During Event Delivery").
 */
#include "exits.h"

static void g_nothing(void) {}
/* In assembly, so that nothing is pushed before the event. */
void g_ud(void);
void g_int30(void);
void g_int3(void);
void g_gp(void);
asm("g_ud: ud2\ng_int30: int $0x30\ng_int3: int3\ng_gp: mov $0x1234,%eax\nmov %ax,%ds\n");
static void g_ipi(void)
{
    apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | 0x52);
    irq_on();
    for (u32 i = 0; i < 1000; i++)
        pause();
}

static const struct event {
    const char *name;
    u32 info, error, length;
} events[] = {
    { "external interrupt", INTR_EXT | 0x61, 0, 0 },
    { "external interrupt 255", INTR_EXT | 0xff, 0, 0 },
    { "NMI", INTR_NMI | VEC_NMI, 0, 0 },
    { "#DE", INTR_HARD | VEC_DE, 0, 0 },
    { "#UD", INTR_HARD | VEC_UD, 0, 0 },
    { "#DF", INTR_HARD | INTR_ERROR | VEC_DF, 0, 0 },
    { "#GP", INTR_HARD | INTR_ERROR | VEC_GP, 0x1235, 0 },
    { "#PF", INTR_HARD | INTR_ERROR | VEC_PF, 7, 0 },
    { "#AC", INTR_HARD | INTR_ERROR | VEC_AC, 0, 0 },
    { "software interrupt", INTR_SOFT_INT | 0x30, 0, 2 },
    { "software interrupt, 15 bytes", INTR_SOFT_INT | 0x31, 0, 15 },
    { "INT1", INTR_PRIV | VEC_DB, 0, 1 },
    { "INT3", INTR_SOFT | VEC_BP, 0, 1 },
    { "INTO", INTR_SOFT | VEC_OF, 0, 1 },
};

static void inject(const struct event *e)
{
    vmset(ENTRY_INTR_INFO, INTR_VALID | e->info);
    vmset(ENTRY_ERROR_CODE, e->error);
    vmset(ENTRY_INSN_LENGTH, e->length);
    if ((e->info & 0x700) == INTR_EXT)
        vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
}

static void injection(void)
{
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    for (const struct event *e = events; n && e < events + COUNT(events); e++) {
        nest_restart(n, g_nothing);
        u64 rip = vmget(GUEST_RIP), flags;
        inject(e);
        flags = vmget(GUEST_RFLAGS);
        if (!nest_event(n, e->info & 0xff, e->info & INTR_ERROR ? e->error : 0)) {
            test_failed("injecting %s", e->name);
            return;
        }
        const struct nest_frame *f = nest_frame();
        check(f->ip == rip + e->length, "%s: pushed RIP %lx, expected %llx", e->name, f->ip, rip + e->length);
        check(f->flags == flags, "%s: pushed RFLAGS %lx, expected %llx", e->name, f->flags, flags);
        check_eq("interruption information after the entry", vmget(ENTRY_INTR_INFO) & INTR_VALID, 0);
        check_eq("IDT-vectoring information", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
        check_masked("RFLAGS.IF behind an interrupt gate", vmget(GUEST_RFLAGS), 0, RFLAGS_IF);
        if (e->length == 0) {
            nest_skip();
            NEST_RUN(n, REASON_VMCALL);
        }
    }
}

/* An event that is in the exception bitmap is delivered all the same when injected. */
static void injection_ignores_bitmap(void)
{
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    vmset(EXCEPTION_BITMAP, ~0u);
    for (u32 i = 3; i < COUNT(events); i++) {
        nest_restart(n, g_nothing);
        inject(&events[i]);
        if (!nest_event(n, events[i].info & 0xff, events[i].info & INTR_ERROR ? events[i].error : 0))
            return;
    }
}

static void injection_hlt(void) /* an injected event wakes HLT */
{
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    for (u32 i = 0; i < 3; i += 2) { /* external interrupt, NMI */
        nest_restart(n, g_nothing);
        vmset(GUEST_ACTIVITY, ACTIVITY_HLT);
        inject(&events[i]);
        if (!nest_event(n, events[i].info & 0xff, 0))
            return;
        check_eq("activity state in the handler", vmget(GUEST_ACTIVITY), ACTIVITY_ACTIVE);
        nest_skip();
        NEST_RUN(n, REASON_VMCALL);
    }
}

/* The stack's pages out of EPT: the push of any event's frame exits. */
static struct nest *with_stack_out(u64 *page)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(NEST_SAME, g_nothing) : NULL;
    if (!n)
        return NULL;
    *page = phys(n->stack_top) & ~(u64)(PAGE - 1);
    nest_ept(n, ept_new(2 * MIB));
    return n;
}

static void stack_out(struct nest *n, u64 page)
{
    ept_set(n->ept, page, PAGE, 0);
    check_outcome("INVEPT", ept_flush(n->ept), VMX_OK);
}

static void stack_in(struct nest *n, u64 page)
{
    ept_set(n->ept, page, PAGE, page | EPT_RWX | EPT_WB);
    check_outcome("INVEPT", ept_flush(n->ept), VMX_OK);
}

static void check_vectoring(const struct event *e)
{
    check_masked(e->name, vmget(IDT_VECTORING_INFO), INTR_VALID | e->info, 0x80000fff);
    if (e->info & INTR_ERROR)
        check_eq("IDT-vectoring error code", vmget(IDT_VECTORING_ERROR), e->error);
    if (e->length)
        check_eq("instruction length", vmget(EXIT_INSN_LENGTH), e->length);
    check_masked("violation: a write", vmget(EXIT_QUALIFICATION), 2, 7);
}

/* As a hypervisor re-injects: what IDT-vectoring information says, with error code and length. */
static bool reinject(struct nest *n, const struct event *e)
{
    u32 info = (u32)vmget(IDT_VECTORING_INFO) & 0x80000fff;
    vmset(ENTRY_INTR_INFO, info);
    vmset(ENTRY_ERROR_CODE, vmget(IDT_VECTORING_ERROR));
    vmset(ENTRY_INSN_LENGTH, vmget(EXIT_INSN_LENGTH));
    if ((info & 0x700) == INTR_NMI)
        vmset(GUEST_INTERRUPTIBILITY, vmget(GUEST_INTERRUPTIBILITY) & ~(u64)BLOCK_NMI);
    return nest_event(n, e->info & 0xff, e->info & INTR_ERROR ? e->error : 0);
}

static void vectoring_injected(void)
{
    u64 page;
    struct nest *n = with_stack_out(&page);
    for (const struct event *e = events; n && e < events + COUNT(events); e++) {
        if (e->length > 2)
            continue;
        nest_restart(n, g_nothing);
        u64 rip = vmget(GUEST_RIP);
        stack_out(n, page);
        inject(e);
        NEST_RUN(n, REASON_EPT_VIOLATION);
        check_vectoring(e);
        check_eq("RIP", vmget(GUEST_RIP), rip);
        check_eq("guest-physical page", vmget(GUEST_PHYSICAL) & ~(u64)(PAGE - 1), page);
        stack_in(n, page);
        if (!reinject(n, e)) {
            test_failed("re-injecting %s", e->name);
            return;
        }
        check(nest_frame()->ip == rip + e->length, "%s: pushed RIP %lx, expected %llx", e->name, nest_frame()->ip,
              rip + e->length);
    }
}

static void vectoring_raised(void)
{
    // clang-format off
    static const struct { struct event e; void (*guest)(void); } rows[] = {
        { { "#UD", INTR_HARD | VEC_UD, 0, 0 }, g_ud },
        { { "INT 30h", INTR_SOFT_INT | 0x30, 0, 2 }, g_int30 },
        { { "INT3", INTR_SOFT | VEC_BP, 0, 1 }, g_int3 },
        { { "#GP", INTR_HARD | INTR_ERROR | VEC_GP, 0x1234, 0 }, g_gp },
    };
    // clang-format on
    u64 page;
    struct nest *n = with_stack_out(&page);
    for (u32 i = 0; n && i < COUNT(rows); i++) {
        nest_restart(n, g_nothing);
        vmset(GUEST_RIP, (ulong)rows[i].guest);
        stack_out(n, page);
        NEST_RUN(n, REASON_EPT_VIOLATION);
        check_vectoring(&rows[i].e);
        stack_in(n, page);
        if (!reinject(n, &rows[i].e)) {
            test_failed("re-injecting %s", rows[i].e.name);
            return;
        }
    }
}

static void vectoring_interrupt(void)
{
    static const struct event e = { "external interrupt", INTR_EXT | 0x52, 0, 0 };
    u64 page;
    struct nest *n = with_stack_out(&page);
    if (!n)
        return;
    apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | 0x52);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    stack_out(n, page);
    NEST_RUN(n, REASON_EPT_VIOLATION);
    check_vectoring(&e);
    stack_in(n, page);
    if (!reinject(n, &e))
        return;
    apic_eoi();
}

/* A fault of the delivery itself: the page tables' #PF, not EPT. */
static void vectoring_fault(void)
{
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    vmset(EXCEPTION_BITMAP, BIT(VEC_PF));
    vmset(GUEST_RSP, hole_va + 0x800);
    vmset(ENTRY_INTR_INFO, INTR_VALID | INTR_HARD | VEC_UD);
    NEST_RUN(n, REASON_EXCEPTION);
    check_masked("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_HARD | INTR_ERROR | VEC_PF,
                 0x80000fff);
    check_masked("IDT-vectoring information", vmget(IDT_VECTORING_INFO), INTR_VALID | INTR_HARD | VEC_UD, 0x80000fff);
    vmset(EXCEPTION_BITMAP, BIT(VEC_DF));
    vmset(ENTRY_INTR_INFO, INTR_VALID | INTR_HARD | VEC_UD);
    NEST_RUN(n, REASON_EXCEPTION);
    check_masked("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_HARD | INTR_ERROR | VEC_DF,
                 0x80000fff);
    check_eq("#DF is no exit during delivery", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
    vmset(EXCEPTION_BITMAP, 0);
    vmset(ENTRY_INTR_INFO, INTR_VALID | INTR_HARD | VEC_UD);
    NEST_RUN(n, REASON_TRIPLE_FAULT);
    check_eq("nor is a triple fault", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
}

static void interrupt_ack_then_inject(void) /* the whole way of a hypervisor that owns the interrupts */
{
    struct nest *n = nest_need(exit_msr(), EXIT_ACK_INT, "acknowledge on exit") ? nest_new(NEST_SAME, g_ipi) : NULL;
    if (!n)
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, EXIT_ACK_INT, 0);
    NEST_RUN(n, REASON_EXT_INT);
    u32 info = (u32)vmget(EXIT_INTR_INFO);
    check_eq("interruption information", info, INTR_VALID | INTR_EXT | 0x52);
    vmset(ENTRY_INTR_INFO, info);
    if (!nest_event(n, 0x52, 0))
        return;
    apic_eoi();
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
}

// clang-format off
const struct test exit_inject_tests[] = {
    { "injection", injection },
    { "injection-ignores-bitmap", injection_ignores_bitmap },
    { "injection-hlt", injection_hlt },
    { "vectoring-injected", vectoring_injected },
    { "vectoring-raised", vectoring_raised },
    { "vectoring-interrupt", vectoring_interrupt },
    { "vectoring-fault", vectoring_fault },
    { "interrupt-ack-then-inject", interrupt_ack_then_inject },
    { NULL, NULL },
};
// clang-format on
