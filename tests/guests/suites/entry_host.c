/*
 * SDM 3, "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and Descriptor-Table Registers",
 * "Checks Related to Address-Space Size": VMfailValid(8). And what must be accepted.
 */
#include "entry.h"

// clang-format off
#define HOST(name, ...) { name, PLAIN, BAD_HOST, { __VA_ARGS__ }, 0, 0 }
#define HOST64(name, ...) { name, PLAIN, BAD_HOST, { __VA_ARGS__ }, ONLY64, 0 }
#define HOST32(name, ...) { name, PLAIN, BAD_HOST, { __VA_ARGS__ }, ONLY32, 0 }
#define OK(name, ...) { name, PLAIN, ENTERS, { __VA_ARGS__ }, 0, 0 }

const struct entry_row entry_host_rows[] = {
    HOST("host-cr0-ne", { HOST_CR0, CLEAR, CR0_NE }),
    HOST("host-cr0-pe", { HOST_CR0, CLEAR, CR0_PE }),
    HOST("host-cr0-pg", { HOST_CR0, CLEAR, CR0_PG }),
    HOST64("host-cr0-bit-32", { HOST_CR0, OR, 1ull << 32 }),
    HOST("host-cr4-vmxe", { HOST_CR4, CLEAR, CR4_VMXE }),
    HOST("host-cr4-reserved", { HOST_CR4, OR, 1u << 31 }),
    HOST64("host-cr3-beyond", { HOST_CR3, OR, BEYOND }),
    HOST64("host-sysenter-esp", { HOST_SYSENTER_ESP, SET, NOT_CANONICAL }),
    HOST64("host-sysenter-eip", { HOST_SYSENTER_EIP, SET, NOT_CANONICAL }),
    HOST("host-pat", { EXIT_CONTROLS, OR, EXIT_LOAD_PAT }, { HOST_PAT, SET, 0x0007040600070402ull }),
    HOST("host-pat-high", { EXIT_CONTROLS, OR, EXIT_LOAD_PAT }, { HOST_PAT, SET, 0x0807040600070406ull }),
    HOST("host-perf-global", { EXIT_CONTROLS, OR, EXIT_LOAD_PERF }, { HOST_PERF_GLOBAL, SET, 1ull << 63 }),
    HOST("host-efer-reserved", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, OR, 2 }),
    HOST("host-efer-high", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, OR, 1ull << 63 }),
    HOST64("host-efer-lma-0", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, CLEAR, EFER_LMA }),
    HOST64("host-efer-lme-0", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, CLEAR, EFER_LME }),
    HOST32("host-efer-lma-1", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, OR, EFER_LMA }),
    HOST32("host-efer-lme-1", { EXIT_CONTROLS, OR, EXIT_LOAD_EFER }, { HOST_EFER, OR, EFER_LME }),
    HOST("host-cs-rpl", { HOST_CS, OR, 3 }),
    HOST("host-cs-ti", { HOST_CS, OR, 4 }),
    HOST("host-ss-rpl", { HOST_SS, OR, 1 }),
    HOST("host-ss-ti", { HOST_SS, OR, 4 }),
    HOST("host-ds-rpl", { HOST_DS, OR, 1 }),
    HOST("host-ds-ti", { HOST_DS, OR, 4 }),
    HOST("host-es-rpl", { HOST_ES, OR, 2 }),
    HOST("host-es-ti", { HOST_ES, OR, 4 }),
    HOST("host-fs-rpl", { HOST_FS, OR, 3 }),
    HOST("host-fs-ti", { HOST_FS, OR, 4 }),
    HOST("host-gs-rpl", { HOST_GS, OR, 3 }),
    HOST("host-gs-ti", { HOST_GS, OR, 4 }),
    HOST("host-tr-rpl", { HOST_TR, OR, 3 }),
    HOST("host-tr-ti", { HOST_TR, OR, 4 }),
    HOST("host-cs-0", { HOST_CS, SET, 0 }),
    HOST("host-tr-0", { HOST_TR, SET, 0 }),
    HOST32("host-ss-0", { HOST_SS, SET, 0 }),
    HOST64("host-fs-base", { HOST_FS_BASE, SET, NOT_CANONICAL }),
    HOST64("host-gs-base", { HOST_GS_BASE, SET, NOT_CANONICAL }),
    HOST64("host-tr-base", { HOST_TR_BASE, SET, NOT_CANONICAL }),
    HOST64("host-gdtr-base", { HOST_GDTR_BASE, SET, NOT_CANONICAL }),
    HOST64("host-idtr-base", { HOST_IDTR_BASE, SET, NOT_CANONICAL }),
    HOST64("host-rip", { HOST_RIP, SET, NOT_CANONICAL }),
    HOST64("host-size-0", { EXIT_CONTROLS, CLEAR, EXIT_HOST_64 }, { ENTRY_CONTROLS, CLEAR, ENTRY_GUEST_64 }),
    HOST64("host-size-0-guest-64", { EXIT_CONTROLS, CLEAR, EXIT_HOST_64 }),
    HOST64("host-cr4-pae", { HOST_CR4, CLEAR, CR4_PAE }),
    HOST32("host-size-1", { EXIT_CONTROLS, OR, EXIT_HOST_64 }),
    HOST32("host-guest-64", { ENTRY_CONTROLS, OR, ENTRY_GUEST_64 }),
    { NULL, 0, 0, { { 0, END, 0 } }, 0, 0 },
};

/* A field whose control is 0 may hold anything (LESSONS 8), and some odd values are right. */
const struct entry_row entry_accept_rows[] = {
    OK("ok-io-bitmaps-unused", { IO_BITMAP_A, SET, ~0ull }, { IO_BITMAP_B, SET, ~0ull }),
    OK("ok-msr-bitmap-unused", { MSR_BITMAP, SET, ~0ull }),
    OK("ok-virtual-apic-unused", { VIRTUAL_APIC, SET, ~0ull }, { TPR_THRESHOLD, SET, ~0u }),
    OK("ok-apic-access-unused", { APIC_ACCESS, SET, ~0ull }),
    OK("ok-apic-access-0", { PROC2_CONTROLS, OR, PROC2_APIC_ACCESS }, { APIC_ACCESS, SET, 0 }),
    OK("ok-eptp-unused", { EPTP, SET, ~0ull }),
    OK("ok-vpid-unused", { VPID, SET, 0 }),
    OK("ok-executive-vmcs-unused", { EXECUTIVE_VMCS, SET, ~0ull }),
    OK("ok-msr-areas-unused", { EXIT_MSR_STORE, SET, ~0ull }, { EXIT_MSR_LOAD, SET, ~0ull }, { ENTRY_MSR_LOAD, SET, ~0ull }),
    OK("ok-cr3-targets-unused", { CR3_TARGET0, SET, ~0ull }, { CR3_TARGET3, SET, ~0ull }),
    OK("ok-pml-unused", { PML_ADDRESS, SET, ~0ull }, { PML_INDEX, SET, 0xffff }),
    OK("ok-vmfunc-unused", { VM_FUNCTIONS, SET, ~0ull }, { EPTP_LIST, SET, ~0ull }),
    OK("ok-shadow-bitmaps-unused", { VMREAD_BITMAP, SET, ~0ull }, { VMWRITE_BITMAP, SET, ~0ull }),
    OK("ok-ve-unused", { VE_INFO, SET, ~0ull }),
    OK("ok-secondary-unused", { PROC_CONTROLS, CLEAR, PROC_SECONDARY }, { PROC2_CONTROLS, FORCE, ~0u }),
    OK("ok-host-pat-unused", { EXIT_CONTROLS, CLEAR, EXIT_LOAD_PAT }, { HOST_PAT, SET, ~0ull }),
    OK("ok-host-efer-unused", { EXIT_CONTROLS, CLEAR, EXIT_LOAD_EFER }, { HOST_EFER, SET, ~0ull }),
    OK("ok-host-perf-unused", { EXIT_CONTROLS, CLEAR, EXIT_LOAD_PERF }, { HOST_PERF_GLOBAL, SET, ~0ull }),
    OK("ok-guest-pat-unused", { ENTRY_CONTROLS, CLEAR, ENTRY_LOAD_PAT }, { GUEST_PAT, SET, ~0ull }),
    OK("ok-guest-efer-unused", { ENTRY_CONTROLS, CLEAR, ENTRY_LOAD_EFER }, { GUEST_EFER, SET, ~0ull }),
    OK("ok-guest-debugctl-unused", { ENTRY_CONTROLS, CLEAR, ENTRY_LOAD_DEBUG }, { GUEST_DEBUGCTL, SET, ~0ull }),
    OK("ok-guest-pdptes-unused", { GUEST_PDPTE0, SET, ~0ull }, { GUEST_PDPTE3, SET, ~0ull }),
    OK("ok-guest-smbase", { GUEST_SMBASE, SET, ~0u }),
    OK("ok-guest-cr0-cd-nw", { GUEST_CR0, OR, CR0_NW }), /* bits 30:29 are never checked */
    OK("ok-injection-unused", { ENTRY_INTR_INFO, SET, 0x7fffffff }, { ENTRY_ERROR_CODE, SET, ~0u }, { ENTRY_INSN_LENGTH, SET, ~0u }),
    OK("ok-ds-unusable", { GUEST_DS_AR, SET, 0x1f000 }, { GUEST_DS_LIMIT, SET, 0x12345678 }),
    OK("ok-ldtr-unusable", { GUEST_LDTR_AR, SET, 0x1f0ff }, { GUEST_LDTR_LIMIT, SET, 0x12345678 }),
    OK("ok-preemption-timer-unused", { PIN_CONTROLS, CLEAR, PIN_TIMER }, { PREEMPTION_TIMER, SET, 0 }),
    OK("ok-link-pointer-ones", { LINK_POINTER, SET, ~0ull }),
    OK("ok-pf-fields", { PF_MASK, SET, ~0u }, { PF_MATCH, SET, ~0u }),
    { "ok-host-null-segments", PLAIN, ENTERS, { { HOST_DS, SET, 0 }, { HOST_ES, SET, 0 }, { HOST_FS, SET, 0 }, { HOST_GS, SET, 0 } }, ONLY64, 0 },
    { NULL, 0, 0, { { 0, END, 0 } }, 0, 0 },
};
// clang-format on
