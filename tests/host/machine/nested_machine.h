/*
 * A machine with Strata on it, for tests of its second ring: the hypervisor's own files between the fake processor
 * (fake_hw.h) and a guest hypervisor that this file plays. What exit.S does, nested_machine_exit does. Every entry is made by
 * the fake processor with all of its checks: a sequence or a VMCS that hardware refuses is a failed test.
 */
#ifndef STRATA_NESTED_MACHINE_H
#define STRATA_NESTED_MACHINE_H

#include "core/cpu/cpu.h"
#include "nested/nested.h"
#include "tests/host/machine/fake_hw.h"

/* Physical memory: the guest's RAM, then Strata's own. Below and above: nothing. A test program's heap lies below, wherever it starts. */
#define NESTED_MACHINE_START 0x50000000ull
#define GUEST_END 0x52000000ull
#define HIDDEN_START GUEST_END
#define NESTED_MACHINE_END 0x54000000ull
#define MMIO_PAGE 0xe0000000ull

/* Pages of the guest hypervisor. */
#define GUEST_PAGE(n) (NESTED_MACHINE_START + (n)*PAGE_SIZE)
#define L2_PML4 GUEST_PAGE(1)
#define L2_PDPT GUEST_PAGE(2)
#define L2_OPERAND GUEST_PAGE(3) /* memory operands of its instructions */
#define L2_VMXON GUEST_PAGE(4)   /* and one for each further CPU: + cpu pages */
#define L2_MSR_BITMAP GUEST_PAGE(8)
#define L2_IO_BITMAPS GUEST_PAGE(9) /* two */
#define L2_VIRTUAL_APIC GUEST_PAGE(11)
#define L2_MSR_AREAS GUEST_PAGE(12) /* entry load, exit store, exit load */
#define EPT12_PML4 GUEST_PAGE(16)
#define EPT12_PDPT GUEST_PAGE(17)
#define EPT12_PML4_OTHER GUEST_PAGE(18)
#define L2_ENTRY_RIP 0x50100000ull
#define L2_HOST_RIP 0x50200000ull
#define VMCS12(n) GUEST_PAGE(64 + (n))
#define EPTP12 (EPT12_PML4 | EPTP_WALK_4 | MEMTYPE_WB)

struct nested_machine_config {
    unsigned cpus;                         /* 0: one */
    void (*change)(struct vmx_caps *caps); /* of the fake processor, last of all; or NULL */
    enum fake_keeping keeping;
    bool shadow_off, no_write_info, no_pml, no_flags /* no accessed and dirty flags */, no_vpid, no_apic;
    bool large_off, coalesce_off, history_off, prefill_off;
    unsigned pool_pages; /* of each CPU, twice as many of all; 0: as many as there is room for */
};

/* Strata has booted and each CPU's guest runs in 64-bit mode, outside VMX operation. CPU 0 is selected. */
void nested_machine_start(const struct nested_machine_config *config);
/* The same; but for a processor that Strata refuses it gives the reason, and there is no machine. NULL: it has started. */
const char *nested_machine_try(const struct nested_machine_config *config);
/* The CPU that runs from now on. */
void nested_machine_select(unsigned cpu);
struct cpu *nested_machine_cpu(void);
/* The VMCS that the selected CPU has for its guest hypervisor's current one. */
struct nested_slot *nested_machine_slot(void);
hpa_t nested_machine_vmcs02(void);

/* What the processor saves at an exit. */
struct nested_exit_info {
    uint64_t reason, qualification, intr_info, intr_error, idt_info, idt_error, length, instruction, gpa, linear;
};
/* An exit of whatever runs, up to the next entry. */
void nested_machine_exit(const struct nested_exit_info *info);
/* The same with nothing but a reason and a qualification; length 3. */
void nested_machine_exit_reason(uint64_t reason, uint64_t qualification);
bool nested_machine_in_l3(void);
/* Called when the machine resets (a VMX abort, say); must not return. NULL: panic. */
void nested_machine_on_reset(void (*hook)(void));

/*
 * The selected CPU's guest hypervisor has written to a page of its memory: its dirty flag in ept01 is set and, if it was clear,
 * the page is logged. The guest exits for a full log, and where the page is write-protected.
 */
void nested_machine_wrote(uint64_t gpa);
/* The same by a nested guest that runs under ept01: nothing is logged. */
void nested_machine_wrote_unlogged(uint64_t gpa);
/* The log entry of such a write, if it was the guest hypervisor's and is seen later. */
void nested_machine_log(uint64_t gpa);

/*
 * The guest hypervisor's instructions. VMX_OK, the number that VMfailValid gave, VMX_FAIL_INVALID, or FAULTED + vector (which is
 * taken back). Nothing else of its state changes but RIP and flags.
 */
#define FAULTED 256
int l2_vmxon(void);
int l2_vmxoff(void);
int l2_vmclear(uint64_t region);
int l2_vmptrld(uint64_t region);
int l2_vmptrst(uint64_t *region);
int l2_vmread(uint32_t field, uint64_t *value);
int l2_vmwrite(uint32_t field, uint64_t value);
int l2_invept(enum invept_type type, uint64_t eptp);
int l2_invvpid(enum invvpid_type type, uint64_t vpid, uint64_t linear);
/* VMLAUNCH or VMRESUME. VMX_OK: the nested guest runs, or an exit was reflected already. */
int l2_enter(enum exit_reason instruction);
/* Exits that VMREAD and VMWRITE took since the machine started. */
unsigned l2_access_exits(void);

/* VMREAD of a field that must be there. */
uint64_t l2_field(uint32_t field);

/*
 * A vmcs12 that passes all checks: a 64-bit guest under EPTP12 (1 GiB mapped to itself), a 64-bit host, with load and
 * save controls for EFER, PAT and debug registers and the MSR bitmap.
 */
void vmcs12_sample(uint64_t values[FIELD_COUNT]);
/* VMXON, VMCLEAR and VMPTRLD of VMCS12(n), and every field that can be written. VMXON only where it was not executed. */
void l2_make(unsigned n, const uint64_t values[FIELD_COUNT]);
/* Writes all fields of the current VMCS. */
void l2_write_all(const uint64_t values[FIELD_COUNT]);
/* l2_make of the sample on VMCS 0, and VMLAUNCH. */
void l3_start(void);

#endif
