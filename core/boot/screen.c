/*
 * See screen.h. Pure.
 */
#include "core/boot/screen.h"

#include "core/memory/mem.h"

#define ATTRIBUTE 0x0700 /* light grey on black */
#define BLANK (ATTRIBUTE | ' ')

static void scroll(struct screen *s)
{
    for (unsigned i = 0; i < (s->rows - 1) * s->columns; i++)
        s->cells[i] = s->cells[i + s->columns];
    for (unsigned i = 0; i < s->columns; i++)
        s->cells[(s->rows - 1) * s->columns + i] = BLANK;
}

void screen_line(struct screen *s, const char *text)
{
    do {
        for (; s->row >= s->rows; s->row--)
            scroll(s);
        uint16_t *cells = s->cells + s->row++ * s->columns;
        for (unsigned i = 0; i < s->columns; i++)
            cells[i] = *text ? (uint16_t)(ATTRIBUTE | (uint8_t)*text++) : BLANK;
    } while (*text);
}
