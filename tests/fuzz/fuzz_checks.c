/* sources: checks nested/caps.c */
/*
 * Entry checks of any vmcs12 against the model. Input: a byte of flags, then edits of 10 bytes each to a valid vmcs12:
 * what (0: a field, 1: a capability MSR, 2: a word of memory), which, and an 8-byte value to flip bits with.
 */
#include <stdlib.h>
#include <string.h>

#include "core/memory/mem.h"
#include "nested/caps.h"
#include "nested/checks.h"
#include "tests/host/nested/entry_model.h"
#include "tests/host/machine/processor_checks.h"
#include "tests/host/machine/sample_vmcs.h"
#include "tests/host/support/support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EDIT_SIZE 10
#define FLAG_KIND 3u
#define FLAG_FILTERED 4u /* capabilities as offered to a guest hypervisor instead of all */
#define FLAG_LEGACY 8u
enum what { WHAT_FIELD, WHAT_MSR, WHAT_WORD, WHAT_COUNT };

static void edit_apply(struct sample_vmcs *sample, const uint8_t *edit)
{
    uint64_t value;

    memcpy(&value, edit + 2, sizeof(value));
    switch (edit[0] % WHAT_COUNT) {
    case WHAT_FIELD: {
        enum vmcs_row row = (enum vmcs_row)(edit[1] % FIELD_COUNT);
        sample->values[row] = vmcs_field_trim(row, sample->values[row] ^ value);
        break;
    }
    case WHAT_MSR:
        sample->caps.msr[edit[1] % MSR_VMX_COUNT] ^= value;
        break;
    default:
        memcpy(gpa1_ptr(gpa1(edit[1] % (SAMPLE_MEMORY / PAGE_SIZE) * PAGE_SIZE)), &value, sizeof(value));
        break;
    }
}

static void expect(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct caps_options options = { .vmcs_shadowing = true, .ept_ad = true };
    struct sample_vmcs sample;

    if (size == 0)
        return 0;
    sample_make(&sample, (enum sample)(data[0] & FLAG_KIND));
    sample.view.ia32e = !(data[0] & FLAG_LEGACY);
    if (data[0] & FLAG_FILTERED) {
        struct vmx_caps hw = sample.caps;
        caps_filter(&sample.caps, &hw, &options);
    }
    for (size_t at = 1; at + EDIT_SIZE <= size; at += EDIT_SIZE)
        edit_apply(&sample, data + at);

    expect(!check_controls_soft(&sample.view, CHECK_ALL) == model_controls(&sample.view));
    expect(!check_host_soft(&sample.view, CHECK_ALL) == model_host(&sample.view));
    expect(!check_guest_soft(&sample.view) == model_link(&sample.view));
    /* What the processor would say of it: any answer, but an answer. */
    check_controls(&sample.view);
    check_guest_state(&sample.view);
    return 0;
}
