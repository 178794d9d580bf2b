/*
 * The table of boot options and the parser of the command line. Pure.
 * A new option is one row here and one field in struct options.
 */
#include "core/lib/options.h"

#include "core/lib/format.h"
#include "core/lib/string.h"
#include "core/lib/text.h"

#define COMPLAINT_SIZE 240
#define WORD_SHOWN 48 /* characters of a bad word that a complaint repeats */
#define DRIVES 128
#define PORT_MAX 0xfff8 /* the last base with room for the 8 registers of a UART */
#define KEEP INT32_MIN  /* compat leaves the option alone */

struct option {
    const char *name;
    const char *valid; /* for complaints; also the words of a choice: "off|on" gives 0 and 1 */
    int (*parse)(const struct option *option, struct text value); /* the value, or INVALID */
    size_t field;                                                 /* offset in struct options */
    int standard;                                                 /* value when the command line does not name it */
    int xmhf;                                                     /* value that compat=xmhf gives it, or KEEP */
};

#define INVALID (INT32_MIN + 1)
#define COMPAT_FIELD SIZE_MAX /* the row has no field: it sets the others */

static int parse_choice(const struct option *option, struct text value);
static int parse_drive(const struct option *option, struct text value);
static int parse_port(const struct option *option, struct text value);

#define FIELD(name) offsetof(struct options, name)
#define SWITCH(name)                                                                                                   \
    {                                                                                                                  \
#name, "off|on", parse_choice, FIELD(name), OPTION_ON, OPTION_OFF                                              \
    }
/* clang-format off */
static const struct option option_table[] = {
    SWITCH(shadow), SWITCH(large), SWITCH(history), SWITCH(prefill), SWITCH(x2apic),
    { "coalesce", "off|on|auto",         parse_choice, FIELD(coalesce), COALESCE_AUTO, COALESCE_OFF },
    { "ept01",  "large|4k",              parse_choice, FIELD(ept01),  EPT01_LARGE,     EPT01_4K },
    { "lapic",  "native|trap",           parse_choice, FIELD(lapic),  LAPIC_NATIVE,    LAPIC_TRAP },
    { "mitigations", "auto|on|off",      parse_choice, FIELD(mitigations), MITIGATIONS_AUTO, KEEP },
    { "mark",   "kernel|any",            parse_choice, FIELD(mark),   MARK_KERNEL,     KEEP },
    { "vmcs",   "memory|instructions",   parse_choice, FIELD(vmcs),   VMCS_MEMORY,     VMCS_INSTRUCTIONS },
    { "compat", "xmhf",                  parse_choice, COMPAT_FIELD,  KEEP,            KEEP },
    { "boot",   "hd0..hd127",            parse_drive,  FIELD(boot),   BOOT_NEXT_DRIVE, KEEP },
    { "log",    "error|warn|info|debug", parse_choice, FIELD(log),    LOG_INFO,        KEEP },
    { "serial", "on|off|<port in hex>",  parse_port,   FIELD(serial), SERIAL_COM1,     KEEP },
};
/* clang-format on */

/* The position of value among the words of option->valid. */
static int parse_choice(const struct option *option, struct text value)
{
    int position = 0;
    for (const char *word = option->valid; *word; position++) {
        size_t length = 0;
        while (word[length] && word[length] != '|')
            length++;
        if (value.length == length && memcmp(value.start, word, length) == 0)
            return position;
        word += length + (word[length] == '|');
    }
    return INVALID;
}

static int parse_drive(const struct option *option, struct text value)
{
    (void)option;
    uint64_t number;
    if (!text_starts(value, "hd") || !text_number(text_skip(value, 2), 10, DRIVES - 1, &number))
        return INVALID;
    return BIOS_FIRST_DISK + (int)number;
}

static int parse_port(const struct option *option, struct text value)
{
    uint64_t port;
    if (text_equals(value, "on"))
        return option->standard;
    if (text_equals(value, "off"))
        return SERIAL_OFF;
    if (!text_number(value, 16, PORT_MAX, &port) || port == 0)
        return INVALID;
    return (int)port;
}

static void set_field(struct options *options, const struct option *option, int value)
{
    if (option->field != COMPAT_FIELD && value != KEEP)
        *(int *)((char *)options + option->field) = value;
}

static void set_xmhf(struct options *options)
{
    for (size_t i = 0; i < ARRAY_SIZE(option_table); i++)
        set_field(options, &option_table[i], option_table[i].xmhf);
}

/* Copies a word into a complaint; what cannot be printed becomes '?'. Returns the text's length. */
static int show_word(char *out, size_t size, struct text word)
{
    size_t length = word.length < WORD_SHOWN ? word.length : WORD_SHOWN;
    int at = format(out, size, "option \"%.*s%s\": ", (int)length, word.start, length < word.length ? "..." : "");
    for (int i = 0; i < at; i++)
        if (out[i] < ' ' || out[i] > '~')
            out[i] = '?';
    return at;
}

static void complain_value(option_complain complain, struct text word, const struct option *option)
{
    char line[COMPLAINT_SIZE];
    int at = show_word(line, sizeof(line), word);
    format(line + at, sizeof(line) - (size_t)at, "%s takes %s", option->name, option->valid);
    complain(line);
}

static void complain_name(option_complain complain, struct text word)
{
    char line[COMPLAINT_SIZE];
    int at = show_word(line, sizeof(line), word);
    at += format(line + at, sizeof(line) - (size_t)at, "unknown; there are");
    for (size_t i = 0; i < ARRAY_SIZE(option_table) && at < (int)sizeof(line); i++)
        at += format(line + at, sizeof(line) - (size_t)at, " %s=", option_table[i].name);
    complain(line);
}

static void parse_word(struct options *options, struct text word, option_complain complain)
{
    size_t name_length = 0;
    while (name_length < word.length && word.start[name_length] != '=')
        name_length++;
    struct text name = { word.start, name_length }, value = text_skip(word, name_length + 1);
    for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
        const struct option *option = &option_table[i];
        if (!text_equals(name, option->name))
            continue;
        int parsed = option->parse(option, value);
        if (parsed == INVALID)
            complain_value(complain, word, option);
        else if (option->field == COMPAT_FIELD)
            set_xmhf(options);
        else
            set_field(options, option, parsed);
        return;
    }
    complain_name(complain, word);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* The next word of *at, which moves behind it; empty at the end. */
static struct text next_word(const char **at)
{
    while (is_space(**at))
        (*at)++;
    struct text word = { *at, 0 };
    while (word.start[word.length] && !is_space(word.start[word.length]))
        word.length++;
    *at += word.length;
    return word;
}

static bool has_equals_sign(struct text word)
{
    for (size_t i = 0; i < word.length; i++)
        if (word.start[i] == '=')
            return true;
    return false;
}

struct options options_parse(const char *command_line, option_complain complain)
{
    struct options options = { 0 };
    for (size_t i = 0; i < ARRAY_SIZE(option_table); i++)
        set_field(&options, &option_table[i], option_table[i].standard);
    const char *at = command_line;
    for (unsigned words = 0;; words++) {
        struct text word = next_word(&at);
        if (word.length == 0 || text_equals(word, "--"))
            return options;
        if (words > 0 || has_equals_sign(word))
            parse_word(&options, word, complain);
    }
}
