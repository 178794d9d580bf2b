/*
 * See guest.h.
 */
#include "core/guest/guest.h"

#include "core/guest/dispatch.h"
#include "core/lib/log.h"
#include "core/upcall.h"

#define PDPT_ADDRESS 0xffffffe0ull
/* EPT violations and log-full exits alike. SDM 3, "Information About NMI Unblocking Due to IRET". */
#define QUAL_NMI_UNBLOCK BIT(12)

unsigned guest_cpl(void) { return (unsigned)((vmread(GUEST_SS_AR) & AR_DPL_MASK) >> AR_DPL_SHIFT); }

bool guest_is_64bit(void) { return (vmread(GUEST_EFER) & EFER_LMA) && (vmread(GUEST_CS_AR) & AR_L); }

static void pend_debug(uint64_t bits) { vmwrite(GUEST_PENDING_DEBUG, vmread(GUEST_PENDING_DEBUG) | bits); }

void guest_retire(uint64_t length, uint64_t rflags, bool mode_64)
{
    uint64_t rip = vmread(GUEST_RIP) + length;
    if (!mode_64)
        rip &= 0xffffffff;
    vmwrite(GUEST_RIP, rip);

    uint64_t blocking = vmread(GUEST_INTERRUPTIBILITY);
    if (blocking & (BLOCKING_STI | BLOCKING_MOV_SS))
        vmwrite(GUEST_INTERRUPTIBILITY, blocking & ~(BLOCKING_STI | BLOCKING_MOV_SS));
    if ((rflags & RFLAGS_TF) && !(vmread(GUEST_DEBUGCTL) & DEBUGCTL_BTF))
        pend_debug(PENDING_DEBUG_BS);
}

/* Outside 64-bit mode RIP has 32 bits: which mode it is matters only where the instruction ends at or beyond 4 GiB. */
static bool mode_matters(uint64_t length)
{
    uint64_t rip = vmread(GUEST_RIP);
    return !(rip >> 32) && (rip + length) >> 32;
}

void guest_skip_bytes(struct cpu *cpu, uint64_t length)
{
    uint64_t rflags = vmread(GUEST_RFLAGS);
    if (rflags & RFLAGS_RF)
        vmwrite(GUEST_RFLAGS, rflags & ~RFLAGS_RF);
    guest_retire(length, rflags, !mode_matters(length) || guest_is_64bit());
    if (cpu->in_nested)
        nested_retired(cpu);
}

void guest_skip(struct cpu *cpu) { guest_skip_bytes(cpu, vmread(EXIT_INSTRUCTION_LEN)); }

void guest_note_access(uint64_t linear, unsigned size, enum guest_use use)
{
    uint64_t dr7 = vmread(GUEST_DR7), met = 0, enabled = 0;
    if (!(dr7 & DR7_ENABLED_MASK))
        return;
    for (unsigned i = 0; i < BREAKPOINTS; i++)
        if (fault_breakpoint_met(dr7, i, hw_read_breakpoint(i), linear, size, use == GUEST_USE_WRITE)) {
            met |= BIT(i);
            enabled |= dr7 & 3ull << 2 * i;
        }
    if (enabled) /* bits of others that are met may be set, too: as the processor does */
        pend_debug(met | PENDING_DEBUG_ENABLED);
}

/* Each once: it may change. */
static void pdptes_read(uint64_t cr3, uint64_t pdpte[PDPTES])
{
    const volatile uint64_t *table = gpa1_ptr(gpa1(cr3 & PDPT_ADDRESS));
    for (unsigned i = 0; i < PDPTES; i++)
        pdpte[i] = table[i];
}

static void pdptes_write(const uint64_t pdpte[PDPTES])
{
    for (unsigned i = 0; i < PDPTES; i++)
        hw_vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, pdpte[i]);
}

bool guest_load_pdptes(uint64_t cr3, unsigned maxphyaddr)
{
    uint64_t pdpte[PDPTES];
    pdptes_read(cr3, pdpte);
    for (unsigned i = 0; i < PDPTES; i++)
        if (!pdpte_valid(pdpte[i], maxphyaddr))
            return false;
    pdptes_write(pdpte);
    return true;
}

void guest_copy_pdptes(uint64_t cr3)
{
    uint64_t pdpte[PDPTES];
    pdptes_read(cr3, pdpte);
    pdptes_write(pdpte);
}

void guest_inject(enum vector vector, int64_t error)
{
    uint64_t info = INTR_VALID | INTR_TYPE_HW_EXCEPTION | (uint64_t)vector;
    if (error != NO_ERROR_CODE) {
        info |= INTR_ERROR_VALID;
        vmwrite(ENTRY_EXCEPTION_ERROR, (uint64_t)error);
    }
    /* The flags that an injected exception saves are those of the guest-state area. SDM 3, "Details of Vectored-Event Injection". */
    if (fault_sets_rf(vector))
        vmwrite(GUEST_RFLAGS, vmread(GUEST_RFLAGS) | RFLAGS_RF);
    vmwrite(ENTRY_INTR_INFO, info);
}

static void raise(struct cpu *cpu, struct fault fault)
{
    bool page_fault = fault.vector == VECTOR_PF;
    uint64_t event = vmread(IDT_VECTORING_INFO);
    if (event & INTR_VALID) {
        if (fault_event_external(event) && fault.error != NO_ERROR_CODE && !page_fault)
            fault.error |= FAULT_ERROR_EXT;
        fault = fault_combine(event, fault);
    }
    if (fault.shutdown) {
        guest_shutdown(cpu);
        return;
    }
    if (!(vmread(GUEST_CR0) & CR0_PE)) /* a processor in real mode pushes no error codes */
        fault.error = NO_ERROR_CODE;
    if (cpu->in_nested && nested_fault(cpu, &fault))
        return;
    if (page_fault)
        hw_write_cr2(fault.linear);
    guest_inject(fault.vector, fault.error);
}

void guest_fault(struct cpu *cpu, enum vector vector, int64_t error)
{
    raise(cpu, (struct fault){ .vector = vector, .error = error });
}

void guest_page_fault(struct cpu *cpu, uint64_t linear, uint32_t error)
{
    raise(cpu, (struct fault){ .vector = VECTOR_PF, .error = error, .linear = linear });
}

void guest_refuse(struct cpu *cpu)
{
    if (!guest_redeliver(cpu))
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
}

void guest_shutdown(struct cpu *cpu)
{
    if (cpu->in_nested) {
        nested_shutdown(cpu);
        return;
    }
    log_error("the guest took a triple fault on CPU %u at %04llx:%016llx: resetting the machine", cpu->index,
              (unsigned long long)vmread(GUEST_CS_SEL), (unsigned long long)vmread(GUEST_RIP));
    machine_reset();
}

bool guest_redeliver(struct cpu *cpu)
{
    uint64_t info = vmread(IDT_VECTORING_INFO);
    if (!(info & INTR_VALID))
        return false;
    uint64_t type = info & INTR_TYPE_MASK;
    if (info & INTR_ERROR_VALID)
        vmwrite(ENTRY_EXCEPTION_ERROR, vmread(IDT_VECTORING_ERROR));
    if (type == INTR_TYPE_SW_INTR || type == INTR_TYPE_PRIV_SW_EXCEPTION || type == INTR_TYPE_SW_EXCEPTION)
        vmwrite(ENTRY_INSTRUCTION_LEN, vmread(EXIT_INSTRUCTION_LEN));
    if (type == INTR_TYPE_NMI) /* its delivery set the blocking that would refuse it now */
        vmwrite(GUEST_INTERRUPTIBILITY, vmread(GUEST_INTERRUPTIBILITY) & ~BLOCKING_NMI);
    vmwrite(ENTRY_INTR_INFO, info & (INTR_VECTOR_MASK | INTR_TYPE_MASK | INTR_ERROR_VALID | INTR_VALID));
    count(cpu, COUNT_EVENT_REINJECTED);
    return true;
}

void guest_continue(struct cpu *cpu, uint64_t qualification)
{
    if (guest_redeliver(cpu) || !(qualification & QUAL_NMI_UNBLOCK))
        return;
    /* IRET had unblocked NMIs when it was stopped. With NMI exiting but without virtual NMIs it unblocks nothing. */
    uint64_t pin = vmread(PIN_CONTROLS);
    if (!(pin & PIN_NMI) || (pin & PIN_VIRTUAL_NMIS))
        vmwrite(GUEST_INTERRUPTIBILITY, vmread(GUEST_INTERRUPTIBILITY) | BLOCKING_NMI);
}

void guest_unblock_smi(void)
{
    uint64_t blocking = vmread(GUEST_INTERRUPTIBILITY);
    if (blocking & BLOCKING_SMI)
        vmwrite(GUEST_INTERRUPTIBILITY, blocking & ~BLOCKING_SMI);
}
