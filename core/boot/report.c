/*
 * See report.h. It asks and prints, and decides nothing.
 */
#include "core/boot/report.h"

#include "core/cpu/barrier.h"
#include "core/cpu/machine.h"
#include "core/lib/format.h"
#include "core/lib/log.h"

#define CPUID_BRAND_FIRST 0x80000002
#define CPUID_BRAND_LAST 0x80000004
#define BRAND_SIZE ((CPUID_BRAND_LAST - CPUID_BRAND_FIRST + 1) * sizeof(struct cpuid_regs))
#define CPUID_BELOW 0x40000000
#define FAMILY_EXTENDED 0xf /* with this family the extended one is added; with it and 6 the extended model counts */
#define RSDP_OEM 9          /* ACPI, "Root System Description Pointer": OEMID, 6 characters */
#define RSDP_OEM_SIZE 6
#define MSR_LINE 9 /* MSRs a line */

/* A copy without what cannot be printed and without blanks at its ends. */
static void copy_text(char *to, const void *from, size_t size)
{
    const char *text = from;
    size_t used = 0;
    for (size_t i = 0; i < size && text[i]; i++)
        if ((text[i] > ' ' && text[i] <= '~' && text[i] != '"') || (text[i] == ' ' && used))
            to[used++] = text[i];
    while (used && to[used - 1] == ' ')
        used--;
    to[used] = 0;
}

/* Twelve characters, as CPUID returns them in three registers. */
static void copy_words(char out[13], uint32_t a, uint32_t b, uint32_t c)
{
    const uint32_t words[3] = { a, b, c };
    char text[sizeof(words)];
    memcpy(text, words, sizeof(text));
    copy_text(out, text, sizeof(text));
}

static void read_vendor(char out[13])
{
    struct cpuid_regs r = hw_cpuid(0, 0);
    copy_words(out, r.ebx, r.edx, r.ecx);
}

static void read_brand(char out[BRAND_SIZE + 1])
{
    struct cpuid_regs parts[BRAND_SIZE / sizeof(struct cpuid_regs)];
    out[0] = 0;
    if (hw_cpuid(0x80000000, 0).eax < CPUID_BRAND_LAST)
        return;
    for (uint32_t i = 0; i < ARRAY_SIZE(parts); i++)
        parts[i] = hw_cpuid(CPUID_BRAND_FIRST + i, 0);
    copy_text(out, parts, sizeof(parts));
}

/* The hypervisor below, if there is one. */
static void read_below(char out[13])
{
    out[0] = 0;
    if (!(hw_cpuid(1, 0).ecx & CPUID1_ECX_HYPERVISOR))
        return;
    struct cpuid_regs r = hw_cpuid(CPUID_BELOW, 0);
    copy_words(out, r.ebx, r.ecx, r.edx);
}

static void print_vmx(uint32_t first)
{
    char line[MSR_LINE * 17 + 1];
    int used = 0;
    for (uint32_t msr = first; msr < first + MSR_LINE && msr <= MSR_VMX_LAST; msr++)
        used += format(line + used, sizeof(line) - (size_t)used, " %llx",
                       (unsigned long long)vmx_caps_msr(&machine.hw, msr));
    log_info("machine: MSR %xh:%s", first, line);
}

void report_machine(const char *firmware, const void *rsdp)
{
    char vendor[13], brand[BRAND_SIZE + 1], below[13], oem[RSDP_OEM_SIZE + 1] = { 0 };
    uint32_t signature = hw_cpuid(1, 0).eax;
    uint32_t family = signature >> 8 & 0xf, model = signature >> 4 & 0xf;
    if (family == 6 || family == FAMILY_EXTENDED)
        model |= signature >> 12 & 0xf0;
    if (family == FAMILY_EXTENDED)
        family += signature >> 20 & 0xff;
    read_vendor(vendor);
    read_brand(brand);
    read_below(below);
    if (rsdp)
        copy_text(oem, (const char *)rsdp + RSDP_OEM, RSDP_OEM_SIZE);
    log_info("machine: %s %02x-%02x-%02x \"%s\", %u address bits, %s \"%s\", below: %s", vendor, family, model,
             signature & 0xf, brand, machine.hw.maxphyaddr, firmware, oem, below[0] ? below : "nothing");
    if (!vmx_caps_msr(&machine.hw, MSR_VMX_BASIC))
        return;
    print_vmx(MSR_VMX_FIRST);
    print_vmx(MSR_VMX_FIRST + MSR_LINE);
}

/* SDM 3, "Determining the Signature": written 0, then CPUID. */
static uint32_t microcode_revision(void)
{
    uint64_t value = 0;
    hw_wrmsr_try(MSR_BIOS_SIGN_ID, 0);
    hw_cpuid(1, 0);
    return hw_rdmsr_try(MSR_BIOS_SIGN_ID, &value) ? (uint32_t)(value >> 32) : 0;
}

void report_protection(void)
{
    struct barrier_facts facts = barrier_facts_read();
    uint64_t control = 0, tme = 0;
    if (!hw_rdmsr_try(MSR_FEATURE_CONTROL, &control))
        control = 0;
    if (!hw_rdmsr_try(MSR_TME_ACTIVATE, &tme))
        tme = 0;
    log_info("machine: microcode %xh, CPUID 7 EBX %x EDX %x, MSR 10ah: %llx, 3ah: %llx, 982h: %llx, barriers:%s%s%s%s",
             microcode_revision(), facts.cpuid7_ebx, facts.cpuid7_edx, (unsigned long long)facts.arch_capabilities,
             (unsigned long long)control, (unsigned long long)tme, machine.barriers & BARRIER_IBPB ? " IBPB" : "",
             machine.barriers & BARRIER_VERW ? " VERW" : "", machine.barriers & BARRIER_L1D ? " L1D" : "",
             machine.barriers ? "" : " none");
}
