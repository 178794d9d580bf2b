/*
 * CPUID for the guest (hypervisor): the processor's answer, less what is hidden, and Strata's own leaves (cpuid.h).
 */
#include "core/guest/cpuid.h"

#include "core/guest/counter_report.h"
#include "core/cpu/cpu.h"
#include "core/cpu/vmcs_image.h"
#include "core/guest/cpuid_hide.h"
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/lib/log.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"

#define SIGNATURE_0 0x61727453u     /* "Stra" */
#define SIGNATURE_1 0x74536174u     /* "taSt" */
#define SIGNATURE_2 0x61746172u     /* "rata" */
#define KVM_SIGNATURE_0 0x4b4d564bu /* "KVMK" */
#define KVM_SIGNATURE_1 0x564b4d56u /* "VMKV" */
#define KVM_SIGNATURE_2 0x0000004du /* "M" */
#define CPUID7_ECX_OSPKE BIT(4)
#define CPUID_ADDRESS_SIZES 0x80000008
#define PHYSICAL_BITS_MASK 0xffu

unsigned cpuid_level_below(void)
{
    struct cpuid_regs r = hw_cpuid(CPUID_STRATA, 0);
    if (r.ebx != SIGNATURE_0 || r.ecx != SIGNATURE_1 || r.edx != SIGNATURE_2)
        return 0;
    return hw_cpuid(CPUID_STRATA_INFO, 0).ebx;
}

bool cpuid_is_hypervisor(void)
{
    if (!(hw_cpuid(1, 0).ecx & CPUID1_ECX_HYPERVISOR))
        return false;
    return !cpuid_level_below() || (hw_cpuid(CPUID_STRATA_VMCS, 0).eax & 1);
}

/* Bits that mirror the guest's CR4 rather than Strata's. */
static uint32_t mirror_cr4(uint32_t reg, uint64_t feature, uint64_t cr4_bit)
{
    bool on = vmread(GUEST_CR4) & cr4_bit;
    return (uint32_t)(on ? reg | feature : reg & ~feature);
}

static void counter_leaf(uint32_t selector, struct cpuid_regs *out)
{
    unsigned index = selector & 0xffff, cpu = selector >> 16 & 0xff;
    if (index >= COUNTER_COUNT || (cpu >= cpu_count && cpu != CPUID_STRATA_ALL_CPUS))
        return;
    for (unsigned i = 0; i < cpu_count; i++)
        nested_counters(cpus[i]);
    uint64_t value = counter_read(index, cpu == CPUID_STRATA_ALL_CPUS ? -1 : (int)cpu);
    *out = (struct cpuid_regs){ .eax = (uint32_t)value, .ebx = (uint32_t)(value >> 32), .ecx = 1 };
}

static void name_leaf(uint32_t selector, struct cpuid_regs *out)
{
    unsigned index = selector & 0xffff, chunk = selector >> 16 & 0xff;
    char name[COUNTER_NAME_SIZE];
    if (index >= COUNTER_COUNT || chunk >= COUNTER_NAME_SIZE / sizeof(*out))
        return;
    counter_name(index, name);
    memcpy(out, name + chunk * sizeof(*out), sizeof(*out));
}

/*
 * Prints over a serial line, which stops this CPU for as long as that takes: a kernel may stop the CPU that it runs on, a program may
 * not, unless the machine's owner says so.
 */
static void mark_leaf(uint32_t marker, struct cpuid_regs *out)
{
    if (guest_cpl() != 0 && machine.options.mark != MARK_ANY)
        return;
    uint64_t tsc = hw_rdtsc();
    if (cpuid_level_below())
        hw_cpuid(CPUID_STRATA_MARK, marker);
    for (unsigned i = 0; i < cpu_count; i++)
        nested_counters(cpus[i]);
    counters_print(marker & 0xffffff, tsc);
    out->eax = 1;
}

static struct cpuid_regs strata_leaf(uint32_t leaf, uint32_t ecx)
{
    struct cpuid_regs out = { 0, 0, 0, 0 };
    unsigned hop = ecx >> CPUID_STRATA_HOP_SHIFT;
    if (hop && leaf >= CPUID_STRATA_INFO && leaf <= CPUID_STRATA_NAME) {
        if (cpuid_level_below())
            out = hw_cpuid(leaf, ecx - (1u << CPUID_STRATA_HOP_SHIFT));
        return out;
    }
    switch (leaf) {
    case CPUID_STRATA:
        out = (struct cpuid_regs){ CPUID_STRATA_LAST, SIGNATURE_0, SIGNATURE_1, SIGNATURE_2 };
        break;
    case CPUID_STRATA_INFO:
        out = (struct cpuid_regs){ CPUID_STRATA_VERSION, log_strata_level(), cpu_count, COUNTER_COUNT };
        break;
    case CPUID_STRATA_COUNTER:
        counter_leaf(ecx, &out);
        break;
    case CPUID_STRATA_NAME:
        name_leaf(ecx, &out);
        break;
    case CPUID_STRATA_MARK:
        mark_leaf(ecx, &out);
        break;
    case CPUID_STRATA_VMCS:
        out.eax = vmcs_image.on;
        break;
    default:
        break;
    }
    return out;
}

static struct cpuid_regs guest_leaf(uint32_t leaf, uint32_t subleaf)
{
    if (leaf >= CPUID_HYPERVISOR && leaf <= CPUID_HYPERVISOR_LAST) {
        if (leaf == CPUID_HYPERVISOR)
            return (struct cpuid_regs){ CPUID_KVM_FEATURES, KVM_SIGNATURE_0, KVM_SIGNATURE_1, KVM_SIGNATURE_2 };
        return strata_leaf(leaf, subleaf);
    }
    struct cpuid_regs r = hw_cpuid(leaf, subleaf);
    cpuid_hide(leaf, subleaf, &r);
    if (leaf == 1) {
        r.ecx |= (uint32_t)(CPUID1_ECX_HYPERVISOR | CPUID1_ECX_VMX);
        r.ecx = mirror_cr4(r.ecx, CPUID1_ECX_OSXSAVE, CR4_OSXSAVE);
    } else if (leaf == 7 && subleaf == 0) {
        r.ecx = mirror_cr4(r.ecx, CPUID7_ECX_OSPKE, CR4_PKE);
    } else if (leaf == CPUID_ADDRESS_SIZES) {
        r.eax = (r.eax & ~PHYSICAL_BITS_MASK) | machine.hw.maxphyaddr; /* less those that choose a key: vmx_probe.c */
    }
    x2apic_cpuid(leaf, &r);
    return r;
}

void cpuid_emulate(struct cpu *cpu)
{
    struct cpuid_regs r = guest_leaf((uint32_t)cpu->regs[GPR_RAX], (uint32_t)cpu->regs[GPR_RCX]);
    cpu->regs[GPR_RAX] = r.eax;
    cpu->regs[GPR_RBX] = r.ebx;
    cpu->regs[GPR_RCX] = r.ecx;
    cpu->regs[GPR_RDX] = r.edx;
}
