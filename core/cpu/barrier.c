/*
 * What barrier.h says. Guest hypervisor and nested guest both run in non-root mode, where a processor keeps nothing of theirs apart:
 * what hardware does for a hypervisor at its VM exits, and what that does for itself before its VM entries, Strata must do where it
 * stands between. As KVM does for a nested hypervisor (IBPB), and for what an entry leaves in buffers and in the L1 cache.
 */
#include "core/cpu/barrier.h"

#include "core/cpu/machine.h"

#define CPUID7_EBX_RTM BIT(11)
#define CPUID7_EDX_MD_CLEAR BIT(10)
#define CPUID7_EDX_IBRS_IBPB BIT(26)
#define CPUID7_EDX_L1D_FLUSH BIT(28)
#define CPUID7_EDX_ARCH_CAPABILITIES BIT(29)

/* IA32_ARCH_CAPABILITIES */
#define CAPS_RDCL_NO BIT(0)
#define CAPS_SKIP_L1DFL_VMENTRY BIT(3) /* who runs Strata flushes */
#define CAPS_MDS_NO BIT(5)
#define CAPS_TAA_NO BIT(8)
#define CAPS_SBDR_SSDP_NO BIT(13)
#define CAPS_FBSDP_NO BIT(14)
#define CAPS_PSDP_NO BIT(15)
#define CAPS_FB_CLEAR BIT(17)
#define CAPS_RFDS_NO BIT(27)
#define CAPS_RFDS_CLEAR BIT(28)

#define PRED_CMD_IBPB BIT(0)
#define FLUSH_CMD_L1D BIT(0)

/*
 * A barrier is due where the remedy is there (a bit of CPUID or of the capabilities; microcode brings both) and the processor does not
 * say that it is immune. SDM 3 and Intel's guidance on transient execution go by these bits, too; no list of models is needed.
 */
static const struct rule {
    uint32_t barrier;
    uint64_t cpuid7_edx, caps; /* the remedy: all of these bits */
    uint64_t immune;           /* all of these capabilities together; 0: none is */
} rules[] = {
    { BARRIER_IBPB, CPUID7_EDX_IBRS_IBPB, 0, 0 },                                         /* branch target injection */
    { BARRIER_VERW, CPUID7_EDX_MD_CLEAR, 0, CAPS_MDS_NO | CAPS_TAA_NO },                  /* MDS, TAA */
    { BARRIER_VERW, 0, CAPS_FB_CLEAR, CAPS_SBDR_SSDP_NO | CAPS_FBSDP_NO | CAPS_PSDP_NO }, /* MMIO stale data */
    { BARRIER_VERW, 0, CAPS_RFDS_CLEAR, CAPS_RFDS_NO },                                   /* register file */
    { BARRIER_L1D, CPUID7_EDX_L1D_FLUSH, 0, CAPS_RDCL_NO },                               /* L1 terminal fault */
};

uint32_t barrier_decide(struct barrier_facts facts, int mitigations)
{
    uint32_t barriers = 0;
    uint64_t caps = facts.arch_capabilities;
    if (mitigations == MITIGATIONS_OFF)
        return 0;
    if (!(facts.cpuid7_ebx & CPUID7_EBX_RTM)) /* without transactions none can be aborted */
        caps |= CAPS_TAA_NO;
    if (caps & CAPS_SKIP_L1DFL_VMENTRY)
        caps |= CAPS_RDCL_NO;
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        const struct rule *r = &rules[i];
        bool remedy = (facts.cpuid7_edx & r->cpuid7_edx) == r->cpuid7_edx && (caps & r->caps) == r->caps;
        if (remedy && (!r->immune || (caps & r->immune) != r->immune))
            barriers |= r->barrier;
    }
    if ((barriers & BARRIER_L1D) && mitigations == MITIGATIONS_ON)
        barriers |= BARRIER_L1D_ALWAYS;
    return barriers;
}

struct barrier_facts barrier_facts_read(void)
{
    struct barrier_facts facts = { 0 };
    if (hw_cpuid(0, 0).eax < 7)
        return facts;
    struct cpuid_regs leaf = hw_cpuid(7, 0);
    facts.cpuid7_ebx = leaf.ebx;
    facts.cpuid7_edx = leaf.edx;
    if ((leaf.edx & CPUID7_EDX_ARCH_CAPABILITIES) && !hw_rdmsr_try(MSR_ARCH_CAPABILITIES, &facts.arch_capabilities))
        facts.arch_capabilities = 0;
    return facts;
}

/* VMRESUME by the guest hypervisor with nothing to check or merge: Strata has read nothing of its memory. */
static bool entered_plainly(struct cpu *cpu)
{
    bool plain = cpu->counters[COUNT_ENTRY_PLAIN] != cpu->plain_entries;
    cpu->plain_entries = cpu->counters[COUNT_ENTRY_PLAIN];
    return plain;
}

OUT_OF_LINE void barrier_nested_entry(struct cpu *cpu)
{
    uint32_t barriers = machine.barriers;
    bool plain = entered_plainly(cpu);
    if ((barriers & BARRIER_L1D_ALWAYS) || ((barriers & BARRIER_L1D) && !plain)) {
        hw_wrmsr_try(MSR_FLUSH_CMD, FLUSH_CMD_L1D);
        count(cpu, COUNT_BARRIER_L1D);
    }
    if (barriers & BARRIER_VERW) {
        hw_verw();
        count(cpu, COUNT_BARRIER_VERW);
    }
}

OUT_OF_LINE void barrier_reflection(struct cpu *cpu)
{
    hw_wrmsr_try(MSR_PRED_CMD, PRED_CMD_IBPB);
    count(cpu, COUNT_BARRIER_IBPB);
}
