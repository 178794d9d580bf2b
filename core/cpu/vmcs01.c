/*
 * What vmcs01.h says. Controls ask for as few exits as the architecture allows: interrupts, NMIs, I/O, the time-stamp counter and
 * the APIC are the guest's.
 */
#include "core/cpu/vmcs01.h"

#include "core/cpu/machine.h"
#include "core/cpu/trap.h"

#define AR_CODE_REAL 0x9b
#define AR_DATA_REAL 0x93
#define AR_CODE_FLAT 0xc09b
#define AR_CODE_LONG 0xa09b
#define AR_DATA_FLAT 0xc093
#define AR_LDT 0x82
#define AR_TSS_BUSY32 0x8b
#define CR0_AFTER_INIT (CR0_CD | CR0_NW | CR0_ET)
#define DR7_AFTER_INIT 0x400
#define LINK_POINTER_NONE (~0ull)

extern const uint8_t vmexit_entry[];

uint32_t vmx_adjust(uint64_t want, uint32_t msr)
{
    uint64_t allowed = msr == MSR_VMX_PROC2 ? vmx_caps_msr(&machine.hw, msr) : vmx_caps_controls(&machine.hw, msr);
    return (uint32_t)((want | (uint32_t)allowed) & allowed >> 32);
}

/* VMXE (and whatever else the processor demands) is always 1 in truth; PE and PG are free with unrestricted guest. */
uint64_t vmcs01_cr0_mask(void)
{
    uint64_t must = vmx_caps_msr(&machine.hw, MSR_VMX_CR0_FIXED0) & ~(CR0_PE | CR0_PG);
    return must & 0xffffffff;
}

uint64_t vmcs01_cr4_mask(void) { return vmx_caps_msr(&machine.hw, MSR_VMX_CR4_FIXED0) | CR4_VMXE; }

void vmcs_write_host_state(const struct cpu *cpu)
{
    vmwrite(HOST_CS_SEL, SEL_CODE);
    vmwrite(HOST_SS_SEL, SEL_DATA);
    vmwrite(HOST_DS_SEL, SEL_DATA);
    vmwrite(HOST_ES_SEL, SEL_DATA);
    vmwrite(HOST_FS_SEL, SEL_DATA);
    vmwrite(HOST_GS_SEL, SEL_DATA);
    vmwrite(HOST_TR_SEL, SEL_TSS);
    vmwrite(HOST_CR0, hw_read_cr0());
    vmwrite(HOST_CR3, machine.cr3);
    vmwrite(HOST_CR4, machine.cr4);
    vmwrite(HOST_FS_BASE, 0);
    vmwrite(HOST_GS_BASE, (uint64_t)cpu);
    vmwrite(HOST_TR_BASE, (uint64_t)&cpu->tss);
    vmwrite(HOST_GDTR_BASE, (uint64_t)cpu->gdt);
    vmwrite(HOST_IDTR_BASE, trap_idt_base());
    vmwrite(HOST_SYSENTER_CS, 0);
    vmwrite(HOST_SYSENTER_ESP, 0);
    vmwrite(HOST_SYSENTER_EIP, 0);
    vmwrite(HOST_EFER, EFER_LME | EFER_LMA | EFER_NXE);
    vmwrite(HOST_PAT, hw_rdmsr(MSR_PAT));
    vmwrite(HOST_RSP, (uint64_t)&cpu->regs[GPR_COUNT]);
    vmwrite(HOST_RIP, (uint64_t)vmexit_entry);
}

static void write_controls(void)
{
    vmwrite(PIN_CONTROLS, vmx_adjust(0, MSR_VMX_PIN));
    vmwrite(PROC_CONTROLS, vmx_adjust(PROC_MSR_BITMAP | PROC_SECONDARY, MSR_VMX_PROC));
    vmwrite(PROC2_CONTROLS, vmx_adjust(PROC2_EPT | PROC2_VPID | PROC2_UNRESTRICTED | PROC2_RDTSCP | PROC2_INVPCID |
                                           PROC2_XSAVES | PROC2_USER_WAIT,
                                       MSR_VMX_PROC2));
    vmwrite(EXIT_CONTROLS,
            vmx_adjust(EXIT_HOST_64 | EXIT_SAVE_DEBUG | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER,
                       MSR_VMX_EXIT));
    vmwrite(ENTRY_CONTROLS, vmx_adjust(ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER, MSR_VMX_ENTRY));
    vmwrite(EXCEPTION_BITMAP, 0);
    vmwrite(PF_ERROR_MASK, 0);
    vmwrite(PF_ERROR_MATCH, 0);
    vmwrite(CR3_TARGET_COUNT, 0);
    vmwrite(EXIT_MSR_STORE_COUNT, 0);
    vmwrite(EXIT_MSR_LOAD_COUNT, 0);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 0);
    vmwrite(ENTRY_INTR_INFO, 0);
    vmwrite(CR0_MASK, vmcs01_cr0_mask());
    vmwrite(CR4_MASK, vmcs01_cr4_mask());
    vmwrite(VPID, VPID01);
    vmwrite(MSR_BITMAP, machine.msr_bitmap01.v);
    vmwrite(EPTP, ept01_eptp(&memory01.ept01));
    vmwrite(TSC_OFFSET, 0);
    if (machine.hw.offered[CAP_XSAVES])
        vmwrite(XSS_EXITING_BITMAP, 0);
}

void vmcs01_create(struct cpu *cpu)
{
    *(uint32_t *)hpa_ptr(cpu->vmcs01.region) = (uint32_t)(vmx_caps_msr(&machine.hw, MSR_VMX_BASIC) &
                                                          VMX_BASIC_REVISION_MASK);
    hw_vmclear(cpu->vmcs01.region);
    cpu->vmcs01.launched = false;
    vmcs_load(cpu, &cpu->vmcs01);
    vmcs_write_host_state(cpu);
    write_controls();
    vmwrite(GUEST_PAT, hw_rdmsr(MSR_PAT));
    vmwrite(VMCS_LINK_POINTER, LINK_POINTER_NONE);
    vmwrite(GUEST_DEBUGCTL, 0);
    /* As whoever came before Strata left them. */
    vmwrite(GUEST_SYSENTER_CS, hw_rdmsr(MSR_SYSENTER_CS));
    vmwrite(GUEST_SYSENTER_ESP, hw_rdmsr(MSR_SYSENTER_ESP));
    vmwrite(GUEST_SYSENTER_EIP, hw_rdmsr(MSR_SYSENTER_EIP));
}

static void write_segment(enum segment segment, uint16_t selector, uint32_t rights)
{
    uint32_t i = 2u * (uint32_t)segment; /* encodings of neighbouring segments differ by 2 */
    hw_vmwrite(VMCS_GUEST_ES_SEL + i, selector);
    hw_vmwrite(VMCS_GUEST_ES_BASE + i, (uint64_t)selector << 4);
    hw_vmwrite(VMCS_GUEST_ES_LIMIT + i, 0xffff);
    hw_vmwrite(VMCS_GUEST_ES_AR + i, rights);
}

void vmcs01_init_state(struct cpu *cpu, enum activity activity)
{
    for (enum segment s = SEG_ES; s <= SEG_GS; s++)
        write_segment(s, 0, s == SEG_CS ? AR_CODE_REAL : AR_DATA_REAL);
    vmwrite(GUEST_CS_SEL, 0xf000);
    vmwrite(GUEST_CS_BASE, 0xffff0000);
    write_segment(SEG_LDTR, 0, AR_LDT);
    write_segment(SEG_TR, 0, AR_TSS_BUSY32);
    vmwrite(GUEST_GDTR_BASE, 0);
    vmwrite(GUEST_GDTR_LIMIT, 0xffff);
    vmwrite(GUEST_IDTR_BASE, 0);
    vmwrite(GUEST_IDTR_LIMIT, 0xffff);
    vmwrite(GUEST_CR0, CR0_AFTER_INIT | vmcs01_cr0_mask());
    vmwrite(CR0_SHADOW, cpu->cr0_shadow = CR0_AFTER_INIT);
    vmwrite(GUEST_CR3, 0);
    vmwrite(GUEST_CR4, vmcs01_cr4_mask());
    vmwrite(CR4_SHADOW, cpu->cr4_shadow = 0);
    vmwrite(GUEST_EFER, 0);
    vmwrite(ENTRY_CONTROLS, vmread(ENTRY_CONTROLS) & ~ENTRY_IA32E);
    vmwrite(GUEST_DR7, DR7_AFTER_INIT);
    vmwrite(GUEST_RFLAGS, RFLAGS_FIXED1);
    vmwrite(GUEST_RSP, 0);
    vmwrite(GUEST_RIP, 0xfff0);
    vmwrite(GUEST_PENDING_DEBUG, 0);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    vmwrite(GUEST_ACTIVITY, activity);
    memset(cpu->regs, 0, sizeof(cpu->regs));
    cpu->regs[GPR_RDX] = hw_cpuid(1, 0).eax; /* family, model, stepping */
}

void vmcs01_real_mode(uint16_t selector, uint16_t offset)
{
    vmwrite(GUEST_CS_SEL, selector);
    vmwrite(GUEST_CS_BASE, (uint64_t)selector << 4);
    vmwrite(GUEST_RIP, offset);
}

static void write_flat_segment(enum segment segment, uint16_t selector, uint32_t rights)
{
    uint32_t i = 2u * (uint32_t)segment;
    write_segment(segment, selector, rights);
    hw_vmwrite(VMCS_GUEST_ES_BASE + i, 0);
    hw_vmwrite(VMCS_GUEST_ES_LIMIT + i, UINT32_MAX);
}

void vmcs01_enter_kernel(struct cpu *cpu, const struct guest_entry *entry)
{
    uint64_t cr0 = CR0_PE | CR0_ET;
    for (enum segment s = SEG_ES; s <= SEG_GS; s++)
        write_flat_segment(s, KERNEL_DATA, AR_DATA_FLAT);
    write_flat_segment(SEG_CS, KERNEL_CODE, entry->long_mode ? AR_CODE_LONG : AR_CODE_FLAT);
    vmwrite(GUEST_GDTR_BASE, entry->gdt_base);
    vmwrite(GUEST_GDTR_LIMIT, KERNEL_GDT_SIZE - 1);
    vmwrite(GUEST_IDTR_LIMIT, 0);
    if (entry->long_mode) {
        cr0 |= CR0_PG | CR0_NE;
        vmwrite(GUEST_CR3, entry->cr3);
        vmwrite(GUEST_CR4, CR4_PAE | vmcs01_cr4_mask());
        vmwrite(CR4_SHADOW, cpu->cr4_shadow = CR4_PAE);
        vmwrite(GUEST_EFER, EFER_LME | EFER_LMA);
        vmwrite(ENTRY_CONTROLS, vmread(ENTRY_CONTROLS) | ENTRY_IA32E);
    }
    vmwrite(GUEST_CR0, cr0 | vmcs01_cr0_mask()); /* caches on */
    vmwrite(CR0_SHADOW, cpu->cr0_shadow = cr0);
    vmwrite(GUEST_RIP, entry->rip);
    memset(cpu->regs, 0, sizeof(cpu->regs));
    cpu->regs[GPR_RAX] = entry->rax;
    cpu->regs[GPR_RBX] = entry->rbx;
    cpu->regs[GPR_RSI] = entry->rsi;
}
