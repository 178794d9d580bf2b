/* sources: core/lib/options.c core/lib/text.c core/lib/format.c */
/*
 * Boot options: defaults, every value of every option, what is complained about and with which words.
 */
#include "core/lib/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/lib/text.h"
#include "tests/host/support/support.h"

static unsigned complaints;
static char last_complaint[512];

static void complain(const char *text)
{
    complaints++;
    snprintf(last_complaint, sizeof(last_complaint), "%s", text);
    assert_null(strchr(text, '\n'));
}

static struct options parse(const char *line)
{
    complaints = 0;
    last_complaint[0] = 0;
    return options_parse(line, complain);
}

static const struct options standard = {
    .shadow = 1,
    .large = 1,
    .coalesce = COALESCE_AUTO,
    .history = 1,
    .prefill = 1,
    .x2apic = 1,
    .ept01 = EPT01_LARGE,
    .lapic = LAPIC_NATIVE,
    .mitigations = MITIGATIONS_AUTO,
    .mark = MARK_KERNEL,
    .vmcs = VMCS_MEMORY,
    .boot = BOOT_NEXT_DRIVE,
    .log = LOG_INFO,
    .serial = 0x3f8,
};

#define assert_options(got, wanted) assert_memory_equal(&(got), &(wanted), sizeof(struct options))

static void test_defaults(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "", "   ", "/boot/strata.elf", "  /boot/strata.elf  ", "-- shadow=off", "x.elf -- bad"
    };
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        struct options got = parse(lines[i]);
        assert_options(got, standard);
        assert_int_equal(complaints, 0);
    }
}

static void test_each_value(void **state)
{
    (void)state;
    // clang-format off
    static const struct { const char *word; size_t field; int value; } cases[] = {
        { "shadow=off", offsetof(struct options, shadow), 0 },     { "shadow=on", offsetof(struct options, shadow), 1 },
        { "large=off", offsetof(struct options, large), 0 },
        { "coalesce=off", offsetof(struct options, coalesce), COALESCE_OFF },
        { "coalesce=on", offsetof(struct options, coalesce), COALESCE_ON },
        { "coalesce=auto", offsetof(struct options, coalesce), COALESCE_AUTO },
        { "history=off", offsetof(struct options, history), 0 },   { "prefill=off", offsetof(struct options, prefill), 0 },
        { "x2apic=off", offsetof(struct options, x2apic), 0 },     { "lapic=trap", offsetof(struct options, lapic), LAPIC_TRAP },
        { "ept01=4k", offsetof(struct options, ept01), EPT01_4K },
        { "mitigations=on", offsetof(struct options, mitigations), MITIGATIONS_ON },
        { "mitigations=off", offsetof(struct options, mitigations), MITIGATIONS_OFF },
        { "mark=any", offsetof(struct options, mark), MARK_ANY },  { "mark=kernel", offsetof(struct options, mark), MARK_KERNEL },
        { "lapic=native", offsetof(struct options, lapic), LAPIC_NATIVE },
        { "vmcs=instructions", offsetof(struct options, vmcs), VMCS_INSTRUCTIONS },
        { "vmcs=memory", offsetof(struct options, vmcs), VMCS_MEMORY },
        { "boot=hd0", offsetof(struct options, boot), 0x80 },      { "boot=hd1", offsetof(struct options, boot), 0x81 },
        { "boot=hd127", offsetof(struct options, boot), 0xff },    { "log=error", offsetof(struct options, log), LOG_ERROR },
        { "log=warn", offsetof(struct options, log), LOG_WARN },   { "log=info", offsetof(struct options, log), LOG_INFO },
        { "log=debug", offsetof(struct options, log), LOG_DEBUG }, { "serial=off", offsetof(struct options, serial), 0 },
        { "serial=on", offsetof(struct options, serial), 0x3f8 },  { "serial=2f8", offsetof(struct options, serial), 0x2f8 },
        { "serial=0x2E8", offsetof(struct options, serial), 0x2e8 },
        { "serial=fff8", offsetof(struct options, serial), 0xfff8 },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct options wanted = standard, got = parse(cases[i].word);
        *(int *)((char *)&wanted + cases[i].field) = cases[i].value;
        assert_options(got, wanted);
        assert_int_equal(complaints, 0);
    }
}

static void test_order(void **state)
{
    (void)state;
    struct options xmhf = standard;
    xmhf.shadow = xmhf.large = xmhf.coalesce = xmhf.history = xmhf.prefill = xmhf.x2apic = 0;
    xmhf.ept01 = EPT01_4K;
    xmhf.lapic = LAPIC_TRAP;
    xmhf.vmcs = VMCS_INSTRUCTIONS;
    struct options got = parse("strata compat=xmhf");
    assert_options(got, xmhf);
    got = parse("shadow=on log=info compat=xmhf");
    assert_options(got, xmhf);
    xmhf.large = 1;
    xmhf.boot = 0x82;
    got = parse("boot=hd2 compat=xmhf large=on");
    assert_options(got, xmhf);
    got = parse("shadow=off\tshadow=on");
    assert_options(got, standard);
    assert_int_equal(complaints, 0);
}

static void test_bad_values(void **state)
{
    (void)state;
    // clang-format off
    static const struct { const char *word, *mentions; } cases[] = {
        { "shadow=maybe", "off|on" },   { "shadow=", "off|on" },        { "shadow=o", "off|on" },
        { "shadow=onn", "off|on" },     { "shadow=off|on", "off|on" },  { "lapic=trapp", "native|trap" },
        { "compat=kvm", "xmhf" },       { "ept01=2m", "large|4k" },
              { "boot=hd", "hd0..hd127" },    { "boot=hd128", "hd0" },
        { "boot=sda", "hd0" },          { "boot=hd1x", "hd0" },         { "boot=hd99999999999999999999", "hd0" },
        { "log=", "error|warn|info|debug" }, { "serial=0", "port" },    { "serial=fff9", "port" },
        { "serial=com1", "port" },      { "serial=0x", "port" },        { "serial=-1", "port" },
    };
    // clang-format on
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char line[128];
        snprintf(line, sizeof(line), "strata %s", cases[i].word);
        struct options got = parse(line);
        assert_options(got, standard);
        assert_int_equal(complaints, 1);
        assert_non_null(strstr(last_complaint, cases[i].word));
        assert_non_null(strstr(last_complaint, cases[i].mentions));
    }
}

static void test_unknown_names(void **state)
{
    (void)state;
    static const char *const names[] = { "shadow", "large", "coalesce", "history", "prefill", "x2apic", "ept01",
                                         "lapic",  "vmcs",  "compat",   "boot",    "log",     "serial" };
    struct options got = parse("strata quiet nosuch=1 =x SHADOW=off");
    assert_options(got, standard);
    assert_int_equal(complaints, 4);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_non_null(strstr(last_complaint, names[i]));
    /* A name without a value is no file name behind the first word. */
    parse("strata shadow");
    assert_int_equal(complaints, 1);
    /* A long or unprintable word is shown cut and cleaned. */
    char line[2000] = "strata ";
    memset(line + 7, 'a', sizeof(line) - 8);
    line[9] = '\x1b';
    parse(line);
    assert_int_equal(complaints, 1);
    assert_null(strchr(last_complaint, '\x1b'));
    assert_true(strlen(last_complaint) < 240);
}

static void test_text(void **state)
{
    (void)state;
    uint64_t value = 7;
    const char *text = "0x1F rest";
    assert_true(text_equals((struct text){ text, 4 }, "0x1F"));
    assert_false(text_equals((struct text){ text, 4 }, "0x1"));
    assert_false(text_equals((struct text){ text, 4 }, "0x1F "));
    assert_true(text_equals((struct text){ text, 0 }, ""));
    assert_true(text_starts((struct text){ text, 4 }, "0x"));
    assert_false(text_starts((struct text){ text, 1 }, "0x"));
    assert_int_equal(text_skip((struct text){ text, 4 }, 9).length, 0);
    assert_true(text_number((struct text){ text, 4 }, 16, 0x1f, &value));
    assert_int_equal(value, 0x1f);
    assert_false(text_number((struct text){ text, 4 }, 16, 0x1e, &value));
    assert_false(text_number((struct text){ text, 4 }, 10, 100, &value));
    assert_false(text_number((struct text){ text, 5 }, 16, 100, &value));
    assert_false(text_number((struct text){ "", 0 }, 10, 100, &value));
    assert_false(text_number((struct text){ "5", 1 }, 10, 4, &value));
    assert_int_equal(value, 0x1f);
    assert_true(text_number((struct text){ "18446744073709551615", 20 }, 10, UINT64_MAX, &value));
    assert_true(value == UINT64_MAX);
    assert_false(text_number((struct text){ "18446744073709551616", 20 }, 10, UINT64_MAX, &value));
    assert_false(text_number((struct text){ "99999999999999999999", 20 }, 10, UINT64_MAX, &value));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_each_value),    cmocka_unit_test(test_order),
        cmocka_unit_test(test_bad_values), cmocka_unit_test(test_unknown_names), cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
