/*
 * Names of the counters, from the tables in counters.h and vmx.h.
 */
#include "core/lib/counters.h"

#include "core/lib/format.h"
#include "core/lib/string.h"

static const char *const reason_names[REASON_COUNT] = {
#define X(name, number) [number] = #name,
    EXIT_REASONS(X)
#undef X
};

static const char *const row_names[] = {
#define X(identifier, name) name,
    COUNTERS(X)
#undef X
};
_Static_assert(ARRAY_SIZE(row_names) == COUNTER_COUNT - COUNT_FIRST_ROW - 1, "one name a row");

const char *exit_reason_name(unsigned reason) { return reason < REASON_COUNT ? reason_names[reason] : NULL; }

void counter_name(unsigned index, char out[COUNTER_NAME_SIZE])
{
    static const char *const groups[] = { "exit.l2", "exit.l3", "reflect" };
    memset(out, 0, COUNTER_NAME_SIZE);
    if (index > COUNT_FIRST_ROW)
        format(out, COUNTER_NAME_SIZE, "%s", row_names[index - COUNT_FIRST_ROW - 1]);
    else if (reason_names[index % REASON_COUNT])
        format(out, COUNTER_NAME_SIZE, "%s.%s", groups[index / REASON_COUNT], reason_names[index % REASON_COUNT]);
}
