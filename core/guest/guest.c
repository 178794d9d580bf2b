/*
 * See guest.h.
 */
#include "core/guest/guest.h"

#define PDPT_ADDRESS 0xffffffe0ull
#define PENDING_DEBUG_BS BIT(14)
#define DEBUGCTL_BTF BIT(1)

unsigned guest_cpl(void) { return (unsigned)((vmread(GUEST_SS_AR) & AR_DPL_MASK) >> AR_DPL_SHIFT); }

bool guest_is_64bit(void) { return (vmread(GUEST_EFER) & EFER_LMA) && (vmread(GUEST_CS_AR) & AR_L); }

void guest_skip_known(uint64_t length, uint64_t rflags, bool mode_64)
{
    uint64_t rip = vmread(GUEST_RIP) + length;
    if (!mode_64)
        rip &= 0xffffffff;
    vmwrite(GUEST_RIP, rip);

    uint64_t blocking = vmread(GUEST_INTERRUPTIBILITY);
    if (blocking & (BLOCKING_STI | BLOCKING_MOV_SS))
        vmwrite(GUEST_INTERRUPTIBILITY, blocking & ~(BLOCKING_STI | BLOCKING_MOV_SS));
    if ((rflags & RFLAGS_TF) && !(vmread(GUEST_DEBUGCTL) & DEBUGCTL_BTF))
        vmwrite(GUEST_PENDING_DEBUG, vmread(GUEST_PENDING_DEBUG) | PENDING_DEBUG_BS);
}

void guest_skip_bytes(uint64_t length) { guest_skip_known(length, vmread(GUEST_RFLAGS), guest_is_64bit()); }

void guest_skip(void) { guest_skip_bytes(vmread(EXIT_INSTRUCTION_LEN)); }

bool guest_load_pdptes(uint64_t cr3, unsigned maxphyaddr)
{
    const volatile uint64_t *table = gpa1_ptr(gpa1(cr3 & PDPT_ADDRESS));
    uint64_t pdpte[PDPTES];
    for (unsigned i = 0; i < PDPTES; i++) {
        pdpte[i] = table[i]; /* once: it may change */
        if (!pdpte_valid(pdpte[i], maxphyaddr))
            return false;
    }
    for (unsigned i = 0; i < PDPTES; i++)
        hw_vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, pdpte[i]);
    return true;
}

void guest_fault(enum vector vector, int64_t error)
{
    uint64_t info = INTR_VALID | INTR_TYPE_HW_EXCEPTION | (uint64_t)vector;
    /* A processor in real mode pushes no error codes. */
    if (error != NO_ERROR_CODE && (vmread(GUEST_CR0) & CR0_PE)) {
        info |= INTR_ERROR_VALID;
        vmwrite(ENTRY_EXCEPTION_ERROR, (uint64_t)error);
    }
    vmwrite(ENTRY_INTR_INFO, info);
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

void guest_unblock_smi(void)
{
    uint64_t blocking = vmread(GUEST_INTERRUPTIBILITY);
    if (blocking & BLOCKING_SMI)
        vmwrite(GUEST_INTERRUPTIBILITY, blocking & ~BLOCKING_SMI);
}
