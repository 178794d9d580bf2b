/*
 * printf-style formatting into a bounded buffer, for the log and the panic page.
 * Conversions: %c %s %d %i %u %x %X %p %%, with flags '-' and '0', width (also '*'), precision of %s
 * (also '*'), and sizes l, ll, z. Anything else is copied as it stands.
 */
#ifndef STRATA_FORMAT_H
#define STRATA_FORMAT_H

#include <stdarg.h>

#include "core/lib/types.h"

/*
 * Writes at most size bytes including a terminating zero (none when size is 0). Returns the number of
 * characters that the whole text has, like snprintf: a result >= size means that it was cut.
 */
int format(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int vformat(char *out, size_t size, const char *fmt, va_list args) __attribute__((format(printf, 3, 0)));

#endif
