/*
 * x2apic/ is the door to all that concerns the interrupt controller: whose it is, and what of it costs exits. Rule: the APIC
 * belongs to the guest, without an exit; what is kept from it is kept for as short as possible.
 *
 *   x2apic.c        CPUID and IA32_APIC_BASE: whether the guest sees x2APIC
 *   icr.c           the interrupt command register, watched until the guest's CPUs run
 *   page.c          the xAPIC page while it is protected (store_decode.c: which instruction accesses it)
 *   merge.c         APIC virtualization of a nested guest, in vmcs02
 *
 * Elsewhere, because it is needed below: core/cpu/lapic.c is Strata's own use of the APIC (it starts CPUs), core/guest/msr.c
 * says which APIC MSRs exit, core/guest/start.c is what INIT and SIPI do; the checks of the fields here are rows in
 * nested/checks_controls.c. What core calls is declared in core/upcall.h; this header is for nested/.
 */
#ifndef STRATA_X2APIC_H
#define STRATA_X2APIC_H

#include "core/cpu/cpu.h"
#include "core/guest/guest_walk.h"

/* The controls of APIC virtualization that the guest hypervisor is offered, where the processor has them. */
#define X2APIC_PIN_OFFERED PIN_POSTED_INTR
#define X2APIC_PROC_OFFERED (PROC_TPR_SHADOW | PROC_CR8_LOAD | PROC_CR8_STORE)
#define X2APIC_PROC2_OFFERED                                                                                           \
    (PROC2_VIRT_APIC_ACCESS | PROC2_VIRT_X2APIC | PROC2_APIC_REGISTER | PROC2_VIRT_INTR_DELIVERY)

/* Writes the addresses that APIC virtualization uses into the current VMCS, vmcs02. vmcs12: values by enum vmcs_row. */
void x2apic_merge(const uint64_t *vmcs12);

/*
 * An access of a nested guest, whose VMCS is current, to guest hypervisor's address addr: true if that is in the protected xAPIC
 * page and the access has been done. memory reaches the nested guest's memory.
 */
bool x2apic_page_store(struct cpu *cpu, const struct guest_memory *memory, gpa1_t addr);

#endif
