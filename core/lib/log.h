/*
 * The serial log: one line a call, marked with this Strata's level and the time-stamp counter.
 * Never called on the way of an exit in normal operation.
 */
#ifndef STRATA_LOG_H
#define STRATA_LOG_H

#include "core/lib/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* port 0: no serial output. The line settings of the port stay as the firmware left them when it is in use, else 115200 8N1. */
void log_init(uint16_t port);
void log_set(uint16_t port, enum log_level level);
/* 1 = nearest the machine. */
void log_set_strata_level(unsigned level);
unsigned log_strata_level(void);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* Raw text, between log_lock and log_unlock. */
void log_lock(void);
void log_unlock(void);
void log_text(const char *text);
/* log_lock for the panic page: does not wait for a holder that may never come back. */
void log_force(void);

#endif
