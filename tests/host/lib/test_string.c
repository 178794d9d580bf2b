/* sources: */
/*
 * memcpy and its family against byte loops. The file is included under other names: this program has a C library.
 */
#define memcpy strata_memcpy
#define memmove strata_memmove
#define memset strata_memset
#define memcmp strata_memcmp
#include "core/lib/string.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define SIZE 64
#define GUARD 16

static void fill(uint8_t *bytes, size_t size, struct test_random *random)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)test_random(random);
}

static void assert_bytes(const uint8_t *got, const uint8_t *wanted, size_t size)
{
    for (size_t i = 0; i < size; i++)
        assert_int_equal(got[i], wanted[i]);
}

static void test_copy_and_set(void **state)
{
    (void)state;
    struct test_random random = { 2 };
    uint8_t from[SIZE], to[SIZE], wanted[SIZE];
    for (size_t size = 0; size <= SIZE - GUARD; size++)
        for (size_t offset = 0; offset < GUARD; offset++) {
            fill(from, SIZE, &random);
            fill(to, SIZE, &random);
            for (size_t i = 0; i < SIZE; i++)
                wanted[i] = i >= offset && i < offset + size ? from[i - offset] : to[i];
            assert_ptr_equal(strata_memcpy(to + offset, from, size), to + offset);
            assert_bytes(to, wanted, SIZE);
            for (size_t i = offset; i < offset + size; i++)
                wanted[i] = (uint8_t)(0x180 + size);
            assert_ptr_equal(strata_memset(to + offset, (int)(0x180 + size), size), to + offset);
            assert_bytes(to, wanted, SIZE);
        }
}

static void test_move_overlapping(void **state)
{
    (void)state;
    struct test_random random = { 3 };
    uint8_t bytes[SIZE], wanted[SIZE];
    for (size_t from = 0; from < GUARD; from++)
        for (size_t to = 0; to < GUARD; to++)
            for (size_t size = 0; size <= SIZE - GUARD; size += 3) {
                fill(bytes, SIZE, &random);
                for (size_t i = 0; i < SIZE; i++)
                    wanted[i] = i >= to && i < to + size ? bytes[i - to + from] : bytes[i];
                assert_ptr_equal(strata_memmove(bytes + to, bytes + from, size), bytes + to);
                assert_bytes(bytes, wanted, SIZE);
            }
}

static void test_compare(void **state)
{
    (void)state;
    uint8_t a[SIZE] = { 0 }, b[SIZE] = { 0 };
    assert_int_equal(strata_memcmp(a, b, SIZE), 0);
    assert_int_equal(strata_memcmp(a, b, 0), 0);
    for (size_t i = 0; i < SIZE; i++) {
        a[i] = 0x7f;
        b[i] = 0x80;
        assert_true(strata_memcmp(a, b, SIZE) < 0);
        assert_true(strata_memcmp(b, a, SIZE) > 0);
        assert_int_equal(strata_memcmp(a, b, i), 0);
        a[i] = b[i] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy_and_set),
        cmocka_unit_test(test_move_overlapping),
        cmocka_unit_test(test_compare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
