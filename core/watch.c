/*
 * See watch.h. On processors without accessed and dirty flags in EPT nothing can be watched.
 */
#include "core/watch.h"

bool watch_add(struct watch_client *client, gpa1_t page)
{
    (void)client, (void)page;
    return false;
}

void watch_remove(struct watch_client *client, gpa1_t page) { (void)client, (void)page; }

unsigned watch_take(struct watch_client *client, gpa1_t *pages, unsigned max)
{
    (void)client, (void)pages, (void)max;
    return WATCH_UNKNOWN;
}
