/*
 * Nested guests in other modes than their hypervisor: real mode, 32-bit unpaged, 32-bit with PAE paging.
 */
#include "exits.h"
#include "nest_code.h"

enum { REAL_HANDLER = 0x9000, REAL_STACK = 0x7000 };

static void hello32(enum nest_mode mode)
{
    struct nest *n = nest_new(mode, code32_hello);
    if (!n)
        return;
    for (u32 i = 0; i < 2; i++) {
        NEST_RUN(n, REASON_CPUID);
        nest_skip();
        NEST_RUN(n, REASON_VMCALL);
        check_eq("EBX", (u32)n->regs.bx, 0x1111);
        nest_skip();
        NEST_RUN(n, REASON_VMCALL);
        check_eq("EBX after", (u32)n->regs.bx, 0x1112);
        nest_restart(n, code32_hello);
    }
    check_eq("host CR0", read_cr0(), vmget(HOST_CR0));
    check_eq("host CR4", read_cr4(), vmget(HOST_CR4));
    check_eq("host IA32_EFER", rdmsr(MSR_EFER), vmget(HOST_EFER));
}
static void flat32(void) { hello32(NEST_FLAT32); }
static void pae32(void) { hello32(NEST_PAE32); }

static void pae32_ept(void)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(NEST_PAE32, code32_hello) : NULL;
    if (!n)
        return;
    nest_ept(n, ept_new(2 * MIB));
    NEST_RUN(n, REASON_CPUID);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    for (u32 i = 0; i < 4; i++)
        check_eq("PDPTE saved by the exit", vmget(GUEST_PDPTE0 + 2 * i), n->pdpt[i]);
}

/* MOV CR3 under PAE loads the four PDPTEs: from memory without EPT, and a reserved bit in one is #GP. */
static void pae_load(bool with_ept)
{
    struct nest *n = nest_new(NEST_PAE32, code32_load_cr3);
    if (!n)
        return;
    if (with_ept)
        nest_ept(n, ept_new(2 * MIB));
    u64 *other = page_alloc(3);
    u32 *data = (u32 *)(other + 1024);
    for (u32 i = 0; i < 4; i++)
        other[i] = n->pdpt[i];
    other[3] = phys(other + 512) | 1; /* C0000000h..: its first page is `data` */
    other[512] = (u64)(phys(data) & ~(u64)(2 * MIB - 1)) | 0xe7;
    *data = 0xfeedbeef;
    n->regs.si = (ulong)other;
    n->regs.di = 0xc0000000 | (phys(data) & (2 * MIB - 1));
    NEST_RUN(n, REASON_VMCALL);
    check_eq("CR3", vmget(GUEST_CR3), phys(other));
    if (with_ept)
        check_eq("PDPTE 3", vmget(GUEST_PDPTE3), other[3]);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    check_eq("read through the new tables", (u32)n->regs.bx, 0xfeedbeef);
    other[1] |= 2; /* reserved */
    n->regs.si = (ulong)other;
    vmset(EXCEPTION_BITMAP, BIT(VEC_GP));
    nest_restart(n, code32_load_cr3);
    vmset(GUEST_CR3, phys(n->pdpt));
    NEST_RUN(n, REASON_EXCEPTION);
    check_masked("#GP", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_HARD | INTR_ERROR | VEC_GP, 0x80000fff);
}
static void pae_load_plain(void) { pae_load(false); }
static void pae_load_ept(void)
{
    if (nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        pae_load(true);
}

static void real(void)
{
    struct nest *n = nest_new(NEST_REAL, real_hello);
    if (!n)
        return;
    nest_control(PROC_CONTROLS, PROC_HLT | PROC_IO, 0);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("BX", n->regs.bx & 0xffff, 0x1234);
    check_eq("CX: CS", n->regs.cx & 0xffff, vmget(GUEST_CS));
    nest_skip();
    NEST_RUN(n, REASON_IO);
    check_eq("AX", n->regs.ax & 0xffff, 0x1234);
    nest_skip();
    NEST_RUN(n, REASON_HLT);
}

static void real_cs_rpl(void) /* the low bits of a real-mode CS are no RPL */
{
    struct nest *n = nest_new(NEST_REAL, real_hello);
    if (!n)
        return;
    vmset(GUEST_CS, vmget(GUEST_CS) | 3);
    NEST_RUN(n, REASON_VMCALL);
    check_masked("CX: CS", n->regs.cx, 3, 3);
}

static void real_vector(u32 vector)
{
    memcpy((void *)REAL_HANDLER, (void *)real_handler, (size_t)(real_handler_end - (char *)real_handler));
    u32 *ivt = page_alloc(1);
    ivt[vector] = REAL_HANDLER << 12; /* 0900:0000 */
    vmset(GUEST_IDTR_BASE, phys(ivt));
}

static void real_interrupt(void)
{
    struct nest *n = nest_new(NEST_REAL, real_int);
    if (!n)
        return;
    real_vector(0x21);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("AX of the handler", n->regs.ax & 0xffff, 0x4242);
    const u16 *frame = (const u16 *)(ulong)vmget(GUEST_RSP);
    check_eq("pushed IP", frame[0], 2);
    check_eq("pushed CS", frame[1], (phys((void *)real_int) >> 4) & 0xffff);
    check_eq("CS in the handler", vmget(GUEST_CS), REAL_HANDLER >> 4);
}

static void real_injection(void)
{
    // clang-format off
    static const struct { u32 info, length; } rows[] = {
        { INTR_EXT | 0x21, 0 }, { INTR_SOFT_INT | 0x21, 2 }, { INTR_HARD | VEC_UD, 0 }, { INTR_NMI | VEC_NMI, 0 },
    };
    // clang-format on
    struct nest *n = nest_new(NEST_REAL, real_hello);
    if (!n)
        return;
    for (u32 i = 0; i < COUNT(rows); i++) {
        nest_restart(n, real_hello);
        real_vector(rows[i].info & 0xff);
        vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
        vmset(ENTRY_INTR_INFO, INTR_VALID | rows[i].info);
        vmset(ENTRY_INSN_LENGTH, rows[i].length);
        NEST_RUN(n, REASON_VMCALL);
        const u16 *frame = (const u16 *)(ulong)vmget(GUEST_RSP);
        check_eq("AX of the handler", n->regs.ax & 0xffff, 0x4242);
        check_eq("pushed IP", frame[0], rows[i].length);
        check_eq("pushed FLAGS", frame[2], RFLAGS_FIXED | RFLAGS_IF);
    }
}

/* An external interrupt goes through the interrupt-vector table, out of HLT; or it exits. */
static void real_external(bool exits)
{
    enum { VECTOR = 0x51 };
    struct nest *n = nest_new(NEST_REAL, real_wait);
    if (!n || (exits && !nest_need(pin_msr(), PIN_EXT_INT, "external-interrupt exiting")))
        return;
    nest_control(PIN_CONTROLS, exits ? PIN_EXT_INT : 0, 0);
    nest_control(EXIT_CONTROLS, 0, EXIT_ACK_INT);
    real_vector(VECTOR);
    apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | VECTOR);
    if (exits) {
        u32 before = this_cpu()->irqs[VECTOR];
        NEST_RUN(n, REASON_EXT_INT);
        irq_on();
        irq_off();
        check_eq("interrupts taken by the host", this_cpu()->irqs[VECTOR] - before, 1);
        vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
        vmset(GUEST_RIP, 2); /* behind HLT */
        vmset(GUEST_INTERRUPTIBILITY, 0);
        NEST_RUN(n, REASON_VMCALL);
        return;
    }
    NEST_RUN(n, REASON_VMCALL);
    apic_eoi();
    const u16 *frame = (const u16 *)(ulong)vmget(GUEST_RSP);
    check_eq("AX of the handler", n->regs.ax & 0xffff, 0x4242);
    check_eq("pushed IP: behind HLT", frame[0], 2);
    check_eq("activity state", vmget(GUEST_ACTIVITY), ACTIVITY_ACTIVE);
}
static void real_external_delivered(void) { real_external(false); }
static void real_external_exits(void) { real_external(true); }

static void real_to_protected(void)
{
    struct nest *n = nest_new(NEST_REAL, real_protect);
    if (!n)
        return;
    n->regs.si = (ulong)code32_hello;
    NEST_RUN(n, REASON_CPUID);
    check_masked("CR0.PE", vmget(GUEST_CR0), CR0_PE, CR0_PE);
    check_eq("CS", vmget(GUEST_CS), SEL_CODE32);
    check_masked("CS access rights", vmget(GUEST_CS_AR), 0xc09b, 0xf0ff);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
}

static void task_switch(void)
{
    struct nest *n = nest_new(NEST_PAE32, code32_switch);
    if (!n)
        return;
    NEST_RUN(n, REASON_TASK_SWITCH);
    check_eq("qualification: selector, JMP", vmget(EXIT_QUALIFICATION), 0xb0 | 2ull << 30);
    check_eq("instruction length", vmget(EXIT_INSN_LENGTH), 7);
    check_eq("RIP", vmget(GUEST_RIP), (ulong)code32_switch);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
}

// clang-format off
const struct test exit_mode_tests[] = {
    { "flat32", flat32 },
    { "pae32", pae32 },
    { "pae32-ept", pae32_ept },
    { "pae-load", pae_load_plain },
    { "pae-load-ept", pae_load_ept },
    { "real", real },
    { "real-cs-rpl", real_cs_rpl },
    { "real-interrupt", real_interrupt },
    { "real-injection", real_injection },
    { "real-external", real_external_delivered },
    { "real-external-exits", real_external_exits },
    { "real-to-protected", real_to_protected },
    { "task-switch", task_switch },
    { NULL, NULL },
};
// clang-format on
