/*
 * PDPTEs of a nested guest with PAE paging: registers of the processor, loaded by MOV to CR3 and by those writes of CR0
 * and CR4 that SDM 3, "PDPTE Registers" names, and at VM entry from memory or (with EPT) from the VMCS. A reserved bit is
 * #GP in the nested guest, and nothing has changed then.
 */
#include "exits.h"
#include "nest_code.h"

/* What the last GiB begins with before and after its PDPTE is exchanged. */
enum { BEFORE = 0xaaaa, AFTER = 0xbbbb, GATE_INTERRUPT = 0x8e00 };
#define WINDOW 0xc0000000ul

static struct {
    struct nest *n;
    u64 first, second; /* PDPTEs of the window */
} pae;

static u64 directory_showing(u64 region, u32 mark)
{
    u64 *directory = page_alloc(1);
    directory[0] = region | 0xe7;
    *(u32 *)(ulong)region = mark;
    return phys(directory) | 1;
}

/* The last exit was at the handler of #GP. */
static void expect_gp(const char *when)
{
    NEST_RUN(pae.n, REASON_VMCALL);
    check(vmget(GUEST_RIP) > (ulong)code32_gp && vmget(GUEST_RIP) < (ulong)code32_gp + 16, "%s: no #GP, RIP %llx", when,
          vmget(GUEST_RIP));
    check_eq(when, pae.n->regs.dx, 0);
}

static bool start(enum nest_mode mode, bool with_ept, void (*fn)(void))
{
    u64 *idt = page_alloc(1);
    ulong handler = (ulong)code32_gp;
    if (with_ept && !nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        return false;
    struct nest *n = pae.n = nest_new(mode, fn);
    if (!n)
        return false;
    pae.first = directory_showing(32 * (u64)MIB, BEFORE);
    pae.second = directory_showing(34 * (u64)MIB, AFTER);
    idt[VEC_GP] = (handler & 0xffff) | SEL_CODE32 << 16 | (u64)GATE_INTERRUPT << 32 | (u64)(handler >> 16) << 48;
    vmset(GUEST_IDTR_BASE, phys(idt));
    vmset(GUEST_IDTR_LIMIT, 8 * (VEC_GP + 1) - 1);
    if (mode == NEST_PAE32) {
        n->pdpt[3] = pae.first;
        n->regs.si = (ulong)&n->pdpt[3];
    }
    if (with_ept && mode == NEST_PAE32)
        nest_ept(n, ept_new(2 * MIB));
    n->regs.di = WINDOW;
    return true;
}

// clang-format off
static const struct load { const char *name; void (*fn)(void); bool loads; u32 cr; } loads[] = {
    { "store alone", code32_pdpte_stored, false, GUEST_CR3 },
    { "MOV to CR3", code32_pdpte_cr3, true, GUEST_CR3 },
    { "MOV to CR4", code32_pdpte_cr4, true, GUEST_CR4 },
    { "MOV to CR0", code32_pdpte_cr0, true, GUEST_CR0 },
};
// clang-format on

static void loading(bool with_ept)
{
    for (u32 i = 0; i < COUNT(loads); i++) {
        page_reset();
        vmcs_reset();
        if (!start(NEST_PAE32, with_ept, loads[i].fn))
            return;
        pae.n->regs.dx = (ulong)pae.second;
        NEST_RUN(pae.n, REASON_VMCALL);
        check_eq(loads[i].name, (u32)pae.n->regs.bx, loads[i].loads ? AFTER : BEFORE);
        if (with_ept)
            check_eq("PDPTE saved by the exit", vmget(GUEST_PDPTE3), loads[i].loads ? pae.second : pae.first);
    }
}
static void load_plain(void) { loading(false); }
static void load_ept(void) { loading(true); }

static void reserved(bool with_ept)
{
    static const u32 bits[] = { 1u << 1, 1u << 2, 1u << 5, 1u << 8 };
    for (u32 i = 0; i < COUNT(loads); i++)
        for (u32 k = 0; loads[i].loads && k < COUNT(bits); k++) {
            page_reset();
            vmcs_reset();
            if (!start(NEST_PAE32, with_ept, loads[i].fn))
                return;
            u64 cr = vmget(loads[i].cr);
            pae.n->regs.dx = (ulong)pae.second | bits[k];
            expect_gp(loads[i].name);
            check_eq("the window after #GP", (u32)pae.n->regs.bx, BEFORE);
            check_eq("the control register after #GP", vmget(loads[i].cr), cr);
            if (with_ept)
                check_eq("PDPTE saved by the exit", vmget(GUEST_PDPTE3), pae.first);
        }
}
static void reserved_plain(void) { reserved(false); }
static void reserved_ept(void) { reserved(true); }

static void reserved_enable(void) /* turning on paging */
{
    if (!start(NEST_FLAT32, true, code32_enable_pae))
        return;
    u64 *pdpt = page_alloc(1);
    for (u32 i = 0; i < 4; i++)
        pdpt[i] = pae.first;
    pdpt[2] |= 4;
    pae.n->regs.si = (ulong)pdpt;
    pae.n->regs.di = 32 * MIB; /* unpaged */
    expect_gp("CR0.PG with a reserved bit");
    check_masked("CR0.PG", vmget(GUEST_CR0), 0, CR0_PG);
    check_eq("the GiB, not paged", (u32)pae.n->regs.bx, BEFORE);
}

/* An entry takes them from memory without EPT, from the VMCS with it. */
static void entry_source(bool with_ept)
{
    if (!start(NEST_PAE32, with_ept, code32_touch))
        return;
    NEST_RUN(pae.n, REASON_VMCALL);
    check_eq("the window at first", (u32)pae.n->regs.bx, BEFORE);
    pae.n->pdpt[3] = pae.second;
    nest_skip();
    NEST_RUN(pae.n, REASON_VMCALL);
    check_eq("after a change of memory", (u32)pae.n->regs.bx, with_ept ? BEFORE : AFTER);
    if (!with_ept)
        return;
    vmset(GUEST_PDPTE3, pae.second);
    nest_skip();
    NEST_RUN(pae.n, REASON_VMCALL);
    check_eq("after a change of the VMCS", (u32)pae.n->regs.bx, AFTER);
}
static void entry_plain(void) { entry_source(false); }
static void entry_ept(void) { entry_source(true); }

// clang-format off
const struct test exit_pae_tests[] = {
    { "pdpte-load", load_plain },
    { "pdpte-load-ept", load_ept },
    { "pdpte-reserved", reserved_plain },
    { "pdpte-reserved-ept", reserved_ept },
    { "pdpte-reserved-enable", reserved_enable },
    { "pdpte-entry", entry_plain },
    { "pdpte-entry-ept", entry_ept },
    { NULL, NULL },
};
// clang-format on
