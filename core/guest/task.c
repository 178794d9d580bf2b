/*
 * The order of a task switch, see task.h: look at everything that is to be read or written, then write, then become the
 * new task, then load its segments. Up to the commit a fault leaves registers and memory as they were, and everything
 * written there can be written twice.
 */
#include "core/guest/task.h"

#include "core/memory/mem.h"
#include "core/guest/task_access.h"
#include "core/guest/task_segments.h"
#include "core/lib/vmx.h"

#define SELECTORS_TSS16 4 /* ES .. DS */
#define EFLAGS_VALID 0x3f7fd5u
#define DR7_LOCAL 0x155ull /* L0 .. L3, LE */
#define DR7_GD BIT(13)
#define TSS_TRAP 1u
#define HIGH_HALF 0xffff0000u /* of general registers when a 16-bit TSS is loaded */
#define PDPTE_COUNT 4
#define PDPTE_PRESENT BIT(0)
#define PDPTE_RESERVED 0x1e6ull
#define CR3_PDPT 0xffffffe0u

/* SDM 3, "Task-State Segment (TSS)" and "16-Bit Task-State Segment (TSS)". */
struct tss32 {
    uint32_t link, stacks[6], cr3, eip, eflags, gpr[TASK_GPRS], segment[TASK_SELECTORS], ldt;
    uint16_t trap, io_map;
};
struct tss16 {
    uint16_t link, stacks[6], ip, flags, gpr[TASK_GPRS], segment[SELECTORS_TSS16], ldt;
};
_Static_assert(sizeof(struct tss32) == 0x68 && sizeof(struct tss16) == 0x2c, "as the processor has them");

/* The part that a task switch saves. */
#define SAVED32 offsetof(struct tss32, eip)
#define SAVED32_SIZE (offsetof(struct tss32, ldt) - SAVED32)
#define SAVED16 offsetof(struct tss16, ip)
#define SAVED16_SIZE (offsetof(struct tss16, ldt) - SAVED16)

/* A TSS of either size. */
struct image {
    uint32_t cr3, eip, eflags, gpr[TASK_GPRS];
    uint16_t selectors[TASK_SELECTORS], ldt;
    bool trap;
};

/* What is known before anything is written. */
struct plan {
    struct task_descriptor tss; /* the new one */
    uint32_t cr3;
    uint64_t pdpte[PDPTE_COUNT];
    bool load_cr3, load_pdptes;
};

static bool is_wide(const struct task_segment *tss) { return segment_type(tss) & TYPE_CODE; }
static size_t tss_size(const struct task_segment *tss)
{
    return is_wide(tss) ? sizeof(struct tss32) : sizeof(struct tss16);
}
static bool is_nesting(enum task_source source) { return source == TASK_CALL || source == TASK_GATE; }

/* Address of the type byte in the old TSS's descriptor. TR was loaded from there: no limit is checked again. */
static uint64_t old_rights_at(const struct task_state *s)
{
    return s->gdt_base + (s->segment[SEG_TR].selector & ~7u) + 5;
}

/* The processor has checked the descriptor before it exited; the guest's other processors may have changed it since. */
static bool descriptor_check(struct task *t, struct plan *plan)
{
    uint16_t selector = t->request->selector;
    enum vector wrong = t->request->source == TASK_IRET ? VECTOR_TS : VECTOR_GP;
    if (selector_null(selector) || selector_local(selector))
        return task_fault(t, wrong, selector);
    if (!task_descriptor_read(t, selector, wrong, &plan->tss))
        return false;
    const struct task_segment *tss = &plan->tss.segment;
    unsigned type = segment_type(tss), busy = t->request->source == TASK_IRET ? TYPE_TSS_BUSY : 0;
    if ((tss->rights & AR_S) || (type != (TYPE_TSS16 | busy) && type != (TYPE_TSS32 | busy)))
        return task_fault(t, wrong, selector);
    if (!(tss->rights & AR_PRESENT))
        return task_fault(t, VECTOR_NP, selector);
    if (tss->limit < tss_size(tss) - 1)
        return task_fault(t, VECTOR_TS, selector);
    return true;
}

/* Both TSSs and both descriptors can be accessed. */
static bool memory_check(struct task *t, const struct plan *plan)
{
    const struct task_segment *old = &t->state->segment[SEG_TR], *new = &plan->tss.segment;
    size_t saved = is_wide(old) ? SAVED32 : SAVED16, saved_size = is_wide(old) ? SAVED32_SIZE : SAVED16_SIZE;
    if (old->limit < saved + saved_size - 1)
        return task_fault(t, VECTOR_TS, old->selector);
    if (!task_probe(t, old->base + saved, saved_size, WALK_WRITE) ||
        !task_probe(t, new->base, tss_size(new), WALK_READ))
        return false;
    if (is_nesting(t->request->source) && !task_probe(t, new->base, sizeof(uint16_t), WALK_WRITE))
        return false;
    if (!is_nesting(t->request->source) && !task_probe(t, old_rights_at(t->state), 1, WALK_WRITE))
        return false;
    return t->request->source == TASK_IRET || task_probe(t, plan->tss.rights_at, 1, WALK_WRITE);
}

/* SDM 3, "PDPTE Registers". All four of them are in one page. */
static bool pdptes_read(struct task *t, uint32_t cr3, uint64_t pdpte[PDPTE_COUNT])
{
    const volatile uint64_t *pdpt = t->memory->pointer(t->memory->context, cr3 & CR3_PDPT, GUEST_USE_READ);
    uint64_t reserved = PDPTE_RESERVED | ~(BIT(t->state->paging.maxphyaddr) - 1);
    if (!pdpt)
        return task_walked(t, (struct walk){ .result = WALK_NO_GPA }, WALK_READ);
    for (unsigned i = 0; i < PDPTE_COUNT; i++) {
        pdpte[i] = pdpt[i];
        if ((pdpte[i] & PDPTE_PRESENT) && (pdpte[i] & reserved))
            return task_fault(t, VECTOR_GP, 0);
    }
    return true;
}

/*
 * The new page tables. Bad PDPTEs are found when the processor loads the TSS, which SDM 3, "Task Switching" has faults of
 * handled in the old task if possible; here it is always possible.
 */
static bool cr3_check(struct task *t, struct plan *plan)
{
    const struct guest_paging *paging = &t->state->paging;
    if (!is_wide(&plan->tss.segment) || !(paging->cr0 & CR0_PG))
        return true;
    if (!task_read(t, plan->tss.segment.base + offsetof(struct tss32, cr3), &plan->cr3, sizeof(plan->cr3)))
        return false;
    plan->load_cr3 = plan->cr3 != paging->cr3;
    plan->load_pdptes = plan->load_cr3 && (paging->cr4 & CR4_PAE);
    return !plan->load_pdptes || pdptes_read(t, plan->cr3, plan->pdpte);
}

/* The instruction that a return to the old task executes first. */
static uint32_t return_eip(const struct task *t)
{
    bool instruction = t->request->source != TASK_GATE || task_event_software(t->request);
    return t->state->eip + (instruction ? t->request->length : 0);
}

static bool old_task_save(struct task *t)
{
    const struct task_state *s = t->state;
    const struct task_segment *tss = &s->segment[SEG_TR];
    uint32_t eflags = s->eflags & (t->request->source == TASK_IRET ? ~(uint32_t)RFLAGS_NT : ~0u);
    if (is_wide(tss)) {
        struct tss32 image = { .eip = return_eip(t), .eflags = eflags };
        memcpy(image.gpr, s->gpr, sizeof(image.gpr));
        for (unsigned i = 0; i < TASK_SELECTORS; i++)
            image.segment[i] = s->segment[i].selector;
        return task_write(t, tss->base + SAVED32, (const uint8_t *)&image + SAVED32, SAVED32_SIZE);
    }
    struct tss16 image = { .ip = (uint16_t)return_eip(t), .flags = (uint16_t)eflags };
    for (unsigned i = 0; i < TASK_GPRS; i++)
        image.gpr[i] = (uint16_t)s->gpr[i];
    for (unsigned i = 0; i < SELECTORS_TSS16; i++)
        image.segment[i] = s->segment[i].selector;
    return task_write(t, tss->base + SAVED16, (const uint8_t *)&image + SAVED16, SAVED16_SIZE);
}

static bool image_read(struct task *t, const struct task_segment *tss, struct image *out)
{
    if (is_wide(tss)) {
        struct tss32 tss32;
        if (!task_read(t, tss->base, &tss32, sizeof(tss32)))
            return false;
        *out = (struct image){ .cr3 = tss32.cr3, .eip = tss32.eip, .eflags = tss32.eflags, .ldt = (uint16_t)tss32.ldt };
        out->trap = tss32.trap & TSS_TRAP;
        memcpy(out->gpr, tss32.gpr, sizeof(out->gpr));
        for (unsigned i = 0; i < TASK_SELECTORS; i++)
            out->selectors[i] = (uint16_t)tss32.segment[i];
        return true;
    }
    struct tss16 tss16;
    if (!task_read(t, tss->base, &tss16, sizeof(tss16)))
        return false;
    *out = (struct image){ .eip = tss16.ip, .eflags = tss16.flags, .ldt = tss16.ldt };
    for (unsigned i = 0; i < TASK_GPRS; i++)
        out->gpr[i] = HIGH_HALF | tss16.gpr[i];
    for (unsigned i = 0; i < SELECTORS_TSS16; i++)
        out->selectors[i] = tss16.segment[i];
    return true;
}

/*
 * Tests and sets the busy flag in one, so that no two processors become the same task (SDM 3, "Automatic Locking"). The
 * last access that can fail before the commit.
 */
static bool new_busy_set(struct task *t, struct plan *plan)
{
    uint8_t old = (uint8_t)plan->tss.segment.rights, *byte;
    plan->tss.segment.rights |= TYPE_TSS_BUSY;
    if (t->request->source == TASK_IRET)
        return true;
    byte = task_byte(t, plan->tss.rights_at);
    if (!byte)
        return false;
    if (__atomic_compare_exchange_n(byte, &old, old | TYPE_TSS_BUSY, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return true;
    t->result.kind = TASK_RETRY;
    return false;
}

/* SDM 3, "Effect of a Task Switch on Busy Flag, NT Flag, Previous Task Link Field, and TS Flag". */
static bool memory_write(struct task *t, struct plan *plan, struct image *image)
{
    const struct task_segment *new = &plan->tss.segment;
    uint16_t link = t->state->segment[SEG_TR].selector;
    if (!is_nesting(t->request->source)) {
        uint8_t *byte = task_byte(t, old_rights_at(t->state));
        if (!byte)
            return false;
        __atomic_and_fetch(byte, (uint8_t)~TYPE_TSS_BUSY, __ATOMIC_SEQ_CST);
    }
    if (!old_task_save(t))
        return false;
    if (is_nesting(t->request->source) && !task_write(t, new->base, &link, sizeof(link)))
        return false;
    return image_read(t, new, image) && new_busy_set(t, plan);
}

static void commit(struct task *t, const struct plan *plan, const struct image *image)
{
    struct task_state *s = t->state;
    memcpy(s->gpr, image->gpr, sizeof(s->gpr));
    s->eip = image->eip;
    s->eflags = (image->eflags & EFLAGS_VALID) | (uint32_t)RFLAGS_FIXED1;
    if (is_nesting(t->request->source))
        s->eflags |= (uint32_t)RFLAGS_NT;
    s->dr7 &= ~DR7_LOCAL;
    s->segment[SEG_TR] = plan->tss.segment;
    s->paging.cr0 |= CR0_TS;
    s->paging.rflags = s->eflags;
    if (plan->load_cr3)
        s->paging.cr3 = plan->cr3;
    if (plan->load_pdptes)
        memcpy(s->paging.pdpte, plan->pdpte, sizeof(s->paging.pdpte));
    t->result.cr3_changed = plan->load_cr3;
    t->result.committed = true;
}

/* What the new task finds before its first instruction. */
static void new_task_enter(struct task *t, const struct image *image)
{
    struct task_state *s = t->state;
    if (!task_segments_load(t, image->selectors, image->ldt))
        return;
    unsigned error_size = is_wide(&s->segment[SEG_TR]) ? sizeof(uint32_t) : sizeof(uint16_t);
    if ((t->request->event & INTR_VALID) && (t->request->event & INTR_ERROR_VALID) && !task_error_push(t, error_size))
        return;
    if (s->eip > s->segment[SEG_CS].limit) {
        task_fault(t, VECTOR_GP, 0);
        return;
    }
    /* SDM 3, "Task-Switch Exception Condition". The handler may use debug registers: GD is cleared for it. */
    t->result.debug_trap = image->trap;
    if (image->trap)
        s->dr7 &= ~DR7_GD;
}

struct task_result task_run(struct task_state *state, const struct task_request *request,
                            const struct guest_memory *memory)
{
    struct task t = { .request = request, .memory = memory, .state = state };
    struct plan plan = { 0 };
    struct image image;
    /* There are no task switches in IA-32e mode. */
    if (state->paging.efer & EFER_LMA)
        task_fault(&t, VECTOR_GP, request->selector);
    else if (descriptor_check(&t, &plan) && memory_check(&t, &plan) && cr3_check(&t, &plan) &&
             memory_write(&t, &plan, &image)) {
        commit(&t, &plan, &image);
        new_task_enter(&t, &image);
    }
    return t.result;
}
