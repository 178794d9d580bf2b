/*
 * VMCSs near the border between valid and invalid, where checks that are missing or wrong show: a VMCS of any values is
 * rounded to one that passes every check of VM entry (by the rules that the fake processor has), then a few bits are flipped.
 */
#ifndef STRATA_FUZZ_NEARLY_H
#define STRATA_FUZZ_NEARLY_H

#include "core/cpu/vmcs_fields.h"
#include "tests/host/support/support.h"

/* What the nested guest is. */
enum nearly { NEARLY_LONG, NEARLY_PAE, NEARLY_FLAT, NEARLY_V86, NEARLY_REAL, NEARLY_COUNT };

/* A valid vmcs12 under the capabilities that are offered. ia32e: the guest hypervisor is in IA-32e mode. */
void nearly_base(uint64_t values[FIELD_COUNT], enum nearly kind, bool ia32e);
/* Some fields become random, some those of the base. */
void nearly_scatter(uint64_t values[FIELD_COUNT], const uint64_t base[FIELD_COUNT], struct test_random *random);
/* Replaces what breaks a rule by what the base has, until none is broken. region: of the VMCS. */
void nearly_round(uint64_t values[FIELD_COUNT], const uint64_t base[FIELD_COUNT], bool ia32e, gpa1_t region);
void nearly_flip(uint64_t values[FIELD_COUNT], struct test_random *random, unsigned bits);

#endif
