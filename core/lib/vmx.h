/*
 * Names of VMX bits and numbers: controls, exit reasons, instruction errors, capability MSRs.
 * SDM 3, "VM-Execution Control Fields", appendices "VMX Capability Reporting Facility" and "VMX Basic Exit Reasons".
 */
#ifndef STRATA_VMX_H
#define STRATA_VMX_H

#include "core/lib/types.h"

/* Pin-based VM-execution controls */
#define PIN_EXTERNAL_INTR BIT(0)
#define PIN_NMI BIT(3)
#define PIN_VIRTUAL_NMIS BIT(5)
#define PIN_PREEMPTION_TIMER BIT(6)
#define PIN_POSTED_INTR BIT(7)

/* Primary processor-based VM-execution controls */
#define PROC_INTR_WINDOW BIT(2)
#define PROC_TSC_OFFSET BIT(3)
#define PROC_HLT BIT(7)
#define PROC_INVLPG BIT(9)
#define PROC_MWAIT BIT(10)
#define PROC_RDPMC BIT(11)
#define PROC_RDTSC BIT(12)
#define PROC_CR3_LOAD BIT(15)
#define PROC_CR3_STORE BIT(16)
#define PROC_CR8_LOAD BIT(19)
#define PROC_CR8_STORE BIT(20)
#define PROC_TPR_SHADOW BIT(21)
#define PROC_NMI_WINDOW BIT(22)
#define PROC_MOV_DR BIT(23)
#define PROC_UNCOND_IO BIT(24)
#define PROC_IO_BITMAPS BIT(25)
#define PROC_MONITOR_TRAP BIT(27)
#define PROC_MSR_BITMAP BIT(28)
#define PROC_MONITOR BIT(29)
#define PROC_PAUSE BIT(30)
#define PROC_SECONDARY BIT(31)

/* Secondary processor-based VM-execution controls */
#define PROC2_VIRT_APIC_ACCESS BIT(0)
#define PROC2_EPT BIT(1)
#define PROC2_DESC_TABLE BIT(2)
#define PROC2_RDTSCP BIT(3)
#define PROC2_VIRT_X2APIC BIT(4)
#define PROC2_VPID BIT(5)
#define PROC2_WBINVD BIT(6)
#define PROC2_UNRESTRICTED BIT(7)
#define PROC2_APIC_REGISTER BIT(8)
#define PROC2_VIRT_INTR_DELIVERY BIT(9)
#define PROC2_PAUSE_LOOP BIT(10)
#define PROC2_RDRAND BIT(11)
#define PROC2_INVPCID BIT(12)
#define PROC2_VMFUNC BIT(13)
#define PROC2_SHADOW_VMCS BIT(14)
#define PROC2_ENCLS BIT(15)
#define PROC2_RDSEED BIT(16)
#define PROC2_PML BIT(17)
#define PROC2_EPT_VE BIT(18)
#define PROC2_CONCEAL_PT BIT(19)
#define PROC2_XSAVES BIT(20)
#define PROC2_MODE_BASED_EXEC BIT(22)
#define PROC2_SUBPAGE_WRITE BIT(23)
#define PROC2_PT_GPA BIT(24)
#define PROC2_TSC_SCALING BIT(25)
#define PROC2_USER_WAIT BIT(26)

/* Primary VM-exit controls */
#define EXIT_SAVE_DEBUG BIT(2)
#define EXIT_HOST_64 BIT(9) /* "host address-space size" */
#define EXIT_LOAD_PERF_GLOBAL BIT(12)
#define EXIT_ACK_INTR BIT(15)
#define EXIT_SAVE_PAT BIT(18)
#define EXIT_LOAD_PAT BIT(19)
#define EXIT_SAVE_EFER BIT(20)
#define EXIT_LOAD_EFER BIT(21)
#define EXIT_SAVE_PREEMPTION_TIMER BIT(22)
#define EXIT_CLEAR_BNDCFGS BIT(23)

/* VM-entry controls */
#define ENTRY_LOAD_DEBUG BIT(2)
#define ENTRY_IA32E BIT(9) /* "IA-32e mode guest" */
#define ENTRY_SMM BIT(10)
#define ENTRY_DEACTIVATE_DUAL BIT(11)
#define ENTRY_LOAD_PERF_GLOBAL BIT(13)
#define ENTRY_LOAD_PAT BIT(14)
#define ENTRY_LOAD_EFER BIT(15)
#define ENTRY_LOAD_BNDCFGS BIT(16)

/* Interruption information (VM-entry, VM-exit, IDT-vectoring) */
#define INTR_VECTOR_MASK 0xffull
#define INTR_TYPE_SHIFT 8
#define INTR_TYPE_MASK (7ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_EXTERNAL (0ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_NMI (2ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_HW_EXCEPTION (3ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_SW_INTR (4ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_PRIV_SW_EXCEPTION (5ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_SW_EXCEPTION (6ull << INTR_TYPE_SHIFT)
#define INTR_TYPE_OTHER (7ull << INTR_TYPE_SHIFT)
#define INTR_ERROR_VALID BIT(11)
#define INTR_NMI_UNBLOCK BIT(12)
#define INTR_VALID BIT(31)

/* Interruptibility state */
#define BLOCKING_STI BIT(0)
#define BLOCKING_MOV_SS BIT(1)
#define BLOCKING_SMI BIT(2)
#define BLOCKING_NMI BIT(3)

/* Pending debug exceptions; bits 3:0: the breakpoint was met */
#define PENDING_DEBUG_ENABLED BIT(12) /* one of them is enabled in DR7 */
#define PENDING_DEBUG_BS BIT(14)

/* Activity state */
enum activity { ACTIVITY_ACTIVE = 0, ACTIVITY_HLT = 1, ACTIVITY_SHUTDOWN = 2, ACTIVITY_WAIT_SIPI = 3 };

/* Segment access rights as in the VMCS */
#define AR_TYPE_MASK 0xfull
#define AR_S BIT(4)
#define AR_DPL_SHIFT 5
#define AR_DPL_MASK (3ull << AR_DPL_SHIFT)
#define AR_PRESENT BIT(7)
#define AR_L BIT(13)
#define AR_DB BIT(14)
#define AR_G BIT(15)
#define AR_UNUSABLE BIT(16)

/* Basic exit reasons; the name is what counters and reports print. X(name, number) */
// clang-format off
#define EXIT_REASONS(X)                                                                                              \
    X(exception_nmi, 0) X(external_interrupt, 1) X(triple_fault, 2) X(init, 3) X(sipi, 4) X(io_smi, 5)               \
    X(other_smi, 6) X(interrupt_window, 7) X(nmi_window, 8) X(task_switch, 9) X(cpuid, 10) X(getsec, 11) X(hlt, 12)  \
    X(invd, 13) X(invlpg, 14) X(rdpmc, 15) X(rdtsc, 16) X(rsm, 17) X(vmcall, 18) X(vmclear, 19) X(vmlaunch, 20)      \
    X(vmptrld, 21) X(vmptrst, 22) X(vmread, 23) X(vmresume, 24) X(vmwrite, 25) X(vmxoff, 26) X(vmxon, 27)            \
    X(cr_access, 28) X(mov_dr, 29) X(io, 30) X(rdmsr, 31) X(wrmsr, 32) X(entry_guest_state, 33)                      \
    X(entry_msr_load, 34) X(mwait, 36) X(monitor_trap, 37) X(monitor, 39) X(pause, 40) X(entry_machine_check, 41)    \
    X(tpr_below_threshold, 43) X(apic_access, 44) X(virtualized_eoi, 45) X(gdtr_idtr, 46) X(ldtr_tr, 47)             \
    X(ept_violation, 48) X(ept_misconfig, 49) X(invept, 50) X(rdtscp, 51) X(preemption_timer, 52) X(invvpid, 53)     \
    X(wbinvd, 54) X(xsetbv, 55) X(apic_write, 56) X(rdrand, 57) X(invpcid, 58) X(vmfunc, 59) X(encls, 60)            \
    X(rdseed, 61) X(pml_full, 62) X(xsaves, 63) X(xrstors, 64) X(umwait, 67) X(tpause, 68)
// clang-format on
enum exit_reason {
#define X(name, number) REASON_##name = (number),
    EXIT_REASONS(X)
#undef X
        REASON_COUNT = 69
};
#define REASON_BASIC_MASK 0xffffull
#define REASON_ENTRY_FAILURE BIT(31)

/* Entry-failure exit qualification (exit reason 33) */
#define ENTRY_FAIL_PDPTE 2
#define ENTRY_FAIL_NMI_STI 3
#define ENTRY_FAIL_LINK_POINTER 4

/* VM-instruction errors: SDM 3, "VM-Instruction Error Numbers". VMX_OK and VMX_FAIL_INVALID are Strata's additions. */
enum vmx_error {
    VMX_OK = 0,
    VMERR_VMCALL_IN_ROOT = 1,
    VMERR_VMCLEAR_ADDRESS = 2,
    VMERR_VMCLEAR_VMXON_PTR = 3,
    VMERR_VMLAUNCH_NOT_CLEAR = 4,
    VMERR_VMRESUME_NOT_LAUNCHED = 5,
    VMERR_ENTRY_CONTROLS = 7,
    VMERR_ENTRY_HOST_STATE = 8,
    VMERR_VMPTRLD_ADDRESS = 9,
    VMERR_VMPTRLD_VMXON_PTR = 10,
    VMERR_VMPTRLD_REVISION = 11,
    VMERR_UNSUPPORTED_FIELD = 12,
    VMERR_READ_ONLY_FIELD = 13,
    VMERR_VMXON_IN_ROOT = 15,
    VMERR_ENTRY_MOV_SS = 26,
    VMERR_INVEPT_OPERAND = 28, /* also INVVPID */
    VMX_FAIL_INVALID = 64,
};

/* VMX capability MSRs */
#define MSR_VMX_BASIC 0x480
#define MSR_VMX_PIN 0x481
#define MSR_VMX_PROC 0x482
#define MSR_VMX_EXIT 0x483
#define MSR_VMX_ENTRY 0x484
#define MSR_VMX_MISC 0x485
#define MSR_VMX_CR0_FIXED0 0x486
#define MSR_VMX_CR0_FIXED1 0x487
#define MSR_VMX_CR4_FIXED0 0x488
#define MSR_VMX_CR4_FIXED1 0x489
#define MSR_VMX_VMCS_ENUM 0x48a
#define MSR_VMX_PROC2 0x48b
#define MSR_VMX_EPT_VPID 0x48c
#define MSR_VMX_TRUE_PIN 0x48d
#define MSR_VMX_TRUE_PROC 0x48e
#define MSR_VMX_TRUE_EXIT 0x48f
#define MSR_VMX_TRUE_ENTRY 0x490
#define MSR_VMX_VMFUNC 0x491
#define MSR_VMX_FIRST MSR_VMX_BASIC
#define MSR_VMX_LAST MSR_VMX_VMFUNC
#define MSR_VMX_COUNT (MSR_VMX_LAST - MSR_VMX_FIRST + 1)

#define VMX_BASIC_REVISION_MASK 0x7fffffffull
#define VMX_BASIC_SIZE_SHIFT 32
#define VMX_BASIC_32BIT_ADDRESSES BIT(48)
#define VMX_BASIC_DUAL_MONITOR BIT(49)
#define VMX_BASIC_MEMTYPE_SHIFT 50
#define VMX_BASIC_MEMTYPE_MASK (0xfull << VMX_BASIC_MEMTYPE_SHIFT)
#define VMX_BASIC_INS_OUTS BIT(54)
#define VMX_BASIC_TRUE_CONTROLS BIT(55)
#define VMX_BASIC_ANY_ERROR_CODE BIT(56) /* an injected exception may have an error code or none, whatever its vector */

#define VMX_MISC_TIMER_SHIFT_MASK 0x1full
#define VMX_MISC_STORE_LMA BIT(5)
#define VMX_MISC_ACTIVITY_HLT BIT(6)
#define VMX_MISC_ACTIVITY_SHUTDOWN BIT(7)
#define VMX_MISC_ACTIVITY_WAIT_SIPI BIT(8)
#define VMX_MISC_CR3_TARGETS_SHIFT 16
#define VMX_MISC_CR3_TARGETS_MASK (0x1ffull << VMX_MISC_CR3_TARGETS_SHIFT)
#define VMX_MISC_MSR_AREA_SHIFT 25 /* recommended maximum is 512 * (value + 1) */
#define VMX_MISC_MSR_AREA_MASK (7ull << VMX_MISC_MSR_AREA_SHIFT)
#define VMX_MISC_WRITE_INFO BIT(29) /* VMWRITE to read-only (exit information) fields */
#define VMX_MISC_INJECT_LEN0 BIT(30)

#define VMX_VMCS_ENUM_INDEX_MASK 0x3feull /* as the encoding of a field has its index, too */

#define EPT_CAP_EXEC_ONLY BIT(0)
#define EPT_CAP_WALK_4 BIT(6)
#define EPT_CAP_UC BIT(8)
#define EPT_CAP_WB BIT(14)
#define EPT_CAP_2M BIT(16)
#define EPT_CAP_1G BIT(17)
#define EPT_CAP_INVEPT BIT(20)
#define EPT_CAP_AD BIT(21)
#define EPT_CAP_INVEPT_SINGLE BIT(25)
#define EPT_CAP_INVEPT_GLOBAL BIT(26)
#define EPT_CAP_INVVPID BIT(32)
#define EPT_CAP_INVVPID_ADDR BIT(40)
#define EPT_CAP_INVVPID_SINGLE BIT(41)
#define EPT_CAP_INVVPID_ALL BIT(42)
#define EPT_CAP_INVVPID_SINGLE_NOGLOBAL BIT(43)

#define VMCS_SHADOW_INDICATOR BIT(31) /* in the first 32-bit word of a VMCS region */

enum invept_type { INVEPT_SINGLE = 1, INVEPT_GLOBAL = 2 };
enum invvpid_type { INVVPID_ADDRESS = 0, INVVPID_SINGLE = 1, INVVPID_ALL = 2, INVVPID_SINGLE_NOGLOBAL = 3 };

#endif
