/* The parts of suite exits. */
#ifndef GUESTS_EXITS_H
#define GUESTS_EXITS_H
#include "suites.h"

extern const struct test exit_control_tests[], exit_event_tests[], exit_inject_tests[], exit_state_tests[],
    exit_mode_tests[], exit_pae_tests[], exit_pic_tests[], exit_msr_tests[];
void exit_insn_run(void);

#ifdef __x86_64__
#define GUEST_CLOBBERS "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "memory", "cc"
#else
#define GUEST_CLOBBERS "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc"
#endif
/* A nested guest in one line of assembly. */
#define GUEST(name, text)                                                                                              \
    static void name(void) { asm volatile(text : : : GUEST_CLOBBERS); }

#endif
