/*
 * Where boot.S enters C.
 */
#ifndef STRATA_MAIN_H
#define STRATA_MAIN_H

/* info: the boot loader's multiboot2 information, at its physical address. */
_Noreturn void main_bsp(const void *info);

#endif
