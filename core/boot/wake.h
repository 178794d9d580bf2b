/*
 * Strata's own start on the CPUs other than the one that booted.
 */
#ifndef STRATA_WAKE_H
#define STRATA_WAKE_H

/*
 * Starts all other CPUs of cpus[]; each enters VMX and waits in its guest for a SIPI. Returns NULL, or why one could not
 * (then those that could are stopped).
 */
const char *wake_cpus(void);

#endif
