/*
 * Nested virtualization on one CPU: whether the guest hypervisor is in VMX operation, its current VMCS, those that the CPU has.
 * In this folder "L2" is the guest hypervisor (vmcs01 current while it runs) and "L3" the nested guest (vmcs02 current).
 */
#ifndef STRATA_NESTED_H
#define STRATA_NESTED_H

#include "core/cpu/cpu.h"
#include "core/guest/fault.h"
#include "core/guest/guest_walk.h"
#include "core/cpu/vmx_caps.h"
#include "ept-cache/ept02.h"
#include "shadow-vmcs/owner.h"

/* A bitmap of vmcs02: see bitmap.c. */
struct merged_bitmap {
    hpa_t seen; /* the guest hypervisor's page as it was merged: what decided an exit decides its route */
    bool seen_valid;
    hpa_t page;               /* merged */
    struct watch_page *watch; /* the guest hypervisor's page; NULL: its changes go unnoticed */
    gpa1_t source;            /* that watch is for */
    uint32_t version;         /* of it that is merged; 0: none */
    uint32_t writable;        /* writable_generation at that time */
};

/* What belongs to one vmcs12 beyond its values: what was made of them for vmcs02. Nothing of it counts where v is unmerged. */
struct nested_slot {
    struct vmcs12 v;
    struct merged_bitmap msr, vmread, vmwrite; /* the latter two: pages taken when first used */
    struct ept02_root *root;                   /* NULL: vmcs12 does without EPT */
    uint32_t root_serial;
    uint32_t flags;      /* enum slot_flag */
    bool shadow;         /* its region says that it is a shadow VMCS: cannot be entered */
    struct vmcs12 *link; /* that vmcs02's link pointer names; NULL: none */
    bool link_refused;   /* until the exit vmcs02 has a link pointer that the processor refuses */
    bool prefill;        /* an EPT violation at prefill_addr was reflected */
    gpa2_t prefill_addr;
    uint16_t vpid02;
    uint8_t not_loaded,
        not_saved;    /* rows of kept_rows (special.c) that vmcs12's entries do not load, exits do not save */
    uint64_t kept[5]; /* vmcs12's values of the latter while L3 runs */
};

_Static_assert(offsetof(struct nested_slot, v) == 0, "nested_slot_of");
static inline struct nested_slot *nested_slot_of(struct vmcs12 *v) { return (struct nested_slot *)v; }

/* Rare properties of a vmcs12's controls, so that the usual entry and exit test one word. */
enum slot_flag {
    SLOT_KEEP = 1,          /* some guest fields are not loaded at entry or not saved at exit */
    SLOT_MSR_AREAS = 2,     /* counts are not all zero */
    SLOT_NO_EPT = 4,        /* PDPTEs come from memory */
    SLOT_FLUSH = 8,         /* no VPID: entries and exits flush */
    SLOT_VIRTUAL_NMIS = 16, /* blocking by NMI is not the processor's */
    SLOT_LINK = 32,         /* the link pointer is not all ones */
    SLOT_LINKED = 64,       /* vmcs02 has a shadow VMCS */
};

#define MSR_AREA_MAX 512 /* entries, as IA32_VMX_MISC[27:25] = 0 recommends; longer areas must not hold the CPU */
/* SDM 3, "Format of an MSR Entry". */
struct msr_entry {
    uint32_t msr, reserved;
    uint64_t value;
};

struct nested {
    bool in_vmx;
    bool ia32e;        /* L2 is in IA-32e mode: in VMX operation only exits change that */
    bool init_pending; /* INIT arrived in VMX root operation */
    gpa1_t vmxon;
    struct nested_slot *current; /* NULL: none */
    uint64_t kept01[5];          /* L2's values at the entry, for rows that are not loaded */
    uint32_t blocking;           /* vmcs01's interruptibility state when L2 entered L3 */
    struct ept02 ept02;
    struct vmcs_owner owner;
    struct nested_slot slots[OWNER_SLOTS];
    struct msr_entry area[MSR_AREA_MAX + 1] __attribute__((aligned(16))); /* vmcs02's VM-entry MSR-load area */
};

extern struct vmx_caps nested_caps; /* what is offered to the guest hypervisor */

/* --- outcomes of a VMX instruction, for L2; vmcs01 is current ---
 * SDM 3, "Conventions" of "VMX Instruction Reference". Each skips the instruction. */
void insn_succeed(const struct cpu *cpu);
void insn_fail_invalid(const struct cpu *cpu);
/* VMfailValid if there is a current VMCS, else VMfailInvalid. */
void insn_fail(struct cpu *cpu, enum vmx_error error);

/* --- init.c --- */
/* L2 enters or leaves VMX operation: switches hardware VMCS shadowing, where it is used. vmcs01 is current. */
void nested_shadowing(bool in_vmx);

/* Shared by all CPUs' ept02. */
extern struct ept_shared *nested_ept_shared;

/* --- bitmap.c: merged bitmaps; vmcs02 is current --- */
/* Takes its pages from the CPU's pool, if it has not done so. False: there are none. */
bool bitmap_pages_ready(struct cpu *cpu, struct merged_bitmap *m);
bool bitmap_refresh(struct cpu *cpu, struct merged_bitmap *m, gpa1_t source, hpa_t want1); /* true: it changed */
/* What is merged is stale: the slot is free, or the bitmap is another one. */
void bitmap_forget(struct merged_bitmap *m);

/* --- shadow.c: VMCS shadowing for the guest hypervisor --- */
/* Strata's own VMREAD and VMWRITE bitmaps: fields that vmcs02 does not hold as vmcs12 has them. */
extern hpa_t nested_vmread_bitmap, nested_vmwrite_bitmap;
/* vmcs12 uses VMCS shadowing with a link pointer: prepares the shadow VMCS and the bitmaps. vmcs02 is current. */
void shadow_enter(struct cpu *cpu, struct nested_slot *slot);
/*
 * vmcs12's link pointer breaks a rule: the processor is given one that it refuses, so that it says so in its order, behind its checks on
 * controls and host state. shadow_refused: vmcs02 has its own again. vmcs02 is current.
 */
void shadow_refuse(void);
void shadow_refused(struct nested_slot *slot);
/* vmcs12 uses VMCS shadowing, as at an earlier entry, and its link pointer passes the checks: in a few instructions. */
bool shadow_link_known(const struct nested_slot *slot);
/* A VMREAD or VMWRITE of L3 exited. True: only Strata wanted that, and has carried it out. vmcs02 is current. */
bool shadow_emulate(struct cpu *cpu, uint32_t reason);

/* --- enter.c --- */
/* VMLAUNCH (resume false) or VMRESUME by L2. */
void nested_launch(struct cpu *cpu, uint32_t reason);
/* The entry of the current VMCS's vmcs02 failed. */
void nested_entry_undone(struct cpu *cpu);
/* Recomputes slot->flags and everything in vmcs02 that derives from changed groups. vmcs02 is current. */
void nested_merge(struct cpu *cpu, struct nested_slot *slot);

/* --- exit.c --- */
/*
 * An access on L3's behalf found nothing in ept02 (WALK_NO_GPA): as if L3 had taken the EPT violation. vmcs02 is current before; L3
 * tries again, or the exit was reflected.
 */
void nested_miss(struct cpu *cpu, const struct walk *walk);
/* Memory of the guest that exited, L2 or L3, as its own instructions reach it. */
struct guest_memory nested_memory(const struct cpu *cpu);

/* --- reflect.c: the exit of L3 that vmcs02 holds becomes an exit to L2. vmcs02 is current before, vmcs01 after. --- */
void reflect(struct cpu *cpu);
/* The same with made-up exit information: of a failed entry; of an NMI or INIT that was waiting for the entry. */
void reflect_at_entry(struct cpu *cpu, uint32_t reason, uint64_t intr_info);
void reflect_reason(struct cpu *cpu, uint32_t reason, uint64_t qualification);
/* An exit that Strata makes behind (or instead of) an instruction of L3: no event caused it, none was being delivered. */
void reflect_made_up(struct cpu *cpu, uint32_t reason, uint64_t qualification);
/* An exception that Strata raises and L2 intercepts. */
void reflect_exception(struct cpu *cpu, const struct fault *fault);

/* --- msr_area.c: MSR areas; vmcs02 is current but for area_load_at_exit, where vmcs01 is --- */
/* The next entry loads what vmcs12's VM-entry MSR-load area has now; those after it nothing, once disarmed. */
void area_arm(struct nested *n, const struct nested_slot *slot);
void area_disarm(void);
/* If it is armed still: loads it without an entry. The number of the entry that failed, or 0. */
uint64_t area_load_now(struct nested *n);
/* EFER and PAT after an entry that failed at this number, given those that the guest state had. */
void area_loaded(const struct nested *n, uint64_t failed, uint64_t *efer, uint64_t *pat);
/* False: VMX abort. */
bool area_store_at_exit(const struct vmcs12 *v);
bool area_load_at_exit(const struct vmcs12 *v);

/* --- special.c: the rare parts of entries and exits, behind slot->flags; vmcs02 is current --- */
void special_enter(struct cpu *cpu, struct nested_slot *slot);
/* failed: the entry failed, so nothing of the guest is saved. False: VMX abort. */
bool special_exit(struct cpu *cpu, struct nested_slot *slot, bool failed);
uint32_t special_flags(struct nested_slot *slot);
/* Remembers L2's values of fields that an entry may not load (slot->not_loaded, or SPECIAL_ALL). vmcs01 is current. */
void special_read_l2(struct nested *n, unsigned rows);
#define SPECIAL_ALL 0xfu

#endif
