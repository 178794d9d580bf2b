/* The parts of suite host. */
#ifndef GUESTS_HOST_H
#define GUESTS_HOST_H
#include "suites.h"

extern const struct test host_memory_tests[], host_register_tests[];

#endif
