/*
 * The few lines that Strata has for the screen of a PC in text mode, before anybody else has it. Pure.
 */
#ifndef STRATA_SCREEN_H
#define STRATA_SCREEN_H

#include "core/lib/types.h"

struct screen {
    uint16_t *cells; /* character and attribute, row by row */
    unsigned columns, rows;
    unsigned row; /* where the next line begins; rows: the screen is full */
};

/* Writes a line; a long one takes several rows. What leaves the top is lost. */
void screen_line(struct screen *screen, const char *text);

#endif
