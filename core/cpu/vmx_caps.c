/*
 * Which capability MSRs and which VMCS fields a set of VMX capabilities brings along. Pure.
 * Nothing here decides what is offered to a guest: nested/caps.c does.
 */
#include "core/cpu/vmx_caps.h"

bool vmx_caps_msr_exists(const struct vmx_caps *caps, uint32_t msr)
{
    uint64_t proc = vmx_caps_msr(caps, MSR_VMX_PROC) >> 32;
    uint64_t proc2 = proc & PROC_SECONDARY ? vmx_caps_msr(caps, MSR_VMX_PROC2) >> 32 : 0;

    switch (msr) {
    case MSR_VMX_PROC2:
        return proc & PROC_SECONDARY;
    case MSR_VMX_EPT_VPID:
        return proc2 & (PROC2_EPT | PROC2_VPID);
    case MSR_VMX_TRUE_PIN:
    case MSR_VMX_TRUE_PROC:
    case MSR_VMX_TRUE_EXIT:
    case MSR_VMX_TRUE_ENTRY:
        return vmx_caps_msr(caps, MSR_VMX_BASIC) & VMX_BASIC_TRUE_CONTROLS;
    case MSR_VMX_VMFUNC:
        return proc2 & PROC2_VMFUNC;
    default:
        return msr >= MSR_VMX_FIRST && msr < MSR_VMX_PROC2;
    }
}

void vmx_caps_derive(struct vmx_caps *caps)
{
    uint64_t pin = vmx_caps_allowed1(caps, MSR_VMX_PIN);
    uint64_t proc = vmx_caps_allowed1(caps, MSR_VMX_PROC);
    uint64_t proc2 = proc & PROC_SECONDARY ? vmx_caps_allowed1(caps, MSR_VMX_PROC2) : 0;
    uint64_t exit = vmx_caps_allowed1(caps, MSR_VMX_EXIT);
    uint64_t entry = vmx_caps_allowed1(caps, MSR_VMX_ENTRY);

    caps->offered[CAP_ALWAYS] = true;
    caps->offered[CAP_NEVER] = false;
    caps->offered[CAP_PROC2] = proc & PROC_SECONDARY;
    caps->offered[CAP_MSR_BITMAP] = proc & PROC_MSR_BITMAP;
    caps->offered[CAP_TPR_SHADOW] = proc & PROC_TPR_SHADOW;
    caps->offered[CAP_VIRT_APIC] = proc2 & PROC2_VIRT_APIC_ACCESS;
    caps->offered[CAP_EPT] = proc2 & PROC2_EPT;
    caps->offered[CAP_VPID] = proc2 & PROC2_VPID;
    caps->offered[CAP_VID] = proc2 & PROC2_VIRT_INTR_DELIVERY;
    caps->offered[CAP_POSTED_INTR] = pin & PIN_POSTED_INTR;
    caps->offered[CAP_SHADOW] = proc2 & PROC2_SHADOW_VMCS;
    caps->offered[CAP_XSAVES] = proc2 & PROC2_XSAVES;
    caps->offered[CAP_TSC_SCALING] = proc2 & PROC2_TSC_SCALING;
    caps->offered[CAP_PAT] = (entry & ENTRY_LOAD_PAT) || (exit & (EXIT_LOAD_PAT | EXIT_SAVE_PAT));
    caps->offered[CAP_EFER] = (entry & ENTRY_LOAD_EFER) || (exit & (EXIT_LOAD_EFER | EXIT_SAVE_EFER));
    caps->offered[CAP_PLE] = proc2 & PROC2_PAUSE_LOOP;
    caps->offered[CAP_PREEMPTION_TIMER] = pin & PIN_PREEMPTION_TIMER;
    _Static_assert(CAP_PREEMPTION_TIMER + 1 == CAP_COUNT, "a capability has no rule here");
}
