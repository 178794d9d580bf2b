/* sources: core/memory/page_pool.c */
/*
 * The page pool hands out every page once, zeroed, and takes each back.
 */
#include "core/memory/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/host/support/support.h"

#define ARENA (64 * PAGE_SIZE)

static bool page_is_zero(hpa_t page)
{
    const uint8_t *byte = hpa_ptr(page);
    for (size_t i = 0; i < PAGE_SIZE; i++)
        if (byte[i])
            return false;
    return true;
}

static void test_every_page_once(void **state)
{
    (void)state;
    struct page_pool pool = { 0 };
    bool seen[ARENA / PAGE_SIZE] = { false };
    test_memory_reset(ARENA);
    memset(hpa_ptr(hpa(0)), 0xa5, ARENA);
    pool_add(&pool, hpa(PAGE_SIZE), 10 * PAGE_SIZE);
    pool_add(&pool, hpa(20 * PAGE_SIZE), 5 * PAGE_SIZE);
    assert_int_equal(pool.free_count, 15);
    assert_int_equal(pool.total, 15);
    for (unsigned i = 0; i < 15; i++) {
        hpa_t page = pool_alloc(&pool);
        uint64_t number = page.v / PAGE_SIZE;
        assert_int_equal(page.v % PAGE_SIZE, 0);
        assert_true((number >= 1 && number < 11) || (number >= 20 && number < 25));
        assert_false(seen[number]);
        seen[number] = true;
        assert_true(page_is_zero(page));
        memset(hpa_ptr(page), 0xff, PAGE_SIZE);
    }
    assert_int_equal(pool_alloc(&pool).v, 0);
    assert_int_equal(pool.free_count, 0);
}

static void test_pages_ascend(void **state)
{
    (void)state;
    struct page_pool pool = { 0 };
    test_memory_reset(ARENA);
    pool_add(&pool, hpa(4 * PAGE_SIZE), 4 * PAGE_SIZE);
    for (uint64_t i = 4; i < 8; i++)
        assert_int_equal(pool_alloc(&pool).v, i * PAGE_SIZE);
}

/* Random allocation and freeing against a plain set. */
static void test_random_use(void **state)
{
    (void)state;
    struct page_pool pool = { 0 };
    struct test_random random = { 1 };
    bool used[ARENA / PAGE_SIZE] = { false };
    unsigned held = 0;
    test_memory_reset(ARENA);
    pool_add(&pool, hpa(PAGE_SIZE), ARENA - PAGE_SIZE);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t number = 1 + test_random_below(&random, ARENA / PAGE_SIZE - 1);
        if (used[number]) {
            memset(hpa_ptr(hpa(number * PAGE_SIZE)), 0x5a, PAGE_SIZE);
            pool_free(&pool, hpa(number * PAGE_SIZE));
            used[number] = false;
            held--;
        } else {
            hpa_t page = pool_alloc(&pool);
            assert_int_not_equal(page.v, 0);
            assert_false(used[page.v / PAGE_SIZE]);
            assert_true(page_is_zero(page));
            used[page.v / PAGE_SIZE] = true;
            held++;
        }
        assert_int_equal(pool.free_count + held, pool.total);
    }
}

static void test_misuse_panics(void **state)
{
    (void)state;
    struct page_pool pool = { 0 };
    test_memory_reset(ARENA);
    expect_assert_failure(pool_add(&pool, hpa(0), PAGE_SIZE));
    expect_assert_failure(pool_add(&pool, hpa(PAGE_SIZE + 8), PAGE_SIZE));
    expect_assert_failure(pool_add(&pool, hpa(PAGE_SIZE), PAGE_SIZE / 2));
    pool_add(&pool, hpa(PAGE_SIZE), 2 * PAGE_SIZE);
    expect_assert_failure(pool_free(&pool, hpa(PAGE_SIZE)));
    hpa_t page = pool_alloc(&pool);
    expect_assert_failure(pool_free(&pool, hpa(page.v + 1)));
    pool_free(&pool, page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_page_once),
        cmocka_unit_test(test_pages_ascend),
        cmocka_unit_test(test_random_use),
        cmocka_unit_test(test_misuse_panics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
