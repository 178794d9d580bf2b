/*
 * An exit of the nested guest becomes one to the guest hypervisor: its exit information and guest state are in vmcs02 already, which
 * is vmcs12's storage. What remains is to load vmcs12's host state into vmcs01. SDM 3, "Loading Host State".
 */
#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "nested/nested.h"

#define AR_CODE64 (0xbull | AR_S | AR_PRESENT | AR_L | AR_G)
#define AR_CODE32 (0xbull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define AR_DATA32 (0x3ull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define AR_TSS_BUSY (0xbull | AR_PRESENT)
#define LIMIT_FLAT 0xffffffff
#define LIMIT_TABLE 0xffff
#define LIMIT_TSS 0x67
#define DR7_AFTER_EXIT 0x400

/* What of L3's state decides about L2's. */
struct exit_state {
    uint64_t efer, pat; /* L3's, for a vmcs12 whose exits load neither */
    uint32_t blocking;  /* interruptibility state that L2 gets */
};

static void load_control_registers(struct cpu *cpu, const struct vmcs12 *v)
{
    uint64_t cr0 = v->soft[FIELD_HOST_CR0] | CR0_ET, cr4 = v->soft[FIELD_HOST_CR4];
    if (v->soft[FIELD_EXIT_CONTROLS] & EXIT_HOST_64)
        cr4 |= CR4_PAE;
    else
        cr4 &= ~CR4_PCIDE;
    vmwrite_sure(GUEST_CR0, cr0);
    vmwrite_sure(GUEST_CR3, v->soft[FIELD_HOST_CR3]);
    vmwrite_sure(GUEST_CR4, cr4);
    if (cpu->cr0_shadow != cr0)
        vmwrite_sure(CR0_SHADOW, cpu->cr0_shadow = cr0);
    if (cpu->cr4_shadow != cr4)
        vmwrite_sure(CR4_SHADOW, cpu->cr4_shadow = cr4);
    vmwrite_sure(GUEST_DR7, DR7_AFTER_EXIT);
    vmwrite_sure(GUEST_DEBUGCTL, 0);
}

static void load_msrs(struct nested *n, const struct vmcs12 *v, const struct exit_state *from)
{
    uint64_t exit = v->soft[FIELD_EXIT_CONTROLS], lm = EFER_LMA | EFER_LME;
    uint64_t efer = exit & EXIT_LOAD_EFER ? v->soft[FIELD_HOST_EFER]
                                          : (exit & EXIT_HOST_64 ? from->efer | lm : from->efer & ~lm);
    vmwrite_sure(GUEST_EFER, efer);
    vmwrite_sure(GUEST_PAT, exit & EXIT_LOAD_PAT ? v->soft[FIELD_HOST_PAT] : from->pat);
    vmwrite_sure(GUEST_SYSENTER_CS, v->soft[FIELD_HOST_SYSENTER_CS]);
    vmwrite_sure(GUEST_SYSENTER_ESP, v->soft[FIELD_HOST_SYSENTER_ESP]);
    vmwrite_sure(GUEST_SYSENTER_EIP, v->soft[FIELD_HOST_SYSENTER_EIP]);
    bool host64 = exit & EXIT_HOST_64;
    if (n->ia32e == host64)
        return;
    uint64_t entry = vmread(ENTRY_CONTROLS);
    vmwrite_sure(ENTRY_CONTROLS, host64 ? entry | ENTRY_IA32E : entry & ~ENTRY_IA32E);
    n->ia32e = host64;
}

static void load_data_segment(enum segment segment, uint64_t selector, uint64_t base)
{
    uint32_t i = 2u * (uint32_t)segment;
    hw_vmwrite_sure(VMCS_GUEST_ES_SEL + i, selector);
    hw_vmwrite_sure(VMCS_GUEST_ES_BASE + i, base);
    hw_vmwrite_sure(VMCS_GUEST_ES_LIMIT + i, LIMIT_FLAT);
    hw_vmwrite_sure(VMCS_GUEST_ES_AR + i, selector ? AR_DATA32 : AR_UNUSABLE | AR_DATA32);
}

static void load_segments(const struct vmcs12 *v)
{
    bool host64 = v->soft[FIELD_EXIT_CONTROLS] & EXIT_HOST_64;
    vmwrite_sure(GUEST_CS_SEL, v->soft[FIELD_HOST_CS_SEL]);
    vmwrite_sure(GUEST_CS_BASE, 0);
    vmwrite_sure(GUEST_CS_LIMIT, LIMIT_FLAT);
    vmwrite_sure(GUEST_CS_AR, host64 ? AR_CODE64 : AR_CODE32);
    load_data_segment(SEG_SS, v->soft[FIELD_HOST_SS_SEL], 0);
    load_data_segment(SEG_DS, v->soft[FIELD_HOST_DS_SEL], 0);
    load_data_segment(SEG_ES, v->soft[FIELD_HOST_ES_SEL], 0);
    load_data_segment(SEG_FS, v->soft[FIELD_HOST_FS_SEL], v->soft[FIELD_HOST_FS_BASE]);
    load_data_segment(SEG_GS, v->soft[FIELD_HOST_GS_SEL], v->soft[FIELD_HOST_GS_BASE]);
    vmwrite_sure(GUEST_TR_SEL, v->soft[FIELD_HOST_TR_SEL]);
    vmwrite_sure(GUEST_TR_BASE, v->soft[FIELD_HOST_TR_BASE]);
    vmwrite_sure(GUEST_TR_LIMIT, LIMIT_TSS);
    vmwrite_sure(GUEST_TR_AR, AR_TSS_BUSY);
    vmwrite_sure(GUEST_LDTR_SEL, 0);
    vmwrite_sure(GUEST_LDTR_AR, AR_UNUSABLE);
    vmwrite_sure(GUEST_GDTR_BASE, v->soft[FIELD_HOST_GDTR_BASE]);
    vmwrite_sure(GUEST_GDTR_LIMIT, LIMIT_TABLE);
    vmwrite_sure(GUEST_IDTR_BASE, v->soft[FIELD_HOST_IDTR_BASE]);
    vmwrite_sure(GUEST_IDTR_LIMIT, LIMIT_TABLE);
}

/* Of the current VMCS: L3's after an exit, L2's own when L3's state was found invalid. */
static void read_msrs(struct exit_state *from)
{
    from->efer = vmread(GUEST_EFER);
    from->pat = vmread(GUEST_PAT);
}

/* SDM 3, "VMX Aborts": the CPU shuts down; here, as for a triple fault, the machine resets. */
static _Noreturn void vmx_abort(const char *why)
{
    log_error("the guest hypervisor took a VMX abort (%s): resetting the machine", why);
    machine_reset();
}

/* A 32-bit host with PAE paging: VM exits load its PDPTEs. */
static void load_pdptes(const struct vmcs12 *v)
{
    if ((v->soft[FIELD_EXIT_CONTROLS] & EXIT_HOST_64) || !(v->soft[FIELD_HOST_CR4] & CR4_PAE))
        return;
    if (!guest_load_pdptes(v->soft[FIELD_HOST_CR3], nested_caps.maxphyaddr))
        vmx_abort("its PDPTEs have reserved bits set");
}

/* vmcs01 is current; its guest was at VMLAUNCH or VMRESUME. */
static void load_host_state(struct cpu *cpu, const struct vmcs12 *v, const struct exit_state *from)
{
    load_control_registers(cpu, v);
    load_msrs(cpu->nested, v, from);
    load_segments(v);
    vmwrite_sure(GUEST_RSP, v->soft[FIELD_HOST_RSP]);
    vmwrite_sure(GUEST_RIP, v->soft[FIELD_HOST_RIP]);
    vmwrite_sure(GUEST_RFLAGS, RFLAGS_FIXED1);
    vmwrite_sure(GUEST_PENDING_DEBUG, 0);
    if (from->blocking != cpu->nested->blocking)
        vmwrite_sure(GUEST_INTERRUPTIBILITY, from->blocking);
    load_pdptes(v);
}

/*
 * Blocking by NMI after the exit: what it was, but an exit caused by an NMI blocks, and with virtual NMIs what vmcs02 has is not the
 * processor's state. SDM 3, "Loading Host State", "Updating Non-Register State".
 */
static uint32_t blocking_after(const struct nested *n, const struct nested_slot *slot, uint32_t reason)
{
    if (reason & REASON_ENTRY_FAILURE) /* L3's state was never loaded */
        return n->blocking & (uint32_t)BLOCKING_NMI;
    bool nmi = reason == REASON_exception_nmi &&
               (vmcs12_info(&slot->v, FIELD_EXIT_INTR_INFO) & INTR_TYPE_MASK) == INTR_TYPE_NMI;
    if (nmi)
        return (uint32_t)BLOCKING_NMI;
    if (slot->flags & SLOT_VIRTUAL_NMIS)
        return 0;
    return (uint32_t)vmread(GUEST_INTERRUPTIBILITY) & (uint32_t)BLOCKING_NMI;
}

void reflect(struct cpu *cpu)
{
    struct nested *n = cpu->nested;
    struct nested_slot *slot = n->current;
    struct vmcs12 *v = &slot->v;
    uint32_t reason = (uint32_t)vmcs12_info(v, FIELD_EXIT_REASON);
    struct exit_state from = { 0, 0, blocking_after(n, slot, reason) };
    count(cpu, COUNT_REFLECT + (uint32_t)(reason & REASON_BASIC_MASK) % REASON_COUNT);
    if (machine.barriers & BARRIER_IBPB)
        barrier_reflection(cpu);
    if (cpu->nmi_virtual)
        event_close_window(cpu);
    uint64_t load_both = EXIT_LOAD_EFER | EXIT_LOAD_PAT;
    bool inherits = (v->soft[FIELD_EXIT_CONTROLS] & load_both) != load_both;
    bool never_loaded = reason == (REASON_entry_guest_state | REASON_ENTRY_FAILURE);
    if (inherits && !never_loaded)
        read_msrs(&from);
    if (slot->flags && !special_exit(cpu, slot, reason & REASON_ENTRY_FAILURE))
        vmx_abort("its exit MSR-store area cannot be stored");
    vmcs12_give(cpu, v);
    cpu->in_nested = cpu->waits_in_nested = false;
    if (inherits && never_loaded)
        read_msrs(&from);
    load_host_state(cpu, v, &from);
    if (v->soft[FIELD_EXIT_MSR_LOAD_COUNT] && !special_load_msrs(cpu, slot))
        vmx_abort("its exit MSR-load area cannot be loaded");
}

/*
 * L3 was entered and left again before its first instruction. An event that was about to be delivered is reported as IDT-vectoring
 * information: the entry succeeded, so the launch state is "launched".
 */
void reflect_at_entry(struct cpu *cpu, uint32_t reason, uint64_t intr_info)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    uint64_t event = vmread(ENTRY_INTR_INFO);
    vmcs12_set_info(v, FIELD_IDT_VECTORING_INFO, event & INTR_VALID ? event : 0);
    vmcs12_set_info(v, FIELD_IDT_VECTORING_ERROR, vmread(ENTRY_EXCEPTION_ERROR));
    vmcs12_set_info(v, FIELD_EXIT_INSTRUCTION_LEN, vmread(ENTRY_INSTRUCTION_LEN));
    vmcs12_set_info(v, FIELD_EXIT_INTR_INFO, intr_info);
    vmwrite(ENTRY_INTR_INFO, 0);
    v->launched = true;
    count(cpu, COUNT_EXIT_L3 + reason);
    reflect_reason(cpu, reason, 0);
}

void reflect_reason(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    vmcs12_set_info(v, FIELD_EXIT_REASON, reason);
    vmcs12_set_info(v, FIELD_EXIT_QUALIFICATION, qualification);
    reflect(cpu);
}
