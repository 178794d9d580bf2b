/*
 * Boot options: what the multiboot2 command line says, with the defaults for what it does not say.
 * One row of the table in options.c per option; every level of Strata parses its own command line.
 */
#ifndef STRATA_OPTIONS_H
#define STRATA_OPTIONS_H

#include "core/lib/log.h"
#include "core/lib/types.h"

enum option_switch { OPTION_OFF = 0, OPTION_ON = 1 };
enum option_coalesce { COALESCE_OFF, COALESCE_ON, COALESCE_AUTO };
enum option_ept01 { EPT01_LARGE, EPT01_4K };
enum option_vmcs { VMCS_MEMORY, VMCS_INSTRUCTIONS };
enum option_lapic { LAPIC_NATIVE, LAPIC_TRAP };
enum option_mark { MARK_KERNEL, MARK_ANY };
enum option_mitigations { MITIGATIONS_AUTO, MITIGATIONS_ON, MITIGATIONS_OFF };

#define BOOT_NEXT_DRIVE (-1) /* boot the drive behind the one that Strata came from */
#define BIOS_FIRST_DISK 0x80
#define SERIAL_OFF 0
#define SERIAL_COM1 0x3f8

/* Fields are int so that one table can set them all. */
struct options {
    int shadow;   /* enum option_switch: hardware VMCS shadowing */
    int large;    /* enum option_switch: large pages in ept02 */
    int coalesce; /* enum option_coalesce: small neighbours of ept12 become one large page; auto: as multihit.h says */
    int history;  /* enum option_switch: what was touched stays mapped through INVEPT */
    int prefill;  /* enum option_switch: map what the guest hypervisor has just handled */
    int x2apic;   /* enum option_switch: x2APIC and APIC virtualization offered */
    int ept01;    /* enum option_ept01: pages of ept01 where there is RAM */
    int lapic;    /* enum option_lapic */
    int mitigations; /* enum option_mitigations: barriers against speculation */
    int mark;        /* enum option_mark: who may have the counters printed */
    int vmcs;        /* enum option_vmcs: where VMCSs that are not current are read and written */
    int boot;        /* BIOS drive number, or BOOT_NEXT_DRIVE */
    int log;         /* enum log_level: the least urgent level that is printed */
    int serial;      /* I/O port, or SERIAL_OFF */
};

/* Receives one line of text without a newline, valid during the call. */
typedef void (*option_complain)(const char *text);

/*
 * Parses words "name=value" from left to right, later ones override earlier ones; the first word may be the
 * image's file name (it has no '='), and everything behind a word "--" is somebody else's. An unknown name or
 * a bad value is reported to complain and changes nothing. command_line is terminated.
 */
struct options options_parse(const char *command_line, option_complain complain);

#endif
