/*
 * See task_segments.h. Pure. SDM 3, "Exception Conditions Checked During a Task Switch"; the order of the checks is
 * model-specific. Here SS comes before CS: as long as there is no stack the fault's handler gets one from the new TSS.
 */
#include "core/guest/task_segments.h"

#include "core/lib/vmx.h"

#define CPL_USER 3u
#define LIMIT_64K 0xffffu
/* SDM 3, "Checks on Guest Segment Registers": the only segments that virtual-8086 mode can have. */
#define RIGHTS_V86 0xf3u
#define RIGHTS_CODE (AR_PRESENT | AR_S | TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED)

static uint32_t dpl_bits(unsigned dpl) { return (uint32_t)dpl << AR_DPL_SHIFT; }

/* CPL is the DPL of SS, be SS usable or not. */
static void cpl_set(struct task *t, unsigned cpl) { t->state->paging.cpl = (uint8_t)cpl; }

static void segments_v86(struct task *t, const uint16_t selectors[TASK_SELECTORS])
{
    for (unsigned i = 0; i < TASK_SELECTORS; i++)
        t->state->segment[i] = (struct task_segment){
            .selector = selectors[i], .base = (uint64_t)selectors[i] << 4, .limit = LIMIT_64K, .rights = RIGHTS_V86
        };
    cpl_set(t, CPL_USER);
}

/*
 * Before anything has been verified: selectors as the TSS has them, nothing usable behind them. CS cannot be unusable
 * (same section), so it is a segment in which nothing will run: a fault comes first, and whoever returns here
 * loads CS by its selector. Its DPL has to be that of SS.
 */
static void segments_empty(struct task *t, const uint16_t selectors[TASK_SELECTORS])
{
    for (unsigned i = 0; i < TASK_SELECTORS; i++)
        t->state->segment[i] = (struct task_segment){ .selector = selectors[i], .rights = AR_UNUSABLE };
    t->state->segment[SEG_SS].rights |= dpl_bits(CPL_USER);
    t->state->segment[SEG_CS].rights = RIGHTS_CODE | dpl_bits(CPL_USER);
    cpl_set(t, CPL_USER);
}

/* The descriptor is good: it becomes accessed, and the register has it. */
static bool segment_accept(struct task *t, enum segment number, struct task_descriptor *d)
{
    if (!(d->segment.rights & TYPE_ACCESSED)) {
        uint8_t *byte = task_byte(t, d->rights_at);
        if (!byte)
            return false;
        __atomic_or_fetch(byte, TYPE_ACCESSED, __ATOMIC_SEQ_CST);
        d->segment.rights |= TYPE_ACCESSED;
    }
    t->state->segment[number] = d->segment;
    return true;
}

static bool ldt_load(struct task *t, uint16_t selector)
{
    struct task_segment *ldt = &t->state->segment[SEG_LDTR];
    struct task_descriptor d;
    *ldt = (struct task_segment){ .selector = selector, .rights = AR_UNUSABLE };
    if (selector_null(selector))
        return true;
    if (selector_local(selector))
        return task_fault(t, VECTOR_TS, selector);
    if (!task_descriptor_read(t, selector, VECTOR_TS, &d))
        return false;
    if ((d.segment.rights & AR_S) || segment_type(&d.segment) != TYPE_LDT || !(d.segment.rights & AR_PRESENT))
        return task_fault(t, VECTOR_TS, selector);
    *ldt = d.segment;
    return true;
}

static bool stack_load(struct task *t, uint16_t selector, unsigned cpl)
{
    struct task_descriptor d;
    if (selector_null(selector))
        return task_fault(t, VECTOR_TS, selector);
    if (!task_descriptor_read(t, selector, VECTOR_TS, &d))
        return false;
    unsigned type = segment_type(&d.segment);
    if (!(d.segment.rights & AR_S) || (type & TYPE_CODE) || !(type & TYPE_WRITABLE))
        return task_fault(t, VECTOR_TS, selector);
    if (!(d.segment.rights & AR_PRESENT))
        return task_fault(t, VECTOR_SS, selector);
    if (segment_dpl(&d.segment) != cpl || selector_rpl(selector) != cpl)
        return task_fault(t, VECTOR_TS, selector);
    if (!segment_accept(t, SEG_SS, &d))
        return false;
    t->state->segment[SEG_CS].rights = RIGHTS_CODE | dpl_bits(cpl);
    cpl_set(t, cpl);
    return true;
}

static bool code_load(struct task *t, uint16_t selector)
{
    struct task_descriptor d;
    if (selector_null(selector))
        return task_fault(t, VECTOR_TS, selector);
    if (!task_descriptor_read(t, selector, VECTOR_TS, &d))
        return false;
    unsigned type = segment_type(&d.segment), dpl = segment_dpl(&d.segment), rpl = selector_rpl(selector);
    if (!(d.segment.rights & AR_S) || !(type & TYPE_CODE))
        return task_fault(t, VECTOR_TS, selector);
    if (type & TYPE_CONFORMING ? dpl > rpl : dpl != rpl)
        return task_fault(t, VECTOR_TS, selector);
    if (!(d.segment.rights & AR_PRESENT))
        return task_fault(t, VECTOR_NP, selector);
    return segment_accept(t, SEG_CS, &d);
}

static bool data_load(struct task *t, enum segment number, uint16_t selector)
{
    struct task_descriptor d;
    if (selector_null(selector))
        return true;
    if (!task_descriptor_read(t, selector, VECTOR_TS, &d))
        return false;
    unsigned type = segment_type(&d.segment), dpl = segment_dpl(&d.segment);
    bool code = type & TYPE_CODE, conforming = code && (type & TYPE_CONFORMING);
    if (!(d.segment.rights & AR_S) || (code && !(type & TYPE_READABLE)))
        return task_fault(t, VECTOR_TS, selector);
    if (!(d.segment.rights & AR_PRESENT))
        return task_fault(t, VECTOR_NP, selector);
    if (!conforming && (dpl < selector_rpl(selector) || dpl < t->state->paging.cpl))
        return task_fault(t, VECTOR_TS, selector);
    return segment_accept(t, number, &d);
}

bool task_segments_load(struct task *t, const uint16_t selectors[TASK_SELECTORS], uint16_t ldt)
{
    bool v86 = t->state->eflags & RFLAGS_VM;
    if (v86)
        segments_v86(t, selectors);
    else
        segments_empty(t, selectors);
    if (!ldt_load(t, ldt))
        return false;
    if (v86)
        return true;
    return stack_load(t, selectors[SEG_SS], selector_rpl(selectors[SEG_CS])) && code_load(t, selectors[SEG_CS]) &&
           data_load(t, SEG_DS, selectors[SEG_DS]) && data_load(t, SEG_ES, selectors[SEG_ES]) &&
           data_load(t, SEG_FS, selectors[SEG_FS]) && data_load(t, SEG_GS, selectors[SEG_GS]);
}

/* SDM 3, "Limit Checking". */
static bool stack_has(const struct task_segment *ss, uint32_t offset, unsigned size)
{
    uint64_t last = (uint64_t)offset + size - 1;
    if (segment_type(ss) & TYPE_EXPAND_DOWN)
        return offset > ss->limit && last <= (ss->rights & AR_DB ? 0xffffffff : LIMIT_64K);
    return last <= ss->limit;
}

bool task_error_push(struct task *t, unsigned size)
{
    struct task_state *state = t->state;
    const struct task_segment *ss = &state->segment[SEG_SS];
    uint32_t mask = ss->rights & AR_DB ? 0xffffffff : LIMIT_64K, *esp = &state->gpr[GPR_RSP];
    uint32_t offset = (*esp - size) & mask;
    if (!stack_has(ss, offset, size))
        return task_fault(t, VECTOR_SS, 0);
    /* Not an access to a table: the stack is read and written with the rights of the new task. */
    struct walk walk = guest_write(&state->paging, t->memory, (uint32_t)(ss->base + offset), &t->request->error, size,
                                   WALK_READ);
    if (!task_walked(t, walk, WALK_WRITE))
        return false;
    *esp = (*esp & ~mask) | offset;
    return true;
}
