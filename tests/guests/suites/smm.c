/*
 * System-management interrupts while a guest hypervisor or its nested guest runs: SMM is entered and left (RSM) without
 * anybody's noticing, and what the interrupted code does next is its own. SDM 3, "Default Treatment of SMIs and SMM with VMX Operation and SMX Operation".
 * The handler is the firmware's at A0000h, replaced for each test by one that counts: that takes an i440FX chipset with
 * SMRAM that is not locked, as Bochs has it.
 */
#include "suites.h"

enum {
    PCI_ADDRESS = 0xcf8,
    PCI_DATA = 0xcfc,
    I440FX = 0x12378086,
    SMRAM_CONTROL = 0x72, /* of the chipset's function 0 */
    SMRAM_OPEN = 1 << 6,
    SMRAM_CLOSED = 1 << 5,
    SMRAM_LOCKED = 1 << 4,
    SMRAM_HANDLER = 0xa8000,
    ICR_SMI = 0x200,
    ROUNDS = 10,
};
static volatile u32 handled; /* counted by the handler */
/* INCL handled, with 32-bit operand and address in 16-bit code; RSM */
static u8 handler[] = { 0x66, 0x67, 0xff, 0x05, 0, 0, 0, 0, 0x0f, 0xaa };
static u8 firmware[sizeof handler];

static void pci_select(u32 reg) { asm volatile("outl %0,%w1" : : "a"(1u << 31 | (reg & ~3u)), "Nd"(PCI_ADDRESS)); }

static u32 pci_identity(void)
{
    u32 v;
    pci_select(0);
    asm volatile("inl %w1,%0" : "=a"(v) : "Nd"(PCI_DATA));
    return v;
}

static void handler_exchange(u8 *out, const u8 *in)
{
    u8 *at = (u8 *)SMRAM_HANDLER;
    pci_select(SMRAM_CONTROL);
    u8 control = inb(PCI_DATA + SMRAM_CONTROL % 4);
    outb(PCI_DATA + SMRAM_CONTROL % 4, (u8)((control | SMRAM_OPEN) & ~SMRAM_CLOSED));
    asm volatile("" : "+r"(at));
    if (out)
        memcpy(out, at, sizeof handler);
    memcpy(at, in, sizeof handler);
    outb(PCI_DATA + SMRAM_CONTROL % 4, control);
}

static bool handler_take(void)
{
    if (pci_identity() != I440FX) {
        test_skip("no i440FX chipset");
        return false;
    }
    pci_select(SMRAM_CONTROL);
    if (inb(PCI_DATA + SMRAM_CONTROL % 4) & SMRAM_LOCKED) {
        test_skip("SMRAM is locked");
        return false;
    }
    u32 where = (u32)(ulong)&handled;
    memcpy(handler + 4, &where, sizeof where);
    handled = 0;
    handler_exchange(firmware, handler);
    return true;
}

static void handler_return(void) { handler_exchange(NULL, firmware); }

static void self_smi(void) { apic_icr(this_cpu()->apic_id, ICR_SMI | ICR_ASSERT); }

static void hypervisor(void)
{
    if (!handler_take())
        return;
    u64 *vmcs = vmcs_alloc(), current = 0;
    check_outcome("VMPTRLD", vmptrld(phys(vmcs)), VMX_OK);
    for (u32 i = 0; i < ROUNDS; i++)
        self_smi();
    delay(10);
    check_eq("SMIs handled", handled, ROUNDS);
    check_outcome("VMPTRST", vmptrst(&current), VMX_OK);
    check_eq("current VMCS", current, phys(vmcs));
    check_eq("CR4.VMXE", read_cr4() & CR4_VMXE, CR4_VMXE);
    handler_return();
}

static volatile u32 rounds;
static void g_smis(void)
{
    for (rounds = 0; rounds < ROUNDS; rounds++) {
        self_smi();
        pause();
    }
}

/* In the nested guest: it goes on, and the only exit is its own. */
static void nested(bool with_ept)
{
    struct nest *n = handler_take() ? nest_new(NEST_SAME, g_smis) : NULL;
    if (!n)
        return;
    if (with_ept)
        nest_ept(n, ept_new(2 * MIB));
    if (nest_expect(n, REASON_VMCALL)) {
        check_eq("rounds of the nested guest", rounds, ROUNDS);
        check_eq("SMIs handled", handled, ROUNDS);
    }
    handler_return();
}
static void nested_plain(void) { nested(false); }
static void nested_ept(void)
{
    if (nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        nested(true);
}

/* The first instruction after RSM ends in a triple fault: one exit, with the SMI behind it, and the VMCS is still good. */
static void g_smi_ud(void)
{
    self_smi();
    asm volatile("ud2");
}

static void triple_fault(void)
{
    struct nest *n = handler_take() ? nest_new(NEST_SAME, g_smi_ud) : NULL;
    if (!n)
        return;
    u64 limit = vmget(GUEST_IDTR_LIMIT);
    for (u32 i = 1; i <= ROUNDS && test_ok(); i++) {
        vmset(GUEST_IDTR_LIMIT, 0);
        nest_restart(n, g_smi_ud);
        if (!nest_expect(n, REASON_TRIPLE_FAULT))
            break;
        check_eq("SMIs handled", handled, i);
        check_masked("the instruction at RIP: UD2", *(const u16 *)(ulong)vmget(GUEST_RIP), 0x0b0f, 0xffff);
        check_eq("IDT-vectoring information", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
        check_eq("CR4.VMXE here", read_cr4() & CR4_VMXE, CR4_VMXE);
        vmset(GUEST_IDTR_LIMIT, limit);
        nest_restart(n, g_smis);
        nest_expect(n, REASON_VMCALL);
        check_eq("rounds after the triple fault", rounds, ROUNDS);
        handled = i;
    }
    handler_return();
}

// clang-format off
static const struct test tests[] = {
    { "hypervisor", hypervisor },
    { "nested", nested_plain },
    { "nested-ept", nested_ept },
    { "triple-fault", triple_fault },
    { NULL, NULL },
};
// clang-format on
const struct suite suite_smm = { "smm", tests, NULL, true, false };
