/*
 * See machine.h.
 */
#include "core/cpu/machine.h"

struct machine machine;
