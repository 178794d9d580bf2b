/* sources: machine */
/*
 * What nested guests may meet on processors that cache whatever they may (fake_tlb.h): the guest hypervisor edits its EPT,
 * executes INVEPT and INVVPID in any order, moves VMCSs between two CPUs; nested guests edit their own paging. Each access
 * must meet what the SDM would let it meet if the guest hypervisor ran on the bare machine, nothing older.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "core/memory/ept.h"
#include "tests/host/machine/fake_tlb.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define CPUS 2
#define GUESTS 5
#define ROOTS 2
#define PHYSICALS 6 /* guest-physical pages of a root that are used */
#define LINEARS 4   /* linear pages of a guest */
#define NONE (-1)
#define PAST 512

#define TABLE(root, level) GUEST_PAGE(20 + 4u * (unsigned)(root) + (unsigned)(level))
#define DATA(n) GUEST_PAGE(2000 + (n)) /* where they lead */
#define DATA_PAGES 5
#define PHYSICAL(n) (PAGE_1G + (n)*PAGE_SIZE)
#define LINEAR(n) (0x700000ull + (n)*PAGE_SIZE)

/* Which guests there are: with EPT and VPID, sharing either; without VPID; without EPT. */
static const struct {
    int root; /* NONE: no EPT */
    uint16_t vpid;
} guests[GUESTS] = { { 0, 5 }, { 0, 6 }, { 1, 5 }, { 0, 0 }, { NONE, 7 } };

/* All values that something has had, with the times from which on. */
struct past {
    unsigned count;
    uint64_t value[PAST];
    unsigned when[PAST];
};

static struct test_random seed;
static unsigned now;
static struct past ept12[ROOTS][PHYSICALS], paging[GUESTS][LINEARS];
static int running[CPUS], current[CPUS], owner[GUESTS]; /* guest, guest, CPU */
static bool launched[GUESTS];
/* Nothing cached is older: guest-physical mappings; combined (or linear) ones by guest. Due: from the next entry on. */
static unsigned physical_since[CPUS][ROOTS][PHYSICALS], linear_since[CPUS][GUESTS][LINEARS];
static unsigned root_since[CPUS][ROOTS];
static bool root_due[CPUS][ROOTS], guest_due[CPUS][GUESTS];

static uint64_t any(uint64_t limit) { return test_random_below(&seed, limit); }
static uint64_t latest(const struct past *p) { return p->value[p->count - 1]; }

static void past_add(struct past *p, uint64_t value)
{
    if (p->count == PAST)
        fail_msg("the test remembers too little");
    p->value[p->count] = value;
    p->when[p->count++] = ++now;
}

/* Number of the oldest value that was still there at a time. */
static unsigned past_first(const struct past *p, unsigned since)
{
    unsigned i = p->count - 1;
    while (i > 0 && p->when[i] > since)
        i--;
    return i;
}

/* --- the processor --- */

static int paging_of; /* whose paging guest_paging is */
static uint64_t guest_paging(uint64_t page)
{
    uint64_t n = (page - LINEAR(0)) / PAGE_SIZE;
    return n < LINEARS ? latest(&paging[paging_of][n]) : 0;
}

static struct fake_context context_of(int cpu)
{
    hpa_t vmcs = hpa(fake_current());
    uint64_t proc2 = fake_vmcs_read(vmcs, FIELD_PROC2_CONTROLS);
    paging_of = running[cpu];
    return (struct fake_context){ cpu, proc2 & PROC2_VPID ? (uint16_t)fake_vmcs_read(vmcs, FIELD_VPID) : 0, 0,
                                  proc2 & PROC2_EPT ? fake_vmcs_read(vmcs, FIELD_EPTP) : 0, guest_paging };
}

static void speculate(void)
{
    for (int cpu = 0; cpu < CPUS; cpu++) {
        nested_machine_select((unsigned)cpu);
        if (running[cpu] == NONE)
            continue;
        struct fake_context context = context_of(cpu);
        for (unsigned i = 0; i < LINEARS; i++)
            fake_tlb_speculate(&context, LINEAR(i));
        for (unsigned i = 0; i < PHYSICALS; i++)
            fake_tlb_speculate_physical(&context, PHYSICAL(i));
    }
}

/* --- what is allowed --- */

static bool target_allowed(int cpu, int guest, unsigned linear, uint64_t target, uint64_t access)
{
    const struct past *l = &paging[guest][linear];
    int root = guests[guest].root;
    for (unsigned i = past_first(l, linear_since[cpu][guest][linear]); i < l->count; i++) {
        if (access & ~l->value[i])
            continue;
        uint64_t page = l->value[i] & EPT_ADDR_MASK;
        if (root == NONE && page == target)
            return true;
        if (root == NONE)
            continue;
        uint64_t n = (page - PHYSICAL(0)) / PAGE_SIZE;
        const struct past *e = &ept12[root][n];
        /* A combined mapping may have been made before a violation took the guest-physical one. */
        bool older = linear_since[cpu][guest][linear] < physical_since[cpu][root][n];
        for (unsigned j = past_first(e, older ? root_since[cpu][root] : physical_since[cpu][root][n]); j < e->count;
             j++)
            if ((e->value[j] & EPT_ADDR_MASK) == target && !(access & ~e->value[j]))
                return true;
    }
    return false;
}

static void linear_forget(int cpu, int guest)
{
    for (unsigned i = 0; i < LINEARS; i++)
        linear_since[cpu][guest][i] = now;
}

/* What came before this entry counts from here on. */
static void entered(int cpu, int guest)
{
    int root = guests[guest].root;
    if (root != NONE && root_due[cpu][root]) {
        root_since[cpu][root] = now;
        for (unsigned i = 0; i < PHYSICALS; i++)
            physical_since[cpu][root][i] = now;
        for (int g = 0; g < GUESTS; g++)
            if (guests[g].root == root)
                linear_forget(cpu, g);
        root_due[cpu][root] = false;
    }
    if (guest_due[cpu][guest] || guests[guest].vpid == 0)
        linear_forget(cpu, guest);
    guest_due[cpu][guest] = false;
}

/* --- the guest hypervisor --- */

static void leave(int cpu)
{
    nested_machine_select((unsigned)cpu);
    if (running[cpu] != NONE)
        nested_machine_exit_reason(REASON_vmcall, 0);
    assert_false(nested_machine_in_l3());
    running[cpu] = NONE;
}

static void invept(int cpu, enum invept_type type, int root)
{
    leave(cpu);
    uint64_t eptp = TABLE(root, 0) | EPTP_WALK_4 | MEMTYPE_WB;
    assert_int_equal(l2_invept(type, type == INVEPT_GLOBAL ? 0 : eptp), VMX_OK);
    for (int r = 0; r < ROOTS; r++)
        root_due[cpu][r] |= type == INVEPT_GLOBAL || r == root;
}

static void invvpid(int cpu, enum invvpid_type type, uint16_t vpid)
{
    leave(cpu);
    assert_int_equal(l2_invvpid(type, type == INVVPID_ALL ? 0 : vpid, LINEAR(0)), VMX_OK);
    for (int g = 0; g < GUESTS; g++) {
        if (guests[g].vpid == 0 || (type != INVVPID_ALL && guests[g].vpid != vpid))
            continue;
        if (type == INVVPID_ADDRESS)
            linear_since[cpu][g][0] = now; /* not more than that: what is edited before the entry may be left out */
        else
            guest_due[cpu][g] = true;
    }
}

/* The guest hypervisor's CPU on which the VMCS is: moved by VMCLEAR and VMPTRLD. */
static void bring(int cpu, int guest)
{
    leave(cpu);
    if (owner[guest] != cpu) {
        int there = owner[guest];
        leave(there);
        assert_int_equal(l2_vmclear(VMCS12((unsigned)guest)), VMX_OK);
        current[there] = current[there] == guest ? NONE : current[there];
        launched[guest] = false;
        owner[guest] = cpu;
        nested_machine_select((unsigned)cpu);
    }
    if (current[cpu] != guest)
        assert_int_equal(l2_vmptrld(VMCS12((unsigned)guest)), VMX_OK);
    current[cpu] = guest;
}

static void enter(int cpu, int guest)
{
    bring(cpu, guest);
    assert_int_equal(l2_enter(launched[guest] ? REASON_vmresume : REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
    launched[guest] = true;
    running[cpu] = guest;
    entered(cpu, guest);
}

/* A store by a CPU that runs the guest hypervisor. */
static void ept12_set(int cpu, int root, unsigned n, uint64_t entry)
{
    leave(cpu);
    uint64_t *at = (uint64_t *)TABLE(root, 3) + n;
    *at = entry;
    nested_machine_wrote(TABLE(root, 3));
    past_add(&ept12[root][n], entry);
}

/* --- nested guests --- */

enum outcome { WENT_THROUGH, FAULTED_IN_L3, REFLECTED };

static enum outcome access(int cpu, unsigned linear, uint64_t access)
{
    int guest = running[cpu], root = guests[guest].root;
    for (unsigned tries = 0; tries < 8; tries++) {
        nested_machine_select((unsigned)cpu);
        struct fake_context context = context_of(cpu);
        struct fake_met met = fake_tlb_access(&context, LINEAR(linear), access);
        if (!met.violation && met.target == 0)
            return FAULTED_IN_L3;
        if (!met.violation) {
            if (!target_allowed(cpu, guest, linear, met.target, access))
                fail_msg("CPU %d, guest %d: linear page %u leads to %llx, which is too old", cpu, guest, linear,
                         (unsigned long long)met.target);
            return WENT_THROUGH;
        }
        nested_machine_exit(&(struct nested_exit_info){ .reason = REASON_ept_violation,
                                                        .qualification = access | met.allowed << EPT_QUAL_PERM_SHIFT |
                                                                         EPT_QUAL_LINEAR_VALID |
                                                                         EPT_QUAL_LINEAR_TRANSLATION,
                                                        .gpa = met.guest_physical,
                                                        .linear = LINEAR(linear) });
        if (nested_machine_in_l3())
            continue;
        running[cpu] = NONE;
        assert_int_not_equal(root, NONE);
        uint64_t n = (met.guest_physical - PHYSICAL(0)) / PAGE_SIZE;
        assert_true(access & ~latest(&ept12[root][n]));
        physical_since[cpu][root][n] = linear_since[cpu][guest][linear] = now;
        return REFLECTED;
    }
    fail_msg("repaired again and again");
    return REFLECTED;
}

static uint64_t any_linear_entry(int guest)
{
    uint64_t rights = any(4) ? EPT_RWX : EPT_R;
    return guests[guest].root == NONE ? DATA(any(DATA_PAGES)) | rights : PHYSICAL(any(PHYSICALS)) | rights;
}

/* The nested guest edits its paging, and invalidates or not. */
static void paging_set(int cpu, unsigned linear, uint64_t entry, bool invalidates)
{
    int guest = running[cpu];
    nested_machine_select((unsigned)cpu);
    struct fake_context context = context_of(cpu);
    past_add(&paging[guest][linear], entry);
    if (!invalidates)
        return;
    fake_tlb_invlpg(&context, LINEAR(linear));
    for (int g = 0; g < GUESTS; g++) /* of the VPID, whatever the EPT */
        if (guests[g].vpid == guests[guest].vpid)
            linear_since[cpu][g][linear] = now;
}

/* --- begin --- */

static void tables_make(int root)
{
    static const uint64_t at[] = { 0, 1, 0 };
    for (int i = 0; i < 3; i++)
        ((uint64_t *)TABLE(root, i))[at[i]] = TABLE(root, i + 1) | EPT_RWX;
    for (unsigned n = 0; n < PHYSICALS; n++) {
        ((uint64_t *)TABLE(root, 3))[n] = DATA(n % DATA_PAGES) | EPT_RWX | MEMTYPE_WB << EPT_MEMTYPE_SHIFT;
        past_add(&ept12[root][n], ((uint64_t *)TABLE(root, 3))[n]);
    }
}

static void guest_make(int guest)
{
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    values[FIELD_VPID] = guests[guest].vpid;
    values[FIELD_PROC2_CONTROLS] &= guests[guest].vpid ? ~0ull : ~(uint64_t)PROC2_VPID;
    if (guests[guest].root == NONE)
        values[FIELD_PROC2_CONTROLS] &= ~(uint64_t)(PROC2_EPT | PROC2_UNRESTRICTED);
    else
        values[FIELD_EPTP] = TABLE(guests[guest].root, 0) | EPTP_WALK_4 | MEMTYPE_WB;
    l2_make((unsigned)guest, values);
    for (unsigned i = 0; i < LINEARS; i++)
        past_add(&paging[guest][i], any_linear_entry(guest));
}

static void begin(uint64_t number)
{
    static const struct nested_machine_config two = { .cpus = CPUS };
    nested_machine_start(&two);
    seed.state = number;
    fake_tlb_reset(any);
    for (int r = 0; r < ROOTS; r++)
        tables_make(r);
    for (int cpu = CPUS - 1; cpu >= 0; cpu--) {
        nested_machine_select((unsigned)cpu);
        running[cpu] = current[cpu] = NONE;
        assert_int_equal(l2_vmxon(), VMX_OK);
    }
    for (int g = 0; g < GUESTS; g++)
        guest_make(g);
    current[0] = GUESTS - 1;
}

/* --- tests --- */

static void step(void)
{
    static const enum invvpid_type types[] = { INVVPID_ADDRESS, INVVPID_SINGLE, INVVPID_ALL };
    int cpu = (int)any(CPUS), root = (int)any(ROOTS);
    switch (any(16)) {
    case 0:
    case 1:
        ept12_set(cpu, root, (unsigned)any(PHYSICALS),
                  any(5) ? DATA(any(DATA_PAGES)) | (any(3) ? EPT_RWX : EPT_R) | MEMTYPE_WB << EPT_MEMTYPE_SHIFT : 0);
        break;
    case 2:
        invept(cpu, any(2) ? INVEPT_SINGLE : INVEPT_GLOBAL, root);
        break;
    case 3:
        invvpid(cpu, types[any(ARRAY_SIZE(types))], (uint16_t)(5 + any(3)));
        break;
    case 4:
    case 5:
        enter(cpu, (int)any(GUESTS));
        break;
    case 6:
    case 7:
        if (running[cpu] != NONE)
            paging_set(cpu, (unsigned)any(LINEARS), any_linear_entry(running[cpu]), any(2));
        break;
    default:
        if (running[cpu] == NONE)
            enter(cpu, (int)any(GUESTS));
        access(cpu, (unsigned)any(LINEARS), any(3) ? EPT_R : EPT_W);
    }
    speculate();
}

static void random_steps(uint64_t number)
{
    begin(number);
    for (unsigned i = 0; i < 4000; i++)
        step();
}
static void random_steps_1(void **state) { (void)state, random_steps(2027); }
static void random_steps_2(void **state) { (void)state, random_steps(77); }
static void random_steps_3(void **state) { (void)state, random_steps(123456789); }

/*
 * A virtual CPU moves: its guest changed its paging where it was, with INVLPG, and nobody told this CPU. INVEPT is all that the guest
 * hypervisor executes, and none of its tables has changed.
 */
static void a_guest_comes_back_to_a_cpu(void **state)
{
    (void)state;
    begin(1);
    for (unsigned round = 0; round < 40; round++) {
        int cpu = (int)(round % CPUS);
        enter(cpu, 0);
        invept(cpu, round & 2 ? INVEPT_SINGLE : INVEPT_GLOBAL, 0);
        enter(cpu, 0);
        speculate();
        for (unsigned i = 0; i < LINEARS; i++)
            access(cpu, i, EPT_R);
        if (running[cpu] == 0)
            for (unsigned i = 0; i < LINEARS; i++)
                paging_set(cpu, i, PHYSICAL((i + round) % PHYSICALS) | EPT_RWX, true);
        speculate();
    }
}

/* INVEPT, then the edit, then the entry: by this CPU or the other. */
static void an_edit_after_invept(void **state)
{
    (void)state;
    begin(3);
    for (unsigned round = 0; round < 60; round++) {
        enter(0, 0);
        speculate();
        for (unsigned i = 0; i < LINEARS; i++)
            if (running[0] == 0)
                access(0, i, EPT_R);
        invept(0, INVEPT_SINGLE, 0);
        for (unsigned n = 0; n < PHYSICALS; n++)
            ept12_set((int)any(CPUS), 0, n, DATA(any(DATA_PAGES)) | EPT_RWX | MEMTYPE_WB << EPT_MEMTYPE_SHIFT);
        enter(0, 0);
        for (unsigned i = 0; i < LINEARS; i++)
            if (running[0] == 0)
                access(0, i, EPT_R);
    }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(random_steps_1),       TEST(random_steps_2), TEST(random_steps_3), TEST(a_guest_comes_back_to_a_cpu),
        TEST(an_edit_after_invept),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
