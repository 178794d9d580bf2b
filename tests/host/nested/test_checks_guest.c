/* sources: checks */
/*
 * Entry checks on guest state: each rule broken once or more, Strata's own on the link pointer and the fake processor's
 * on everything else; and what must pass.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/lib/x86.h"
#include "tests/host/nested/breakage.h"
#include "tests/host/machine/processor_checks.h"

#define NONCANONICAL 0x0000800000000000ull
#define HIGH BIT(32)
#define INJECT(type, vector) PUT(ENTRY_INTR_INFO, INTR_VALID | (type) | (vector))
#define EXTERNAL INJECT(INTR_TYPE_EXTERNAL, 0x20)
#define NMI INJECT(INTR_TYPE_NMI, VECTOR_NMI)
#define DPL(n) ((n##ull) << AR_DPL_SHIFT)
#define USER_SEGMENTS SET(GUEST_CS_SEL, 3), SET(GUEST_SS_SEL, 3), SET(GUEST_CS_AR, DPL(3)), SET(GUEST_SS_AR, DPL(3))
#define CONFORMING SET(GUEST_CS_AR, 0xf)
#define SHADOW ((uint32_t)VMCS_SHADOW_INDICATOR)

// clang-format off
#define V86_BREAKAGES(S)                                                                                               \
    { "guest " #S " base in virtual-8086 mode", SAMPLE_V86, { PUT(GUEST_##S##_BASE, 0x110) } },                        \
    { "guest " #S " limit in virtual-8086 mode", SAMPLE_V86, { PUT(GUEST_##S##_LIMIT, 0xfffff) } },                    \
    { "guest " #S " limit in virtual-8086 mode", SAMPLE_V86, { PUT(GUEST_##S##_LIMIT, 0xfffe) } },                     \
    { "guest " #S " access rights in virtual-8086 mode", SAMPLE_V86, { PUT(GUEST_##S##_AR, 0x93) } }
#define RIGHTS_BREAKAGES(S)                                                                                            \
    { "guest " #S " access rights: P", 0, { CLEAR(GUEST_##S##_AR, AR_PRESENT) } },                                     \
    { "guest " #S " access rights: reserved bits", 0, { SET(GUEST_##S##_AR, BIT(8)) } },                               \
    { "guest " #S " access rights: reserved bits", 0, { SET(GUEST_##S##_AR, BIT(11)) } },                              \
    { "guest " #S " access rights: reserved bits", 0, { SET(GUEST_##S##_AR, BIT(17)) } },                              \
    { "guest " #S " access rights: reserved bits", 0, { SET(GUEST_##S##_AR, BIT(31)) } },                              \
    { "guest " #S " access rights: G", 0, { PUT(GUEST_##S##_LIMIT, 0xfffffffe), SET(GUEST_##S##_AR, AR_G) } },         \
    { "guest " #S " access rights: G", 0, { PUT(GUEST_##S##_LIMIT, 0x00100fff), CLEAR(GUEST_##S##_AR, AR_G) } }
#define DATA_BREAKAGES(S)                                                                                              \
    { "guest " #S " access rights: type", 0, { CLEAR(GUEST_##S##_AR, 1) } },                                           \
    { "guest " #S " access rights: type", 0, { CLEAR(GUEST_##S##_AR, AR_TYPE_MASK), SET(GUEST_##S##_AR, 9) } },        \
    { "guest " #S " access rights: S", 0, { CLEAR(GUEST_##S##_AR, AR_S) } },                                           \
    { "guest " #S " access rights: DPL", 0, { SET(GUEST_##S##_SEL, 3) } },                                             \
    RIGHTS_BREAKAGES(S)
#define CANONICAL_BREAKAGES(name, row)                                                                                 \
    { name ": canonical", 0, { PUT(row, NONCANONICAL) } },                                                             \
    { name ": canonical", 0, { PUT(row, ~NONCANONICAL & ~(NONCANONICAL - 1)) } }

static const struct breakage breakages[] = {
    /* Strata's own */
    { "VMCS link pointer: address", 0, { PUT(VMCS_LINK_POINTER, SAMPLE_LINK + 4) } },
    { "VMCS link pointer: address", 0, { PUT(VMCS_LINK_POINTER, SAMPLE_LINK + 0xffe) } },
    { "VMCS link pointer: revision identifier", 0, { WORD(SAMPLE_LINK, 0x13 | SHADOW) } },
    { "VMCS link pointer: revision identifier", 0, { WORD(SAMPLE_LINK, 0x40000012 | SHADOW) } },
    { "VMCS link pointer: shadow-VMCS indicator as VMCS shadowing", 0, { WORD(SAMPLE_LINK, SAMPLE_REVISION) } },
    { "VMCS link pointer: shadow-VMCS indicator as VMCS shadowing", 0, { CLEAR(PROC2_CONTROLS, PROC2_SHADOW_VMCS) } },
    { "VMCS link pointer: shadow-VMCS indicator as VMCS shadowing", 0, { CLEAR(PROC_CONTROLS, PROC_SECONDARY),
        CLEAR(PIN_CONTROLS, PIN_POSTED_INTR) } },
    { "VMCS link pointer: current VMCS", 0, { PUT(VMCS_LINK_POINTER, SAMPLE_VMCS),
        WORD(SAMPLE_VMCS, SAMPLE_REVISION | SHADOW) } },

    { "guest CR0: value not supported in VMX operation", 0, { CLEAR(GUEST_CR0, CR0_NE) } },
    { "guest CR0: value not supported in VMX operation", 0, { SET(GUEST_CR0, HIGH) } },
    { "guest CR0: value not supported in VMX operation", SAMPLE_LEGACY, { CLEAR(GUEST_CR0, CR0_PG) } },
    { "guest CR0: PG without PE", SAMPLE_REAL, { SET(GUEST_CR0, CR0_PG) } },
    { "guest CR4: value not supported in VMX operation", 0, { CLEAR(GUEST_CR4, CR4_VMXE) } },
    { "guest CR4: value not supported in VMX operation", 0, { SET(GUEST_CR4, HIGH) } },
    { "guest CR4.CET without CR0.WP", 0, { SET(GUEST_CR4, CR4_CET), CLEAR(GUEST_CR0, CR0_WP) } },
    { "guest IA32_DEBUGCTL: reserved bits", 0, { PUT(GUEST_DEBUGCTL, 4) } },
    { "guest IA32_DEBUGCTL: reserved bits", 0, { PUT(GUEST_DEBUGCTL, BIT(16)) } },
    { "IA-32e mode guest: CR0.PG", 0, { CLEAR(GUEST_CR0, CR0_PG), SET(PROC2_CONTROLS, PROC2_UNRESTRICTED) } },
    { "IA-32e mode guest: CR4.PAE", 0, { CLEAR(GUEST_CR4, CR4_PAE) } },
    { "not IA-32e mode guest: CR4.PCIDE", SAMPLE_LEGACY, { SET(GUEST_CR4, CR4_PCIDE) } },
    { "guest CR3: beyond the physical-address width", 0, { PUT(GUEST_CR3, BIT(40)) } },
    { "guest DR7: bits 63:32", 0, { PUT(GUEST_DR7, HIGH) } },
    CANONICAL_BREAKAGES("guest IA32_SYSENTER_ESP", GUEST_SYSENTER_ESP),
    CANONICAL_BREAKAGES("guest IA32_SYSENTER_EIP", GUEST_SYSENTER_EIP),
    { "guest IA32_PAT: memory types", 0, { PUT(GUEST_PAT, 0x0200) } },
    { "guest IA32_EFER: reserved bits", 0, { SET(GUEST_EFER, BIT(9)) } },
    { "guest IA32_EFER: LMA as IA-32e mode guest", SAMPLE_REAL, { SET(GUEST_EFER, EFER_LMA) } },
    { "guest IA32_EFER: LME as LMA", 0, { CLEAR(GUEST_EFER, EFER_LME) } },
    { "guest IA32_EFER: LME as LMA", SAMPLE_LEGACY, { SET(GUEST_EFER, EFER_LME) } },

    { "guest TR selector: TI", 0, { SET(GUEST_TR_SEL, 4) } },
    { "guest LDTR selector: TI", 0, { SET(GUEST_LDTR_SEL, 4) } },
    { "guest SS selector: RPL", 0, { SET(GUEST_CS_SEL, 3) } },
    V86_BREAKAGES(CS), V86_BREAKAGES(SS), V86_BREAKAGES(DS), V86_BREAKAGES(ES), V86_BREAKAGES(FS), V86_BREAKAGES(GS),
    CANONICAL_BREAKAGES("guest TR base", GUEST_TR_BASE),
    CANONICAL_BREAKAGES("guest FS base", GUEST_FS_BASE),
    CANONICAL_BREAKAGES("guest GS base", GUEST_GS_BASE),
    CANONICAL_BREAKAGES("guest LDTR base", GUEST_LDTR_BASE),
    { "guest CS base: bits 63:32", 0, { PUT(GUEST_CS_BASE, HIGH) } },
    { "guest SS base: bits 63:32", 0, { PUT(GUEST_SS_BASE, HIGH) } },
    { "guest DS base: bits 63:32", 0, { PUT(GUEST_DS_BASE, HIGH) } },
    { "guest ES base: bits 63:32", 0, { PUT(GUEST_ES_BASE, HIGH) } },
    { "guest CS access rights: type", 0, { CLEAR(GUEST_CS_AR, 1) } },
    { "guest CS access rights: type", 0, { CLEAR(GUEST_CS_AR, AR_TYPE_MASK), SET(GUEST_CS_AR, 3) } },
    { "guest CS access rights: type", SAMPLE_REAL, { SET(GUEST_CS_AR, 7) } },
    { "guest CS access rights: S", 0, { CLEAR(GUEST_CS_AR, AR_S) } },
    { "guest CS access rights: DPL", 0, { SET(GUEST_CS_AR, DPL(3)) } },
    { "guest CS access rights: DPL", 0, { CONFORMING, SET(GUEST_CS_AR, DPL(1)) } },
    { "guest CS access rights: DPL", SAMPLE_REAL, { SET(GUEST_CS_AR, DPL(2)) } },
    { "guest CS access rights: D/B", 0, { SET(GUEST_CS_AR, AR_DB) } },
    RIGHTS_BREAKAGES(CS),
    { "guest SS access rights: type", 0, { SET(GUEST_SS_AR, 8) } },
    { "guest SS access rights: type", 0, { CLEAR(GUEST_SS_AR, 2) } },
    { "guest SS access rights: S", 0, { CLEAR(GUEST_SS_AR, AR_S) } },
    { "guest SS access rights: DPL as RPL", 0, { CONFORMING, SET(GUEST_SS_AR, DPL(3)) } },
    { "guest SS access rights: DPL 0", SAMPLE_REAL, { SET(GUEST_SS_AR, DPL(3)) } },
    RIGHTS_BREAKAGES(SS),
    DATA_BREAKAGES(DS), DATA_BREAKAGES(ES), DATA_BREAKAGES(FS), DATA_BREAKAGES(GS),
    { "guest TR access rights: type", 0, { CLEAR(GUEST_TR_AR, 8) } },
    { "guest TR access rights: type", SAMPLE_LEGACY, { CLEAR(GUEST_TR_AR, 2) } },
    { "guest TR access rights: S", 0, { SET(GUEST_TR_AR, AR_S) } },
    { "guest TR access rights: unusable", 0, { SET(GUEST_TR_AR, AR_UNUSABLE) } },
    RIGHTS_BREAKAGES(TR),
    { "guest LDTR access rights: type", 0, { SET(GUEST_LDTR_AR, 1) } },
    { "guest LDTR access rights: S", 0, { SET(GUEST_LDTR_AR, AR_S) } },
    RIGHTS_BREAKAGES(LDTR),

    CANONICAL_BREAKAGES("guest GDTR base", GUEST_GDTR_BASE),
    CANONICAL_BREAKAGES("guest IDTR base", GUEST_IDTR_BASE),
    { "guest GDTR limit: bits 31:16", 0, { PUT(GUEST_GDTR_LIMIT, 0x10000) } },
    { "guest IDTR limit: bits 31:16", 0, { PUT(GUEST_IDTR_LIMIT, BIT(31)) } },
    { "guest RIP", 0, { PUT(GUEST_RIP, NONCANONICAL << 1) } },
    { "guest RIP", 0, { CLEAR(GUEST_CS_AR, AR_L), PUT(GUEST_RIP, HIGH) } },
    { "guest RIP", SAMPLE_LEGACY, { PUT(GUEST_RIP, HIGH) } },
    { "guest RIP", SAMPLE_LEGACY, { SET(GUEST_CS_AR, AR_L), PUT(GUEST_RIP, HIGH) } },
    { "guest RFLAGS: reserved bits", 0, { PUT(GUEST_RFLAGS, 0) } },
    { "guest RFLAGS: reserved bits", 0, { SET(GUEST_RFLAGS, BIT(15)) } },
    { "guest RFLAGS: reserved bits", 0, { SET(GUEST_RFLAGS, BIT(22)) } },
    { "guest RFLAGS: IF with an external interrupt", 0, { EXTERNAL } },

    { "activity state: value", 0, { PUT(GUEST_ACTIVITY, 4) } },
    { "activity state: value", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), WITHOUT(MISC, VMX_MISC_ACTIVITY_HLT) } },
    { "activity state: value", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_SHUTDOWN), WITHOUT(MISC, VMX_MISC_ACTIVITY_SHUTDOWN) } },
    { "activity state: value", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI), WITHOUT(MISC, VMX_MISC_ACTIVITY_WAIT_SIPI) } },
    { "activity state: HLT above privilege level 0", 0, { USER_SEGMENTS, PUT(GUEST_ACTIVITY, ACTIVITY_HLT) } },
    { "activity state: blocking by STI or MOV SS", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_SHUTDOWN),
        PUT(GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS) } },
    { "activity state: event injection", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI), NMI } },
    { "activity state: event injection", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_SHUTDOWN), EXTERNAL,
        SET(GUEST_RFLAGS, RFLAGS_IF) } },
    { "activity state: event injection", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), INJECT(INTR_TYPE_HW_EXCEPTION, VECTOR_UD) } },
    { "interruptibility state: reserved bits", 0, { PUT(GUEST_INTERRUPTIBILITY, BIT(5)) } },
    { "interruptibility state: STI and MOV SS", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_STI | BLOCKING_MOV_SS),
        SET(GUEST_RFLAGS, RFLAGS_IF) } },
    { "interruptibility state: STI without RFLAGS.IF", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_STI) } },
    { "interruptibility state: external interrupt", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_STI), EXTERNAL,
        SET(GUEST_RFLAGS, RFLAGS_IF) } },
    { "interruptibility state: MOV SS with NMI", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS), NMI } },
    { "interruptibility state: SMI outside SMM", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_SMI) } },
    { "interruptibility state: NMI under virtual NMIs", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_NMI), NMI } },
    { "pending debug exceptions: reserved bits", 0, { PUT(GUEST_PENDING_DEBUG, BIT(4)) } },
    { "pending debug exceptions: reserved bits", 0, { PUT(GUEST_PENDING_DEBUG, BIT(63)) } },
    { "pending debug exceptions: BS", 0, { PUT(GUEST_INTERRUPTIBILITY, BLOCKING_MOV_SS), PUT(GUEST_PENDING_DEBUG, BIT(14)) } },
    { "pending debug exceptions: BS", 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), SET(GUEST_RFLAGS, RFLAGS_TF) } },
};

static const struct breakage harmless[] = {
    { NULL, 0, { CLEAR(PROC2_CONTROLS, PROC2_SHADOW_VMCS), WORD(SAMPLE_LINK, SAMPLE_REVISION) } },
    { NULL, 0, { PUT(VMCS_LINK_POINTER, ~0ull) } },
    { NULL, SAMPLE_LEGACY, { PUT(VMCS_LINK_POINTER, ~0ull), CLEAR(GUEST_CR4, CR4_PAE), CLEAR(GUEST_TR_AR, 8) } },
    { NULL, 0, { CLEAR(ENTRY_CONTROLS, ENTRY_LOAD_DEBUG), PUT(GUEST_DR7, ~0ull), PUT(GUEST_DEBUGCTL, ~0ull) } },
    { NULL, 0, { CLEAR(ENTRY_CONTROLS, ENTRY_LOAD_EFER | ENTRY_LOAD_PAT), PUT(GUEST_EFER, ~0ull), PUT(GUEST_PAT, ~0ull) } },
    { NULL, 0, { PUT(GUEST_ES_AR, AR_UNUSABLE), PUT(GUEST_DS_AR, AR_UNUSABLE), PUT(GUEST_SS_AR, AR_UNUSABLE),
        PUT(GUEST_FS_AR, AR_UNUSABLE), PUT(GUEST_GS_AR, AR_UNUSABLE), PUT(GUEST_LDTR_AR, AR_UNUSABLE),
        PUT(GUEST_LDTR_BASE, NONCANONICAL), PUT(GUEST_ES_BASE, HIGH), PUT(GUEST_LDTR_SEL, 4) } },
    { NULL, 0, { USER_SEGMENTS, SET(GUEST_RFLAGS, RFLAGS_IF), PUT(GUEST_INTERRUPTIBILITY, BLOCKING_STI) } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_WAIT_SIPI) } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), NMI } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), INJECT(INTR_TYPE_OTHER, 0) } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_SHUTDOWN), INJECT(INTR_TYPE_HW_EXCEPTION, VECTOR_MC) } },
    { NULL, 0, { EXTERNAL, SET(GUEST_RFLAGS, RFLAGS_IF), PUT(GUEST_INTERRUPTIBILITY, BLOCKING_NMI) } },
    { NULL, 0, { CLEAR(PIN_CONTROLS, PIN_VIRTUAL_NMIS), CLEAR(PROC_CONTROLS, PROC_NMI_WINDOW), NMI,
        PUT(GUEST_INTERRUPTIBILITY, BLOCKING_NMI) } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), SET(GUEST_RFLAGS, RFLAGS_TF), PUT(GUEST_PENDING_DEBUG, BIT(14)) } },
    { NULL, 0, { PUT(GUEST_ACTIVITY, ACTIVITY_HLT), SET(GUEST_RFLAGS, RFLAGS_TF), PUT(GUEST_DEBUGCTL, 2) } },
    { NULL, 0, { PUT(GUEST_RIP, 0xffffffff80000000ull), SET(GUEST_CR4, CR4_PCIDE) } },
    { NULL, 0, { PUT(GUEST_RIP, NONCANONICAL) } }, /* bit 47 may differ from those above: only 63:48 must agree */
    { NULL, SAMPLE_REAL, { SET(GUEST_CR0, CR0_PE), SET(GUEST_DS_SEL, 3) } },
    { NULL, SAMPLE_REAL, { CLEAR(GUEST_CR4, CR4_PAE), SET(GUEST_EFER, EFER_LME) } },
};
// clang-format on

static void each_rule_fails_alone(void **state)
{
    (void)state;
    breakages_run(breakages, ARRAY_SIZE(breakages));
    breakages_cover(breakages, ARRAY_SIZE(breakages), &checks_guest);
}

static void what_does_not_count_passes(void **state)
{
    (void)state;
    breakages_run(harmless, ARRAY_SIZE(harmless));
}

/* An address beyond the physical-address width is refused before memory is read there. */
static void link_pointer_out_of_width(void **state)
{
    struct sample_vmcs sample;

    (void)state;
    sample_make(&sample, SAMPLE_LONG);
    for (unsigned bit = 40; bit < 64; bit++) {
        sample.values[FIELD_VMCS_LINK_POINTER] = SAMPLE_LINK | BIT(bit);
        assert_string_equal(check_guest_soft(&sample.view)->name, "VMCS link pointer: address");
    }
}

/* Whatever a link pointer is, its rules answer, and say exit qualification 4. */
static void link_pointer_qualification(void **state)
{
    (void)state;
    for (size_t i = 0; i < checks_guest.count; i++)
        assert_int_equal(checks_guest.rules[i].qualification, ENTRY_FAIL_LINK_POINTER);
    for (size_t i = 0; i < processor_guest.count; i++)
        assert_int_equal(processor_guest.rules[i].qualification, 0);
}

/* RFLAGS.VM breaks many rules on segments besides its own. */
static void virtual_8086_needs_protected_legacy_mode(void **state)
{
    struct sample_vmcs sample;

    (void)state;
    sample_make(&sample, SAMPLE_V86);
    assert_null(check_guest_state(&sample.view));
    sample.values[FIELD_ENTRY_CONTROLS] |= ENTRY_IA32E;
    sample.values[FIELD_GUEST_EFER] |= EFER_LMA | EFER_LME;
    assert_string_equal(check_guest_state(&sample.view)->name, "guest RFLAGS: VM");
    sample_make(&sample, SAMPLE_V86);
    sample.values[FIELD_PROC2_CONTROLS] |= PROC2_UNRESTRICTED;
    sample.values[FIELD_GUEST_CR0] &= ~(CR0_PE | CR0_PG);
    assert_string_equal(check_guest_state(&sample.view)->name, "guest RFLAGS: VM");
}

static void every_processor_rule_is_broken_here(void **state)
{
    struct breakage all[ARRAY_SIZE(breakages) + 1];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(breakages); i++)
        all[i] = breakages[i];
    all[ARRAY_SIZE(breakages)] = (struct breakage){ .rule = "guest RFLAGS: VM" };
    breakages_cover(all, ARRAY_SIZE(all), &processor_guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_fails_alone),
        cmocka_unit_test(what_does_not_count_passes),
        cmocka_unit_test(link_pointer_out_of_width),
        cmocka_unit_test(link_pointer_qualification),
        cmocka_unit_test(virtual_8086_needs_protected_legacy_mode),
        cmocka_unit_test(every_processor_rule_is_broken_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
