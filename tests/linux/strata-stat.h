/*
 * The parts of strata-stat: strata-stat.c reads the counters and prints them once, strata-watch.c shows what moves.
 */
#ifndef STRATA_STAT_H
#define STRATA_STAT_H

#include <stddef.h>
#include <stdint.h>

#define NAME_CHUNKS 4u
#define NAME_SIZE (16u * NAME_CHUNKS)

/* One Strata below this program. */
struct level {
    uint32_t hop;    /* 0: the one just below this program */
    uint32_t number; /* 1: the one nearest the machine */
    uint32_t cpus;
    uint32_t counters;
    char (*names)[NAME_SIZE + 1];
    uint64_t *values;
};

/* Reads all counters, sums over all CPUs; each is one CPUID, which is an exit of its own at each level it passes. */
void level_read(const struct level *level, uint64_t *values);
/* A counter "exit.l2.x" counts its own Strata's guest, as if that Strata were L1: says the absolute level ("exit.L3.x"). */
void name_absolute(const struct level *level, uint32_t i, char *out, size_t size);
/* The pointer; ends the program where it is NULL. */
void *need(void *memory);

/* Once a second what has moved, until `q` is pressed or `times` are over (0: never). */
void watch(struct level *levels, uint32_t count, uint32_t times);

#endif
