/*
 * How a kernel that Strata has loaded is entered, as Strata's guest or in Strata's place.
 */
#ifndef STRATA_GUEST_ENTRY_H
#define STRATA_GUEST_ENTRY_H

/* GDT selectors, as Linux's boot protocol has them */
#define KERNEL_CODE 0x10
#define KERNEL_DATA 0x18
#define KERNEL_CODE32 0x20 /* 32-bit code: the way out of long mode */
#define KERNEL_GDT_SIZE 40

/* Offsets in struct guest_entry, asserted in handover.c */
#define ENTRY_AT_RIP 0
#define ENTRY_AT_RAX 8
#define ENTRY_AT_RBX 16
#define ENTRY_AT_RSI 24
#define ENTRY_AT_CR3 32
#define ENTRY_AT_GDT 40
#define ENTRY_AT_PAGE 48
#define ENTRY_AT_LONG 56

#ifndef __ASSEMBLER__
#include "core/lib/types.h"

/* Interrupts are off, all other general registers 0. */
struct guest_entry {
    uint64_t rip;
    uint64_t rax, rbx, rsi;
    uint64_t cr3;      /* tables that map the first 4 GiB at their addresses */
    uint64_t gdt_base; /* KERNEL_GDT_SIZE bytes; KERNEL_CODE is 64-bit code where long_mode is set */
    uint64_t page; /* a page below 4 GiB, of the guest's, for what enters it without VMX; the GDT is at its beginning */
    uint64_t long_mode; /* 1: 64-bit mode; 0: protected mode without paging */
};
#endif
#endif
