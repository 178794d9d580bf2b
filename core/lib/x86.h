/*
 * Names of architectural bits outside VMX: control registers, flags, EFER, MSRs, CPUID, vectors.
 */
#ifndef STRATA_X86_H
#define STRATA_X86_H

#include "core/lib/types.h"

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)
#define CR4_CET BIT(23)
#define CR4_LAM_SUP BIT(28)
#define CR4_FRED BIT(32)

#define RFLAGS_CF BIT(0)
#define RFLAGS_FIXED1 BIT(1)
#define RFLAGS_PF BIT(2)
#define RFLAGS_AF BIT(4)
#define RFLAGS_ZF BIT(6)
#define RFLAGS_SF BIT(7)
#define RFLAGS_TF BIT(8)
#define RFLAGS_IF BIT(9)
#define RFLAGS_DF BIT(10)
#define RFLAGS_OF BIT(11)
#define RFLAGS_NT BIT(14)
#define RFLAGS_RF BIT(16)
#define RFLAGS_VM BIT(17)
#define RFLAGS_AC BIT(18)
/* What VMX instructions set or clear. */
#define RFLAGS_ARITHMETIC (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

enum vector {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_MC = 18,
    VECTOR_XM = 19,
    VECTOR_VE = 20,
    VECTOR_CP = 21,
};

#define PFERR_PRESENT BIT(0)
#define PFERR_WRITE BIT(1)
#define PFERR_USER BIT(2)
#define PFERR_RESERVED BIT(3)
#define PFERR_FETCH BIT(4)
#define PFERR_PKEY BIT(5)

/* DR7: what enables breakpoints 0..3 (L and G), and for each of them when it is met and its length less 1. */
#define DR7_ENABLED_MASK 0xffull
#define DR7_FIELDS_SHIFT 16
#define DR7_FIELD_BITS 4
#define DR7_WHEN_MASK 3ull
#define DR7_WHEN_WRITE 1
#define DR7_WHEN_ACCESS 3
#define DR7_LENGTH_SHIFT 2
#define BREAKPOINTS 4

#define DEBUGCTL_LBR BIT(0)
#define DEBUGCTL_BTF BIT(1)

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_PRED_CMD 0x49
#define MSR_BIOS_UPDT_TRIG 0x79
#define MSR_BIOS_SIGN_ID 0x8b
#define MSR_CORE_CAPABILITIES 0xcf
#define MSR_MTRRCAP 0xfe
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_FLUSH_CMD 0x10b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MISC_ENABLE 0x1a0
#define MSR_DEBUGCTL 0x1d9
#define MSR_MTRR_PHYSBASE0 0x200 /* PHYSBASEn = 200h + 2n, PHYSMASKn = 201h + 2n */
#define MSR_MTRR_FIX64K_00000 0x250
#define MSR_MTRR_FIX16K_80000 0x258
#define MSR_MTRR_FIX16K_A0000 0x259
#define MSR_MTRR_FIX4K_C0000 0x268 /* .. 26Fh */
#define MSR_PAT 0x277
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_PERF_CAPABILITIES 0x345
#define MSR_PERF_GLOBAL_CTRL 0x38f
#define MSR_PEBS_ENABLE 0x3f1
#define MSR_RTIT_OUTPUT_BASE 0x560 /* Processor Trace */
#define MSR_RTIT_CTL 0x570
#define MSR_RTIT_ADDR0_A 0x580
#define MSR_MC0_STATUS 0x401 /* MCi_STATUS = 401h + 4i, MCi_ADDR behind it */
#define MSR_DS_AREA 0x600
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_ICR 0x830
#define MSR_X2APIC_LAST 0x8ff
#define MSR_TME_CAPABILITY 0x981
#define MSR_TME_ACTIVATE 0x982
#define MSR_XSS 0xda0
#define MSR_LBR_CTL 0x14ce
#define MSR_HW_FEEDBACK_PTR 0x17d0
#define MSR_HW_FEEDBACK_CONFIG 0x17d1
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

#define FEATURE_CONTROL_LOCK BIT(0)
#define FEATURE_CONTROL_VMX_SMX BIT(1)
#define FEATURE_CONTROL_VMX BIT(2)

#define FEATURE_CONTROL_LMCE BIT(20)

#define MISC_ENABLE_BTS_UNAVAILABLE BIT(11)
#define MISC_ENABLE_PEBS_UNAVAILABLE BIT(12)
#define MISC_ENABLE_XD_DISABLE BIT(34)

#define MCG_CAP_BANKS_MASK 0xffull
#define MCG_STATUS_RIPV BIT(0)
#define MCI_STATUS_VALID BIT(63)

#define TME_ACTIVATE_LOCK BIT(0)
#define TME_ACTIVATE_ENABLE BIT(1)
#define TME_ACTIVATE_KEY_BITS_SHIFT 32 /* bits 35:32: how many */

#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)
#define APIC_ID 0x20
#define APIC_EOI 0xb0
#define APIC_ICR_LOW 0x300
#define APIC_ICR_HIGH 0x310
#define ICR_VECTOR_MASK 0xffu
#define ICR_MODE_MASK (7ull << 8)
#define ICR_MODE_NMI (4ull << 8)
#define ICR_MODE_INIT (5ull << 8)
#define ICR_MODE_STARTUP (6ull << 8)
#define ICR_LOGICAL BIT(11)
#define ICR_PENDING BIT(12)
#define ICR_ASSERT BIT(14)
#define ICR_LEVEL BIT(15)
#define ICR_SHORTHAND_MASK (3ull << 18)
#define ICR_SHORTHAND_SELF (1ull << 18)
#define ICR_SHORTHAND_ALL (2ull << 18)
#define ICR_SHORTHAND_OTHERS (3ull << 18)

/* CPUID */
#define CPUID1_ECX_VMX BIT(5)
#define CPUID1_ECX_SMX BIT(6)
#define CPUID1_ECX_X2APIC BIT(21)
#define CPUID1_ECX_OSXSAVE BIT(27)
#define CPUID1_ECX_HYPERVISOR BIT(31)
#define CPUID1_EDX_MCE BIT(7)
#define CPUID1_EDX_MTRR BIT(12)
#define CPUID1_EDX_MCA BIT(14)
#define CPUID7_EBX_INVPCID BIT(10)
#define CPUID7_ECX_TME BIT(13)
#define CPUID8_EDX_SYSCALL BIT(11)
#define CPUID8_EDX_NX BIT(20)
#define CPUID8_EDX_1G BIT(26)
#define CPUID8_EDX_RDTSCP BIT(27)
#define CPUID8_EDX_LM BIT(29)

/* General registers in the order of instruction encodings. RSP lives in the VMCS. */
enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_COUNT
};

/* Segment registers in the order of instruction encodings (and of VMCS fields). */
enum segment { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

#endif
