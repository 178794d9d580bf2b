/*
 * EPT on two CPUs: each invalidates for itself, and then neither may see the old mapping.
 */
#include "ept.h"

static struct {
    struct ept *ept;
    struct nest *nest;
    bool flush, ok, violation;
    u64 want;
} there;

static void there_start(void *arg)
{
    (void)arg;
    vmx_enter_operation();
    there.nest = nest_new(NEST_SAME, touch_guest);
    if (there.nest)
        nest_ept(there.nest, there.ept);
}

static void there_touch(void *arg)
{
    (void)arg;
    if (there.flush)
        check_outcome("INVEPT there", ept_flush(there.ept), VMX_OK);
    there.ok = there.violation ? touch_violates(there.nest, READ, SPOT, 0) : touch_reads(there.nest, SPOT, there.want);
}

static void there_stop(void *arg)
{
    (void)arg;
    vmx_leave_operation();
}

static bool do_there(void (*fn)(void *))
{
    cpu_call(1, fn, NULL);
    return check(cpu_wait(1, 2000), "the other CPU did not finish");
}

static void other_cpu(void)
{
    if (cpu_count < 2) {
        test_skip("one CPU");
        return;
    }
    struct nest *n = ept_guest(2 * MIB);
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb) };
    if (!n)
        return;
    there.ept = n->ept;
    touch_map(n, SPOT, pages[0], EPT_RWX);
    if (!do_there(there_start) || !there.nest)
        return;
    there.flush = true;
    for (u32 i = 0; i < 9; i++) {
        bool gone = i % 3 == 2;
        ept_set(n->ept, SPOT, PAGE, gone ? 0 : phys(pages[i & 1]) | EPT_RWX | EPT_WB);
        there.violation = gone;
        there.want = i & 1 ? 0xbbbb : 0xaaaa;
        nest_flush(n);
        if (!do_there(there_touch))
            return;
        if (gone)
            touch_violates(n, READ, SPOT, 0);
        else
            touch_reads(n, SPOT, there.want);
    }
    do_there(there_stop);
}

// clang-format off
const struct test ept_smp_tests[] = { { "other-cpu", other_cpu }, { NULL, NULL } };
