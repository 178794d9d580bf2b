/* sources: checks */
/*
 * Entry checks on host state: each rule broken once or more, and what must not count when its control is 0.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/x86.h"
#include "tests/host/nested/breakage.h"
#include "tests/host/machine/processor_checks.h"

#define NONCANONICAL 0x0000800000000000ull
#define CANONICAL_LOW 0x00007fffffffffffull
#define CANONICAL_HIGH 0xffff800000000000ull

// clang-format off
/* A 32-bit guest hypervisor that enters a 32-bit guest. */
#define HOST_32 OUTSIDE_IA32E, CLEAR(EXIT_CONTROLS, EXIT_HOST_64), CLEAR(HOST_EFER, EFER_LMA | EFER_LME), PUT(HOST_RIP, 0x1000)

#define SELECTOR_BREAKAGES(S)                                                                                          \
    { "host " #S " selector: RPL and TI", 0, { SET(HOST_##S##_SEL, 1) } },                                             \
    { "host " #S " selector: RPL and TI", 0, { SET(HOST_##S##_SEL, 2) } },                                             \
    { "host " #S " selector: RPL and TI", 0, { SET(HOST_##S##_SEL, 4) } }
#define CANONICAL_BREAKAGES(name, row)                                                                                 \
    { name ": canonical", 0, { PUT(row, NONCANONICAL) } },                                                             \
    { name ": canonical", 0, { PUT(row, CANONICAL_HIGH - 1) } },                                                       \
    { name ": canonical", 0, { PUT(row, BIT(63)) } }

static const struct breakage breakages[] = {
    { "host CR0: value not supported in VMX operation", 0, { CLEAR(HOST_CR0, CR0_PE) } },
    { "host CR0: value not supported in VMX operation", 0, { CLEAR(HOST_CR0, CR0_PG) } },
    { "host CR0: value not supported in VMX operation", 0, { CLEAR(HOST_CR0, CR0_NE) } },
    { "host CR0: value not supported in VMX operation", 0, { SET(HOST_CR0, BIT(32)) } },
    { "host CR4: value not supported in VMX operation", 0, { CLEAR(HOST_CR4, CR4_VMXE) } },
    { "host CR4: value not supported in VMX operation", 0, { SET(HOST_CR4, BIT(15)) } },
    { "host CR4: value not supported in VMX operation", 0, { SET(HOST_CR4, CR4_LA57) } },
    { "host CR4.CET without CR0.WP", 0, { SET(HOST_CR4, CR4_CET), CLEAR(HOST_CR0, CR0_WP) } },
    { "host CR3: beyond the physical-address width", 0, { PUT(HOST_CR3, BIT(40)) } },
    { "host CR3: beyond the physical-address width", 0, { PUT(HOST_CR3, BIT(63)) } },
    CANONICAL_BREAKAGES("host IA32_SYSENTER_ESP", HOST_SYSENTER_ESP),
    CANONICAL_BREAKAGES("host IA32_SYSENTER_EIP", HOST_SYSENTER_EIP),
    { "host IA32_PAT: memory types", 0, { PUT(HOST_PAT, 2) } },
    { "host IA32_PAT: memory types", 0, { PUT(HOST_PAT, 3ull << 56) } },
    { "host IA32_PAT: memory types", 0, { PUT(HOST_PAT, 0x0808) } },
    { "host IA32_PAT: memory types", 0, { PUT(HOST_PAT, 0x80) } },
    { "host IA32_EFER: reserved bits", 0, { SET(HOST_EFER, BIT(1)) } },
    { "host IA32_EFER: reserved bits", 0, { SET(HOST_EFER, BIT(63)) } },
    { "host IA32_EFER: LMA and LME as host address-space size", 0, { CLEAR(HOST_EFER, EFER_LMA) } },
    { "host IA32_EFER: LMA and LME as host address-space size", 0, { CLEAR(HOST_EFER, EFER_LME) } },
    { "host IA32_EFER: LMA and LME as host address-space size", SAMPLE_LEGACY, { HOST_32, SET(HOST_EFER, EFER_LME) } },
    SELECTOR_BREAKAGES(ES), SELECTOR_BREAKAGES(CS), SELECTOR_BREAKAGES(SS), SELECTOR_BREAKAGES(DS),
    SELECTOR_BREAKAGES(FS), SELECTOR_BREAKAGES(GS), SELECTOR_BREAKAGES(TR),
    { "host CS selector: 0000H", 0, { PUT(HOST_CS_SEL, 0) } },
    { "host TR selector: 0000H", 0, { PUT(HOST_TR_SEL, 0) } },
    { "host SS selector: 0000H in a 32-bit host", SAMPLE_LEGACY, { HOST_32, PUT(HOST_SS_SEL, 0) } },
    CANONICAL_BREAKAGES("host FS base", HOST_FS_BASE),
    CANONICAL_BREAKAGES("host GS base", HOST_GS_BASE),
    CANONICAL_BREAKAGES("host TR base", HOST_TR_BASE),
    CANONICAL_BREAKAGES("host GDTR base", HOST_GDTR_BASE),
    CANONICAL_BREAKAGES("host IDTR base", HOST_IDTR_BASE),
    { "outside IA-32e mode: host address-space size", SAMPLE_LEGACY, { OUTSIDE_IA32E } },
    { "in IA-32e mode: host address-space size", SAMPLE_LEGACY, { HOST_32, { EDIT_IA32E, 0, 1 } } },
    { "32-bit host: CR4.PCIDE", SAMPLE_LEGACY, { HOST_32, SET(HOST_CR4, CR4_PCIDE) } },
    { "32-bit host: RIP bits 63:32", SAMPLE_LEGACY, { HOST_32, PUT(HOST_RIP, BIT(32)) } },
    { "64-bit host: CR4.PAE", 0, { CLEAR(HOST_CR4, CR4_PAE) } },
    { "64-bit host: RIP canonical", 0, { PUT(HOST_RIP, NONCANONICAL) } },
};

static const struct breakage harmless[] = {
    { NULL, SAMPLE_LEGACY, { HOST_32 } },
    { NULL, SAMPLE_LEGACY, { HOST_32, CLEAR(HOST_CR4, CR4_PAE) } },
    { NULL, SAMPLE_LEGACY, { HOST_32, CLEAR(EXIT_CONTROLS, EXIT_LOAD_EFER | EXIT_LOAD_PAT), PUT(HOST_EFER, ~0ull),
        PUT(HOST_PAT, ~0ull) } },
    { NULL, 0, { CLEAR(EXIT_CONTROLS, EXIT_LOAD_EFER | EXIT_LOAD_PAT), PUT(HOST_EFER, ~0ull), PUT(HOST_PAT, ~0ull) } },
    { NULL, 0, { CLEAR(HOST_CR0, CR0_WP) } },
    { NULL, 0, { PUT(HOST_PERF_GLOBAL_CTRL, ~0ull), PUT(HOST_SS_SEL, 0), PUT(HOST_CR3, BIT(40) - 1) } },
    { NULL, 0, { PUT(HOST_PAT, 0x0706050401000404ull), SET(HOST_CR4, CR4_PCIDE | CR4_CET) } },
    { NULL, 0, { PUT(HOST_RIP, CANONICAL_LOW), PUT(HOST_FS_BASE, CANONICAL_HIGH), PUT(HOST_RSP, NONCANONICAL) } },
};
// clang-format on

static void each_rule_fails_alone(void **state)
{
    (void)state;
    breakages_run(breakages, ARRAY_SIZE(breakages));
}

static void what_does_not_count_passes(void **state)
{
    (void)state;
    breakages_run(harmless, ARRAY_SIZE(harmless));
}

static const struct check_rule *rule_named(const struct check_table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (!strcmp(table->rules[i].name, name))
            return &table->rules[i];
    return NULL;
}

/* "IA-32e mode guest" from a 32-bit host, and from outside IA-32e mode, are two rules about one control. */
static void ia32e_guest_needs_a_64_bit_host(void **state)
{
    const struct check_rule *outside = rule_named(&checks_host, "outside IA-32e mode: IA-32e mode guest");
    const struct check_rule *host_32 = rule_named(&checks_host, "32-bit host: IA-32e mode guest");
    struct sample_vmcs sample;

    (void)state;
    assert_non_null(outside);
    assert_non_null(host_32);
    sample_make(&sample, SAMPLE_LONG);
    sample.values[FIELD_EXIT_CONTROLS] &= ~EXIT_HOST_64;
    sample.view.ia32e = false;
    assert_true(outside->applies(&sample.view) && !outside->holds(&sample.view, (enum vmcs_row)outside->row));
    assert_true(host_32->applies(&sample.view) && !host_32->holds(&sample.view, (enum vmcs_row)host_32->row));
    sample.values[FIELD_ENTRY_CONTROLS] &= ~ENTRY_IA32E;
    assert_true(outside->holds(&sample.view, (enum vmcs_row)outside->row));
    assert_true(host_32->holds(&sample.view, (enum vmcs_row)host_32->row));
}

static void every_rule_is_broken_here(void **state)
{
    static const struct breakage elsewhere[] = {
        { "outside IA-32e mode: IA-32e mode guest", 0, { { 0 } } },
        { "32-bit host: IA-32e mode guest", 0, { { 0 } } },
    };
    struct breakage all[ARRAY_SIZE(breakages) + ARRAY_SIZE(elsewhere)];

    (void)state;
    memcpy(all, breakages, sizeof(breakages));
    memcpy(all + ARRAY_SIZE(breakages), elsewhere, sizeof(elsewhere));
    breakages_cover(all, ARRAY_SIZE(all), &checks_host);
}

/* With 5-level paging canonical means 57 bits. */
static void canonical_follows_the_linear_width(void **state)
{
    struct sample_vmcs sample;

    (void)state;
    sample_make(&sample, SAMPLE_LONG);
    sample.values[FIELD_HOST_RIP] = NONCANONICAL;
    sample.caps.msr[MSR_VMX_CR4_FIXED1 - MSR_VMX_FIRST] |= CR4_LA57;
    assert_null(check_host_soft(&sample.view, CHECK_ALL));
    sample.values[FIELD_HOST_RIP] = BIT(56);
    assert_non_null(check_host_soft(&sample.view, CHECK_ALL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_fails_alone),
        cmocka_unit_test(what_does_not_count_passes),
        cmocka_unit_test(ia32e_guest_needs_a_64_bit_host),
        cmocka_unit_test(every_rule_is_broken_here),
        cmocka_unit_test(canonical_follows_the_linear_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
