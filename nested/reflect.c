/*
 * An exit of the nested guest becomes one to the guest hypervisor: its exit information and guest state are in vmcs02 already, which
 * is vmcs12's storage. What remains is to load vmcs12's host state into vmcs01. SDM 3, "Loading Host State".
 */
#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/cpu/vmcs_image.h"
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
enum inherited { NOTHING, FROM_L3, FROM_L2 /* its own, for L3's was never loaded */ };

/*
 * Where vmcs01's guest state goes: into the current VMCS, or into the region of one that is not current, on a machine that keeps VMCSs in
 * memory. Both ways are made from the code below; which one is known when it is compiled.
 */
struct vmcs01_sink {
    hpa_t image; /* 0: vmcs01 is current */
};
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void put(struct vmcs01_sink to, enum vmcs_row row, uint32_t encoding, uint64_t value)
{
    if (to.image.v)
        vmcs_image_write(to.image, row, value);
    else
        hw_vmwrite_sure(encoding, value);
}
#define PUT(name, value) put(to, FIELD_##name, VMCS_##name, (value))
/* Rows of neighbouring segments differ by 1, encodings by 2. */
#define PUT_SEGMENT(name, segment, value)                                                                              \
    put(to, FIELD_GUEST_ES_##name + (segment), VMCS_GUEST_ES_##name + 2u * (uint32_t)(segment), (value))

ALWAYS_INLINE void load_control_registers(struct vmcs01_sink to, struct cpu *cpu, const struct vmcs12 *v)
{
    uint64_t cr0 = v->soft[FIELD_HOST_CR0] | CR0_ET, cr4 = v->soft[FIELD_HOST_CR4];
    if (v->soft[FIELD_EXIT_CONTROLS] & EXIT_HOST_64)
        cr4 |= CR4_PAE;
    else
        cr4 &= ~CR4_PCIDE;
    PUT(GUEST_CR0, cr0);
    PUT(GUEST_CR3, v->soft[FIELD_HOST_CR3]);
    PUT(GUEST_CR4, cr4);
    if (cpu->cr0_shadow != cr0)
        PUT(CR0_SHADOW, cpu->cr0_shadow = cr0);
    if (cpu->cr4_shadow != cr4)
        PUT(CR4_SHADOW, cpu->cr4_shadow = cr4);
    PUT(GUEST_DR7, DR7_AFTER_EXIT);
    PUT(GUEST_DEBUGCTL, 0);
}

ALWAYS_INLINE void load_msrs(struct vmcs01_sink to, struct nested *n, const struct vmcs12 *v,
                             const struct exit_state *from)
{
    uint64_t exit = v->soft[FIELD_EXIT_CONTROLS], lm = EFER_LMA | EFER_LME;
    uint64_t efer = exit & EXIT_LOAD_EFER ? v->soft[FIELD_HOST_EFER]
                                          : (exit & EXIT_HOST_64 ? from->efer | lm : from->efer & ~lm);
    PUT(GUEST_EFER, efer);
    PUT(GUEST_PAT, exit & EXIT_LOAD_PAT ? v->soft[FIELD_HOST_PAT] : from->pat);
    PUT(GUEST_SYSENTER_CS, v->soft[FIELD_HOST_SYSENTER_CS]);
    PUT(GUEST_SYSENTER_ESP, v->soft[FIELD_HOST_SYSENTER_ESP]);
    PUT(GUEST_SYSENTER_EIP, v->soft[FIELD_HOST_SYSENTER_EIP]);
    bool host64 = exit & EXIT_HOST_64;
    if (n->ia32e == host64)
        return;
    uint64_t entry = to.image.v ? vmcs_image_read(to.image, FIELD_ENTRY_CONTROLS) : vmread(ENTRY_CONTROLS);
    PUT(ENTRY_CONTROLS, host64 ? entry | ENTRY_IA32E : entry & ~ENTRY_IA32E);
    n->ia32e = host64;
}

ALWAYS_INLINE void load_data_segment(struct vmcs01_sink to, enum segment segment, uint64_t selector, uint64_t base)
{
    PUT_SEGMENT(SEL, segment, selector);
    PUT_SEGMENT(BASE, segment, base);
    PUT_SEGMENT(LIMIT, segment, LIMIT_FLAT);
    PUT_SEGMENT(AR, segment, selector ? AR_DATA32 : AR_UNUSABLE | AR_DATA32);
}

ALWAYS_INLINE void load_segments(struct vmcs01_sink to, const struct vmcs12 *v)
{
    bool host64 = v->soft[FIELD_EXIT_CONTROLS] & EXIT_HOST_64;
    PUT(GUEST_CS_SEL, v->soft[FIELD_HOST_CS_SEL]);
    PUT(GUEST_CS_BASE, 0);
    PUT(GUEST_CS_LIMIT, LIMIT_FLAT);
    PUT(GUEST_CS_AR, host64 ? AR_CODE64 : AR_CODE32);
    load_data_segment(to, SEG_SS, v->soft[FIELD_HOST_SS_SEL], 0);
    load_data_segment(to, SEG_DS, v->soft[FIELD_HOST_DS_SEL], 0);
    load_data_segment(to, SEG_ES, v->soft[FIELD_HOST_ES_SEL], 0);
    load_data_segment(to, SEG_FS, v->soft[FIELD_HOST_FS_SEL], v->soft[FIELD_HOST_FS_BASE]);
    load_data_segment(to, SEG_GS, v->soft[FIELD_HOST_GS_SEL], v->soft[FIELD_HOST_GS_BASE]);
    PUT(GUEST_TR_SEL, v->soft[FIELD_HOST_TR_SEL]);
    PUT(GUEST_TR_BASE, v->soft[FIELD_HOST_TR_BASE]);
    PUT(GUEST_TR_LIMIT, LIMIT_TSS);
    PUT(GUEST_TR_AR, AR_TSS_BUSY);
    PUT(GUEST_LDTR_SEL, 0);
    PUT(GUEST_LDTR_AR, AR_UNUSABLE);
    PUT(GUEST_GDTR_BASE, v->soft[FIELD_HOST_GDTR_BASE]);
    PUT(GUEST_GDTR_LIMIT, LIMIT_TABLE);
    PUT(GUEST_IDTR_BASE, v->soft[FIELD_HOST_IDTR_BASE]);
    PUT(GUEST_IDTR_LIMIT, LIMIT_TABLE);
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

/* vmcs01's guest was at VMLAUNCH or VMRESUME. */
ALWAYS_INLINE void load_host_state(struct vmcs01_sink to, struct cpu *cpu, const struct vmcs12 *v,
                                   const struct exit_state *from)
{
    load_control_registers(to, cpu, v);
    load_msrs(to, cpu->nested, v, from);
    load_segments(to, v);
    PUT(GUEST_RSP, v->soft[FIELD_HOST_RSP]);
    PUT(GUEST_RIP, v->soft[FIELD_HOST_RIP]);
    PUT(GUEST_RFLAGS, RFLAGS_FIXED1);
    PUT(GUEST_PENDING_DEBUG, 0);
    if (from->blocking != cpu->nested->blocking)
        PUT(GUEST_INTERRUPTIBILITY, from->blocking);
}

/* Of vmcs01, while vmcs02 is current: only where it is in memory. */
static void read_msrs_of_l2(const struct cpu *cpu, struct exit_state *from)
{
    from->efer = vmcs_image_read(cpu->vmcs01.region, FIELD_GUEST_EFER);
    from->pat = vmcs_image_read(cpu->vmcs01.region, FIELD_GUEST_PAT);
}

/* vmcs02 is current before, vmcs01 after. What exits to the machine are VMPTRLD and, to come, VMRESUME. */
static OUT_OF_LINE void give_in_memory(struct cpu *cpu, struct vmcs12 *v, struct exit_state *from,
                                       enum inherited inherited)
{
    if (inherited == FROM_L2)
        read_msrs_of_l2(cpu, from);
    load_host_state((struct vmcs01_sink){ cpu->vmcs01.region }, cpu, v, from);
    vmcs12_give_in_memory(cpu, v);
}

/*
 * Blocking by NMI after the exit: what it was, but an exit caused by an NMI blocks, and with virtual NMIs what vmcs02 has is not the
 * processor's state. SDM 3, "Loading Host State", "Updating Non-Register State".
 */
static uint32_t blocking_after(const struct nested *n, const struct nested_slot *slot, uint32_t reason)
{
    if (reason & REASON_ENTRY_FAILURE) /* L3's state was never loaded */
        return n->blocking & (uint32_t)BLOCKING_NMI;
    bool nmi = (reason & REASON_BASIC_MASK) == REASON_exception_nmi &&
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
    uint32_t basic = reason & (uint32_t)REASON_BASIC_MASK;
    if (basic < REASON_COUNT)
        count(cpu, COUNT_REFLECT + basic);
    if (machine.barriers & BARRIER_IBPB)
        barrier_reflection(cpu);
    if (cpu->nmi_virtual)
        event_close_window(cpu);
    uint64_t load_both = EXIT_LOAD_EFER | EXIT_LOAD_PAT;
    enum inherited inherited = NOTHING;
    if ((v->soft[FIELD_EXIT_CONTROLS] & load_both) != load_both)
        inherited = basic == REASON_entry_guest_state && (reason & REASON_ENTRY_FAILURE) ? FROM_L2 : FROM_L3;
    if (inherited == FROM_L3) {
        read_msrs(&from);
        if (basic == REASON_entry_msr_load && (reason & REASON_ENTRY_FAILURE))
            area_loaded(n, vmcs12_info(v, FIELD_EXIT_QUALIFICATION), &from.efer, &from.pat);
    }
    if (slot->flags && !special_exit(cpu, slot, reason & REASON_ENTRY_FAILURE))
        vmx_abort("its exit MSR-store area cannot be stored");
    cpu->in_nested = cpu->waits_in_nested = false;
    if (vmcs_image.on) {
        give_in_memory(cpu, v, &from, inherited);
    } else {
        vmcs12_give_active(cpu, v);
        if (inherited == FROM_L2)
            read_msrs(&from);
        load_host_state((struct vmcs01_sink){ 0 }, cpu, v, &from);
    }
    load_pdptes(v);
    if (v->soft[FIELD_EXIT_MSR_LOAD_COUNT] && !area_load_at_exit(v))
        vmx_abort("its exit MSR-load area cannot be loaded");
}

/*
 * L3 was entered and left again before its first instruction. An event that was about to be delivered is reported as IDT-vectoring
 * information: the entry succeeded, so the launch state is "launched".
 */
void reflect_at_entry(struct cpu *cpu, uint32_t reason, uint64_t intr_info)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    uint64_t failed = cpu->nested->current->flags & SLOT_MSR_AREAS ? area_load_now(cpu->nested) : 0;
    if (failed) {
        reflect_reason(cpu, REASON_entry_msr_load | (uint32_t)REASON_ENTRY_FAILURE, failed);
        return;
    }
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

void reflect_made_up(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    vmcs12_set_info(v, FIELD_EXIT_INTR_INFO, 0);
    vmcs12_set_info(v, FIELD_IDT_VECTORING_INFO, 0);
    reflect_reason(cpu, reason, qualification);
}

/*
 * The state saved is that before the exception; of the event in whose delivery it arose the processor has said what there is to say.
 * SDM 3, "Information for VM Exits Due to Vectored Events", "Information for VM Exits During Event Delivery", "Saving RIP, RSP, RFLAGS,
 * and SSP" (RF as the exception's own delivery would have pushed it).
 */
void reflect_exception(struct cpu *cpu, const struct fault *fault)
{
    struct vmcs12 *v = &cpu->nested->current->v;
    uint64_t info = INTR_VALID | INTR_TYPE_HW_EXCEPTION | (uint64_t)fault->vector;
    if (fault->error != NO_ERROR_CODE) {
        info |= INTR_ERROR_VALID;
        vmcs12_set_info(v, FIELD_EXIT_INTR_ERROR, (uint64_t)fault->error);
    }
    bool access = (vmread(EXIT_REASON) & REASON_BASIC_MASK) == REASON_ept_violation,
         delivery = vmread(IDT_VECTORING_INFO) & INTR_VALID;
    if (access && !delivery && (vmread(EXIT_QUALIFICATION) & EPT_QUAL_NMI_UNBLOCK))
        info |= INTR_NMI_UNBLOCK;
    if (fault->vector == VECTOR_DF)
        vmcs12_set_info(v, FIELD_IDT_VECTORING_INFO, 0);
    if (fault_sets_rf(fault->vector))
        vmwrite(GUEST_RFLAGS, vmread(GUEST_RFLAGS) | RFLAGS_RF);
    vmcs12_set_info(v, FIELD_EXIT_INTR_INFO, info);
    reflect_reason(cpu, REASON_exception_nmi, fault->vector == VECTOR_PF ? fault->linear : 0);
}
