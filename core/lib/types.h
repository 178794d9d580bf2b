/*
 * Types that every file uses: fixed-width integers and the three address spaces.
 * Addresses of different levels are different struct types, so that mixing them does not compile.
 */
#ifndef STRATA_TYPES_H
#define STRATA_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Physical address of the machine that this Strata runs on (ept01 maps to these). */
typedef struct {
    uint64_t v;
} hpa_t;
/* Guest-physical address of the guest hypervisor (ept01 maps from these, ept12 maps to these). */
typedef struct {
    uint64_t v;
} gpa1_t;
/* Guest-physical address of the nested guest (ept12 and ept02 map from these). */
typedef struct {
    uint64_t v;
} gpa2_t;

static inline hpa_t hpa(uint64_t v) { return (hpa_t){ v }; }
static inline gpa1_t gpa1(uint64_t v) { return (gpa1_t){ v }; }
static inline gpa2_t gpa2(uint64_t v) { return (gpa2_t){ v }; }

/* Not merged into its callers: what they save and restore of registers stays short. */
#define OUT_OF_LINE __attribute__((noinline))

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

#define PAGE_SHIFT 12
#define PAGE_SIZE (1ull << PAGE_SHIFT)
#define PAGE_2M (1ull << 21)
#define PAGE_1G (1ull << 30)
#define PAGE_MASK (~(PAGE_SIZE - 1))

#define BIT(n) (1ull << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t align_down(uint64_t v, uint64_t align) { return v & ~(align - 1); }
static inline uint64_t align_up(uint64_t v, uint64_t align) { return (v + align - 1) & ~(align - 1); }

#endif
