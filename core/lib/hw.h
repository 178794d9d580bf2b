/*
 * Every privileged operation that C code uses, one function each. hw.c (and the .S files) hold the
 * instructions; nothing else does. Host tests replace this file's functions by a fake machine.
 */
#ifndef STRATA_HW_H
#define STRATA_HW_H

#include "core/lib/types.h"
#include "core/lib/vmx.h"

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};
struct invept_descriptor {
    uint64_t eptp, reserved;
};
struct invvpid_descriptor {
    uint64_t vpid, linear;
};

/* VMREAD/VMWRITE of the current VMCS. The field must exist and a VMCS must be current: panics otherwise. */
uint64_t hw_vmread(uint32_t field);
void hw_vmwrite(uint32_t field, uint64_t value);
/* The same for a field that every processor with VMX has, with a current VMCS for sure: not looked at. For long runs of writes. */
void hw_vmwrite_sure(uint32_t field, uint64_t value);
/* VMREAD of a field that the processor may not have: false then. A VMCS must be current. */
bool hw_vmread_try(uint32_t field, uint64_t *value);
/* VMWRITE that may be refused (a read-only field on a processor without IA32_VMX_MISC[29]): false if so. */
bool hw_vmwrite_try(uint32_t field, uint64_t value);
/* Runs of fields that exist, of a VMCS that is current for sure (and for writing none that is read-only): not looked at. */
void hw_vmread_run(const uint16_t *fields, uint64_t *values, unsigned count);
void hw_vmwrite_run(const uint16_t *fields, const uint64_t *values, unsigned count);
void hw_vmclear(hpa_t vmcs);
void hw_vmptrld(hpa_t vmcs);
/* False when the processor refuses (VMfail or #GP). */
bool hw_vmxon(hpa_t region);
void hw_vmxoff(void);
void hw_invept(enum invept_type type, uint64_t eptp);
void hw_invvpid(enum invvpid_type type, uint16_t vpid, uint64_t linear);

uint64_t hw_rdmsr(uint32_t msr);
void hw_wrmsr(uint32_t msr, uint64_t value);
/* False when the access raised #GP. */
bool hw_rdmsr_try(uint32_t msr, uint64_t *value);
bool hw_wrmsr_try(uint32_t msr, uint64_t value);

struct cpuid_regs hw_cpuid(uint32_t leaf, uint32_t subleaf);
uint64_t hw_rdtsc(void);
uint64_t hw_read_cr0(void);
void hw_write_cr0(uint64_t value);
uint64_t hw_read_cr2(void);
void hw_write_cr2(uint64_t value);
uint64_t hw_read_cr3(void);
void hw_write_cr3(uint64_t value);
uint64_t hw_read_cr4(void);
void hw_write_cr4(uint64_t value);
/* DR0..DR3, by number: the guest's, while Strata runs, too. */
uint64_t hw_read_breakpoint(unsigned number);
uint64_t hw_xgetbv(uint32_t index);
/* False when the value raised #GP. */
bool hw_xsetbv_try(uint32_t index, uint64_t value);
void hw_wbinvd(void);
/* VERW of a data segment: what it clears beside the flag is the processor's buffers. */
void hw_verw(void);
void hw_pause(void);
uint8_t hw_inb(uint16_t port);
void hw_outb(uint16_t port, uint8_t value);
/* Stops this CPU for good (interrupts off, HLT again after any NMI). */
_Noreturn void hw_halt(void);

struct descriptor_table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
void hw_lgdt(const struct descriptor_table *table);
void hw_lidt(const struct descriptor_table *table);
void hw_load_segments(uint16_t code, uint16_t data, uint16_t task);

#endif
