/*
 * Serial output, polled. The only state is the port, the filter and a lock that keeps lines of two CPUs apart.
 */
#include "core/lib/log.h"

#include "core/lib/format.h"
#include "core/lib/hw.h"

#define UART_INTERRUPT_ENABLE 1
#define UART_FIFO_CONTROL 2
#define UART_LINE_CONTROL 3
#define UART_MODEM_CONTROL 4
#define UART_LINE_STATUS 5
#define UART_SCRATCH 7
#define LINE_STATUS_EMPTY 0x20
#define LINE_CONTROL_8N1 0x03
#define LINE_CONTROL_DIVISOR 0x80
#define WAIT_LIMIT 1000000u /* polls; a port that never empties is given up */
#define LINE_SIZE 256

static uint16_t log_port;
static enum log_level log_filter = LOG_INFO;
static unsigned strata_level = 1;
static uint32_t locked;

/* Registers answer what was written into the scratch register only if there is a UART. */
static bool uart_present(uint16_t port)
{
    hw_outb((uint16_t)(port + UART_SCRATCH), 0x5a);
    return hw_inb((uint16_t)(port + UART_SCRATCH)) == 0x5a;
}

void log_init(uint16_t port)
{
    log_port = port && uart_present(port) ? port : 0;
    if (!log_port)
        return;
    uint16_t line = (uint16_t)(port + UART_LINE_CONTROL);
    hw_outb(line, LINE_CONTROL_DIVISOR | LINE_CONTROL_8N1);
    hw_outb(port, 1); /* 115200 baud */
    hw_outb((uint16_t)(port + UART_INTERRUPT_ENABLE), 0);
    hw_outb(line, LINE_CONTROL_8N1);
    hw_outb((uint16_t)(port + UART_MODEM_CONTROL), 3);
}

void log_set(uint16_t port, enum log_level level)
{
    log_filter = level;
    if (port != log_port)
        log_init(port);
}

void log_set_strata_level(unsigned level) { strata_level = level; }
unsigned log_strata_level(void) { return strata_level; }

static void log_char(char c)
{
    if (!log_port)
        return;
    for (unsigned i = 0; i < WAIT_LIMIT && !(hw_inb((uint16_t)(log_port + UART_LINE_STATUS)) & LINE_STATUS_EMPTY); i++)
        hw_pause();
    hw_outb(log_port, (uint8_t)c);
}

void log_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            log_char('\r');
        log_char(*text);
    }
}

void log_lock(void)
{
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
        hw_pause();
}

void log_unlock(void) { __atomic_store_n(&locked, 0, __ATOMIC_RELEASE); }

void log_force(void) { __atomic_store_n(&locked, 1, __ATOMIC_RELAXED); }

void log_line(enum log_level level, const char *fmt, ...)
{
    if (level > log_filter)
        return;
    char line[LINE_SIZE];
    va_list args;
    va_start(args, fmt);
    vformat(line, sizeof(line), fmt, args);
    va_end(args);
    char head[48];
    format(head, sizeof(head), "strata[L%u] %llu: %s", strata_level, (unsigned long long)hw_rdtsc(),
           level == LOG_WARN ? "warning: " : "");
    log_lock();
    log_text(head);
    log_text(line);
    log_text("\n");
    log_unlock();
}
