/*
 * See nearly.h.
 */
#include "tests/fuzz/hypervisor/nearly.h"

#include <string.h>

#include "core/lib/x86.h"
#include "nested/nested.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/machine/processor_checks.h"

#define V(row) values[FIELD_##row]
#define CODE_32 (0xbu | AR_S | AR_PRESENT | AR_DB | AR_G)
#define CODE_16 (0xbu | AR_S | AR_PRESENT)
#define DATA_16 (0x3u | AR_S | AR_PRESENT)
#define V86_RIGHTS (0x3u | AR_S | AR_PRESENT | AR_DPL_MASK)
#define REAL_LIMIT 0xffff
#define ROUNDS_MAX 400

static uint64_t control_fit(uint64_t value, uint32_t msr)
{
    uint64_t must = (uint32_t)(msr == MSR_VMX_PROC2 ? 0 : vmx_caps_controls(&nested_caps, msr));
    return (value | must) & vmx_caps_allowed1(&nested_caps, msr);
}

static void controls_fit(uint64_t *values)
{
    V(PIN_CONTROLS) = control_fit(V(PIN_CONTROLS), MSR_VMX_PIN);
    V(PROC_CONTROLS) = control_fit(V(PROC_CONTROLS), MSR_VMX_PROC);
    V(PROC2_CONTROLS) = control_fit(V(PROC2_CONTROLS), MSR_VMX_PROC2);
    V(EXIT_CONTROLS) = control_fit(V(EXIT_CONTROLS), MSR_VMX_EXIT);
    V(ENTRY_CONTROLS) = control_fit(V(ENTRY_CONTROLS), MSR_VMX_ENTRY);
}

static void small_segments(uint64_t *values, uint64_t code, uint64_t data)
{
    for (int i = SEG_ES; i <= SEG_GS; i++) {
        values[FIELD_GUEST_ES_LIMIT + i] = REAL_LIMIT;
        values[FIELD_GUEST_ES_BASE + i] = values[FIELD_GUEST_ES_SEL + i] << 4;
        values[FIELD_GUEST_ES_AR + i] = i == SEG_CS ? code : data;
    }
}

static void host_fit(uint64_t *values, bool ia32e)
{
    if (ia32e)
        return;
    V(EXIT_CONTROLS) &= ~(uint64_t)EXIT_HOST_64;
    V(HOST_EFER) &= ~(uint64_t)(EFER_LME | EFER_LMA);
    V(HOST_CR4) = CR4_VMXE | CR4_PSE;
}

void nearly_base(uint64_t values[FIELD_COUNT], enum nearly kind, bool ia32e)
{
    vmcs12_sample(values);
    host_fit(values, ia32e);
    if (kind != NEARLY_LONG || !ia32e) {
        V(ENTRY_CONTROLS) &= ~(uint64_t)ENTRY_IA32E;
        V(GUEST_EFER) = 0;
        V(GUEST_CS_AR) = CODE_32;
    }
    switch (kind) {
    case NEARLY_FLAT:
        V(GUEST_CR0) &= ~(uint64_t)CR0_PG;
        break;
    case NEARLY_V86:
        V(GUEST_RFLAGS) |= RFLAGS_VM;
        small_segments(values, V86_RIGHTS, V86_RIGHTS);
        break;
    case NEARLY_REAL:
        V(GUEST_CR0) = CR0_NE;
        small_segments(values, CODE_16, DATA_16);
        break;
    default:
        break;
    }
    controls_fit(values);
}

void nearly_scatter(uint64_t values[FIELD_COUNT], const uint64_t base[FIELD_COUNT], struct test_random *random)
{
    for (int row = 0; row < FIELD_COUNT; row++)
        switch (test_random_below(random, 4)) {
        case 0:
            values[row] = vmcs_field_trim((enum vmcs_row)row, test_random_value(random));
            break;
        case 1:
            break;
        default:
            values[row] = base[row];
            break;
        }
}

static const struct check_rule *first_broken(const struct check_view *view)
{
    const struct check_rule *rule = check_controls(view);
    if (!rule)
        rule = check_host(view);
    return rule ? rule : check_guest_state(view);
}

/* All fields of a kind (controls, guest, host). True: something has changed. */
static bool type_reset(uint64_t *values, const uint64_t *base, unsigned type)
{
    bool changed = false;
    for (int row = 0; row < FIELD_COUNT; row++)
        if (vmcs_encoding_type(vmcs_fields[row].encoding) == type && values[row] != base[row]) {
            values[row] = base[row];
            changed = true;
        }
    return changed;
}

void nearly_round(uint64_t values[FIELD_COUNT], const uint64_t base[FIELD_COUNT], bool ia32e, gpa1_t region)
{
    struct check_view view = { values, &nested_caps, ia32e, region };
    const struct check_rule *rule;
    for (unsigned i = 0; i < ROUNDS_MAX && (rule = first_broken(&view)) != NULL; i++) {
        if (values[rule->row] != base[rule->row])
            values[rule->row] = base[rule->row];
        else if (!type_reset(values, base, vmcs_encoding_type(vmcs_fields[rule->row].encoding)) &&
                 !type_reset(values, base, TYPE_CONTROL) && !type_reset(values, base, TYPE_GUEST))
            return; /* the base itself is not valid in this mode, or with these capabilities */
    }
}

void nearly_flip(uint64_t values[FIELD_COUNT], struct test_random *random, unsigned bits)
{
    static const enum vmcs_row important[] = { FIELD_PIN_CONTROLS,   FIELD_PROC_CONTROLS, FIELD_PROC2_CONTROLS,
                                               FIELD_ENTRY_CONTROLS, FIELD_EXIT_CONTROLS, FIELD_GUEST_CR0,
                                               FIELD_GUEST_CR4,      FIELD_GUEST_EFER,    FIELD_GUEST_RFLAGS,
                                               FIELD_ENTRY_INTR_INFO };
    for (unsigned i = 0; i < bits; i++) {
        enum vmcs_row row = test_random_below(random, 2) ? important[test_random_below(random, ARRAY_SIZE(important))]
                                                         : (enum vmcs_row)test_random_below(random, FIELD_COUNT);
        values[row] = vmcs_field_trim(row, values[row] ^ BIT(test_random_below(random, 64)));
    }
}
