/*
 * Comparisons and numbers in pieces of text. Pure. The text may come from anybody: no byte behind a piece is read.
 */
#include "core/lib/text.h"

bool text_starts(struct text piece, const char *word)
{
    for (size_t i = 0; word[i]; i++)
        if (i >= piece.length || piece.start[i] != word[i])
            return false;
    return true;
}

bool text_equals(struct text piece, const char *word)
{
    size_t length = 0;
    while (word[length])
        length++;
    return piece.length == length && text_starts(piece, word);
}

struct text text_skip(struct text piece, size_t skip)
{
    if (skip > piece.length)
        skip = piece.length;
    return (struct text){ piece.start + skip, piece.length - skip };
}

/* Value of a digit, or -1. */
static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool text_number(struct text piece, unsigned base, uint64_t max, uint64_t *value)
{
    if (base == 16 && (text_starts(piece, "0x") || text_starts(piece, "0X")))
        piece = text_skip(piece, 2);
    if (piece.length == 0)
        return false;
    uint64_t number = 0;
    for (size_t i = 0; i < piece.length; i++) {
        int digit = digit_value(piece.start[i]);
        if (digit < 0 || (unsigned)digit >= base)
            return false;
        if ((uint64_t)digit > max || number > (max - (uint64_t)digit) / base)
            return false;
        number = number * base + (uint64_t)digit;
    }
    *value = number;
    return true;
}
