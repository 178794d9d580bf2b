/*
 * See panic.h. A panic inside a panic prints its line and stops.
 */
#include "core/lib/panic.h"

#include "core/lib/format.h"
#include "core/lib/hw.h"
#include "core/lib/log.h"

#define LINE_SIZE 256

static void (*show)(void);

void panic_show(void (*page)(void)) { show = page; }

void panic_print(const char *fmt, ...)
{
    char line[LINE_SIZE];
    va_list args;
    va_start(args, fmt);
    vformat(line, sizeof(line), fmt, args);
    va_end(args);
    log_text(line);
}

void panic(const char *fmt, ...)
{
    static uint32_t panicking;
    char line[LINE_SIZE];
    va_list args;
    va_start(args, fmt);
    vformat(line, sizeof(line), fmt, args);
    va_end(args);
    bool again = __atomic_exchange_n(&panicking, 1, __ATOMIC_RELAXED);
    log_force();
    panic_print("\nstrata[L%u] %llu: panic: %s\n", log_strata_level(), (unsigned long long)hw_rdtsc(), line);
    if (show && !again)
        show();
    hw_halt();
}
