/* The parts of suite insn. */
#ifndef GUESTS_INSN_H
#define GUESTS_INSN_H
#include "suites.h"

extern const struct test insn_operand_tests[], insn_capability_tests[];

#endif
