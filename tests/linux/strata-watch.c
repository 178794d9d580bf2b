/*
 * strata-stat --watch: once a second the counters that moved, most first, all levels side by side, as many as the terminal
 * has room for. Reading is itself some hundred exits: what one reading costs is measured with each sample and left out.
 * Must leave the terminal as it was, however it ends.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/linux/strata-stat.h"

#define NAME_WIDTH 34
#define COLUMN_WIDTH 26 /* of one level: in a second, and in all */
#define HEAD_LINES 3
#define PLAIN_LINES 1000

enum sort { BY_MOVED, BY_TOTAL, BY_NAME, SORTS };
static const char *const sort_names[SORTS] = { "what moved most", "total", "name" };

/* A counter by its absolute name, with its place in each level. */
struct row {
    char name[NAME_SIZE + 16];
    int *index; /* by level; -1: the level has no such counter */
    uint64_t moved, total;
};

/* What is known of one level: its newest values, how much they grew without what reading did, and that. */
struct sample {
    uint64_t *values, *moved, *own;
};

struct view {
    struct level *levels;
    uint32_t count;
    struct sample *samples;
    struct row *rows;
    uint32_t row_count;
    enum sort sort;
};

static struct termios terminal;
static int terminal_changed;

static void terminal_restore(void)
{
    if (terminal_changed)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
    terminal_changed = 0;
}

static void on_signal(int number)
{
    terminal_restore();
    _exit(128 + number);
}

/* Keys arrive one by one, and are not shown. */
static void terminal_prepare(void)
{
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal))
        return;
    struct termios raw = terminal;
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    terminal_changed = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    atexit(terminal_restore);
}

static uint64_t *numbers(uint32_t count) { return need(calloc(count + 1, sizeof(uint64_t))); }

/*
 * Reads twice. Between the first reading and the last one's second lie the interval and exactly one reading's exits, as many as lie
 * between these two; what happened meanwhile beside them makes that too many, so the least ever seen counts.
 */
static void sample_take(struct view *view, int first)
{
    for (uint32_t l = 0; l < view->count; l++) {
        const struct level *level = &view->levels[l];
        struct sample *s = &view->samples[l];
        level_read(level, s->moved);
        for (uint32_t i = 0; i < level->counters; i++)
            s->moved[i] -= s->values[i];
    }
    for (uint32_t l = 0; l < view->count; l++) {
        const struct level *level = &view->levels[l];
        struct sample *s = &view->samples[l];
        uint64_t *again = numbers(level->counters);
        level_read(level, again);
        for (uint32_t i = 0; i < level->counters; i++) {
            uint64_t own = again[i] - s->values[i] - s->moved[i];
            if (first || own < s->own[i])
                s->own[i] = own;
            s->moved[i] -= s->moved[i] < s->own[i] ? s->moved[i] : s->own[i];
            s->values[i] = again[i];
        }
        free(again);
    }
}

static struct row *row_of(struct view *view, const char *name)
{
    for (uint32_t r = 0; r < view->row_count; r++)
        if (!strcmp(view->rows[r].name, name))
            return &view->rows[r];
    struct row *row = &view->rows[view->row_count++];
    snprintf(row->name, sizeof(row->name), "%s", name);
    row->index = need(calloc(view->count, sizeof(*row->index)));
    for (uint32_t l = 0; l < view->count; l++)
        row->index[l] = -1;
    return row;
}

static void view_open(struct view *view)
{
    uint32_t all = 0;
    for (uint32_t l = 0; l < view->count; l++)
        all += view->levels[l].counters;
    view->rows = need(calloc(all + 1, sizeof(*view->rows)));
    view->samples = need(calloc(view->count, sizeof(*view->samples)));
    for (uint32_t l = 0; l < view->count; l++) {
        const struct level *level = &view->levels[l];
        view->samples[l] = (struct sample){ numbers(level->counters), numbers(level->counters),
                                            numbers(level->counters) };
        for (uint32_t i = 0; i < level->counters; i++) {
            char name[NAME_SIZE + 16];
            name_absolute(level, i, name, sizeof(name));
            row_of(view, name)->index[l] = (int)i;
        }
    }
}

static enum sort sorted_by;

static int compare(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    if (sorted_by == BY_MOVED && x->moved != y->moved)
        return x->moved < y->moved ? 1 : -1;
    if (sorted_by != BY_NAME && x->total != y->total)
        return x->total < y->total ? 1 : -1;
    return strcmp(x->name, y->name);
}

static void view_sort(struct view *view)
{
    for (uint32_t r = 0; r < view->row_count; r++) {
        struct row *row = &view->rows[r];
        row->moved = row->total = 0;
        for (uint32_t l = 0; l < view->count; l++) {
            if (row->index[l] < 0)
                continue;
            row->moved += view->samples[l].moved[row->index[l]];
            row->total += view->samples[l].values[row->index[l]];
        }
    }
    sorted_by = view->sort;
    qsort(view->rows, view->row_count, sizeof(*view->rows), compare);
}

static void row_print(const struct view *view, const struct row *row, uint32_t columns)
{
    printf("%-*.*s", NAME_WIDTH, NAME_WIDTH, row->name);
    for (uint32_t l = 0; l < columns; l++) {
        if (row->index[l] < 0) {
            printf("%*s", COLUMN_WIDTH, "");
            continue;
        }
        printf("%10llu %15llu", (unsigned long long)view->samples[l].moved[row->index[l]],
               (unsigned long long)view->samples[l].values[row->index[l]]);
    }
    putchar('\n');
}

static void view_print(const struct view *view)
{
    struct winsize size = { 0 };
    int tty = isatty(STDOUT_FILENO);
    uint32_t lines = PLAIN_LINES, columns = view->count;
    if (tty && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row && size.ws_col) {
        lines = size.ws_row;
        while (columns > 1 && NAME_WIDTH + columns * COLUMN_WIDTH > size.ws_col)
            columns--;
    }
    if (tty)
        printf("\033[H\033[J");
    printf("Strata, by %s%s\n%-*s", sort_names[view->sort], tty ? "; s: sort, q: quit" : "", NAME_WIDTH, "");
    for (uint32_t l = 0; l < columns; l++)
        printf("   L%-2u in 1 s         in all", view->levels[l].number);
    if (columns < view->count)
        printf(" (%u levels more: a wider terminal)", view->count - columns);
    putchar('\n');
    uint32_t shown = 0;
    for (uint32_t r = 0; r < view->row_count && shown + HEAD_LINES < lines; r++) {
        const struct row *row = &view->rows[r];
        if (view->sort == BY_MOVED ? !row->moved : !row->total)
            continue;
        row_print(view, row, columns);
        shown++;
    }
    if (!shown)
        printf("nothing\n");
    fflush(stdout);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Waits for the second to end, answering keys. 0: quit. */
static int keys_until(struct view *view, double end)
{
    for (;;) {
        double left = end - now();
        if (left <= 0)
            return 1;
        struct pollfd keys = { .fd = terminal_changed ? STDIN_FILENO : -1, .events = POLLIN };
        if (poll(&keys, 1, (int)(left * 1000) + 1) <= 0 || !(keys.revents & POLLIN))
            continue;
        char key;
        if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q')
            return 0;
        if (key != 's')
            continue;
        view->sort = (view->sort + 1) % SORTS;
        view_sort(view);
        view_print(view);
    }
}

void watch(struct level *levels, uint32_t count, uint32_t times)
{
    struct view view = { .levels = levels, .count = count };
    view_open(&view);
    terminal_prepare();
    sample_take(&view, 1);
    for (uint32_t i = 0; !times || i < times; i++) {
        if (!keys_until(&view, now() + 1))
            return;
        sample_take(&view, 0);
        view_sort(&view);
        view_print(&view);
    }
}
