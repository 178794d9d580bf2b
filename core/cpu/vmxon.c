/*
 * See vmxon.h. SDM 3, "Enabling and Entering VMX Operation".
 */
#include "core/cpu/vmxon.h"

#include "core/cpu/machine.h"
#include "core/cpu/vmcs_image.h"
#include "core/lib/format.h"
#include "core/cpu/vmx_probe.h"
#include "core/cpu/vmx_require.h"

#define FAILURE_SIZE 64

static bool feature_control_allows(uint64_t value)
{
    return !(value & FEATURE_CONTROL_LOCK) || (value & FEATURE_CONTROL_VMX);
}

const char *vmxon_require(struct vmx_caps *hw)
{
    if (!(hw_cpuid(1, 0).ecx & CPUID1_ECX_VMX))
        return "no VMX (CPUID 1, ECX[5])";
    uint64_t control;
    if (hw_rdmsr_try(MSR_FEATURE_CONTROL, &control) && !feature_control_allows(control))
        return "VMX is locked off by the firmware (IA32_FEATURE_CONTROL[2])";
    vmx_probe(hw);
    return vmx_require(hw);
}

/* What firmware left on of features that the guest cannot switch off, since it does not see them (msr.c). Trace stops VMXON, too. */
static void stop_hidden(void)
{
    static const uint32_t enables[] = { MSR_RTIT_CTL, MSR_HW_FEEDBACK_CONFIG, MSR_PEBS_ENABLE, MSR_LBR_CTL };
    uint64_t value;
    for (size_t i = 0; i < ARRAY_SIZE(enables); i++)
        if (hw_rdmsr_try(enables[i], &value) && value)
            hw_wrmsr_try(enables[i], 0);
}

static void probe_image(struct cpu *cpu, hpa_t vmcs)
{
    hpa_t other = pool_alloc(&cpu->pool);
    if (!other.v)
        return;
    *(uint32_t *)hpa_ptr(other) = *(const uint32_t *)hpa_ptr(vmcs);
    vmcs_image_probe(vmcs, other, &machine.hw);
    pool_free(&cpu->pool, other);
}

/* Once, on the first CPU: which VMCS fields there are. NULL, or why Strata cannot run; VMX is off again then. */
static const char *probe_fields(struct cpu *cpu)
{
    hpa_t vmcs = cpu->vmcs01.region;
    static char why[FAILURE_SIZE];
    static bool probed;
    if (probed)
        return NULL;
    probed = true;
    hw_vmclear(vmcs);
    hw_vmptrld(vmcs);
    const struct vmcs_field *needed = vmx_probe_fields(&machine.hw);
    hw_vmclear(vmcs);
    if (!needed && machine.is_hypervisor && machine.options.vmcs == VMCS_MEMORY)
        probe_image(cpu, vmcs);
    if (!needed)
        return NULL;
    hw_vmxoff();
    format(why, sizeof(why), "no VMCS field %04xh (%s)", needed->encoding, needed->name);
    return why;
}

const char *vmxon_cpu(struct cpu *cpu)
{
    stop_hidden();
    uint64_t control;
    if (hw_rdmsr_try(MSR_FEATURE_CONTROL, &control)) {
        if (!feature_control_allows(control))
            return "VMX is locked off by the firmware (IA32_FEATURE_CONTROL[2])";
        if (!(control & FEATURE_CONTROL_LOCK))
            hw_wrmsr_try(MSR_FEATURE_CONTROL, control | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX);
    }
    uint64_t cr0 = hw_read_cr0();
    hw_write_cr0((cr0 | vmx_caps_msr(&machine.hw, MSR_VMX_CR0_FIXED0)) & vmx_caps_msr(&machine.hw, MSR_VMX_CR0_FIXED1));
    hw_write_cr4(machine.cr4);

    hpa_t region = pool_alloc(&cpu->pool);
    cpu->vmcs01.region = pool_alloc(&cpu->pool);
    if (!region.v || !cpu->vmcs01.region.v)
        return "no memory for its VMX regions";
    uint32_t revision = (uint32_t)(vmx_caps_msr(&machine.hw, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    *(uint32_t *)hpa_ptr(region) = *(uint32_t *)hpa_ptr(cpu->vmcs01.region) = revision;
    if (!hw_vmxon(region))
        return "VMXON failed";
    hw_invept(INVEPT_GLOBAL, 0);
    hw_invvpid(INVVPID_ALL, 0, 0);
    return probe_fields(cpu);
}
