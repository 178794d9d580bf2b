/*
 * The VMX capabilities that the guest hypervisor sees: masks of what Strata runs for it, applied to what the processor
 * has. Pure. A bit is offered because it stands in a mask here, never because the processor happens to have it: a
 * control that a later processor brings stays hidden until Strata knows what it means for a nested guest.
 */
#include "nested/caps.h"

#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "x2apic/x2apic.h"

#define PIN_OFFERED (PIN_EXTERNAL_INTR | PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER | X2APIC_PIN_OFFERED)

#define PROC_OFFERED                                                                                                   \
    (PROC_INTR_WINDOW | PROC_TSC_OFFSET | PROC_HLT | PROC_INVLPG | PROC_MWAIT | PROC_RDPMC | PROC_RDTSC |              \
     PROC_CR3_LOAD | PROC_CR3_STORE | X2APIC_PROC_OFFERED | PROC_NMI_WINDOW | PROC_MOV_DR | PROC_UNCOND_IO |           \
     PROC_IO_BITMAPS | PROC_MONITOR_TRAP | PROC_MSR_BITMAP | PROC_MONITOR | PROC_PAUSE | PROC_SECONDARY)

/* Without PML, EPT #VE, VM functions, mode-based execute control, sub-page permissions, Intel PT, ENCLS exiting. */
#define PROC2_OFFERED                                                                                                  \
    (X2APIC_PROC2_OFFERED | PROC2_EPT | PROC2_DESC_TABLE | PROC2_RDTSCP | PROC2_VPID | PROC2_WBINVD |                  \
     PROC2_UNRESTRICTED | PROC2_PAUSE_LOOP | PROC2_RDRAND | PROC2_INVPCID | PROC2_RDSEED | PROC2_XSAVES |              \
     PROC2_TSC_SCALING | PROC2_USER_WAIT)

#define EXIT_OFFERED                                                                                                   \
    (EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_ACK_INTR | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |                 \
     EXIT_LOAD_EFER | EXIT_SAVE_PREEMPTION_TIMER)

/* Without SMM and the dual-monitor treatment. */
#define ENTRY_OFFERED (ENTRY_LOAD_DEBUG | ENTRY_IA32E | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER)

/* Features that CPUID hides (core/guest/cpuid_hide.c), for host and guest state alike. */
#define CR4_NOT_OFFERED (CR4_LAM_SUP | CR4_FRED)

/* The size of a VMCS region is the guest hypervisor's to read, so it must not depend on the processor. */
#define BASIC_OFFERED                                                                                                  \
    (VMX_BASIC_REVISION_MASK | VMX_BASIC_MEMTYPE_MASK | VMX_BASIC_INS_OUTS | VMX_BASIC_TRUE_CONTROLS |                 \
     VMX_BASIC_ANY_ERROR_CODE)
#define VMCS_REGION_SIZE PAGE_SIZE
#define CR3_TARGET_FIELDS 4

/* The MSR-area maximum is left 0: 512 entries. */
#define MISC_OFFERED                                                                                                   \
    (VMX_MISC_TIMER_SHIFT_MASK | VMX_MISC_STORE_LMA | VMX_MISC_ACTIVITY_HLT | VMX_MISC_ACTIVITY_SHUTDOWN |             \
     VMX_MISC_ACTIVITY_WAIT_SIPI | VMX_MISC_CR3_TARGETS_MASK | VMX_MISC_WRITE_INFO | VMX_MISC_INJECT_LEN0)

#define EPT_CAPS_OFFERED                                                                                               \
    (EPT_CAP_EXEC_ONLY | EPT_CAP_WALK_4 | EPT_CAP_UC | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_1G | EPT_CAP_INVEPT |         \
     EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_GLOBAL)
#define VPID_CAPS_OFFERED                                                                                              \
    (EPT_CAP_INVVPID | EPT_CAP_INVVPID_ADDR | EPT_CAP_INVVPID_SINGLE | EPT_CAP_INVVPID_ALL |                           \
     EPT_CAP_INVVPID_SINGLE_NOGLOBAL)

/* Takes the controls that are not offered out of the allowed-1 half. One that must be 1 stays allowed. */
static uint64_t controls_filter(uint64_t msr, uint64_t offered)
{
    uint64_t must = (uint32_t)msr;
    uint64_t may = (msr >> 32) & (offered | must);
    return may << 32 | must;
}

static uint64_t ept_vpid_filter(const struct vmx_caps *hw, const struct caps_options *opt)
{
    uint64_t proc2 = vmx_caps_msr(hw, MSR_VMX_PROC2) >> 32;
    uint64_t offered = 0;

    if (proc2 & PROC2_EPT)
        offered |= EPT_CAPS_OFFERED | (opt->ept_ad ? EPT_CAP_AD : 0);
    if (proc2 & PROC2_VPID)
        offered |= VPID_CAPS_OFFERED;
    return vmx_caps_msr(hw, MSR_VMX_EPT_VPID) & offered;
}

/* IA32_VMX_VMCS_ENUM: bits 9:1 hold the highest index of any field that exists; an encoding has it in the same bits. */
static uint64_t enum_compute(const struct vmx_caps *caps)
{
    uint64_t highest = 0;

    for (int row = 0; row < FIELD_COUNT; row++) {
        uint64_t index = vmcs_fields[row].encoding & VMX_VMCS_ENUM_INDEX_MASK;
        if (caps->offered[vmcs_fields[row].cap] && index > highest)
            highest = index;
    }
    return highest;
}

/* As many CR3-target values as there are fields for. */
static uint64_t misc_filter(const struct vmx_caps *hw)
{
    uint64_t misc = vmx_caps_msr(hw, MSR_VMX_MISC) & MISC_OFFERED;
    uint64_t targets = (misc & VMX_MISC_CR3_TARGETS_MASK) >> VMX_MISC_CR3_TARGETS_SHIFT;
    for (uint64_t i = 0; i < CR3_TARGET_FIELDS; i++)
        if (hw->missing[FIELD_CR3_TARGET0 + i] && targets > i)
            targets = i;
    return (misc & ~VMX_MISC_CR3_TARGETS_MASK) | targets << VMX_MISC_CR3_TARGETS_SHIFT;
}

static void msr_set(struct vmx_caps *caps, uint32_t msr, uint64_t value) { caps->msr[msr - MSR_VMX_FIRST] = value; }

void caps_filter(struct vmx_caps *out, const struct vmx_caps *hw, const struct caps_options *opt)
{
    /* Where exits do not save the timer, it would begin anew behind each that the guest hypervisor does not see. */
    bool saves_timer = vmx_caps_allowed1(hw, MSR_VMX_EXIT) & EXIT_SAVE_PREEMPTION_TIMER;
    uint64_t pin = saves_timer ? PIN_OFFERED : PIN_OFFERED & ~PIN_PREEMPTION_TIMER;
    const struct {
        uint32_t msr;
        uint64_t offered;
    } controls[] = {
        { MSR_VMX_PIN, pin },
        { MSR_VMX_PROC, PROC_OFFERED },
        { MSR_VMX_EXIT, EXIT_OFFERED },
        { MSR_VMX_ENTRY, ENTRY_OFFERED },
        { MSR_VMX_TRUE_PIN, pin },
        { MSR_VMX_TRUE_PROC, PROC_OFFERED },
        { MSR_VMX_TRUE_EXIT, EXIT_OFFERED },
        { MSR_VMX_TRUE_ENTRY, ENTRY_OFFERED },
    };
    uint64_t proc2 = PROC2_OFFERED | (opt->vmcs_shadowing ? PROC2_SHADOW_VMCS : 0);

    memset(out, 0, sizeof(*out));
    out->efer = hw->efer;
    out->maxphyaddr = hw->maxphyaddr;
    for (size_t i = 0; i < ARRAY_SIZE(controls); i++)
        msr_set(out, controls[i].msr, controls_filter(vmx_caps_msr(hw, controls[i].msr), controls[i].offered));
    msr_set(out, MSR_VMX_PROC2, controls_filter(vmx_caps_msr(hw, MSR_VMX_PROC2), proc2));
    msr_set(out, MSR_VMX_EPT_VPID, ept_vpid_filter(hw, opt));
    msr_set(out, MSR_VMX_BASIC,
            (vmx_caps_msr(hw, MSR_VMX_BASIC) & BASIC_OFFERED) | VMCS_REGION_SIZE << VMX_BASIC_SIZE_SHIFT);
    msr_set(out, MSR_VMX_MISC, misc_filter(hw));
    for (uint32_t msr = MSR_VMX_CR0_FIXED0; msr <= MSR_VMX_CR4_FIXED1; msr++)
        msr_set(out, msr, vmx_caps_msr(hw, msr));
    msr_set(out, MSR_VMX_CR4_FIXED1, vmx_caps_msr(hw, MSR_VMX_CR4_FIXED1) & ~CR4_NOT_OFFERED);
    vmx_caps_derive(out);
    msr_set(out, MSR_VMX_VMCS_ENUM, enum_compute(out));
}
