/*
 * The bits of CPUID that the guest does not see, each with its reason. Pure. What writes memory by itself (traces, samples, tables)
 * goes by addresses that nobody translates, or goes on while Strata runs: it would write over Strata. The MSRs that belong to a
 * hidden feature are refused by the table in msr.c: a new row here has one there. docs/real-machines.md tells users.
 */
#include "core/guest/cpuid_hide.h"

#define ANY_SUBLEAF ~0u
#define ALL ~0u
#define B(n) (1u << (n))

struct hidden {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx;
};

/* Rising by leaf. */
static const struct hidden hidden[] = {
    /* DTES64, DS-CPL, DS: samples (PEBS) go by linear addresses and are written while Strata runs, too. SMX: no GETSEC. */
    { 0x01, ANY_SUBLEAF, .ecx = B(2) | B(4) | B(6), .edx = B(21) },
    /* Hardware feedback interface and thread director: a table at a physical address that the processor writes. */
    { 0x06, ANY_SUBLEAF, .eax = B(19) | B(23), .ecx = 0xff00, .edx = ALL },
    /*
     * SGX, SGX_LC: IA32_FEATURE_CONTROL as the guest reads it has them off. Processor Trace: physical addresses. TME: addresses have
     * fewer bits (cpuid.c). PCONFIG: raises #UD. Architectural LBR: would record Strata's branches.
     */
    { 0x07, 0, .ebx = B(2) | B(25), .ecx = B(13) | B(30), .edx = B(18) | B(19) },
    /*
     * FRED: events of another form. LAM: Strata's walks do not know it. MSRLIST, and RDMSR and WRMSRNS with an immediate operand: exit
     * reasons of their own. APX: registers that VM-exit information does not name.
     */
    { 0x07, 1, .eax = B(17) | B(26) | B(27), .ecx = B(5), .edx = B(21) },
    { 0x0d, 0, .eax = (uint32_t)XCR0_REFUSED },
    { 0x0d, 1, .ecx = (uint32_t)~XSS_ALLOWED, .edx = ALL },
    /* State components of Processor Trace, architectural LBR, APX. */
    { 0x0d, 8, ALL, ALL, ALL, ALL },
    { 0x0d, 15, ALL, ALL, ALL, ALL },
    { 0x0d, 19, ALL, ALL, ALL, ALL },
    /* The leaves of SGX, Processor Trace, PCONFIG, architectural LBR. */
    { 0x12, ANY_SUBLEAF, ALL, ALL, ALL, ALL },
    { 0x14, ANY_SUBLEAF, ALL, ALL, ALL, ALL },
    { 0x1b, ANY_SUBLEAF, ALL, ALL, ALL, ALL },
    { 0x1c, ANY_SUBLEAF, ALL, ALL, ALL, ALL },
    /* Architectural PEBS: its subleaves. */
    { 0x23, 0, .eax = B(4) | B(5) },
    { 0x23, 4, ALL, ALL, ALL, ALL },
    { 0x23, 5, ALL, ALL, ALL, ALL },
};

/* Leaves that have rows: most have none, and CPUID is asked often. */
#define ROW_LEAVES                                                                                                     \
    (BIT(0x01) | BIT(0x06) | BIT(0x07) | BIT(0x0d) | BIT(0x12) | BIT(0x14) | BIT(0x1b) | BIT(0x1c) | BIT(0x23))

void cpuid_hide(uint32_t leaf, uint32_t subleaf, struct cpuid_regs *regs)
{
    if (leaf >= 64 || !(ROW_LEAVES >> leaf & 1))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
        const struct hidden *h = &hidden[i];
        if (h->leaf != leaf || (h->subleaf != ANY_SUBLEAF && h->subleaf != subleaf))
            continue;
        regs->eax &= ~h->eax;
        regs->ebx &= ~h->ebx;
        regs->ecx &= ~h->ecx;
        regs->edx &= ~h->edx;
    }
}
