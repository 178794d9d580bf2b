/* sources: nested/caps.c core/cpu/vmx_caps.c core/cpu/vmx_require.c core/cpu/vmcs_fields.c */
/*
 * What is offered, from any capability MSRs: never more than the processor has, never what is not supported, and
 * nothing that must be 1 is lost. Input: a byte of options, then the MSRs.
 */
#include <stdlib.h>
#include <string.h>

#include "core/cpu/vmx_require.h"
#include "nested/caps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Never offered, by bit: what has no name; VM functions, ENCLS, PML, #VE, Intel PT, mode-based execute, sub-page. */
#define PIN_NEVER 0xffffff16ull
#define PROC2_NEVER                                                                                                    \
    (1ull << 13 | 1ull << 15 | 1ull << 17 | 1ull << 18 | 1ull << 19 | 1ull << 22 | 1ull << 23 | 1ull << 24)
#define ENTRY_NEVER (1ull << 10 | 1ull << 11 | 1ull << 13 | 1ull << 16)
#define EXIT_NEVER (1ull << 12 | 1ull << 23)

static void expect(bool holds)
{
    if (!holds)
        abort();
}

static void controls_expect(uint64_t offered, uint64_t hw, uint64_t never)
{
    expect((uint32_t)offered == (uint32_t)hw);
    expect(!(offered & ~hw));
    expect(!(offered >> 32 & never & ~(uint64_t)(uint32_t)hw)); /* it may stay allowed where it must be 1 */
    expect(((uint32_t)hw & hw >> 32 & ~(offered >> 32)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmx_caps hw = { .maxphyaddr = 40 }, out;
    struct caps_options options = { 0 };

    if (size < 1)
        return 0;
    options.vmcs_shadowing = data[0] & 1;
    options.ept_ad = data[0] & 2;
    memcpy(hw.msr, data + 1, size - 1 < sizeof(hw.msr) ? size - 1 : sizeof(hw.msr));
    caps_filter(&out, &hw, &options);
    for (uint32_t shift = 0; shift <= MSR_VMX_TRUE_PIN - MSR_VMX_PIN; shift += MSR_VMX_TRUE_PIN - MSR_VMX_PIN) {
        controls_expect(caps_msr(&out, MSR_VMX_PIN + shift), caps_msr(&hw, MSR_VMX_PIN + shift), PIN_NEVER);
        controls_expect(caps_msr(&out, MSR_VMX_PROC + shift), caps_msr(&hw, MSR_VMX_PROC + shift), 0);
        controls_expect(caps_msr(&out, MSR_VMX_EXIT + shift), caps_msr(&hw, MSR_VMX_EXIT + shift), EXIT_NEVER);
        controls_expect(caps_msr(&out, MSR_VMX_ENTRY + shift), caps_msr(&hw, MSR_VMX_ENTRY + shift), ENTRY_NEVER);
    }
    controls_expect(caps_msr(&out, MSR_VMX_PROC2), caps_msr(&hw, MSR_VMX_PROC2), PROC2_NEVER);
    expect(!(caps_msr(&out, MSR_VMX_EPT_VPID) & ~caps_msr(&hw, MSR_VMX_EPT_VPID)));
    expect(!(caps_msr(&out, MSR_VMX_MISC) & ~caps_msr(&hw, MSR_VMX_MISC)));
    expect(caps_msr(&out, MSR_VMX_VMFUNC) == 0);
    for (uint32_t msr = MSR_VMX_FIRST - 2; msr <= MSR_VMX_LAST + 2; msr++)
        if (msr < MSR_VMX_FIRST || msr > MSR_VMX_LAST)
            expect(!caps_msr_exists(&out, msr));
    vmx_require(&hw);
    return 0;
}
