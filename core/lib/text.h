/*
 * Pieces of text that end by length rather than by a zero byte, as a command line is made of.
 */
#ifndef STRATA_TEXT_H
#define STRATA_TEXT_H

#include "core/lib/types.h"

/* A piece of text inside a larger one; not terminated. */
struct text {
    const char *start;
    size_t length;
};

/* True when piece is exactly word (a terminated string). */
bool text_equals(struct text piece, const char *word);
/* True when piece starts with word (a terminated string). */
bool text_starts(struct text piece, const char *word);
/* The part of piece behind its first `skip` characters; empty when it is shorter. */
struct text text_skip(struct text piece, size_t skip);
/*
 * Parses all of piece as a number in base 10 or 16 ("0x" allowed in base 16). False when it is empty, has
 * another character or is greater than max; *value is then unchanged.
 */
bool text_number(struct text piece, unsigned base, uint64_t max, uint64_t *value);

#endif
