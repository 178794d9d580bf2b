/*
 * MSR accesses of the guest that Strata does not leave to the processor.
 */
#ifndef STRATA_MSR_H
#define STRATA_MSR_H

#include "core/lib/types.h"

#define MSR_BITMAP_READ_LOW 0x000  /* offsets of the four parts of an MSR bitmap: 0..1FFFh */
#define MSR_BITMAP_READ_HIGH 0x400 /* C000_0000h..C000_1FFFh */
#define MSR_BITMAP_WRITE_LOW 0x800
#define MSR_BITMAP_WRITE_HIGH 0xc00
#define MSR_BITMAP_PART_MSRS 0x2000
#define MSR_BITMAP_HIGH_FIRST 0xc0000000u

/*
 * An MSR in a list of the guest hypervisor's (SDM 3, "MSR areas"): as if it had executed RDMSR or WRMSR, which for MSRs that are not
 * Strata's does not exit. False: #GP.
 */
bool msr_read(uint32_t msr, uint64_t *value);
bool msr_write(uint32_t msr, uint64_t value);

/* The guest's writes of it go to the processor without an exit. */
bool msr_is_guests(uint32_t msr);

/* Fills Strata's MSR bitmap (4 KiB): what of the guest's accesses must exit. */
void msr_bitmap_init(uint8_t *bitmap);
/* From now on writes of the x2APIC ICR exit, or do not. */
void msr_bitmap_take_icr(uint8_t *bitmap);
void msr_bitmap_release_icr(uint8_t *bitmap);

#endif
