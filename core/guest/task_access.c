/*
 * See task_access.h. Pure.
 */
#include "core/guest/task_access.h"

#include "core/guest/fault.h"
#include "core/lib/vmx.h"

#define SELECTOR_INDEX_TI 0xfffcu
#define DESCRIPTOR_SIZE 8
#define DESCRIPTOR_RIGHTS 5 /* offset of the byte with type, S, DPL and P */
#define DESCRIPTOR_G BIT(55)

static bool fault_raise(struct task *t, enum vector vector, uint32_t error)
{
    struct fault fault = fault_combine(t->request->event, (struct fault){ .vector = vector, .error = error });
    t->result.kind = fault.shutdown ? TASK_SHUTDOWN : TASK_FAULTED;
    t->result.vector = fault.vector;
    t->result.error = (uint32_t)fault.error;
    return false;
}

bool task_event_software(const struct task_request *request)
{
    uint64_t type = request->event & INTR_TYPE_MASK;
    return (request->event & INTR_VALID) &&
           (type == INTR_TYPE_SW_INTR || type == INTR_TYPE_SW_EXCEPTION || type == INTR_TYPE_PRIV_SW_EXCEPTION);
}

bool task_event_external(const struct task_request *request) { return fault_event_external(request->event); }

bool task_fault(struct task *t, enum vector vector, uint16_t selector)
{
    uint32_t error = selector & SELECTOR_INDEX_TI;
    return fault_raise(t, vector, error | (task_event_external(t->request) ? FAULT_ERROR_EXT : 0));
}

/*
 * Until the switch is committed a processor that keeps interfering just makes the guest start again. After that
 * there is no way back: it is as if the entries had been found not present.
 */
bool task_walked(struct task *t, struct walk walk, unsigned access)
{
    if (walk.result == WALK_OK)
        return true;
    if (walk.result != WALK_FAULT && !t->result.committed) {
        t->result.kind = TASK_RETRY;
        return false;
    }
    t->result.page_fault = true;
    t->result.linear = walk.linear;
    if (walk.result == WALK_FAULT)
        return fault_raise(t, VECTOR_PF, walk.error);
    return fault_raise(t, VECTOR_PF, access & WALK_WRITE ? PFERR_WRITE : 0);
}

bool task_read(struct task *t, uint64_t linear, void *data, size_t size)
{
    return task_walked(t, guest_read(&t->state->paging, t->memory, linear, data, size, WALK_IMPLICIT), WALK_READ);
}

bool task_write(struct task *t, uint64_t linear, const void *data, size_t size)
{
    return task_walked(t, guest_write(&t->state->paging, t->memory, linear, data, size, WALK_IMPLICIT), WALK_WRITE);
}

/* Less than a page is in two pages at most: those of its first and its last byte. */
bool task_probe(struct task *t, uint64_t linear, size_t size, unsigned access)
{
    const struct guest_paging *paging = &t->state->paging;
    return task_walked(t, guest_walk(paging, t->memory, linear, access | WALK_IMPLICIT), access) &&
           task_walked(t, guest_walk(paging, t->memory, linear + size - 1, access | WALK_IMPLICIT), access);
}

uint8_t *task_byte(struct task *t, uint64_t linear)
{
    struct walk walk = guest_walk(&t->state->paging, t->memory, linear, WALK_WRITE | WALK_IMPLICIT);
    uint8_t *byte = NULL;
    if (walk.result == WALK_OK) {
        byte = t->memory->pointer(t->memory->context, walk.gpa, GUEST_USE_WRITE);
        if (!byte)
            walk.result = WALK_NO_GPA;
    }
    task_walked(t, walk, WALK_WRITE);
    return byte;
}

unsigned segment_type(const struct task_segment *segment) { return segment->rights & AR_TYPE_MASK; }

unsigned segment_dpl(const struct task_segment *segment)
{
    return (unsigned)((segment->rights & AR_DPL_MASK) >> AR_DPL_SHIFT);
}

/* SDM 3, "Segment Descriptors"; rights as the VMCS has them: SDM 3, "Guest Register State". */
static struct task_segment descriptor_decode(uint64_t raw, uint16_t selector)
{
    struct task_segment segment = {
        .selector = selector,
        .base = (raw >> 16 & 0xffffff) | (raw >> 56 & 0xff) << 24,
        .limit = (uint32_t)((raw & 0xffff) | (raw >> 48 & 0xf) << 16),
        .rights = (uint32_t)(raw >> 40 & (AR_TYPE_MASK | AR_S | AR_DPL_MASK | AR_PRESENT | 0xf000)),
    };
    if (raw & DESCRIPTOR_G)
        segment.limit = segment.limit << PAGE_SHIFT | (uint32_t)(PAGE_SIZE - 1);
    return segment;
}

bool task_descriptor_read(struct task *t, uint16_t selector, enum vector vector, struct task_descriptor *out)
{
    const struct task_segment *ldt = &t->state->segment[SEG_LDTR];
    uint32_t offset = selector & ~7u;
    uint64_t base = t->state->gdt_base, raw;
    uint32_t limit = t->state->gdt_limit;
    if (selector_local(selector)) { /* LDTR is the new task's by now; without an LDT its limit is 0 */
        base = ldt->base;
        limit = ldt->limit;
    }
    if (offset + DESCRIPTOR_SIZE - 1 > limit)
        return task_fault(t, vector, selector);
    if (!task_read(t, base + offset, &raw, sizeof(raw)))
        return false;
    out->rights_at = base + offset + DESCRIPTOR_RIGHTS;
    out->segment = descriptor_decode(raw, selector);
    return true;
}
