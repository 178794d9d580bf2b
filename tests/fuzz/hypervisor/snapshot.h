/*
 * A machine on which Strata has just booted, as often as one likes: made once for each configuration, then put back byte
 * by byte (Strata's variables, its heap, its memory), so that no input sees what another one left.
 */
#ifndef STRATA_FUZZ_SNAPSHOT_H
#define STRATA_FUZZ_SNAPSHOT_H

#include "core/cpu/vmcs_fields.h"

enum snapshot_machine {
    SNAPSHOT_TWO_CPUS = 1,
    SNAPSHOT_SHADOW_OFF = 2,
    SNAPSHOT_NO_WRITE_INFO = 4,
    SNAPSHOT_NO_PML = 8,
    SNAPSHOT_NO_FLAGS = 16,
    SNAPSHOT_NO_APIC = 32,
    SNAPSHOT_SMALL_POOL = 64, /* hardly more pages than Strata insists on */
    SNAPSHOT_PLAIN = 128,     /* a processor without anything that came after unrestricted guest */
};
enum snapshot_switches { SNAPSHOT_LARGE = 1, SNAPSHOT_COALESCE = 2, SNAPSHOT_HISTORY = 4, SNAPSHOT_PREFILL = 8 };
#define SNAPSHOT_SWITCHES 15u

struct snapshot_key {
    uint8_t machine;  /* enum snapshot_machine */
    uint8_t off;      /* enum snapshot_switches that are off */
    uint8_t capsless; /* 0: nothing; else a seed: some capabilities that Strata can do without are missing */
};

/* CPU 0 is selected; no guest is in VMX operation. */
void snapshot_start(struct snapshot_key key);

/* What vmcs01 of a CPU held then. */
extern uint64_t snapshot_vmcs01[2][FIELD_COUNT];

/* Memory of Strata's that nobody may touch: neither readable nor writable. */
extern const uint64_t snapshot_forbidden, snapshot_forbidden_end;

#endif
