/*
 * printf-style formatting, freestanding and pure. Its callers are the log and the panic page, so it takes
 * no lock, keeps no state and never fails: what does not fit is counted and dropped.
 */
#include "core/lib/format.h"

#define DIGITS_MAX 20 /* decimal digits of 2^64-1 */
#define WIDTH_MAX 255

struct output {
    char *out;
    size_t size;
    size_t length; /* characters produced, also those that did not fit */
};

/* One parsed conversion specification. */
struct spec {
    bool left, zero, has_precision;
    int width, precision;
    int longs; /* 0: int, 1: long or size_t, 2: long long */
    char conversion;
};

static void put(struct output *o, char c)
{
    if (o->length + 1 < o->size)
        o->out[o->length] = c;
    o->length++;
}

static void put_times(struct output *o, char c, int times)
{
    for (int i = 0; i < times; i++)
        put(o, c);
}

/* Text padded to the width. A zero pad goes between a minus sign and the digits. */
static void put_padded(struct output *o, const struct spec *s, const char *text, int length)
{
    int pad = s->width - length;
    if (s->left) {
        for (int i = 0; i < length; i++)
            put(o, text[i]);
        put_times(o, ' ', pad);
        return;
    }
    if (s->zero && length > 0 && text[0] == '-') {
        put(o, '-');
        text++;
        length--;
    }
    put_times(o, s->zero ? '0' : ' ', pad);
    for (int i = 0; i < length; i++)
        put(o, text[i]);
}

static void put_number(struct output *o, const struct spec *s, uint64_t value, unsigned base, bool negative)
{
    char text[DIGITS_MAX + 1];
    const char *digits = s->conversion == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    int at = (int)sizeof(text);
    do {
        text[--at] = digits[value % base];
        value /= base;
    } while (value);
    if (negative)
        text[--at] = '-';
    put_padded(o, s, text + at, (int)sizeof(text) - at);
}

static void put_string(struct output *o, const struct spec *s, const char *text)
{
    if (!text)
        text = "(null)";
    int length = 0;
    while ((!s->has_precision || length < s->precision) && text[length])
        length++;
    struct spec padded = *s;
    padded.zero = false;
    put_padded(o, &padded, text, length);
}

/* A number in the format, or the next int argument for '*'. */
static const char *parse_int(const char *at, int *value, va_list *args)
{
    if (*at == '*') {
        *value = va_arg(*args, int);
        at++;
    } else {
        *value = 0;
        for (; *at >= '0' && *at <= '9'; at++)
            if (*value <= WIDTH_MAX)
                *value = *value * 10 + (*at - '0');
    }
    return at;
}

/* Parses behind '%'; returns the position behind the conversion character (or at the end of the format). */
static const char *parse_spec(const char *at, struct spec *s, va_list *args)
{
    *s = (struct spec){ 0 };
    for (;; at++) {
        if (*at == '-')
            s->left = true;
        else if (*at == '0')
            s->zero = true;
        else
            break;
    }
    at = parse_int(at, &s->width, args);
    if (s->width < 0) {
        s->left = true;
        s->width = s->width < -WIDTH_MAX ? WIDTH_MAX : -s->width;
    }
    if (s->width > WIDTH_MAX)
        s->width = WIDTH_MAX;
    if (*at == '.') {
        at = parse_int(at + 1, &s->precision, args);
        s->has_precision = s->precision >= 0;
    }
    if (*at == 'z') {
        s->longs = 1;
        at++;
    }
    for (; *at == 'l' && s->longs < 2; at++)
        s->longs++;
    s->conversion = *at;
    return *at ? at + 1 : at;
}

static uint64_t unsigned_argument(const struct spec *s, va_list *args)
{
    if (s->longs == 0)
        return va_arg(*args, unsigned);
    return s->longs == 1 ? va_arg(*args, unsigned long) : va_arg(*args, unsigned long long);
}

static int64_t signed_argument(const struct spec *s, va_list *args)
{
    if (s->longs == 0)
        return va_arg(*args, int);
    return s->longs == 1 ? va_arg(*args, long) : va_arg(*args, long long);
}

/* False when the conversion is not one of ours. */
static bool convert(struct output *o, struct spec *s, va_list *args)
{
    switch (s->conversion) {
    case '%':
        put(o, '%');
        return true;
    case 'c': {
        char c = (char)va_arg(*args, int);
        s->zero = false;
        put_padded(o, s, &c, 1);
        return true;
    }
    case 's':
        put_string(o, s, va_arg(*args, const char *));
        return true;
    case 'd':
    case 'i': {
        int64_t value = signed_argument(s, args);
        put_number(o, s, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10, value < 0);
        return true;
    }
    case 'u':
        put_number(o, s, unsigned_argument(s, args), 10, false);
        return true;
    case 'x':
    case 'X':
        put_number(o, s, unsigned_argument(s, args), 16, false);
        return true;
    case 'p':
        put(o, '0');
        put(o, 'x');
        put_number(o, s, (uintptr_t)va_arg(*args, void *), 16, false);
        return true;
    default:
        return false;
    }
}

int vformat(char *out, size_t size, const char *fmt, va_list args)
{
    struct output o = { out, size, 0 };
    va_list rest;
    va_copy(rest, args);
    while (*fmt) {
        if (*fmt != '%') {
            put(&o, *fmt++);
            continue;
        }
        struct spec s;
        const char *next = parse_spec(fmt + 1, &s, &rest);
        if (!convert(&o, &s, &rest))
            for (const char *c = fmt; c < next; c++)
                put(&o, *c);
        fmt = next;
    }
    va_end(rest);
    if (size)
        out[o.length < size ? o.length : size - 1] = 0;
    return (int)o.length;
}

int format(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vformat(out, size, fmt, args);
    va_end(args);
    return length;
}
