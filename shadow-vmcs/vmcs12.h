/*
 * vmcs12: the VMCS that the guest hypervisor sees. Its values live once, most of them in vmcs02 itself (rows SHARED and INFO of the
 * field table), the rest in soft[]. With hardware shadowing vmcs02 is lent to the guest hypervisor as its shadow VMCS while it
 * runs: it reads exit information and edits nested guest state in place, without exits. Which CPU has which VMCS: owner.h.
 */
#ifndef STRATA_VMCS12_H
#define STRATA_VMCS12_H

#include "core/cpu/cpu.h"
#include "core/cpu/vmcs_fields.h"
#include "core/cpu/vmx_caps.h"
#include "shadow-vmcs/region.h"

#define VMCS12_NONE (~0ull) /* region of a free slot; also what VMPTRST stores without a current VMCS */

/* Of a slot. A VMCS in no slot of any CPU is in memory. See owner.h. */
enum vmcs12_state { VMCS12_FREE, VMCS12_ACTIVE, VMCS12_KEPT };

/* vmcs02's region says "shadow VMCS": of vmcs01, or of another vmcs02. */
enum vmcs12_loan {
    LOAN_NONE,
    LOAN_ACTIVE,    /* as the SDM has it: cleared, then used by the processor, which may keep it */
    LOAN_IN_MEMORY, /* on a machine that keeps VMCSs in memory (core/cpu/vmcs_image.h): never cleared */
};

struct vmcs12 {
    struct vmcs vmcs02;
    gpa1_t region;
    enum vmcs12_state state;
    bool launched;                /* launch state as the guest hypervisor sees it */
    uint8_t lent;                 /* enum vmcs12_loan */
    bool host_written;            /* vmcs02 has Strata's host state */
    bool soft_changed;            /* soft[] may differ from image */
    uint32_t unchecked, unmerged; /* BIT(enum vmcs_group): changed since the last successful check and merge */
    uint64_t last_use;
    uint64_t soft[FIELD_COUNT]; /* rows that vmcs02 does not hold; others only while nested/ says so */
    uint64_t made_up; /* rows of exit information whose value is in soft[], too: the processor cannot write it */
    struct region_image image; /* what this CPU last read from the region or wrote there */
};

#define VMCS12_ALL_GROUPS (BIT(GROUP_COUNT) - 1)

/* What this processor can do; set once before any CPU enters its guest. */
struct vmcs12_config {
    const struct vmx_caps *hw;
    bool shadowing;    /* lend vmcs02: hardware VMCS shadowing, and IA32_VMX_MISC[29] */
    uint32_t revision; /* of hardware VMCSs */
};
void vmcs12_configure(const struct vmcs12_config *config);

/* Makes a hardware VMCS of vmcs02's page, which is zeroed. In VMX operation. */
void vmcs12_init(struct vmcs12 *v);
/* Values and launch state become those of v->image, whatever they are. Current VMCS is kept. */
void vmcs12_load(struct cpu *cpu, struct vmcs12 *v);
/* Values and launch state become those of `now`, where they differ from v->image, which vmcs12_save has left. vmcs01 is current. */
void vmcs12_update(struct cpu *cpu, struct vmcs12 *v, const struct region_image *now);
/* Values and launch state go into v->image; vmcs02 is cleared. How many values, from the first, may have changed. Current VMCS is kept. */
unsigned vmcs12_save(struct cpu *cpu, struct vmcs12 *v);

/*
 * Value of a row, whole. vmcs01 is current before and after. Slow: what the guest hypervisor touches often is read through the
 * shadow VMCS.
 */
uint64_t vmcs12_read(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row);
/* Sets a row's value (cut to its width) and marks what that makes stale. */
void vmcs12_write(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row, uint64_t value);
/* VMfailValid: the VM-instruction error field. Whatever is current. */
void vmcs12_set_error(struct vmcs12 *v, enum vmx_error error);

/* Makes vmcs02 current, ending a loan. */
void vmcs12_take(struct cpu *cpu, struct vmcs12 *v);
/* Makes vmcs01 current; lends vmcs02 if the processor can. */
void vmcs12_give(struct cpu *cpu, struct vmcs12 *v);
/* The same for who knows whether VMCSs are kept in memory (core/cpu/vmcs_image.h). */
void vmcs12_give_active(struct cpu *cpu, struct vmcs12 *v);
void vmcs12_give_in_memory(struct cpu *cpu, struct vmcs12 *v);
/* Makes vmcs02 a shadow VMCS that the link pointer of another VMCS may name. It must not be current. */
void vmcs12_lend(struct vmcs12 *v);
/* The guest hypervisor's current VMCS became v, or NULL: vmcs01's link pointer says so. vmcs01 is current. */
void vmcs12_link(struct cpu *cpu, struct vmcs12 *v);

/* Reads or writes exit information of vmcs12 while vmcs02 is current; a row stored INFO. */
uint64_t vmcs12_info(const struct vmcs12 *v, enum vmcs_row row);
void vmcs12_set_info(struct vmcs12 *v, enum vmcs_row row, uint64_t value);
/* The processor wrote exit information: of an exit, or of an entry that failed (reason and qualification). */
void vmcs12_info_of_exit(struct vmcs12 *v);
void vmcs12_info_of_failed_entry(struct vmcs12 *v);

/* The VMREAD and VMWRITE bitmaps for vmcs01: what of the guest hypervisor's accesses exits. offered: its capabilities. After vmcs12_configure. */
void vmcs12_bitmaps(const struct vmx_caps *offered, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap);

#endif
