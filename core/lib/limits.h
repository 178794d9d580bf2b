/*
 * Upper bounds on what Strata keeps of the machine: arrays are sized by these, so that nothing
 * that a machine or a boot loader announces makes them overflow.
 */
#ifndef STRATA_LIMITS_H
#define STRATA_LIMITS_H

#define MAX_CPUS 64         /* logical processors; a machine with more is refused, for all are Strata's or none */
#define MEMMAP_ENTRIES 512  /* ranges of the memory map, after merging */
#define MAX_BOOT_MODULES 16 /* modules that the boot loader put into memory */

#endif
