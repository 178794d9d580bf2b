/* sources: core/lib/format.c */
/*
 * Formatting against the C library's snprintf.
 */
#include "core/lib/format.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define ROOM_MAX 160

/* Same text and same length as the C library's, whatever room there is. */
static void assert_same(const char *fmt, ...)
{
    for (size_t room = 0; room < ROOM_MAX; room++) {
        char got[ROOM_MAX], wanted[ROOM_MAX];
        va_list first, second;
        memset(got, 'x', sizeof(got));
        memset(wanted, 'x', sizeof(wanted));
        va_start(first, fmt);
        va_start(second, fmt);
        int wanted_length = vsnprintf(wanted, room, fmt, first);
        assert_int_equal(vformat(got, room, fmt, second), wanted_length);
        va_end(first);
        va_end(second);
        assert_memory_equal(got, wanted, sizeof(got));
    }
}

static void test_conversions(void **state)
{
    (void)state;
    assert_same("plain");
    assert_same("%%|%c|%5c|%-5c|", 'a', 'b', 'c');
    assert_same("%s|%10s|%-10s|%.3s|%.*s|%.0s|", "abc", "def", "ghi", "jklmn", 2, "opq", "r");
    assert_same("%*s|%-*s|%*s", 7, "abc", 7, "def", -7, "ghi");
    assert_same("%d %i %d %d %d", 0, -1, INT_MAX, INT_MIN, 42);
    assert_same("%5d|%-5d|%05d|%05d|%-05d|", -42, -42, -42, 42, 7);
    assert_same("%u %x %X %8x %08x %-8x|", 0u, 0xbeefu, 0xbeefu, 0xau, 0xau, 0xau);
    assert_same("%lx %lu %ld %llx %llu %lld", ULONG_MAX, ULONG_MAX, LONG_MIN, ULLONG_MAX, ULLONG_MAX, LLONG_MIN);
    assert_same("%016llx %20llu %zu %zx", 0x123456789abcull, 77ull, (size_t)9, (size_t)0xfff);
    assert_same("%p", (void *)0x1234);
}

static void test_random_numbers(void **state)
{
    (void)state;
    struct test_random random = { 4 };
    static const char *const formats[] = {
        "%llx", "%llu", "%lld", "%20llx", "%-24lld|", "%016llx", "%024lld", "%3llu"
    };
    for (unsigned i = 0; i < 500; i++)
        assert_same(formats[test_random_below(&random, ARRAY_SIZE(formats))], test_random_value(&random));
}

/* format() without the compiler's look at its arguments. */
static int format_any(char *out, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vformat(out, size, fmt, args);
    va_end(args);
    return length;
}

/* What the C library leaves undefined: nothing is lost, nothing is read behind the format. */
static void test_odd_formats(void **state)
{
    (void)state;
    char out[64];
    static const char *const odd[] = { "100%", "%", "%5", "%-", "%.", "%l", "%ll", "%q", "a%qb", "%z" };
    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        format_any(out, sizeof(out), odd[i]);
        assert_string_equal(out, odd[i]);
    }
    format_any(out, sizeof(out), "%s", NULL);
    assert_string_equal(out, "(null)");
    assert_int_equal(format_any(out, sizeof(out), "%99999999999d", 1), 255);
    assert_int_equal(format_any(out, sizeof(out), "%*d", INT_MIN, 1), 255);
    assert_int_equal(format(out, sizeof(out), "%05d", 42), 5);
    assert_string_equal(out, "00042");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_random_numbers),
        cmocka_unit_test(test_odd_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
