/*
 * Numbers that assembly and C share. Only #defines: assembly includes this file.
 */
#ifndef STRATA_ASM_H
#define STRATA_ASM_H

/* GDT selectors while booting (boot.S) */
#define BOOT_CS64 0x08
#define BOOT_DS 0x10
#define BOOT_STACK_SIZE 16384

/* GDT selectors of a running CPU (cpu.c) */
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS 0x18

/* Offsets in struct cpu, asserted in cpu.c */
#define CPU_STACK_SIZE 16384
#define CPU_REGS CPU_STACK_SIZE
#define CPU_EVENT_PENDING (CPU_REGS + 16 * 8)

/* The one page of conventional memory that a level takes (realmode.S). Offsets in it. */
#define LOW_AP_ENTRY 0x000 /* where a SIPI starts a CPU of Strata itself */
#define LOW_SIZE 4096

#endif
