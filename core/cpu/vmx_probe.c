/*
 * Reading the VMX capabilities of the processor that this code runs on. Uses core/lib/hw.h only.
 */
#include "core/cpu/vmx_probe.h"

#include "core/lib/hw.h"
#include "core/memory/mem.h"
#include "core/lib/x86.h"

#define CPUID_EXTENDED_MAX 0x80000000
#define CPUID_EXTENDED_FEATURES 0x80000001
#define CPUID_ADDRESS_SIZES 0x80000008
#define MAXPHYADDR_DEFAULT 36 /* CPUID: a processor without leaf 80000008h that has PAE */
#define MAXPHYADDR_MASK 0xffu
#define MAXPHYADDR_LIMIT 52 /* what page tables have room for */

/*
 * Bits of a physical address that choose an encryption key, when memory encryption is on: CPUID counts them as address bits, but they
 * make other names of the same memory. SDM 4, "IA32_TME_ACTIVATE".
 */
static unsigned key_bits(void)
{
    uint64_t tme, on = TME_ACTIVATE_LOCK | TME_ACTIVATE_ENABLE;
    if (hw_cpuid(0, 0).eax < 7 || !(hw_cpuid(7, 0).ecx & CPUID7_ECX_TME) || !hw_rdmsr_try(MSR_TME_ACTIVATE, &tme))
        return 0;
    return (tme & on) == on ? (unsigned)(tme >> TME_ACTIVATE_KEY_BITS_SHIFT & 0xf) : 0;
}

/* Nothing of Strata's own reads or writes these: where the processor has none, vmcs12's values are kept in its software part. */
static const uint8_t dispensable[] = {
    FIELD_GUEST_SMBASE, FIELD_CR3_TARGET0, FIELD_CR3_TARGET1, FIELD_CR3_TARGET2, FIELD_CR3_TARGET3,
    FIELD_IO_RCX,       FIELD_IO_RSI,      FIELD_IO_RDI,      FIELD_IO_RIP,      FIELD_EXECUTIVE_VMCS,
};

static bool is_dispensable(enum vmcs_row row)
{
    for (size_t i = 0; i < ARRAY_SIZE(dispensable); i++)
        if (dispensable[i] == row)
            return true;
    return false;
}

const struct vmcs_field *vmx_probe_fields(struct vmx_caps *hw)
{
    const struct vmcs_field *needed = NULL;
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        const struct vmcs_field *field = &vmcs_fields[row];
        uint64_t value;
        hw->missing[row] = hw->offered[field->cap] && !hw_vmread_try(field->encoding, &value);
        if (hw->missing[row] && !needed && !is_dispensable(row))
            needed = field;
    }
    return needed;
}

static uint64_t efer_bits(void)
{
    uint32_t edx = hw_cpuid(CPUID_EXTENDED_FEATURES, 0).edx;
    uint64_t bits = 0;

    if (edx & CPUID8_EDX_SYSCALL)
        bits |= EFER_SCE;
    if (edx & CPUID8_EDX_LM)
        bits |= EFER_LME | EFER_LMA;
    if (edx & CPUID8_EDX_NX)
        bits |= EFER_NXE;
    return bits;
}

void vmx_probe(struct vmx_caps *hw)
{
    memset(hw, 0, sizeof(*hw));
    /* In rising order: whether one exists is said by those before it. */
    for (uint32_t msr = MSR_VMX_FIRST; msr <= MSR_VMX_LAST; msr++)
        if (vmx_caps_msr_exists(hw, msr))
            hw->msr[msr - MSR_VMX_FIRST] = hw_rdmsr(msr);

    hw->maxphyaddr = MAXPHYADDR_DEFAULT;
    if (hw_cpuid(CPUID_EXTENDED_MAX, 0).eax >= CPUID_ADDRESS_SIZES)
        hw->maxphyaddr = (uint8_t)(hw_cpuid(CPUID_ADDRESS_SIZES, 0).eax & MAXPHYADDR_MASK);
    if (hw->maxphyaddr > MAXPHYADDR_LIMIT)
        hw->maxphyaddr = MAXPHYADDR_LIMIT;
    hw->maxphyaddr = (uint8_t)(hw->maxphyaddr - key_bits());
    hw->efer = efer_bits();
    vmx_caps_derive(hw);
}
