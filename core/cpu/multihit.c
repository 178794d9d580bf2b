/*
 * The processors that are not affected: IA32_ARCH_CAPABILITIES says so, or they are known to be, as in Linux's list.
 */
#include "core/cpu/multihit.h"

#include "core/lib/hw.h"

#define CAPS_PSCHANGE_MC_NO BIT(6)
#define VENDOR_INTEL_EBX 0x756e6547u /* "Genu" */
#define FAMILY_6 6u

static uint32_t family_of(uint32_t signature)
{
    uint32_t family = signature >> 8 & 15;
    return family == 15 ? family + (signature >> 20 & 0xff) : family;
}

static uint32_t model_of(uint32_t signature) { return (signature >> 4 & 15) | (signature >> 12 & 0xf0); }

/* Atom and Xeon Phi. */
static const uint8_t immune[] = {
    0x1c, 0x26,       /* Bonnell */
    0x27, 0x35, 0x36, /* Saltwell */
    0x37, 0x4a, 0x4d, /* Silvermont */
    0x4c, 0x5a, 0x75, /* Airmont */
    0x57, 0x85,       /* Knights Landing, Knights Mill */
    0x5c, 0x5f, 0x7a, /* Goldmont */
    0x86, 0x96, 0x9c, /* Tremont */
};

bool multihit_affects(struct cpuid_regs vendor, uint32_t signature, struct barrier_facts facts)
{
    if (vendor.ebx != VENDOR_INTEL_EBX || (facts.arch_capabilities & CAPS_PSCHANGE_MC_NO))
        return false;
    for (size_t i = 0; family_of(signature) == FAMILY_6 && i < ARRAY_SIZE(immune); i++)
        if (model_of(signature) == immune[i])
            return false;
    return true;
}

bool multihit_here(void) { return multihit_affects(hw_cpuid(0, 0), hw_cpuid(1, 0).eax, barrier_facts_read()); }
