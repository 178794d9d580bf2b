/*
 * MOV to CR0 and CR4 by the guest (hypervisor) where it changes a bit that Strata owns: the processor's VMX-fixed bits.
 * The guest sees its own value of those bits (read shadow); in truth they stay fixed. Every other bit is written as the
 * processor would, with the same faults. SDM 3, "Control Registers", "IA-32e Mode Operation".
 */
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"

#define CR_QUAL_NUMBER 0xfull
#define CR_QUAL_TYPE_SHIFT 4
#define CR_QUAL_GPR_SHIFT 8
#define CR_TYPE_MOV_TO 0
#define CR0_RESERVED                                                                                                   \
    (~(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG))
#define TYPE_TSS_BUSY 11u /* of 32 bits, and in IA-32e mode of 64 */
#define CR4_PDPTE_RELOAD (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP)

static bool long_mode_enabled(void) { return vmread(GUEST_EFER) & EFER_LME; }

/* PAE paging loads its four PDPTEs when it is switched on. False: #GP (reserved bits). */
static bool load_pdptes(uint64_t cr0, uint64_t cr4)
{
    if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || long_mode_enabled())
        return true;
    return guest_load_pdptes(vmread(GUEST_CR3), machine.hw.maxphyaddr);
}

static void flush(void) { hw_invvpid(INVVPID_SINGLE, VPID01, 0); }

static void set_long_mode_active(bool on)
{
    uint64_t efer = vmread(GUEST_EFER), entry = vmread(ENTRY_CONTROLS);
    vmwrite(GUEST_EFER, on ? efer | EFER_LMA : efer & ~EFER_LMA);
    vmwrite(ENTRY_CONTROLS, on ? entry | ENTRY_IA32E : entry & ~ENTRY_IA32E);
}

/* SDM 3, "IA-32e Mode System Data Structure Consistency Checks". */
static bool may_enter_ia32e(uint64_t cr4)
{
    return (cr4 & CR4_PAE) && !(vmread(GUEST_CS_AR) & AR_L) && (vmread(GUEST_TR_AR) & AR_TYPE_MASK) == TYPE_TSS_BUSY;
}

static bool write_cr0(struct cpu *cpu, uint64_t value)
{
    uint64_t old = vmread(GUEST_CR0), cr4 = vmread(GUEST_CR4);
    if (value & CR0_RESERVED & ~0xffffffffull)
        return false;
    value = (value & ~CR0_RESERVED) | CR0_ET;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return false;
    if (nested_in_vmx(cpu) && (vmx_caps_msr(&machine.hw, MSR_VMX_CR0_FIXED0) & ~value))
        return false;
    if ((cr4 & CR4_CET) && !(value & CR0_WP))
        return false;
    bool was_on = old & CR0_PG, on = value & CR0_PG;
    if (!was_on && on && long_mode_enabled() && !may_enter_ia32e(cr4))
        return false;
    if (was_on && !on && (guest_is_64bit() || (cr4 & CR4_PCIDE)))
        return false;
    if ((old ^ value) & (CR0_PG | CR0_CD | CR0_NW) && !load_pdptes(value, cr4))
        return false;
    if (was_on != on && long_mode_enabled())
        set_long_mode_active(on);
    vmwrite(CR0_SHADOW, cpu->cr0_shadow = value);
    vmwrite(GUEST_CR0, value | vmcs01_cr0_mask());
    return true;
}

static bool write_cr4(struct cpu *cpu, uint64_t value)
{
    uint64_t old = vmread(GUEST_CR4), cr0 = vmread(GUEST_CR0), efer = vmread(GUEST_EFER);
    if (value & ~vmx_caps_msr(&machine.hw, MSR_VMX_CR4_FIXED1))
        return false;
    if (nested_in_vmx(cpu) && (vmcs01_cr4_mask() & ~value))
        return false;
    if ((efer & EFER_LMA) && (!(value & CR4_PAE) || ((old ^ value) & CR4_LA57)))
        return false;
    if ((value & ~old & CR4_PCIDE) && (!(efer & EFER_LMA) || (vmread(GUEST_CR3) & 0xfff)))
        return false;
    if (((value & CR4_CET) && !(cr0 & CR0_WP)))
        return false;
    if (((old ^ value) & CR4_PDPTE_RELOAD) && !load_pdptes(cr0, value))
        return false;
    vmwrite(CR4_SHADOW, cpu->cr4_shadow = value);
    vmwrite(GUEST_CR4, value | vmcs01_cr4_mask());
    return true;
}

static uint64_t operand(struct cpu *cpu, uint64_t qualification)
{
    unsigned gpr = qualification >> CR_QUAL_GPR_SHIFT & 0xf;
    uint64_t value = gpr == GPR_RSP ? vmread(GUEST_RSP) : cpu->regs[gpr];
    return guest_is_64bit() ? value : (uint32_t)value;
}

void cr_handle_access(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    uint64_t qualification = vmread(EXIT_QUALIFICATION);
    unsigned number = qualification & CR_QUAL_NUMBER, type = qualification >> CR_QUAL_TYPE_SHIFT & 3;
    if (type != CR_TYPE_MOV_TO || (number != 0 && number != 4)) { /* Strata owns no bit that they reach */
        guest_refuse(cpu);
        return;
    }
    uint64_t value = operand(cpu, qualification);
    if (!(number == 0 ? write_cr0(cpu, value) : write_cr4(cpu, value))) {
        guest_fault(cpu, VECTOR_GP, 0);
        return;
    }
    flush();
    guest_skip(cpu);
}
