/*
 * The rules of SDM 3, "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and Descriptor-Table
 * Registers" and "Checks Related to Address-Space Size". Pure. Host state of vmcs12 becomes the guest hypervisor's own
 * state at a reflected exit: what passes here can be entered by vmcs01.
 */
#include "nested/checks_rules.h"

#define SELECTOR_RPL_TI 7ull

/* Conditions */
static bool host_64(const struct check_view *v) { return check_exit(v) & EXIT_HOST_64; }
static bool host_32(const struct check_view *v) { return !host_64(v); }
static bool with_pat(const struct check_view *v) { return check_exit(v) & EXIT_LOAD_PAT; }
static bool with_efer(const struct check_view *v) { return check_exit(v) & EXIT_LOAD_EFER; }
static bool inside_ia32e(const struct check_view *v) { return v->ia32e; }
static bool outside_ia32e(const struct check_view *v) { return !v->ia32e; }

static bool cr0(const struct check_view *v, enum vmcs_row row)
{
    return check_fixed(v->values[row], vmx_caps_msr(v->caps, MSR_VMX_CR0_FIXED0),
                       vmx_caps_msr(v->caps, MSR_VMX_CR0_FIXED1));
}

static bool cet_wp(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(v->values[FIELD_HOST_CR4] & CR4_CET, v->values[row] & CR0_WP);
}

static bool efer_reserved(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & ~v->caps->efer) == 0;
}

static bool efer_mode(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & (EFER_LMA | EFER_LME)) == (host_64(v) ? EFER_LMA | EFER_LME : 0);
}

static bool selector(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & SELECTOR_RPL_TI); }
static bool not_null(const struct check_view *v, enum vmcs_row row) { return v->values[row] != 0; }
static bool ia32e_guest_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & ENTRY_IA32E); }
static bool host_64_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & EXIT_HOST_64); }
static bool host_64_1(const struct check_view *v, enum vmcs_row row) { return v->values[row] & EXIT_HOST_64; }
static bool pcide_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & CR4_PCIDE); }
static bool pae_1(const struct check_view *v, enum vmcs_row row) { return v->values[row] & CR4_PAE; }
static bool high_half_0(const struct check_view *v, enum vmcs_row row) { return v->values[row] >> 32 == 0; }

#define HOST BIT(GROUP_HOST)
#define BOTH (HOST | BIT(GROUP_CONTROLS))
#define CTL BIT(GROUP_CONTROLS)

// clang-format off
static const struct check_rule rules[] = {
    /* "Checks on Host Control Registers, MSRs, and SSP" */
    { "host CR0: value not supported in VMX operation", HOST, 0, FIELD_HOST_CR0, NULL, cr0 },
    { "host CR4: value not supported in VMX operation", HOST, 0, FIELD_HOST_CR4, NULL, check_cr4 },
    { "host CR4.CET without CR0.WP",                    HOST, 0, FIELD_HOST_CR0, NULL, cet_wp },
    { "host CR3: beyond the physical-address width",    HOST, 0, FIELD_HOST_CR3, NULL, check_cr3 },
    { "host IA32_SYSENTER_ESP: canonical",              HOST, 0, FIELD_HOST_SYSENTER_ESP, NULL, check_canonical },
    { "host IA32_SYSENTER_EIP: canonical",              HOST, 0, FIELD_HOST_SYSENTER_EIP, NULL, check_canonical },
    { "host IA32_PAT: memory types",                    BOTH, 0, FIELD_HOST_PAT, with_pat, check_pat },
    { "host IA32_EFER: reserved bits",                  BOTH, 0, FIELD_HOST_EFER, with_efer, efer_reserved },
    { "host IA32_EFER: LMA and LME as host address-space size", BOTH, 0, FIELD_HOST_EFER, with_efer, efer_mode },

    /* "Checks on Host Segment and Descriptor-Table Registers" */
    { "host ES selector: RPL and TI",                   HOST, 0, FIELD_HOST_ES_SEL, NULL, selector },
    { "host CS selector: RPL and TI",                   HOST, 0, FIELD_HOST_CS_SEL, NULL, selector },
    { "host SS selector: RPL and TI",                   HOST, 0, FIELD_HOST_SS_SEL, NULL, selector },
    { "host DS selector: RPL and TI",                   HOST, 0, FIELD_HOST_DS_SEL, NULL, selector },
    { "host FS selector: RPL and TI",                   HOST, 0, FIELD_HOST_FS_SEL, NULL, selector },
    { "host GS selector: RPL and TI",                   HOST, 0, FIELD_HOST_GS_SEL, NULL, selector },
    { "host TR selector: RPL and TI",                   HOST, 0, FIELD_HOST_TR_SEL, NULL, selector },
    { "host CS selector: 0000H",                        HOST, 0, FIELD_HOST_CS_SEL, NULL, not_null },
    { "host TR selector: 0000H",                        HOST, 0, FIELD_HOST_TR_SEL, NULL, not_null },
    { "host SS selector: 0000H in a 32-bit host",       BOTH, 0, FIELD_HOST_SS_SEL, host_32, not_null },
    { "host FS base: canonical",                        HOST, 0, FIELD_HOST_FS_BASE, NULL, check_canonical },
    { "host GS base: canonical",                        HOST, 0, FIELD_HOST_GS_BASE, NULL, check_canonical },
    { "host TR base: canonical",                        HOST, 0, FIELD_HOST_TR_BASE, NULL, check_canonical },
    { "host GDTR base: canonical",                      HOST, 0, FIELD_HOST_GDTR_BASE, NULL, check_canonical },
    { "host IDTR base: canonical",                      HOST, 0, FIELD_HOST_IDTR_BASE, NULL, check_canonical },

    /* "Checks Related to Address-Space Size" */
    { "outside IA-32e mode: IA-32e mode guest",         CTL, 0, FIELD_ENTRY_CONTROLS, outside_ia32e, ia32e_guest_0 },
    { "outside IA-32e mode: host address-space size",   CTL, 0, FIELD_EXIT_CONTROLS, outside_ia32e, host_64_0 },
    { "in IA-32e mode: host address-space size",        CTL, 0, FIELD_EXIT_CONTROLS, inside_ia32e, host_64_1 },
    { "32-bit host: IA-32e mode guest",                 CTL, 0, FIELD_ENTRY_CONTROLS, host_32, ia32e_guest_0 },
    { "32-bit host: CR4.PCIDE",                         BOTH, 0, FIELD_HOST_CR4, host_32, pcide_0 },
    { "32-bit host: RIP bits 63:32",                    BOTH, 0, FIELD_HOST_RIP, host_32, high_half_0 },
    { "64-bit host: CR4.PAE",                           BOTH, 0, FIELD_HOST_CR4, host_64, pae_1 },
    { "64-bit host: RIP canonical",                     BOTH, 0, FIELD_HOST_RIP, host_64, check_canonical },
};
// clang-format on

const struct check_table checks_host = { rules, ARRAY_SIZE(rules) };
