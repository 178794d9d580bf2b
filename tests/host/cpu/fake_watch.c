/*
 * The watch of tests; see fake_watch.h.
 */
#include "tests/host/cpu/fake_watch.h"

#include <stdlib.h>
#include <string.h>

#define PAGES_MAX 4096
#define MOODY 16 /* one answer in so many is a bad one */

struct watch_client {
    struct {
        uint64_t page;
        bool written;
    } pages[PAGES_MAX];
    unsigned count, written;
    bool unknown;
};

static struct watch_client clients[FAKE_WATCH_CLIENTS];
static uint64_t (*mood)(uint64_t limit);
static void (*add_hook)(gpa1_t page);

void fake_watch_reset(uint64_t (*moody)(uint64_t limit))
{
    mood = moody;
    add_hook = NULL;
    for (unsigned i = 0; i < FAKE_WATCH_CLIENTS; i++)
        clients[i] = (struct watch_client){ .count = 0 };
}

void fake_watch_on_add(void (*hook)(gpa1_t page)) { add_hook = hook; }
struct watch_client *fake_watch_client(unsigned index) { return &clients[index]; }
void fake_watch_lose(unsigned index) { clients[index].unknown = true; }
unsigned fake_watch_count(unsigned index) { return clients[index].count; }

static unsigned find(const struct watch_client *client, uint64_t page)
{
    unsigned i = 0;
    while (i < client->count && client->pages[i].page != page)
        i++;
    return i;
}

bool watch_add(struct watch_client *client, gpa1_t page)
{
    if (add_hook)
        add_hook(page);
    unsigned i = find(client, page.v);
    if ((mood && mood(MOODY) == 0) || i == PAGES_MAX)
        return false;
    if (i == client->count) {
        client->pages[client->count].page = page.v;
        client->pages[client->count++].written = false;
    }
    return true;
}

void watch_remove(struct watch_client *client, gpa1_t page)
{
    unsigned i = find(client, page.v);
    if (i == client->count)
        abort();
    client->written -= client->pages[i].written;
    client->pages[i] = client->pages[--client->count];
}

unsigned watch_take(struct watch_client *client, gpa1_t *pages, unsigned max)
{
    unsigned taken = 0;
    if (client->written == 0 && !client->unknown)
        return 0;
    bool unknown = client->unknown || (mood && mood(MOODY) == 0);
    client->unknown = false;
    for (unsigned i = 0; i < client->count && (unknown || taken < max); i++) {
        if (!client->pages[i].written)
            continue;
        client->pages[i].written = false;
        client->written--;
        if (!unknown)
            pages[taken++] = gpa1(client->pages[i].page);
    }
    return unknown ? WATCH_UNKNOWN : taken;
}

void fake_watch_written(gpa1_t page)
{
    for (unsigned c = 0; c < FAKE_WATCH_CLIENTS; c++) {
        unsigned i = find(&clients[c], page.v);
        if (i < clients[c].count && !clients[c].pages[i].written) {
            clients[c].pages[i].written = true;
            clients[c].written++;
        }
    }
}
