/*
 * What Strata itself needs of the processor's VMX: a list in the order in which features appeared, so that an old
 * processor is refused for the feature that its users know it lacks. Pure; it decides, others print and stop.
 */
#include "core/cpu/vmx_require.h"

struct requirement {
    uint32_t msr;
    uint64_t bit; /* as the MSR has it: the allowed-1 setting of control n is bit 32 + n */
    const char *text;
};

#define ALLOWED1(control) ((uint64_t)(control) << 32)

// clang-format off
static const struct requirement requirements[] = {
    /* ept01 instead of shadow page tables; a guest that starts in real mode. */
    { MSR_VMX_PROC, ALLOWED1(PROC_SECONDARY), "secondary controls (IA32_VMX_PROCBASED_CTLS[63])" },
    { MSR_VMX_PROC2, ALLOWED1(PROC2_EPT), "EPT (IA32_VMX_PROCBASED_CTLS2[33])" },
    { MSR_VMX_PROC2, ALLOWED1(PROC2_UNRESTRICTED), "unrestricted guest (IA32_VMX_PROCBASED_CTLS2[39])" },

    /* The format of ept01 and ept02. */
    { MSR_VMX_EPT_VPID, EPT_CAP_WALK_4, "EPT page-walk length 4 (IA32_VMX_EPT_VPID_CAP[6])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_WB, "EPT paging structures of memory type WB (IA32_VMX_EPT_VPID_CAP[14])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_2M, "EPT 2-MByte pages (IA32_VMX_EPT_VPID_CAP[16])" },

    /* Permissions taken away from ept02 must be gone, for one EPTP or for all. */
    { MSR_VMX_EPT_VPID, EPT_CAP_INVEPT, "INVEPT (IA32_VMX_EPT_VPID_CAP[20])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_INVEPT_SINGLE, "single-context INVEPT (IA32_VMX_EPT_VPID_CAP[25])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_INVEPT_GLOBAL, "all-context INVEPT (IA32_VMX_EPT_VPID_CAP[26])" },

    /* Switching between vmcs01 and vmcs02 without flushing the TLB. */
    { MSR_VMX_PROC2, ALLOWED1(PROC2_VPID), "VPID (IA32_VMX_PROCBASED_CTLS2[37])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_INVVPID, "INVVPID (IA32_VMX_EPT_VPID_CAP[32])" },
    { MSR_VMX_EPT_VPID, EPT_CAP_INVVPID_SINGLE, "single-context INVVPID (IA32_VMX_EPT_VPID_CAP[41])" },

    /* A guest that does not exit on every RDMSR, WRMSR and access to CR3. */
    { MSR_VMX_PROC, ALLOWED1(PROC_MSR_BITMAP), "MSR bitmaps (IA32_VMX_PROCBASED_CTLS[60])" },
    { MSR_VMX_BASIC, VMX_BASIC_TRUE_CONTROLS, "true controls (IA32_VMX_BASIC[55])" },

    /* Strata's, the guest hypervisor's and the nested guest's EFER and PAT are switched by the processor. */
    { MSR_VMX_TRUE_EXIT, ALLOWED1(EXIT_SAVE_PAT), "save IA32_PAT on exit (IA32_VMX_TRUE_EXIT_CTLS[50])" },
    { MSR_VMX_TRUE_EXIT, ALLOWED1(EXIT_LOAD_PAT), "load IA32_PAT on exit (IA32_VMX_TRUE_EXIT_CTLS[51])" },
    { MSR_VMX_TRUE_EXIT, ALLOWED1(EXIT_SAVE_EFER), "save IA32_EFER on exit (IA32_VMX_TRUE_EXIT_CTLS[52])" },
    { MSR_VMX_TRUE_EXIT, ALLOWED1(EXIT_LOAD_EFER), "load IA32_EFER on exit (IA32_VMX_TRUE_EXIT_CTLS[53])" },
    { MSR_VMX_TRUE_ENTRY, ALLOWED1(ENTRY_LOAD_PAT), "load IA32_PAT on entry (IA32_VMX_TRUE_ENTRY_CTLS[46])" },
    { MSR_VMX_TRUE_ENTRY, ALLOWED1(ENTRY_LOAD_EFER), "load IA32_EFER on entry (IA32_VMX_TRUE_ENTRY_CTLS[47])" },

    /* Strata and its guest in 64-bit mode. */
    { MSR_VMX_TRUE_EXIT, ALLOWED1(EXIT_HOST_64), "64-bit host (IA32_VMX_TRUE_EXIT_CTLS[41])" },
    { MSR_VMX_TRUE_ENTRY, ALLOWED1(ENTRY_IA32E), "IA-32e mode guest (IA32_VMX_TRUE_ENTRY_CTLS[41])" },

    /* NMIs that arrive in Strata wait for their turn in the guest. */
    { MSR_VMX_PIN, ALLOWED1(PIN_NMI), "NMI exiting (IA32_VMX_PINBASED_CTLS[35])" },
    { MSR_VMX_PIN, ALLOWED1(PIN_VIRTUAL_NMIS), "virtual NMIs (IA32_VMX_PINBASED_CTLS[37])" },
    { MSR_VMX_PROC, ALLOWED1(PROC_NMI_WINDOW), "NMI-window exiting (IA32_VMX_PROCBASED_CTLS[54])" },

    /* Processors that wait for their start as guests. */
    { MSR_VMX_MISC, VMX_MISC_ACTIVITY_WAIT_SIPI, "activity state wait-for-SIPI (IA32_VMX_MISC[8])" },
};
// clang-format on

const char *vmx_require(const struct vmx_caps *hw)
{
    for (size_t i = 0; i < ARRAY_SIZE(requirements); i++)
        if (!(vmx_caps_msr(hw, requirements[i].msr) & requirements[i].bit))
            return requirements[i].text;
    return NULL;
}
