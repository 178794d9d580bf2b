/*
 * The APIC virtualization that the guest hypervisor uses for its nested guest, run by the processor in vmcs02.
 */
#include "core/cpu/cpu.h"
#include "core/lib/vmx.h"
#include "x2apic/x2apic.h"

/* Where vmcs02's address fields point: the guest's page, or one that belongs to nobody. */
static uint64_t page_of(uint64_t addr) { return (uint64_t)gpa1_ptr(gpa1(addr)); }

void x2apic_merge(const uint64_t *vmcs12)
{
    uint64_t proc = vmcs12[FIELD_PROC_CONTROLS];
    if (proc & PROC_TPR_SHADOW)
        vmwrite(VIRTUAL_APIC_ADDR, page_of(vmcs12[FIELD_VIRTUAL_APIC_ADDR]));
    /*
     * Notifications are physical interrupts: in L3 the processor takes them out of the descriptor by itself, elsewhere they are L2's as
     * on a bare machine.
     */
    if (vmcs12[FIELD_PIN_CONTROLS] & PIN_POSTED_INTR)
        vmwrite(POSTED_INTR_DESC, page_of(vmcs12[FIELD_POSTED_INTR_DESC]));
    uint64_t proc2 = proc & PROC_SECONDARY ? vmcs12[FIELD_PROC2_CONTROLS] : 0;
    if (proc2 & PROC2_VIRT_APIC_ACCESS) /* only compared with, never accessed */
        vmwrite(APIC_ACCESS_ADDR, vmcs12[FIELD_APIC_ACCESS_ADDR]);
}
