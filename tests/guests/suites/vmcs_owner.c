/*
 * Whose a VMCS region is: software's from VMCLEAR to VMPTRLD, to copy, edit or reuse, and of one CPU otherwise. SDM 3, "Software Use of
 * Virtual-Machine Control Structures".
 */
#include "vmcs_fields.h"

enum {
    OTHERS = 36, /* active VMCSs that crowd out whatever a hypervisor below keeps */
    MOVING = 40,
    MOVES = 400, /* by each CPU */
    RACES = 300,
    KEPT_BYTES = 64,
    REUSED = 0x5a,
    SHADOW_INDICATOR = 0x80000000u
};

static u32 *region_new(void)
{
    u32 *region = page_alloc(1);
    region[0] = vmcs_revision();
    return region;
}

static bool take(const void *vmcs) { return check_outcome("VMPTRLD", vmptrld(phys(vmcs)), VMX_OK); }
static bool clear(const void *vmcs) { return check_outcome("VMCLEAR", vmclear(phys(vmcs)), VMX_OK); }

/* Both ways in which a hypervisor may keep a field. */
static void field_put(u64 value)
{
    vmset(GUEST_RSP, (ulong)value);
    vmset(HOST_RSP, (ulong)~value);
}
static bool is(u64 value) { return (ulong)vmget(GUEST_RSP) == (ulong)value && (ulong)vmget(HOST_RSP) == (ulong)~value; }

static void crowd_out(void)
{
    for (u32 i = 0; i < OTHERS; i++) {
        u32 *other = region_new();
        clear(other);
        take(other);
        field_put(i);
    }
}

/* What was saved of the page is the VMCS of that time, put back later. */
static void restored(void)
{
    u32 *a = region_new();
    u8 *saved = page_alloc(1);
    clear(a);
    take(a);
    field_put(0x1111);
    clear(a);
    memcpy(saved, a, PAGE);
    take(a);
    field_put(0x2222);
    clear(a);
    memcpy(a, saved, PAGE);
    take(a);
    check(is(0x1111), "RSP is %llx, not what was put back", vmget(GUEST_RSP));
    clear(a);
    take(a);
    check(is(0x1111), "RSP is %llx after VMCLEAR", vmget(GUEST_RSP));
}

static void check_reused(u8 *page)
{
    memset(page + KEPT_BYTES, REUSED, PAGE - KEPT_BYTES);
    crowd_out();
    for (u32 i = KEPT_BYTES; i < PAGE; i++)
        if (!check(page[i] == REUSED, "byte %u of the reused page is %x", i, page[i]))
            return;
}

static void reused(void)
{
    u32 *a = region_new();
    clear(a);
    take(a);
    field_put(0x1111);
    clear(a);
    check_reused((u8 *)a);
}

static void g_nothing(void) {}

static void reused_shadow(void)
{
    if (!nest_need(MSR_VMX_PROC2, PROC2_SHADOW, "VMCS shadowing"))
        return;
    u32 *a = region_new();
    clear(a);
    take(a);
    field_put(0x1111);
    clear(a);
    a[0] |= SHADOW_INDICATOR;
    struct nest *n = nest_new(NEST_SAME, g_nothing);
    if (!n)
        return;
    nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
    vmset(PROC2_CONTROLS, PROC2_SHADOW);
    vmset(VMREAD_BITMAP, phys(page_alloc(1)));
    vmset(VMWRITE_BITMAP, phys(page_alloc(1)));
    vmset(LINK_POINTER, phys(a));
    NEST_RUN(n, REASON_VMCALL);
    clear(a);
    check_reused((u8 *)a);
}

/* ---- two CPUs ---- */

static struct {
    u32 *vmcs[MOVING];
    volatile u32 held[MOVING]; /* a CPU is using it */
    u64 value[MOVING];
    volatile u32 lost, moves;
} moving;

static bool on_other(void (*fn)(void *))
{
    if (cpu_count < 2) {
        test_skip("one CPU");
        return false;
    }
    cpu_call(1, fn, NULL);
    return true;
}

static void use_there(void *arg)
{
    vmx_enter_operation();
    clear(arg);
    take(arg);
    field_put(0x2222);
    clear(arg);
    vmx_leave_operation();
}

static void zeroed_elsewhere(void)
{
    u32 *a = region_new();
    clear(a);
    take(a);
    field_put(0x1111);
    clear(a);
    memset(a, 0, PAGE);
    a[0] = vmcs_revision();
    if (cpu_count < 2) {
        test_skip("one CPU");
        return;
    }
    cpu_call(1, use_there, a);
    if (!check(cpu_wait(1, 2000), "the other CPU did not finish"))
        return;
    clear(a);
    take(a);
    check(is(0x2222), "RSP is %llx", vmget(GUEST_RSP));
}

static void move(u32 seed)
{
    for (u32 i = 0; i < MOVES; i++) {
        seed = seed * 1103515245u + 12345;
        u32 pick = (seed >> 16) % MOVING;
        if (__atomic_exchange_n(&moving.held[pick], 1, __ATOMIC_ACQUIRE))
            continue;
        if (vmptrld(phys(moving.vmcs[pick])) != VMX_OK || !is(moving.value[pick]))
            __atomic_fetch_add(&moving.lost, 1, __ATOMIC_RELAXED);
        field_put(moving.value[pick] = seed);
        vmclear(phys(moving.vmcs[pick]));
        __atomic_fetch_add(&moving.moves, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&moving.held[pick], 0, __ATOMIC_RELEASE);
    }
}

static void move_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    move(2);
    vmx_leave_operation();
}

static void moves(void)
{
    memset(&moving, 0, sizeof moving);
    for (u32 i = 0; i < MOVING; i++) {
        moving.vmcs[i] = region_new();
        clear(moving.vmcs[i]);
        take(moving.vmcs[i]);
        field_put(moving.value[i] = i);
        clear(moving.vmcs[i]);
    }
    if (!on_other(move_there))
        return;
    move(1);
    check(cpu_wait(1, 20000), "the other CPU did not finish");
    check(moving.moves > MOVES, "%u moves only", moving.moves);
    check_eq("values lost", moving.lost, 0);
}

/* Both use one region at once, which the SDM forbids: nobody is to say what VMREAD gives, but the machine goes on. */
static u32 *raced;

static void race(void)
{
    for (u32 i = 0; i < RACES; i++) {
        ulong v;
        vmptrld(phys(raced));
        vmwrite(GUEST_RSP, i);
        vmwrite(PIN_CONTROLS, 0); /* no entry succeeds */
        vmlaunch();
        vmread(GUEST_RSP, &v);
        if (i % 3)
            vmclear(phys(raced));
    }
    vmclear(phys(raced));
}

static void race_there(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    race();
    vmx_leave_operation();
}

static void raced_by_two(void)
{
    raced = region_new();
    if (!on_other(race_there))
        return;
    race();
    check(cpu_wait(1, 20000), "the other CPU did not finish");
    memset(raced, 0, PAGE);
    raced[0] = vmcs_revision();
    clear(raced);
    take(raced);
    field_put(0x3333);
    clear(raced);
    take(raced);
    check(is(0x3333), "RSP is %llx after all that", vmget(GUEST_RSP));
}

// clang-format off
const struct test vmcs_owner_tests[] = {
    { "region-restored", restored },
    { "region-reused", reused },
    { "region-reused-shadow", reused_shadow },
    { "zeroed-elsewhere", zeroed_elsewhere },
    { "moves", moves },
    { "raced", raced_by_two },
    { NULL, NULL },
};
// clang-format on
