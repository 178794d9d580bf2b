/* sources: core/boot/screen.c */
/*
 * Lines on a text screen: their place, long ones, and what happens at its end. The cells end where their allocation does.
 */
#include "core/boot/screen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define COLUMNS 8u
#define ROWS 3u

/* Row by row, without what is blank at their ends. */
static void check(const struct screen *s, const char *rows[ROWS])
{
    for (unsigned r = 0; r < ROWS; r++) {
        const char *text = rows[r];
        for (unsigned c = 0; c < COLUMNS; c++) {
            uint16_t cell = s->cells[r * COLUMNS + c];
            assert_int_equal(cell & 0xff, *text ? *text++ : ' ');
            assert_int_equal(cell >> 8, 7);
        }
    }
}

static void test_lines(void **state)
{
    (void)state;
    struct screen s = { malloc(COLUMNS * ROWS * sizeof(uint16_t)), COLUMNS, ROWS, 0 };
    for (unsigned i = 0; i < COLUMNS * ROWS; i++)
        s.cells[i] = 0x0700 | ' ';
    screen_line(&s, "one");
    check(&s, (const char *[]){ "one", "", "" });
    screen_line(&s, "twelve of 8");
    check(&s, (const char *[]){ "one", "twelve o", "f 8" });
    screen_line(&s, "");
    check(&s, (const char *[]){ "twelve o", "f 8", "" });
    screen_line(&s, "just one");
    check(&s, (const char *[]){ "f 8", "", "just one" });
    screen_line(&s, "a line of four rows, no less");
    check(&s, (const char *[]){ "f four r", "ows, no ", "less" });
    s.row = 200; /* nonsense from the firmware, as the caller may have it */
    screen_line(&s, "end");
    check(&s, (const char *[]){ "", "", "end" });
    free(s.cells);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_lines) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
