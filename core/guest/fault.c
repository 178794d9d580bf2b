/*
 * See fault.h. Pure.
 */
#include "core/guest/fault.h"

#include "core/lib/vmx.h"

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE, CLASS_DOUBLE };

static enum fault_class class_of(uint64_t vector)
{
    switch (vector) {
    case VECTOR_DE:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
    case VECTOR_CP:
        return CLASS_CONTRIBUTORY;
    case VECTOR_PF:
    case VECTOR_VE:
        return CLASS_PAGE;
    case VECTOR_DF:
        return CLASS_DOUBLE;
    default:
        return CLASS_BENIGN;
    }
}

static enum fault_class event_class(uint64_t event)
{
    if (!(event & INTR_VALID) || (event & INTR_TYPE_MASK) != INTR_TYPE_HW_EXCEPTION)
        return CLASS_BENIGN;
    return class_of(event & INTR_VECTOR_MASK);
}

struct fault fault_combine(uint64_t event, struct fault fault)
{
    enum fault_class first = event_class(event), second = class_of(fault.vector);
    bool serial = second == CLASS_BENIGN || first == CLASS_BENIGN;
    if (serial || (first == CLASS_CONTRIBUTORY && second == CLASS_PAGE))
        return fault;
    fault.shutdown = first == CLASS_DOUBLE;
    fault.vector = VECTOR_DF;
    fault.error = 0;
    return fault;
}

bool fault_event_external(uint64_t event)
{
    uint64_t type = event & INTR_TYPE_MASK;
    return (event & INTR_VALID) && type != INTR_TYPE_SW_INTR && type != INTR_TYPE_SW_EXCEPTION;
}

bool fault_sets_rf(enum vector vector)
{
    switch (vector) {
    case VECTOR_DB:
    case VECTOR_NMI:
    case VECTOR_BP:
    case VECTOR_OF:
    case VECTOR_DF: /* these two are aborts */
    case VECTOR_MC:
        return false;
    default:
        return true;
    }
}

/* SDM 3, "Debug Control Register (DR7)", "Data Breakpoint Alignment": a length of 4 is encoded 3, one of 8 is 2. */
bool fault_breakpoint_met(uint64_t dr7, unsigned number, uint64_t address, uint64_t linear, unsigned size, bool write)
{
    static const uint8_t lengths[] = { 1, 2, 8, 4 };
    uint64_t field = dr7 >> (DR7_FIELDS_SHIFT + DR7_FIELD_BITS * number), when = field & DR7_WHEN_MASK;
    if (when != DR7_WHEN_ACCESS && !(when == DR7_WHEN_WRITE && write))
        return false;
    uint64_t length = lengths[field >> DR7_LENGTH_SHIFT & 3], first = address & ~(length - 1);
    return linear - first < length || first - linear < size;
}
