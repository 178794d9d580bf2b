/*
 * The nested guests of suite soak: one on each CPU, at the service of the first CPU. Either makes single accesses as
 * told, or (on CPU 1) reads one address over and over until it is stopped.
 */
#include "soak.h"

enum { PATIENCE = 40000000 };

static struct nest *nest[SOAK_CPUS];
static u64 start_rip;
static struct access *volatile order[SOAK_CPUS]; /* what the nested guest of this CPU does next */
static u32 vpid_wanted[SOAK_CPUS], vpid_used[SOAK_CPUS];

/* ---- in the nested guest ---- */
static void g_obey(void)
{
    struct access *a = order[this_cpu()->index];
    switch (a->op) {
    case SOAK_READ:
        a->value = *(volatile ulong *)(ulong)a->at;
        break;
    case SOAK_WRITE:
        *((volatile ulong *)(ulong)(a->at + SLOT * sizeof(u64))) = (ulong)a->value;
        break;
    case SOAK_EXECUTE:
        a->value = ((u32(*)(void))(ulong)(a->at + sizeof(u64)))();
        break;
    default:
        *(volatile u64 *)a->store_at = a->value;
    }
}

/* ---- on each CPU ---- */
static void start(void *arg)
{
    (void)arg;
    u32 cpu = this_cpu()->index;
    if (!this_cpu()->vmx)
        vmx_enter_operation();
    nest[cpu] = nest_new(NEST_SAME, g_obey);
    if (!nest[cpu])
        return;
    nest_ept(nest[cpu], soak_root[0]);
    start_rip = vmget(GUEST_RIP);
    if (control_supported(pin_msr(), PIN_EXT_INT))
        nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, 0, EXIT_ACK_INT);
}

static void stop(void *arg)
{
    (void)arg;
    vmx_leave_operation();
}

static void prepare(struct access *a, void (*fn)(void))
{
    struct nest *n = nest[a->cpu];
    u32 vpid = vpid_wanted[a->cpu];
    order[a->cpu] = a;
    n->regs.ax = (ulong)fn;
    vmset(GUEST_RIP, start_rip);
    vmset(GUEST_RSP, (ulong)n->stack_top);
    if (n->ept != soak_root[a->root]) {
        n->ept = soak_root[a->root];
        vmset(EPTP, n->ept->eptp);
    }
    if (vpid == vpid_used[a->cpu])
        return;
    vpid_used[a->cpu] = vpid;
    nest_control(PROC2_CONTROLS, vpid ? PROC2_VPID : 0, vpid ? 0 : PROC2_VPID);
    if (vpid)
        vmset(VPID, vpid);
}

static void judge(struct access *a)
{
    struct nest *n = nest[a->cpu];
    a->reason = n->reason;
    if (n->reason == REASON_EPT_VIOLATION || n->reason == REASON_EPT_MISCONFIG)
        a->physical = vmget(GUEST_PHYSICAL);
    if (n->reason == REASON_EPT_VIOLATION)
        a->rights = vmget(EXIT_QUALIFICATION) >> 3 & 7;
    if (n->reason == REASON_VMCALL && nest_frame())
        test_failed("the nested guest took vector %lu at %lx", nest_frame()->vector, nest_frame()->ip);
}

static void access_here(void *arg)
{
    struct access *a = arg;
    prepare(a, g_obey);
    if (check_outcome("VM entry", nest_run(nest[a->cpu]), VMX_OK))
        judge(a);
}

static struct invalidation {
    const struct ept *root; /* NULL: all contexts */
} invalidation;

static void invept_here(void *arg)
{
    const struct invalidation *i = arg;
    struct inv all = { 0, 0 };
    if (i->root)
        check_outcome("INVEPT", ept_flush(i->root), VMX_OK);
    else
        check_outcome("INVEPT of all contexts", invept(2, &all), VMX_OK);
}

/* ---- on the first CPU ---- */
static bool finished(void)
{
    for (u32 i = 0; i < PATIENCE && cpus[1].job; i++)
        pause();
    return check(!cpus[1].job, "the other CPU did not finish");
}

static bool on(u32 cpu, void (*fn)(void *), void *arg)
{
    if (cpu == 0) {
        fn(arg);
        return true;
    }
    cpu_call(cpu, fn, arg);
    return finished();
}

bool guests_start(void)
{
    nest[1] = NULL;
    memset(vpid_wanted, 0, sizeof vpid_wanted);
    memset(vpid_used, 0, sizeof vpid_used);
    start(NULL);
    if (nest[0] && cpu_count > 1 && on(1, start, NULL))
        return nest[1] != NULL;
    return nest[0] != NULL;
}

void guests_stop(void)
{
    if (nest[1])
        on(1, stop, NULL);
}

bool guest_access(struct access *a)
{
    oracle_enter(a->cpu, a->root);
    return on(a->cpu, access_here, a) && test_ok();
}

void guest_invept(u32 cpu, const struct ept *root)
{
    invalidation.root = root;
    on(cpu, invept_here, &invalidation);
    oracle_invept(cpu, root);
}

void guest_vpid(u32 cpu, u32 vpid) { vpid_wanted[cpu] = proc2_supported(PROC2_VPID) ? vpid : 0; }

/* ---- the chase: CPU 1 reads, CPU 0 edits ---- */
volatile struct chase_value chase_seen[CHASE_SEEN];
static struct access chased;
static volatile struct {
    u32 stage, reached; /* as told, and what the nested guest has read anew in */
    u32 seen;
    u32 invalidations; /* carried out: what is read next is told even if it is the same */
    bool stop, invalidate;
} chase;

static void g_chase(void)
{
    ulong last = 0;
    u32 told = ~0u;
    while (!chase.stop) {
        u32 stage = chase.stage, invalidations = chase.invalidations;
        ulong value = *(volatile ulong *)(ulong)chased.at;
        if ((invalidations != told || value != last) && chase.seen < CHASE_SEEN) {
            chase_seen[chase.seen].value = last = value;
            chase_seen[chase.seen].stage = stage;
            chase.seen++;
            told = invalidations;
        }
        chase.reached = stage;
    }
}

static void chase_here(void *arg)
{
    struct access *a = arg;
    prepare(a, g_chase);
    for (;;) {
        vmset(GUEST_RFLAGS, vmget(GUEST_RFLAGS) | RFLAGS_IF);
        if (!check_outcome("VM entry", nest_run(nest[1]), VMX_OK))
            return;
        if (nest[1]->reason != REASON_EXT_INT)
            break;
        irq_on();
        irq_off();
        if (chase.invalidate) {
            invept_here(&invalidation);
            chase.invalidations++;
            chase.invalidate = false;
        }
    }
    judge(a);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED);
}

static bool chase_wait(u32 stage)
{
    for (u32 i = 0; i < PATIENCE && cpus[1].job; i++) {
        if (chase.reached >= stage && !chase.invalidate)
            return true;
        pause();
    }
    check(!cpus[1].job, "the other CPU stands still");
    return false;
}

bool chase_start(u32 root, u64 at)
{
    memset((void *)&chase, 0, sizeof chase);
    chased = (struct access){ .cpu = 1, .root = root, .op = SOAK_READ, .at = at };
    chase.stage = 1;
    oracle_enter(1, root);
    cpu_call(1, chase_here, &chased);
    return chase_wait(1);
}

bool chase_invept(const struct ept *root)
{
    invalidation.root = root;
    chase.invalidate = true;
    apic_icr(cpus[1].apic_id, ICR_FIXED | ICR_ASSERT | VEC_CALL);
    return chase_wait(0);
}

bool chase_stage(u32 stage)
{
    chase.stage = stage;
    return chase_wait(stage);
}

u32 chase_stop(struct access *end, u32 *reached)
{
    chase.stop = true;
    finished();
    *end = chased;
    *reached = chase.reached;
    return chase.seen;
}
