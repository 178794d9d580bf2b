/*
 * The capabilities of fake processors, in the form that real ones report them.
 */
#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "tests/host/machine/fake_hw.h"

/* Controls that were always 1 on the first processors ("default1"), and what of them the "true" MSRs let go. */
#define PIN_DEFAULT1 0x16ull
#define PROC_DEFAULT1 0x0401e172ull
#define EXIT_DEFAULT1 0x00036dffull
#define ENTRY_DEFAULT1 0x000011ffull

#define REVISION 0x12
#define REGION_SIZE 0x400ull /* less than a page, as on real processors */
#define TIMER_SHIFT 5
#define CR3_TARGETS 4ull
#define CR4_ALL 0x00ffffffull
#define ALL_ACTIVITY (VMX_MISC_ACTIVITY_HLT | VMX_MISC_ACTIVITY_SHUTDOWN | VMX_MISC_ACTIVITY_WAIT_SIPI)

static void set(struct vmx_caps *caps, uint32_t msr, uint64_t value) { caps->msr[msr - MSR_VMX_FIRST] = value; }

/* Both MSRs of a group of controls: may (what is beyond default1), and default1 with those that may still be 0. */
static void controls(struct vmx_caps *caps, uint32_t msr, uint64_t may, uint64_t default1, uint64_t optional)
{
    set(caps, msr, (may | default1) << 32 | default1);
    set(caps, msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN, (may | default1) << 32 | (default1 & ~optional));
}

static void common(struct vmx_caps *caps)
{
    memset(caps, 0, sizeof(*caps));
    caps->maxphyaddr = 40;
    caps->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    set(caps, MSR_VMX_BASIC,
        REVISION | REGION_SIZE << VMX_BASIC_SIZE_SHIFT | VMX_BASIC_DUAL_MONITOR |
            (uint64_t)MEMTYPE_WB << VMX_BASIC_MEMTYPE_SHIFT | VMX_BASIC_INS_OUTS | VMX_BASIC_TRUE_CONTROLS);
    set(caps, MSR_VMX_MISC,
        TIMER_SHIFT | VMX_MISC_STORE_LMA | ALL_ACTIVITY | CR3_TARGETS << VMX_MISC_CR3_TARGETS_SHIFT |
            VMX_MISC_WRITE_INFO);
    set(caps, MSR_VMX_CR0_FIXED0, CR0_PE | CR0_NE | CR0_PG);
    set(caps, MSR_VMX_CR0_FIXED1, 0xffffffff);
    set(caps, MSR_VMX_CR4_FIXED0, CR4_VMXE);
    set(caps, MSR_VMX_CR4_FIXED1, CR4_ALL & ~(CR4_LA57 | BIT(15) | BIT(19)));
    set(caps, MSR_VMX_VMCS_ENUM, 0x2e);
}

void fake_caps_all(struct vmx_caps *caps)
{
    common(caps);
    controls(caps, MSR_VMX_PIN, 0xff, PIN_DEFAULT1, 0);
    controls(caps, MSR_VMX_PROC, 0xfff9fffe, PROC_DEFAULT1, PROC_CR3_LOAD | PROC_CR3_STORE);
    controls(caps, MSR_VMX_EXIT, 0x01ffffff, EXIT_DEFAULT1, EXIT_SAVE_DEBUG);
    controls(caps, MSR_VMX_ENTRY, 0x0003ffff & ~(ENTRY_SMM | ENTRY_DEACTIVATE_DUAL), ENTRY_DEFAULT1, ENTRY_LOAD_DEBUG);
    set(caps, MSR_VMX_PROC2, 0x07ffffffull << 32);
    set(caps, MSR_VMX_EPT_VPID,
        EPT_CAP_EXEC_ONLY | EPT_CAP_WALK_4 | EPT_CAP_UC | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_1G | EPT_CAP_INVEPT |
            EPT_CAP_AD | BIT(22) | EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_GLOBAL | EPT_CAP_INVVPID |
            EPT_CAP_INVVPID_ADDR | EPT_CAP_INVVPID_SINGLE | EPT_CAP_INVVPID_ALL | EPT_CAP_INVVPID_SINGLE_NOGLOBAL);
    set(caps, MSR_VMX_VMFUNC, 1);
    vmx_caps_derive(caps);
}

void fake_caps_plain(struct vmx_caps *caps)
{
    common(caps);
    controls(caps, MSR_VMX_PIN, PIN_EXTERNAL_INTR | PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER, PIN_DEFAULT1, 0);
    controls(caps, MSR_VMX_PROC, 0xf7f9fffe, PROC_DEFAULT1, PROC_CR3_LOAD | PROC_CR3_STORE);
    controls(caps, MSR_VMX_EXIT, 0x007fffff, EXIT_DEFAULT1, EXIT_SAVE_DEBUG);
    controls(caps, MSR_VMX_ENTRY, 0x0000ffff & ~(ENTRY_SMM | ENTRY_DEACTIVATE_DUAL), ENTRY_DEFAULT1, ENTRY_LOAD_DEBUG);
    set(caps, MSR_VMX_PROC2, (PROC2_EPT | PROC2_VPID | PROC2_UNRESTRICTED) << 32);
    set(caps, MSR_VMX_EPT_VPID,
        EPT_CAP_WALK_4 | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_INVEPT | EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_GLOBAL |
            EPT_CAP_INVVPID | EPT_CAP_INVVPID_SINGLE);
    vmx_caps_derive(caps);
}
