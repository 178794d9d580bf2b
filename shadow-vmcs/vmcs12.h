/*
 * vmcs12: the VMCS that the guest hypervisor sees. Its values live once, most of them in vmcs02 itself (rows SHARED and INFO of the
 * field table), the rest in soft[]. With hardware shadowing vmcs02 is lent to the guest hypervisor as its shadow VMCS while it
 * runs: it reads exit information and edits nested guest state in place, without exits.
 *
 * A vmcs12 is cached by one CPU from VMPTRLD to VMCLEAR (or eviction); otherwise it is in the guest's memory, in its region.
 */
#ifndef STRATA_VMCS12_H
#define STRATA_VMCS12_H

#include "core/cpu/cpu.h"
#include "core/cpu/vmcs_fields.h"
#include "core/cpu/vmx_caps.h"

#define VMCS12_NONE (~0ull) /* region of a free slot; also what VMPTRST stores without a current VMCS */
#define INFO_OVERRIDES 6

struct vmcs12 {
    struct vmcs vmcs02;
    gpa1_t region;
    bool launched; /* launch state as the guest hypervisor sees it */
    bool lent;     /* vmcs02 is a shadow VMCS at the moment: of vmcs01, or of another vmcs02 */
    bool parked;   /* VMCLEARed by the guest hypervisor, and kept because it may come back */
    uint64_t tag;  /* parked: what the region in memory holds for as long as nobody reuses it */
    bool stored;   /* the region in memory has its values: set by vmcs12_store, cleared by whoever makes it active */
    bool linked;   /* has been another VMCS's shadow VMCS */
    bool host_written;            /* vmcs02 has Strata's host state */
    uint32_t unchecked, unmerged; /* BIT(enum vmcs_group): changed since the last successful check and merge */
    uint64_t last_use;
    uint64_t soft[FIELD_COUNT]; /* rows stored SOFT; others only while nested/ says so */

    /* Exit information that Strata made up, where the processor cannot write it into vmcs02. */
    unsigned info_count;
    struct {
        uint8_t row;
        uint64_t value;
    } info[INFO_OVERRIDES];
};

#define VMCS12_ALL_GROUPS (BIT(GROUP_COUNT) - 1)

/* What this processor can do; set once before any CPU enters its guest. */
struct vmcs12_config {
    const struct vmx_caps *hw;
    bool shadowing;    /* lend vmcs02: hardware VMCS shadowing, and IA32_VMX_MISC[29] */
    uint32_t revision; /* of hardware VMCSs */
};
void vmcs12_configure(const struct vmcs12_config *config);

/*
 * Fills a slot (its vmcs02 page is set) with the VMCS at region, from the guest's memory. Whatever the bytes are, they become field
 * values only. Current VMCS is kept.
 */
void vmcs12_load(struct cpu *cpu, struct vmcs12 *v, gpa1_t region);
/*
 * The same for a region that the guest copied from a parked VMCS's: it has that one's tag (vmcs12_park) and not its values. from is
 * parked, on whichever CPU.
 */
void vmcs12_copy(struct cpu *cpu, struct vmcs12 *v, gpa1_t region, struct vmcs12 *from);
/* The tag of the slot that has the values of the region in memory; 0: they are there. */
uint64_t vmcs12_tag_in_memory(gpa1_t region);
/* Writes all values into the guest's memory, so that another CPU's vmcs12_load finds them. Current VMCS is kept. */
void vmcs12_store(struct cpu *cpu, struct vmcs12 *v);
/*
 * VMCLEAR without writing all values to memory: the slot keeps them for as long as its tag is in the region, and any CPU may take
 * it over (vmcs12_adopt). vmcs01 is current.
 */
void vmcs12_park(struct vmcs12 *v);
/* The region still is what vmcs12_park left: its VMCS is in v. */
bool vmcs12_parked_here(const struct vmcs12 *v);
/* Moves a parked VMCS of another CPU into the free slot `to` of this CPU; `from` becomes free. The hardware pages change places. */
void vmcs12_adopt(struct cpu *cpu, struct vmcs12 *to, struct vmcs12 *from);
/* Launch state of a VMCS that no CPU caches: "clear", in memory. */
void vmcs12_clear_in_memory(gpa1_t region);

/*
 * Value of a row, whole. vmcs01 is current before and after. Slow: what the guest hypervisor touches often is read through the
 * shadow VMCS.
 */
uint64_t vmcs12_read(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row);
/* Sets a row's value (cut to its width) and marks what that makes stale. */
void vmcs12_write(struct cpu *cpu, struct vmcs12 *v, enum vmcs_row row, uint64_t value);

/* Makes vmcs02 current, ending a loan. */
void vmcs12_take(struct cpu *cpu, struct vmcs12 *v);
/* Makes vmcs01 current; lends vmcs02 if the processor can. */
void vmcs12_give(struct cpu *cpu, struct vmcs12 *v);
/* Makes vmcs02 a shadow VMCS that the link pointer of another VMCS may name. It must not be current. */
void vmcs12_lend(struct vmcs12 *v);
/* The guest hypervisor's current VMCS became v, or NULL: vmcs01's link pointer says so. vmcs01 is current. */
void vmcs12_link(struct cpu *cpu, struct vmcs12 *v);

/* Reads or writes exit information of vmcs12 while vmcs02 is current; a row stored INFO. */
uint64_t vmcs12_info(const struct vmcs12 *v, enum vmcs_row row);
void vmcs12_set_info(struct vmcs12 *v, enum vmcs_row row, uint64_t value);

/* The VMREAD and VMWRITE bitmaps for vmcs01: what of the guest hypervisor's accesses exits. offered: its capabilities. After vmcs12_configure. */
void vmcs12_bitmaps(const struct vmx_caps *offered, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap);

#endif
