/*
 * SDM 3, "Checks on the Guest State Area" but for segments (entry_segment.c): exit reason 33, whose qualification is
 * 0 but for the three cases the SDM numbers.
 */
#include "entry.h"

// clang-format off
#define GUEST_ROW(name, ...) { name, PLAIN, BAD_GUEST, { __VA_ARGS__ }, 0, 0 }
#define GUEST64(name, ...) { name, PLAIN, BAD_GUEST, { __VA_ARGS__ }, ONLY64, 0 }
#define GUEST_PAE(name, ...) { name, PAE, BAD_GUEST, { __VA_ARGS__ }, 0, 0 }
#define INJECT(info) { ENTRY_INTR_INFO, SET, INTR_VALID | (info) }

const struct entry_row entry_guest_rows[] = {
    GUEST_ROW("guest-cr0-ne", { GUEST_CR0, CLEAR, CR0_NE }),
    GUEST_ROW("guest-cr0-pe", { GUEST_CR0, CLEAR, CR0_PE }),
    GUEST_ROW("guest-cr0-pg-restricted", { GUEST_CR0, CLEAR, CR0_PG }, { ENTRY_CONTROLS, CLEAR, ENTRY_GUEST_64 }),
    { "guest-cr0-pg-without-pe", REAL, BAD_GUEST, { { GUEST_CR0, OR, CR0_PG } }, 0, 0 },
    GUEST64("guest-cr0-bit-32", { GUEST_CR0, OR, 1ull << 32 }),
    GUEST_ROW("guest-cr4-vmxe", { GUEST_CR4, CLEAR, CR4_VMXE }),
    GUEST_ROW("guest-cr4-reserved", { GUEST_CR4, OR, 1u << 31 }),
    GUEST64("guest-64-without-pae", { GUEST_CR4, CLEAR, CR4_PAE }),
    GUEST_PAE("guest-pcide-without-64", { GUEST_CR4, OR, CR4_PCIDE }),
    GUEST64("guest-cr3-beyond", { GUEST_CR3, OR, BEYOND }),
    GUEST64("guest-dr7-high", { ENTRY_CONTROLS, OR, ENTRY_LOAD_DEBUG }, { GUEST_DR7, OR, 1ull << 32 }),
    GUEST_ROW("guest-debugctl", { ENTRY_CONTROLS, OR, ENTRY_LOAD_DEBUG }, { GUEST_DEBUGCTL, SET, 1ull << 40 }),
    GUEST64("guest-sysenter-esp", { GUEST_SYSENTER_ESP, SET, NOT_CANONICAL }),
    GUEST64("guest-sysenter-eip", { GUEST_SYSENTER_EIP, SET, NOT_CANONICAL }),
    GUEST_ROW("guest-pat", { ENTRY_CONTROLS, OR, ENTRY_LOAD_PAT }, { GUEST_PAT, SET, 0x0007040600070402ull }),
    GUEST_ROW("guest-perf-global", { ENTRY_CONTROLS, OR, ENTRY_LOAD_PERF }, { GUEST_PERF_GLOBAL, SET, 1ull << 63 }),
    GUEST_ROW("guest-efer-reserved", { ENTRY_CONTROLS, OR, ENTRY_LOAD_EFER }, { GUEST_EFER, OR, 2 }),
    GUEST64("guest-efer-lma-0", { ENTRY_CONTROLS, OR, ENTRY_LOAD_EFER }, { GUEST_EFER, CLEAR, EFER_LMA | EFER_LME }),
    GUEST_PAE("guest-efer-lma-1", { GUEST_EFER, OR, EFER_LMA | EFER_LME }),
    GUEST_PAE("guest-efer-lme-without-lma", { GUEST_EFER, OR, EFER_LME }),
    GUEST_ROW("guest-bndcfgs", { ENTRY_CONTROLS, OR, ENTRY_LOAD_BNDCFGS }, { GUEST_BNDCFGS, SET, 0x800 }),

    /* RIP and RFLAGS */
    GUEST64("guest-rip-not-canonical", { GUEST_RIP, SET, NOT_CANONICAL }),
    { "guest-rip-high", PAE, BAD_GUEST, { { GUEST_RIP, OR, 1ull << 32 } }, ONLY64, 0 },
    GUEST_ROW("guest-rflags-bit-1", { GUEST_RFLAGS, CLEAR, 2 }),
    GUEST_ROW("guest-rflags-bit-3", { GUEST_RFLAGS, OR, 1u << 3 }),
    GUEST_ROW("guest-rflags-bit-5", { GUEST_RFLAGS, OR, 1u << 5 }),
    GUEST_ROW("guest-rflags-bit-15", { GUEST_RFLAGS, OR, 1u << 15 }),
    GUEST_ROW("guest-rflags-bit-22", { GUEST_RFLAGS, OR, 1u << 22 }),
    GUEST64("guest-rflags-bit-63", { GUEST_RFLAGS, OR, 1ull << 63 }),
    GUEST64("guest-vm-in-64", { GUEST_RFLAGS, OR, RFLAGS_VM }),
    { "guest-vm-without-pe", REAL, BAD_GUEST, { { GUEST_RFLAGS, OR, RFLAGS_VM } }, 0, 0 },
    GUEST_ROW("guest-if-0-injecting", INJECT(INTR_EXT | 0x20)),

    /* descriptor tables */
    GUEST64("guest-gdtr-base", { GUEST_GDTR_BASE, SET, NOT_CANONICAL }),
    GUEST64("guest-idtr-base", { GUEST_IDTR_BASE, SET, NOT_CANONICAL }),
    GUEST_ROW("guest-gdtr-limit", { GUEST_GDTR_LIMIT, SET, 0x10000 }),
    GUEST_ROW("guest-idtr-limit", { GUEST_IDTR_LIMIT, SET, 0x10fff }),

    /* activity state */
    GUEST_ROW("activity-4", { GUEST_ACTIVITY, SET, 4 }),
    GUEST_ROW("activity-hlt-blocked-by-sti", { GUEST_ACTIVITY, SET, ACTIVITY_HLT }, { GUEST_INTERRUPTIBILITY, SET, BLOCK_STI }, { GUEST_RFLAGS, OR, RFLAGS_IF }),
    GUEST_ROW("activity-hlt-blocked-by-movss", { GUEST_ACTIVITY, SET, ACTIVITY_HLT }, { GUEST_INTERRUPTIBILITY, SET, BLOCK_MOVSS }),
    GUEST_ROW("activity-shutdown-blocked-by-movss", { GUEST_ACTIVITY, SET, ACTIVITY_SHUTDOWN }, { GUEST_INTERRUPTIBILITY, SET, BLOCK_MOVSS }),
    GUEST_ROW("activity-hlt-inject-gp", { GUEST_ACTIVITY, SET, ACTIVITY_HLT }, INJECT(INTR_HARD | INTR_ERROR | 13)),
    GUEST_ROW("activity-hlt-inject-soft", { GUEST_ACTIVITY, SET, ACTIVITY_HLT }, INJECT(INTR_SOFT_INT | 0x30), { ENTRY_INSN_LENGTH, SET, 2 }),
    GUEST_ROW("activity-shutdown-inject-ext-int", { GUEST_ACTIVITY, SET, ACTIVITY_SHUTDOWN }, INJECT(INTR_EXT | 0x30), { GUEST_RFLAGS, OR, RFLAGS_IF }),
    GUEST_ROW("activity-shutdown-inject-db", { GUEST_ACTIVITY, SET, ACTIVITY_SHUTDOWN }, INJECT(INTR_HARD | 1)),
    GUEST_ROW("activity-wait-sipi-inject-nmi", { GUEST_ACTIVITY, SET, ACTIVITY_WAIT_SIPI }, INJECT(INTR_NMI | 2)),
    { "activity-hlt-at-cpl3", PAE, BAD_GUEST, { { GUEST_ACTIVITY, SET, ACTIVITY_HLT }, { GUEST_SS_AR, OR, 0x60 }, { GUEST_SS, OR, 3 }, { GUEST_CS, OR, 3 }, { GUEST_CS_AR, OR, 0x60 } }, 0, 0 },

    /* interruptibility */
    GUEST_ROW("interruptibility-bit-5", { GUEST_INTERRUPTIBILITY, SET, 1u << 5 }),
    GUEST_ROW("interruptibility-bit-31", { GUEST_INTERRUPTIBILITY, SET, 1u << 31 }),
    GUEST_ROW("interruptibility-sti-and-movss", { GUEST_INTERRUPTIBILITY, SET, BLOCK_STI | BLOCK_MOVSS }, { GUEST_RFLAGS, OR, RFLAGS_IF }),
    GUEST_ROW("interruptibility-sti-if-0", { GUEST_INTERRUPTIBILITY, SET, BLOCK_STI }),
    GUEST_ROW("interruptibility-sti-inject-ext-int", { GUEST_INTERRUPTIBILITY, SET, BLOCK_STI }, { GUEST_RFLAGS, OR, RFLAGS_IF }, INJECT(INTR_EXT | 0x20)),
    GUEST_ROW("interruptibility-movss-inject-ext-int", { GUEST_INTERRUPTIBILITY, SET, BLOCK_MOVSS }, { GUEST_RFLAGS, OR, RFLAGS_IF }, INJECT(INTR_EXT | 0x20)),
    { "interruptibility-movss-inject-nmi", PLAIN, BAD_GUEST, { { GUEST_INTERRUPTIBILITY, SET, BLOCK_MOVSS }, INJECT(INTR_NMI | 2) }, 0, 0 },
    GUEST_ROW("interruptibility-smi", { GUEST_INTERRUPTIBILITY, SET, BLOCK_SMI }),
    { "interruptibility-virtual-nmi-inject-nmi", PLAIN, BAD_GUEST, { { PIN_CONTROLS, OR, PIN_NMI | PIN_VIRTUAL_NMI }, { GUEST_INTERRUPTIBILITY, SET, BLOCK_NMI }, INJECT(INTR_NMI | 2) }, 0, 0 },

    /* pending debug exceptions */
    GUEST_ROW("pending-debug-bit-4", { GUEST_PENDING_DEBUG, SET, 1u << 4 }),
    GUEST_ROW("pending-debug-bit-13", { GUEST_PENDING_DEBUG, SET, 1u << 13 }),
    GUEST_ROW("pending-debug-sti-tf-without-bs", { GUEST_INTERRUPTIBILITY, SET, BLOCK_STI }, { GUEST_RFLAGS, OR, RFLAGS_IF | RFLAGS_TF }),
    GUEST_ROW("pending-debug-movss-bs-without-tf", { GUEST_INTERRUPTIBILITY, SET, BLOCK_MOVSS }, { GUEST_PENDING_DEBUG, SET, 1u << 14 }),

    /* VMCS link pointer */
    { "link-pointer-unaligned", PLAIN, BAD_GUEST, { { LINK_POINTER, SET, PAGE_ODD } }, 0, 4 },
    { "link-pointer-beyond", PLAIN, BAD_GUEST, { { LINK_POINTER, SET, BEYOND } }, 0, 4 },
    { NULL, 0, 0, { { 0, END, 0 } }, 0, 0 },
};
// clang-format on
