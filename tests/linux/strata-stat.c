/*
 * strata-stat: reads the counters of every Strata below the program, without privilege, through
 * CPUID. Owns the user's side of that interface: leaves 40000100h.. as DESIGN.md, "Counters", has
 * them. Knows no counter by name, so that a new one shows up by itself. Must work as the guest's
 * only program: static, no file read, one line and exit status 1 where no Strata answers.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/linux/strata-stat.h"

#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_STRATA 0x40000100u
#define LEAF_INFO 0x40000101u
#define LEAF_READ 0x40000102u
#define LEAF_NAME 0x40000103u
#define LEAF_MARK 0x40000104u

#define CPU_ALL 0xffu
#define INTERFACE 1u
#define LEVELS_MAX 16u
#define COUNTERS_MAX 1024u

struct regs {
    uint32_t eax, ebx, ecx, edx;
};

static struct regs cpuid(uint32_t leaf, uint32_t ecx)
{
    struct regs r;

    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(ecx) : "memory");
    return r;
}

static uint64_t rdtsc(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static int strata_present(void)
{
    struct regs r = cpuid(1, 0);

    if (!(r.ecx & 1u << 31))
        return 0;
    if (cpuid(LEAF_HYPERVISOR, 0).eax < LEAF_HYPERVISOR)
        return 0;
    r = cpuid(LEAF_STRATA, 0);
    return !memcmp(&r.ebx, "StrataStrata", 12) && r.eax >= LEAF_MARK;
}

static uint64_t counter_read(uint32_t hop, uint32_t cpu, uint32_t index)
{
    struct regs r = cpuid(LEAF_READ, index | cpu << 16 | hop << 24);

    return r.ecx & 1 ? (uint64_t)r.ebx << 32 | r.eax : 0;
}

static void counter_name(uint32_t hop, uint32_t index, char name[NAME_SIZE + 1])
{
    for (uint32_t chunk = 0; chunk < NAME_CHUNKS; chunk++) {
        struct regs r = cpuid(LEAF_NAME, index | chunk << 16 | hop << 24);

        memcpy(name + 16 * chunk, &r, 16);
    }
    name[NAME_SIZE] = '\0';
}

void *need(void *memory)
{
    if (!memory) {
        fputs("strata-stat: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

void level_read(const struct level *level, uint64_t *values)
{
    for (uint32_t i = 0; i < level->counters; i++)
        values[i] = counter_read(level->hop, CPU_ALL, i);
}

/* Fills in the level HOP steps down; 0 if there is none. */
static int level_open(struct level *level, uint32_t hop)
{
    struct regs r = cpuid(LEAF_INFO, hop << 24);

    if (r.eax == 0)
        return 0;
    if (r.eax != INTERFACE) {
        fprintf(stderr, "strata-stat: Strata speaks version %u of the counter interface, this program %u\n", r.eax,
                INTERFACE);
        exit(1);
    }
    level->hop = hop;
    level->number = r.ebx;
    level->cpus = r.ecx;
    level->counters = r.edx < COUNTERS_MAX ? r.edx : COUNTERS_MAX;
    level->names = need(calloc(level->counters + 1, sizeof(*level->names)));
    level->values = need(calloc(level->counters + 1, sizeof(*level->values)));
    for (uint32_t i = 0; i < level->counters; i++)
        counter_name(hop, i, level->names[i]);
    return 1;
}

void name_absolute(const struct level *level, uint32_t i, char *out, size_t size)
{
    const char *name = level->names[i];
    const char *at = strstr(name, ".l");
    char *end;

    if (!at || at[2] < '0' || at[2] > '9') {
        snprintf(out, size, "%s", name);
        return;
    }
    unsigned long relative = strtoul(at + 2, &end, 10);
    snprintf(out, size, "%.*s.L%lu%s", (int)(at - name), name, relative + level->number - 1, end);
}

static void print_table(const struct level *levels, uint32_t count)
{
    for (uint32_t l = 0; l < count; l++) {
        printf("Strata L%u, %u CPUs\n", levels[l].number, levels[l].cpus);
        for (uint32_t i = 0; i < levels[l].counters; i++) {
            char name[NAME_SIZE + 16];

            if (!levels[l].values[i])
                continue;
            name_absolute(&levels[l], i, name, sizeof(name));
            printf("  %-44s %14llu\n", name, (unsigned long long)levels[l].values[i]);
        }
    }
}

static void print_json(const struct level *levels, uint32_t count)
{
    printf("{\"tsc\":%llu,\"levels\":[", (unsigned long long)rdtsc());
    for (uint32_t l = 0; l < count; l++) {
        const char *comma = "";

        printf("%s{\"level\":%u,\"cpus\":%u,\"counters\":{", l ? "," : "", levels[l].number, levels[l].cpus);
        for (uint32_t i = 0; i < levels[l].counters; i++) {
            if (!levels[l].values[i])
                continue;
            printf("%s\"%s\":%llu", comma, levels[l].names[i], (unsigned long long)levels[l].values[i]);
            comma = ",";
        }
        printf("}}");
    }
    printf("]}\n");
}

static int usage(void)
{
    fputs("usage: strata-stat [--hop K] [--json]            counters that are not zero, of every Strata or of one\n"
          "       strata-stat [--hop K] --watch [--count N]  every second (N times): what moved, most first\n"
          "       strata-stat mark N                         every Strata stamps N and prints its counters\n"
          "       strata-stat tsc                            the time stamp counter\n",
          stderr);
    return 2;
}

/* A decimal number up to MAX; anything else is a usage error. */
static uint32_t number(const char *text, uint32_t max)
{
    char *end;
    unsigned long value = text ? strtoul(text, &end, 10) : 0;

    if (!text || end == text || *end || value > max)
        exit(usage());
    return (uint32_t)value;
}

static int report(int argc, char **argv)
{
    struct level levels[LEVELS_MAX];
    uint32_t first = 0, limit = LEVELS_MAX, count = 0, times = 0;
    int json = 0, follow = 0;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            json = 1;
        } else if (!strcmp(argv[i], "--watch")) {
            follow = 1;
        } else if (!strcmp(argv[i], "--count")) {
            times = number(argv[++i], UINT32_MAX);
        } else if (!strcmp(argv[i], "--hop")) {
            first = number(argv[++i], LEVELS_MAX - 1);
            limit = 1;
        } else {
            return usage();
        }
    }
    while (count < limit && level_open(&levels[count], first + count)) {
        level_read(&levels[count], levels[count].values);
        count++;
    }
    if (!count) {
        fprintf(stderr, "strata-stat: no Strata answers at hop %u\n", first);
        return 1;
    }
    if (follow)
        watch(levels, count, times);
    else if (json)
        print_json(levels, count);
    else
        print_table(levels, count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "tsc")) {
        printf("%llu\n", (unsigned long long)rdtsc());
        return 0;
    }
    if (argc >= 2 && !strcmp(argv[1], "mark") && argc != 3)
        return usage();
    if (!strata_present()) {
        fputs("strata-stat: no Strata below this system\n", stderr);
        return 1;
    }
    if (argc == 3 && !strcmp(argv[1], "mark")) {
        if (cpuid(LEAF_MARK, number(argv[2], 0xffffff)).eax == 0) {
            fputs("strata-stat: programs may not have counters printed: boot Strata with mark=any\n", stderr);
            return 1;
        }
        return 0;
    }
    return report(argc, argv);
}
