/*
 * What a panic shows of its CPU.
 */
#ifndef STRATA_PANIC_PAGE_H
#define STRATA_PANIC_PAGE_H

/* For panic_show(): the CPU's VMCS and its last exits, if it is one of cpus[]. */
void panic_page(void);

#endif
