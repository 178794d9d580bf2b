/*
 * Passes the serial line of QEMU's machine on to the console. Behind a line that says "bench-mark:" (passed on by a system in between, too) it adds what KVM has
 * counted so far ("strata-below: exits=N irq=N io=N"): the machine waits a moment after such a line, so that the numbers
 * are those of its place.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK "bench-mark:"

static long counter(const char *name)
{
    char path[64], text[32];
    snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%s", name);
    int file = open(path, O_RDONLY);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (file >= 0)
        close(file);
    if (size <= 0)
        return -1;
    text[size] = '\0';
    return atol(text);
}

static void all(int out, const char *data, size_t size)
{
    while (size) {
        ssize_t done = write(out, data, size);
        if (done <= 0)
            exit(1);
        data += done;
        size -= (size_t)done;
    }
}

static void note(int out)
{
    char text[96];
    long exits = counter("exits"), irq = counter("irq_exits"), io = counter("io_exits");
    int size = snprintf(text, sizeof(text), "strata-below: exits=%ld irq=%ld io=%ld\n", exits, irq, io);
    all(out, text, (size_t)size);
}

int main(void)
{
    static char data[4096];
    size_t at = 0; /* how much of MARK has been seen in the line */
    int out = open("/dev/console", O_WRONLY | O_NOCTTY);
    ssize_t size;
    if (out < 0)
        return 1;
    while ((size = read(0, data, sizeof(data))) > 0) {
        size_t from = 0;
        for (size_t i = 0; i < (size_t)size; i++) {
            if (data[i] != '\n') {
                if (at < sizeof(MARK) - 1)
                    at = data[i] == MARK[at] ? at + 1 : data[i] == MARK[0];
                continue;
            }
            if (at == sizeof(MARK) - 1) {
                all(out, data + from, i + 1 - from);
                from = i + 1;
                note(out);
            }
            at = 0;
        }
        all(out, data + from, (size_t)size - from);
    }
    return 0;
}
