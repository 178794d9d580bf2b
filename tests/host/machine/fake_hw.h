/*
 * A fake machine behind core/lib/hw.h: VMCSs with the processor's rules for them, MSRs, CPUID, ports, and a journal of
 * everything privileged that was done. What the SDM leaves undefined is a failed test here: VMREAD without a current
 * VMCS, a VMCS active on two processors, an entry with a VMCS that was never cleared.
 *
 * Memory is the arena of support.h. VMCS data is in the processor while the VMCS is active; VMCLEAR writes it to the
 * region, VMPTRLD of an inactive VMCS reads it from there, as it is.
 */
#ifndef STRATA_FAKE_HW_H
#define STRATA_FAKE_HW_H

#include "core/lib/hw.h"
#include "core/cpu/vmcs_fields.h"
#include "core/cpu/vmx_caps.h"
#include "core/lib/x86.h"
#include "nested/checks.h"

#define FAKE_CPUS 4
#define FAKE_NO_VMCS (~0ull)

enum fake_op {
    FAKE_VMREAD,  /* a = field, b = value */
    FAKE_VMWRITE, /* a = field, b = value */
    FAKE_VMCLEAR, /* a = region */
    FAKE_VMPTRLD, /* a = region */
    FAKE_VMXON,   /* a = region */
    FAKE_VMXOFF,
    FAKE_ENTER,    /* a = exit reason of a failed entry or 0, b = VM-instruction error or 0 */
    FAKE_INVEPT,   /* a = type, b = EPTP */
    FAKE_INVVPID,  /* a = type, b = VPID, c = linear address */
    FAKE_RDMSR,    /* a = MSR, b = value */
    FAKE_WRMSR,    /* a = MSR, b = value */
    FAKE_CR_WRITE, /* a = number, b = value */
    FAKE_XSETBV,   /* a = index, b = value */
    FAKE_WBINVD,
    FAKE_VERW,
    FAKE_OUT,        /* a = port, b = value */
    FAKE_LOAD_TABLE, /* LGDT, LIDT and segments */
    FAKE_OP_COUNT
};

struct fake_event {
    enum fake_op op;
    int cpu;
    uint64_t vmcs; /* current when it happened, or FAKE_NO_VMCS */
    uint64_t a, b, c;
};

/*
 * A machine with this much memory (bytes), processor 0 selected, and the capabilities of fake_caps_all(). Everything of
 * the machine before is gone.
 */
void fake_hw_reset(size_t memory);

/*
 * What the processors can do. A test may change it before it uses the machine. missing[]: fields that the processors
 * lack although the SDM always has them, as a hypervisor as the machine may.
 */
extern struct vmx_caps fake_caps;

/* The fields of page-modification logging exist, too: no capability stands for them. fake_hw_reset clears it. */
extern bool fake_pml;

/* Where the processor has VMCSs that are not current. fake_hw_reset makes it FAKE_IN_PROCESSOR. */
enum fake_keeping {
    FAKE_IN_PROCESSOR, /* as processors may: memory changes at VMCLEAR only */
    FAKE_IN_MEMORY,    /* as KVM has them: written to memory when another becomes current, and read from there again */
    FAKE_WRITES_ONLY,  /* written, but not read again */
};
extern enum fake_keeping fake_keeping;

/* Capabilities: everything that core/lib/vmx.h names; and those of a processor without secondary controls beyond EPT. */
void fake_caps_all(struct vmx_caps *caps);
void fake_caps_plain(struct vmx_caps *caps);

/* The processor that runs from now on, 0 .. FAKE_CPUS - 1. */
void fake_cpu_select(int cpu);

/* The current VMCS of the selected processor, or FAKE_NO_VMCS. */
uint64_t fake_current(void);

/* Value of a field in any VMCS, wherever it is, without an entry in the journal. */
uint64_t fake_vmcs_read(hpa_t region, enum vmcs_row row);
void fake_vmcs_write(hpa_t region, enum vmcs_row row, uint64_t value);
/* All values of a VMCS that is active on some processor. */
const uint64_t *fake_vmcs_values(hpa_t region);
bool fake_vmcs_active(hpa_t region);
bool fake_vmcs_launched(hpa_t region);

struct fake_entry {
    enum { FAKE_ENTERED, FAKE_VMFAIL, FAKE_EXIT } result;
    enum vmx_error error;           /* of FAKE_VMFAIL */
    uint64_t reason, qualification; /* of FAKE_EXIT */
    const struct check_rule *rule;  /* the check that failed, or NULL */
};

/*
 * VMLAUNCH or VMRESUME with the current VMCS: launch state, then all checks. A failed check of guest state writes
 * exit reason and qualification, as the processor does; an entry that succeeds makes a cleared VMCS launched.
 */
enum fake_instruction { FAKE_VMLAUNCH, FAKE_VMRESUME };
struct fake_entry fake_enter(enum fake_instruction instruction);

/* A VM exit of the current VMCS: writes exit reason and qualification, clears the valid bits of event information. */
void fake_exit(uint64_t reason, uint64_t qualification);

/*
 * VMREAD or VMWRITE executed in VMX non-root operation under the current VMCS, with hardware shadowing as its controls
 * and bitmaps say. FAKE_EXITS: a VM exit, nothing was accessed.
 */
enum fake_access { FAKE_DONE, FAKE_EXITS, FAKE_FAIL_INVALID, FAKE_FAIL_VALID };
enum fake_access fake_guest_vmread(uint32_t field, uint64_t *value);
enum fake_access fake_guest_vmwrite(uint32_t field, uint64_t value);

/* An MSR that exists from now on. Others raise #GP, but for the capability MSRs, which are those of fake_caps. */
void fake_msr_set(uint32_t msr, uint64_t value);
/* The processor itself loads an MSR: without an entry in the journal. False: WRMSR would raise #GP. */
bool fake_msr_load(uint32_t msr, uint64_t value);
/* Value of an MSR that exists; without an entry in the journal. */
uint64_t fake_msr_get(uint32_t msr);
/* Called at each write of the MSR that is done, after it. NULL: nothing any more. */
void fake_msr_on_write(uint32_t msr, void (*written)(uint64_t value));
/* From now on writes to the MSR raise #GP. */
void fake_msr_refuse(uint32_t msr);
/* A leaf of CPUID; 0 in all registers for leaves that were not set. */
void fake_cpuid_set(uint32_t leaf, uint32_t subleaf, struct cpuid_regs regs);
/* The time-stamp counter: what the next hw_rdtsc gives. */
void fake_tsc_set(uint64_t tsc);
void fake_port_set(uint16_t port, uint8_t value);
/* DR0..DR3 of the selected processor, by number; CR2. */
void fake_breakpoint_set(unsigned number, uint64_t address);
void fake_cr2_set(uint64_t value);

/*
 * Something arrives (an NMI, a machine check) after n more privileged operations: arrives is called once. NULL: nothing any more. With
 * every n that a run has, it has arrived at any instruction that matters.
 */
void fake_interrupt_after(size_t n, void (*arrives)(void));

/* The journal, oldest first. */
size_t fake_journal_size(void);
const struct fake_event *fake_journal(size_t index);
void fake_journal_clear(void);
/* How often an operation stands in the journal; and with this first operand (field, MSR, region). */
size_t fake_count(enum fake_op op);
size_t fake_count_of(enum fake_op op, uint64_t a);

#endif
