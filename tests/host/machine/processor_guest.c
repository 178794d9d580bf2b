/*
 * The rules of SDM 3, "Checks on the Guest State Area", that Strata leaves to the processor: all but those on the VMCS
 * link pointer and on PDPTEs.
 */
#include "nested/checks_rules.h"
#include "tests/host/machine/processor_checks.h"

#define SELECTOR_RPL 3ull
#define SELECTOR_TI BIT(2)
#define REAL_LIMIT 0xffffull
#define V86_ACCESS_RIGHTS 0xf3ull
#define AR_RESERVED_LOW 0xf00ull
#define AR_RESERVED_HIGH 0xfffe0000ull
#define LIMIT_LOW 0xfffull
#define LIMIT_HIGH 0xfff00000ull
#define TYPE_ACCESSED 1ull
#define TYPE_READABLE 2ull
#define TYPE_CODE 8ull
#define TYPE_DATA_RW 3ull
#define TYPE_DATA_RW_DOWN 7ull
#define TYPE_LAST_NONCONFORMING 11ull
#define TYPE_LDT 2ull
#define TYPE_BUSY_TSS16 3ull
#define TYPE_BUSY_TSS32 11ull
#define TABLE_LIMIT_MASK 0xffffull
#define DEBUGCTL_VALID 0xffc3ull /* LBR, BTF, bits 15:6 */
#define RFLAGS_RESERVED (~0x3fffffull | BIT(15) | BIT(5) | BIT(3))
#define PENDING_VALID (0xfull | BIT(12) | BIT(14) | BIT(16))
#define PENDING_BS BIT(14)
#define INTERRUPTIBILITY_VALID (BLOCKING_STI | BLOCKING_MOV_SS | BLOCKING_SMI | BLOCKING_NMI | BIT(4))
#define VECTOR_MTF 0ull

static uint64_t get(const struct check_view *v, enum vmcs_row row) { return v->values[row]; }

/* Fields of one segment: the four groups of rows have the segments in the same order. */
static uint64_t sel(const struct check_view *v, int segment) { return v->values[FIELD_GUEST_ES_SEL + segment]; }
static uint64_t base(const struct check_view *v, int segment) { return v->values[FIELD_GUEST_ES_BASE + segment]; }
static uint64_t limit(const struct check_view *v, int segment) { return v->values[FIELD_GUEST_ES_LIMIT + segment]; }
static uint64_t rights(const struct check_view *v, int segment) { return v->values[FIELD_GUEST_ES_AR + segment]; }
static uint64_t ar_type(const struct check_view *v, int segment) { return rights(v, segment) & AR_TYPE_MASK; }
static uint64_t ar_dpl(const struct check_view *v, int segment)
{
    return (rights(v, segment) & AR_DPL_MASK) >> AR_DPL_SHIFT;
}
static bool usable(const struct check_view *v, int segment) { return !(rights(v, segment) & AR_UNUSABLE); }

/* Conditions */
static bool ia32e(const struct check_view *v) { return check_entry(v) & ENTRY_IA32E; }
static bool legacy(const struct check_view *v) { return !ia32e(v); }
static bool code_64(const struct check_view *v) { return ia32e(v) && (rights(v, SEG_CS) & AR_L); }
static bool unrestricted(const struct check_view *v) { return check_proc2(v) & PROC2_UNRESTRICTED; }
static bool v86(const struct check_view *v) { return get(v, FIELD_GUEST_RFLAGS) & RFLAGS_VM; }
static bool not_v86(const struct check_view *v) { return !v86(v); }
static bool restricted_not_v86(const struct check_view *v) { return not_v86(v) && !unrestricted(v); }
static bool with_debug(const struct check_view *v) { return check_entry(v) & ENTRY_LOAD_DEBUG; }
static bool with_pat(const struct check_view *v) { return check_entry(v) & ENTRY_LOAD_PAT; }
static bool with_efer(const struct check_view *v) { return check_entry(v) & ENTRY_LOAD_EFER; }
static bool ldtr_usable(const struct check_view *v) { return usable(v, SEG_LDTR); }
static bool with_event(const struct check_view *v) { return get(v, FIELD_ENTRY_INTR_INFO) & INTR_VALID; }
static uint64_t event_type(const struct check_view *v) { return get(v, FIELD_ENTRY_INTR_INFO) & INTR_TYPE_MASK; }
static uint64_t event_vector(const struct check_view *v) { return get(v, FIELD_ENTRY_INTR_INFO) & INTR_VECTOR_MASK; }
static bool injects_external(const struct check_view *v)
{
    return with_event(v) && event_type(v) == INTR_TYPE_EXTERNAL;
}
static bool injects_nmi(const struct check_view *v) { return with_event(v) && event_type(v) == INTR_TYPE_NMI; }
static bool with_virtual_nmi(const struct check_view *v) { return injects_nmi(v) && (check_pin(v) & PIN_VIRTUAL_NMIS); }
static uint64_t blocking(const struct check_view *v) { return get(v, FIELD_GUEST_INTERRUPTIBILITY); }

static bool single_step_blocked(const struct check_view *v)
{
    return (blocking(v) & (BLOCKING_STI | BLOCKING_MOV_SS)) || get(v, FIELD_GUEST_ACTIVITY) == ACTIVITY_HLT;
}

/* "Checks on Guest Control Registers, Debug Registers, and MSRs" */
static bool cr0(const struct check_view *v, enum vmcs_row row)
{
    uint64_t fixed0 = vmx_caps_msr(v->caps, MSR_VMX_CR0_FIXED0);
    if (unrestricted(v))
        fixed0 &= ~(CR0_PE | CR0_PG);
    return check_fixed(get(v, row), fixed0, vmx_caps_msr(v->caps, MSR_VMX_CR0_FIXED1));
}

static bool paging_protected(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(get(v, row) & CR0_PG, get(v, row) & CR0_PE);
}

static bool cet_wp(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(get(v, FIELD_GUEST_CR4) & CR4_CET, get(v, row) & CR0_WP);
}

static bool debugctl(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & ~DEBUGCTL_VALID); }
static bool pg_1(const struct check_view *v, enum vmcs_row row) { return get(v, row) & CR0_PG; }
static bool pae_1(const struct check_view *v, enum vmcs_row row) { return get(v, row) & CR4_PAE; }
static bool pcide_0(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & CR4_PCIDE); }
static bool high_half_0(const struct check_view *v, enum vmcs_row row) { return get(v, row) >> 32 == 0; }
static bool efer_reserved(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & ~v->caps->efer); }

static bool efer_lma(const struct check_view *v, enum vmcs_row row)
{
    return (bool)(get(v, row) & EFER_LMA) == ia32e(v);
}

static bool efer_lme(const struct check_view *v, enum vmcs_row row)
{
    bool lma = get(v, row) & EFER_LMA, lme = get(v, row) & EFER_LME;
    return check_implies(get(v, FIELD_GUEST_CR0) & CR0_PG, lma == lme);
}

/* "Checks on Guest Segment Registers": a row of the selectors stands for its segment. */
static int segment_of(enum vmcs_row row) { return (int)row - FIELD_GUEST_ES_SEL; }

static bool ti_0(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & SELECTOR_TI); }

static bool ss_rpl(const struct check_view *v, enum vmcs_row row)
{
    return (get(v, row) & SELECTOR_RPL) == (sel(v, SEG_CS) & SELECTOR_RPL);
}

static bool v86_base(const struct check_view *v, enum vmcs_row row)
{
    return base(v, segment_of(row)) == get(v, row) << 4;
}

static bool v86_limit(const struct check_view *v, enum vmcs_row row) { return limit(v, segment_of(row)) == REAL_LIMIT; }

static bool v86_rights(const struct check_view *v, enum vmcs_row row)
{
    return rights(v, segment_of(row)) == V86_ACCESS_RIGHTS;
}

static bool base_32(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    return check_implies(segment == SEG_CS || usable(v, segment), base(v, segment) >> 32 == 0);
}

static bool cs_type(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    if (ar_type(v, SEG_CS) == TYPE_DATA_RW)
        return unrestricted(v);
    return (ar_type(v, SEG_CS) & (TYPE_CODE | TYPE_ACCESSED)) == (TYPE_CODE | TYPE_ACCESSED);
}

static bool ss_type(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return !usable(v, SEG_SS) || ar_type(v, SEG_SS) == TYPE_DATA_RW || ar_type(v, SEG_SS) == TYPE_DATA_RW_DOWN;
}

static bool data_type(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    if (!usable(v, segment))
        return true;
    return (ar_type(v, segment) & TYPE_ACCESSED) &&
           check_implies(ar_type(v, segment) & TYPE_CODE, ar_type(v, segment) & TYPE_READABLE);
}

static bool s_1(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    return check_implies(segment == SEG_CS || usable(v, segment), rights(v, segment) & AR_S);
}

static bool cs_dpl(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    switch (ar_type(v, SEG_CS)) {
    case TYPE_DATA_RW:
        return ar_dpl(v, SEG_CS) == 0;
    case TYPE_CODE | TYPE_ACCESSED:
    case TYPE_CODE | TYPE_ACCESSED | TYPE_READABLE:
        return ar_dpl(v, SEG_CS) == ar_dpl(v, SEG_SS);
    default:
        return ar_dpl(v, SEG_CS) <= ar_dpl(v, SEG_SS);
    }
}

static bool ss_dpl_rpl(const struct check_view *v, enum vmcs_row row)
{
    return ar_dpl(v, SEG_SS) == (get(v, row) & SELECTOR_RPL);
}

static bool ss_dpl_0(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    bool real_mode = !(get(v, FIELD_GUEST_CR0) & CR0_PE);
    return check_implies(real_mode || ar_type(v, SEG_CS) == TYPE_DATA_RW, ar_dpl(v, SEG_SS) == 0);
}

static bool data_dpl(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    return !usable(v, segment) || ar_type(v, segment) > TYPE_LAST_NONCONFORMING ||
           ar_dpl(v, segment) >= (get(v, row) & SELECTOR_RPL);
}

static bool present(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    return check_implies(segment == SEG_CS || segment == SEG_TR || usable(v, segment), rights(v, segment) & AR_PRESENT);
}

static bool rights_reserved(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    return check_implies(segment == SEG_CS || segment == SEG_TR || usable(v, segment),
                         !(rights(v, segment) & (AR_RESERVED_LOW | AR_RESERVED_HIGH)));
}

static bool cs_db(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return check_implies(code_64(v), !(rights(v, SEG_CS) & AR_DB));
}

static bool granularity(const struct check_view *v, enum vmcs_row row)
{
    int segment = segment_of(row);
    bool g = rights(v, segment) & AR_G;
    if (segment != SEG_CS && segment != SEG_TR && !usable(v, segment))
        return true;
    return check_implies((limit(v, segment) & LIMIT_LOW) != LIMIT_LOW, !g) &&
           check_implies(limit(v, segment) & LIMIT_HIGH, g);
}

static bool tr_type(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return ar_type(v, SEG_TR) == TYPE_BUSY_TSS32 || (!ia32e(v) && ar_type(v, SEG_TR) == TYPE_BUSY_TSS16);
}

static bool ldtr_type(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return ar_type(v, SEG_LDTR) == TYPE_LDT;
}

static bool s_0(const struct check_view *v, enum vmcs_row row) { return !(rights(v, segment_of(row)) & AR_S); }

static bool tr_usable(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return usable(v, SEG_TR);
}

/* "Checks on Guest Descriptor-Table Registers", "Checks on Guest RIP, RFLAGS, and SSP" */
static bool table_limit(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & ~TABLE_LIMIT_MASK); }

static bool rip(const struct check_view *v, enum vmcs_row row)
{
    unsigned width = vmx_caps_linear_width(v->caps);
    uint64_t top = get(v, row) >> width;
    if (!code_64(v))
        return high_half_0(v, row);
    return top == 0 || top == ~0ull >> width;
}

static bool rflags_reserved(const struct check_view *v, enum vmcs_row row)
{
    return !(get(v, row) & RFLAGS_RESERVED) && (get(v, row) & RFLAGS_FIXED1);
}

static bool rflags_vm(const struct check_view *v, enum vmcs_row row)
{
    bool impossible = ia32e(v) || !(get(v, FIELD_GUEST_CR0) & CR0_PE);
    return check_implies(impossible, !(get(v, row) & RFLAGS_VM));
}

static bool rflags_if(const struct check_view *v, enum vmcs_row row) { return get(v, row) & RFLAGS_IF; }

/* "Checks on Guest Non-Register State" */
static bool activity_known(const struct check_view *v, enum vmcs_row row)
{
    uint64_t misc = vmx_caps_msr(v->caps, MSR_VMX_MISC);
    switch (get(v, row)) {
    case ACTIVITY_ACTIVE:
        return true;
    case ACTIVITY_HLT:
        return misc & VMX_MISC_ACTIVITY_HLT;
    case ACTIVITY_SHUTDOWN:
        return misc & VMX_MISC_ACTIVITY_SHUTDOWN;
    case ACTIVITY_WAIT_SIPI:
        return misc & VMX_MISC_ACTIVITY_WAIT_SIPI;
    default:
        return false;
    }
}

static bool halt_dpl(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(get(v, row) == ACTIVITY_HLT, ar_dpl(v, SEG_SS) == 0);
}

static bool active_if_blocked(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(blocking(v) & (BLOCKING_STI | BLOCKING_MOV_SS), get(v, row) == ACTIVITY_ACTIVE);
}

static bool activity_event(const struct check_view *v, enum vmcs_row row)
{
    uint64_t type = event_type(v), vector = event_vector(v);
    switch (get(v, row)) {
    case ACTIVITY_ACTIVE:
        return true;
    case ACTIVITY_HLT:
        return type == INTR_TYPE_EXTERNAL || type == INTR_TYPE_NMI ||
               (type == INTR_TYPE_HW_EXCEPTION && (vector == VECTOR_DB || vector == VECTOR_MC)) ||
               (type == INTR_TYPE_OTHER && vector == VECTOR_MTF);
    case ACTIVITY_SHUTDOWN:
        return type == INTR_TYPE_NMI || (type == INTR_TYPE_HW_EXCEPTION && vector == VECTOR_MC);
    default:
        return false;
    }
}

static bool blocking_reserved(const struct check_view *v, enum vmcs_row row)
{
    return !(get(v, row) & ~INTERRUPTIBILITY_VALID);
}

static bool blocking_one(const struct check_view *v, enum vmcs_row row)
{
    return (get(v, row) & (BLOCKING_STI | BLOCKING_MOV_SS)) != (BLOCKING_STI | BLOCKING_MOV_SS);
}

static bool blocking_sti_if(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(get(v, row) & BLOCKING_STI, get(v, FIELD_GUEST_RFLAGS) & RFLAGS_IF);
}

static bool unblocked(const struct check_view *v, enum vmcs_row row)
{
    return !(get(v, row) & (BLOCKING_STI | BLOCKING_MOV_SS));
}

static bool mov_ss_0(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & BLOCKING_MOV_SS); }
static bool smi_0(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & BLOCKING_SMI); }
static bool nmi_0(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & BLOCKING_NMI); }
static bool pending_reserved(const struct check_view *v, enum vmcs_row row) { return !(get(v, row) & ~PENDING_VALID); }

static bool pending_bs(const struct check_view *v, enum vmcs_row row)
{
    bool steps = (get(v, FIELD_GUEST_RFLAGS) & RFLAGS_TF) && !(get(v, FIELD_GUEST_DEBUGCTL) & DEBUGCTL_BTF);
    return (bool)(get(v, row) & PENDING_BS) == steps;
}

#define EVERY CHECK_ALL, 0

// clang-format off
/* Rules that several segments share. */
#define V86_RULES(S)                                                                                                   \
    { "guest " #S " base in virtual-8086 mode", EVERY, FIELD_GUEST_##S##_SEL, v86, v86_base },                         \
    { "guest " #S " limit in virtual-8086 mode", EVERY, FIELD_GUEST_##S##_SEL, v86, v86_limit },                       \
    { "guest " #S " access rights in virtual-8086 mode", EVERY, FIELD_GUEST_##S##_SEL, v86, v86_rights }
#define RIGHTS_RULES(S, condition)                                                                                     \
    { "guest " #S " access rights: P", EVERY, FIELD_GUEST_##S##_SEL, condition, present },                             \
    { "guest " #S " access rights: reserved bits", EVERY, FIELD_GUEST_##S##_SEL, condition, rights_reserved },         \
    { "guest " #S " access rights: G", EVERY, FIELD_GUEST_##S##_SEL, condition, granularity }
#define DATA_RULES(S)                                                                                                  \
    { "guest " #S " access rights: type", EVERY, FIELD_GUEST_##S##_SEL, not_v86, data_type },                          \
    { "guest " #S " access rights: S", EVERY, FIELD_GUEST_##S##_SEL, not_v86, s_1 },                                   \
    { "guest " #S " access rights: DPL", EVERY, FIELD_GUEST_##S##_SEL, restricted_not_v86, data_dpl },                 \
    RIGHTS_RULES(S, not_v86)

static const struct check_rule rules[] = {
    { "guest CR0: value not supported in VMX operation", EVERY, FIELD_GUEST_CR0, NULL, cr0 },
    { "guest CR0: PG without PE",                EVERY, FIELD_GUEST_CR0, NULL, paging_protected },
    { "guest CR4: value not supported in VMX operation", EVERY, FIELD_GUEST_CR4, NULL, check_cr4 },
    { "guest CR4.CET without CR0.WP",            EVERY, FIELD_GUEST_CR0, NULL, cet_wp },
    { "guest IA32_DEBUGCTL: reserved bits",      EVERY, FIELD_GUEST_DEBUGCTL, with_debug, debugctl },
    { "IA-32e mode guest: CR0.PG",               EVERY, FIELD_GUEST_CR0, ia32e, pg_1 },
    { "IA-32e mode guest: CR4.PAE",              EVERY, FIELD_GUEST_CR4, ia32e, pae_1 },
    { "not IA-32e mode guest: CR4.PCIDE",        EVERY, FIELD_GUEST_CR4, legacy, pcide_0 },
    { "guest CR3: beyond the physical-address width", EVERY, FIELD_GUEST_CR3, NULL, check_cr3 },
    { "guest DR7: bits 63:32",                   EVERY, FIELD_GUEST_DR7, with_debug, high_half_0 },
    { "guest IA32_SYSENTER_ESP: canonical",      EVERY, FIELD_GUEST_SYSENTER_ESP, NULL, check_canonical },
    { "guest IA32_SYSENTER_EIP: canonical",      EVERY, FIELD_GUEST_SYSENTER_EIP, NULL, check_canonical },
    { "guest IA32_PAT: memory types",            EVERY, FIELD_GUEST_PAT, with_pat, check_pat },
    { "guest IA32_EFER: reserved bits",          EVERY, FIELD_GUEST_EFER, with_efer, efer_reserved },
    { "guest IA32_EFER: LMA as IA-32e mode guest", EVERY, FIELD_GUEST_EFER, with_efer, efer_lma },
    { "guest IA32_EFER: LME as LMA",             EVERY, FIELD_GUEST_EFER, with_efer, efer_lme },

    { "guest TR selector: TI",                   EVERY, FIELD_GUEST_TR_SEL, NULL, ti_0 },
    { "guest LDTR selector: TI",                 EVERY, FIELD_GUEST_LDTR_SEL, ldtr_usable, ti_0 },
    { "guest SS selector: RPL",                  EVERY, FIELD_GUEST_SS_SEL, restricted_not_v86, ss_rpl },
    V86_RULES(CS), V86_RULES(SS), V86_RULES(DS), V86_RULES(ES), V86_RULES(FS), V86_RULES(GS),
    { "guest TR base: canonical",                EVERY, FIELD_GUEST_TR_BASE, NULL, check_canonical },
    { "guest FS base: canonical",                EVERY, FIELD_GUEST_FS_BASE, NULL, check_canonical },
    { "guest GS base: canonical",                EVERY, FIELD_GUEST_GS_BASE, NULL, check_canonical },
    { "guest LDTR base: canonical",              EVERY, FIELD_GUEST_LDTR_BASE, ldtr_usable, check_canonical },
    { "guest CS base: bits 63:32",               EVERY, FIELD_GUEST_CS_SEL, NULL, base_32 },
    { "guest SS base: bits 63:32",               EVERY, FIELD_GUEST_SS_SEL, NULL, base_32 },
    { "guest DS base: bits 63:32",               EVERY, FIELD_GUEST_DS_SEL, NULL, base_32 },
    { "guest ES base: bits 63:32",               EVERY, FIELD_GUEST_ES_SEL, NULL, base_32 },
    { "guest CS access rights: type",            EVERY, FIELD_GUEST_CS_SEL, not_v86, cs_type },
    { "guest CS access rights: S",               EVERY, FIELD_GUEST_CS_SEL, not_v86, s_1 },
    { "guest CS access rights: DPL",             EVERY, FIELD_GUEST_CS_SEL, not_v86, cs_dpl },
    { "guest CS access rights: D/B",             EVERY, FIELD_GUEST_CS_SEL, not_v86, cs_db },
    RIGHTS_RULES(CS, not_v86),
    { "guest SS access rights: type",            EVERY, FIELD_GUEST_SS_SEL, not_v86, ss_type },
    { "guest SS access rights: S",               EVERY, FIELD_GUEST_SS_SEL, not_v86, s_1 },
    { "guest SS access rights: DPL as RPL",      EVERY, FIELD_GUEST_SS_SEL, restricted_not_v86, ss_dpl_rpl },
    { "guest SS access rights: DPL 0",           EVERY, FIELD_GUEST_SS_SEL, not_v86, ss_dpl_0 },
    RIGHTS_RULES(SS, not_v86),
    DATA_RULES(DS), DATA_RULES(ES), DATA_RULES(FS), DATA_RULES(GS),
    { "guest TR access rights: type",            EVERY, FIELD_GUEST_TR_SEL, NULL, tr_type },
    { "guest TR access rights: S",               EVERY, FIELD_GUEST_TR_SEL, NULL, s_0 },
    { "guest TR access rights: unusable",        EVERY, FIELD_GUEST_TR_SEL, NULL, tr_usable },
    RIGHTS_RULES(TR, NULL),
    { "guest LDTR access rights: type",          EVERY, FIELD_GUEST_LDTR_SEL, ldtr_usable, ldtr_type },
    { "guest LDTR access rights: S",             EVERY, FIELD_GUEST_LDTR_SEL, ldtr_usable, s_0 },
    RIGHTS_RULES(LDTR, ldtr_usable),

    { "guest GDTR base: canonical",              EVERY, FIELD_GUEST_GDTR_BASE, NULL, check_canonical },
    { "guest IDTR base: canonical",              EVERY, FIELD_GUEST_IDTR_BASE, NULL, check_canonical },
    { "guest GDTR limit: bits 31:16",            EVERY, FIELD_GUEST_GDTR_LIMIT, NULL, table_limit },
    { "guest IDTR limit: bits 31:16",            EVERY, FIELD_GUEST_IDTR_LIMIT, NULL, table_limit },
    { "guest RIP",                               EVERY, FIELD_GUEST_RIP, NULL, rip },
    { "guest RFLAGS: reserved bits",             EVERY, FIELD_GUEST_RFLAGS, NULL, rflags_reserved },
    { "guest RFLAGS: VM",                        EVERY, FIELD_GUEST_RFLAGS, NULL, rflags_vm },
    { "guest RFLAGS: IF with an external interrupt", EVERY, FIELD_GUEST_RFLAGS, injects_external, rflags_if },

    { "activity state: value",                   EVERY, FIELD_GUEST_ACTIVITY, NULL, activity_known },
    { "activity state: HLT above privilege level 0", EVERY, FIELD_GUEST_ACTIVITY, NULL, halt_dpl },
    { "activity state: blocking by STI or MOV SS", EVERY, FIELD_GUEST_ACTIVITY, NULL, active_if_blocked },
    { "activity state: event injection",         EVERY, FIELD_GUEST_ACTIVITY, with_event, activity_event },
    { "interruptibility state: reserved bits",   EVERY, FIELD_GUEST_INTERRUPTIBILITY, NULL, blocking_reserved },
    { "interruptibility state: STI and MOV SS",  EVERY, FIELD_GUEST_INTERRUPTIBILITY, NULL, blocking_one },
    { "interruptibility state: STI without RFLAGS.IF", EVERY, FIELD_GUEST_INTERRUPTIBILITY, NULL, blocking_sti_if },
    { "interruptibility state: external interrupt", EVERY, FIELD_GUEST_INTERRUPTIBILITY, injects_external, unblocked },
    { "interruptibility state: MOV SS with NMI", EVERY, FIELD_GUEST_INTERRUPTIBILITY, injects_nmi, mov_ss_0 },
    { "interruptibility state: SMI outside SMM", EVERY, FIELD_GUEST_INTERRUPTIBILITY, NULL, smi_0 },
    { "interruptibility state: NMI under virtual NMIs", EVERY, FIELD_GUEST_INTERRUPTIBILITY, with_virtual_nmi, nmi_0 },
    { "pending debug exceptions: reserved bits", EVERY, FIELD_GUEST_PENDING_DEBUG, NULL, pending_reserved },
    { "pending debug exceptions: BS",            EVERY, FIELD_GUEST_PENDING_DEBUG, single_step_blocked, pending_bs },
};
// clang-format on

const struct check_table processor_guest = { rules, ARRAY_SIZE(rules) };

const struct check_rule *check_guest_state(const struct check_view *view)
{
    const struct check_rule *rule = check_guest_soft(view);
    return rule ? rule : check_table_run(&processor_guest, view, CHECK_ALL);
}
