/* sources: machine-but-region */
/*
 * Who owns a VMCS, in every order of events: the instructions of two and three guest hypervisors' CPUs on the same regions, interleaved
 * wherever one CPU can see what another does, which is each access to a region (region_hooked.h), against what the SDM says
 * (vmcs_oracle.h). ORDERS_MORE=n: n operations more than usual, each some eight times as long.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "core/cpu/machine.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/shadow-vmcs/region_hooked.h"
#include "tests/host/shadow-vmcs/vmcs_oracle.h"
#include "tests/host/support/orders.h"
#include "tests/host/support/support.h"

#define REGIONS 2
#define PARENT(cpu) (8 + (cpu))      /* of nested guests that have a shadow VMCS */
#define FILLER(cpu) (16 + 4 * (cpu)) /* some that crowd out what is active */
#define FILLERS 3
#define SLOTS 3 /* that a CPU has here */
#define FREE_PAGES 64
#define MISTAKE_OPS 3 /* within which each mistake shows */
#define NONE (~0u)
#define HELD VMCS_GUEST_RSP
#define SOFT VMCS_HOST_RSP

// clang-format off
enum op {
    PTRLD0, CLEAR0, SHADOW0, ZERO0, RESTORE0, COPY0,
    PTRLD1, CLEAR1, SHADOW1, ZERO1, RESTORE1, COPY1,
    WRITE, LAUNCH, CROWD, OFF, INIT,
    OP_COUNT
};
static const char *const names[OP_COUNT] = {
    "VMPTRLD 0", "VMCLEAR 0", "shadow VMCS is 0", "0 zeroed", "0 as at first", "0 copied to 1",
    "VMPTRLD 1", "VMCLEAR 1", "shadow VMCS is 1", "1 zeroed", "1 as at first", "1 copied to 0",
    "VMWRITE", "VMLAUNCH or VMRESUME", "others become active", "VMXOFF", "INIT, VMXOFF",
};
// clang-format on
#define PER_REGION PTRLD1

static struct vmcs_oracle oracles[REGIONS];
static unsigned current[ORDERS_CPUS]; /* region; NONE: another VMCS or none */
static uint8_t at_first[PAGE_SIZE];
static uint64_t vmcs01_at_first[ORDERS_CPUS][FIELD_COUNT];
static struct vmcs_content content_at_first, zeroes;
static uint32_t ops_wanted;

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1 /* a process costs ten times as much */
#else
#define SANITIZED 0
#endif

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            orders_fail("line %d: %s", __LINE__, #condition);                                                          \
    } while (0)

_Noreturn void test_panic(const char *text) { orders_fail("panic: %s", text); }

static uint32_t revision(void)
{
    return (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
}

static void set_header(unsigned n, uint32_t word) { memcpy((void *)VMCS12(n), &word, sizeof(word)); }

/* --- the machine --- */

/* The guest hypervisor's own state, which an exit of L3 and INIT change: nothing of this test. */
static void l2_restore(void)
{
    struct cpu *cpu = nested_machine_cpu();
    const uint64_t *first = vmcs01_at_first[cpu->index];
    for (int row = 0; row < FIELD_COUNT; row++)
        if (vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST && row != FIELD_VMCS_LINK_POINTER &&
            row != FIELD_GUEST_PML_INDEX)
            fake_vmcs_write(cpu->vmcs01.region, (enum vmcs_row)row, first[row]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_CR0_SHADOW, cpu->cr0_shadow = first[FIELD_CR0_SHADOW]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_CR4_SHADOW, cpu->cr4_shadow = first[FIELD_CR4_SHADOW]);
    fake_vmcs_write(cpu->vmcs01.region, FIELD_ENTRY_CONTROLS, first[FIELD_ENTRY_CONTROLS]);
}

static void vmcs_make(unsigned n, bool shadowing)
{
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    if (shadowing) {
        values[FIELD_PROC2_CONTROLS] |= PROC2_SHADOW_VMCS;
        values[FIELD_VMREAD_BITMAP] = values[FIELD_VMWRITE_BITMAP] = GUEST_PAGE(60);
    }
    l2_make(n, values);
    EXPECT(l2_vmclear(VMCS12(n)) == VMX_OK);
}

static void cpu_make(unsigned index)
{
    nested_machine_select(index);
    struct cpu *cpu = nested_machine_cpu();
    memcpy(vmcs01_at_first[index], fake_vmcs_values(cpu->vmcs01.region), sizeof(vmcs01_at_first[index]));
    cpu->nested->owner.slot_count = SLOTS;
    EXPECT(l2_vmxon() == VMX_OK);
    if (nested_caps.offered[CAP_SHADOW])
        vmcs_make(PARENT(index), true);
    for (unsigned i = 0; i < FILLERS; i++)
        vmcs_make(FILLER(index) + i, false);
    current[index] = NONE;
}

/*
 * A pool's free pages, but for some, become memory that was never touched: each choice of an order is a process, and what it costs to
 * make one is its memory.
 */
static void pool_trim(struct page_pool *pool)
{
    uint64_t page = pool->free_head, *link = NULL;
    for (pool->free_count = 0; page && pool->free_count < FREE_PAGES; pool->free_count++) {
        link = hpa_ptr(hpa(page));
        page = *link;
    }
    *link = 0;
    while (page) {
        void *gone = hpa_ptr(hpa(page));
        page = *(uint64_t *)gone;
        madvise(gone, PAGE_SIZE, MADV_DONTNEED);
    }
}

static void machine_make(unsigned count, bool shadow_off)
{
    region_yield = NULL;
    nested_machine_start(&(struct nested_machine_config){ .cpus = count, .shadow_off = shadow_off });
    for (unsigned i = 0; i < count; i++)
        cpu_make(i);
    for (unsigned r = 0; r < REGIONS; r++)
        vmcs_make(r, false);
    memcpy(at_first, (void *)VMCS12(0), PAGE_SIZE);
    uint64_t values[FIELD_COUNT];
    vmcs12_sample(values);
    content_at_first = (struct vmcs_content){ .sound = true,
                                              .held = values[FIELD_GUEST_RSP],
                                              .soft = values[FIELD_HOST_RSP] };
    for (unsigned r = 0; r < REGIONS; r++)
        vmcs_oracle_init(&oracles[r], (void *)VMCS12(r), content_at_first);
    for (unsigned i = 0; i < count; i++)
        pool_trim(&cpus[i]->pool);
    pool_trim(&memory01.pool);
    region_yield = orders_yield;
}

/* --- operations --- */

/* What VMREAD of the current VMCS must say. */
static void check_values(unsigned cpu)
{
    if (current[cpu] == NONE)
        return;
    const struct vmcs_content *is = &oracles[current[cpu]].is;
    uint64_t held = l2_field(HELD), soft = l2_field(SOFT);
    EXPECT(is->undefined || held == is->held);
    EXPECT(is->undefined || soft == is->soft);
}

/* A value that tells who wrote it, and from the one before. */
static uint64_t new_value(const struct vmcs_oracle *o, unsigned cpu, enum op op)
{
    uint64_t value = 0x1000ull * op + 0x100ull * (cpu + 1);
    return o->is.held == value ? value + 1 : value;
}

static void ptrld(unsigned cpu, unsigned r)
{
    vmcs_oracle_begin(&oracles[r], cpu);
    EXPECT(l2_vmptrld(VMCS12(r)) == VMX_OK);
    vmcs_oracle_activate(&oracles[r], cpu);
    current[cpu] = r;
    vmcs_oracle_end(&oracles[r], cpu);
    check_values(cpu);
}

static void clear(unsigned cpu, unsigned r)
{
    vmcs_oracle_begin(&oracles[r], cpu);
    EXPECT(l2_vmclear(VMCS12(r)) == VMX_OK);
    vmcs_oracle_clear(&oracles[r], cpu);
    if (current[cpu] == r)
        current[cpu] = NONE;
    vmcs_oracle_end(&oracles[r], cpu);
}

static void write(unsigned cpu)
{
    struct vmcs_oracle *o = &oracles[current[cpu]];
    uint64_t value = new_value(o, cpu, WRITE);
    EXPECT(l2_vmwrite(HELD, value) == VMX_OK);
    EXPECT(l2_vmwrite(SOFT, ~value >> 16) == VMX_OK);
    o->is.held = value;
    o->is.soft = ~value >> 16;
    check_values(cpu);
}

/* vmcs02 is entered with the host state of this CPU and no other's. */
static void check_host_state(void)
{
    const struct cpu *cpu = nested_machine_cpu();
    hpa_t vmcs02 = nested_machine_vmcs02();
    EXPECT(fake_vmcs_read(vmcs02, FIELD_HOST_GS_BASE) == (uint64_t)cpu);
    EXPECT(fake_vmcs_read(vmcs02, FIELD_HOST_RSP) == fake_vmcs_read(cpu->vmcs01.region, FIELD_HOST_RSP));
}

static void leave_l3(void)
{
    nested_machine_exit_reason(REASON_cpuid, 0);
    EXPECT(!nested_machine_in_l3());
    l2_restore();
}

/* L3 runs and changes a field that the processor saves. */
static void launch(unsigned cpu)
{
    struct vmcs_oracle *o = &oracles[current[cpu]];
    bool enters = !o->is.undefined && o->is.sound;
    bool resumes = o->is.undefined ? nested_machine_slot()->v.launched : o->is.launched;
    int wrong = resumes ? VMERR_VMLAUNCH_NOT_CLEAR : VMERR_VMRESUME_NOT_LAUNCHED;
    int refused = l2_enter(resumes ? REASON_vmlaunch : REASON_vmresume);
    EXPECT(o->is.undefined || refused == wrong);
    int result = l2_enter(resumes ? REASON_vmresume : REASON_vmlaunch);
    EXPECT(!enters || (result == VMX_OK && nested_machine_in_l3()));
    if (!nested_machine_in_l3()) {
        l2_restore();
        return;
    }
    check_host_state();
    uint64_t value = new_value(o, cpu, LAUNCH);
    fake_vmcs_write(nested_machine_vmcs02(), FIELD_GUEST_RSP, value);
    leave_l3();
    o->is.held = value;
    o->is.launched = true;
    check_values(cpu);
}

/* L3 of the CPU's other VMCS, itself a hypervisor, has the region as its current VMCS. */
static void shadow(unsigned cpu, unsigned r)
{
    struct vmcs_oracle *o = &oracles[r];
    vmcs_oracle_begin(o, cpu);
    set_header(r, revision() | (uint32_t)VMCS_SHADOW_INDICATOR);
    EXPECT(l2_vmptrld(VMCS12(PARENT(cpu))) == VMX_OK);
    EXPECT(l2_vmwrite(VMCS_VMCS_LINK_POINTER, VMCS12(r)) == VMX_OK);
    EXPECT(l2_enter(nested_machine_slot()->v.launched ? REASON_vmresume : REASON_vmlaunch) == VMX_OK);
    current[cpu] = NONE;
    vmcs_oracle_activate(o, cpu);
    if (nested_machine_in_l3()) { /* the others may have changed the header: then L2 gets an exit */
        check_host_state();
        uint64_t value = 0;
        EXPECT(fake_guest_vmread(HELD, &value) == FAKE_DONE);
        EXPECT(o->is.undefined || value == o->is.held);
        value = new_value(o, cpu, SHADOW0);
        EXPECT(fake_guest_vmwrite(HELD, value) == FAKE_DONE);
        o->is.held = value;
        leave_l3();
    } else {
        EXPECT(o->is.undefined);
        l2_restore();
    }
    set_header(r, revision());
    vmcs_oracle_end(o, cpu);
}

static void store(unsigned r, const void *page, struct vmcs_content content)
{
    memcpy((void *)VMCS12(r), page, PAGE_SIZE);
    set_header(r, revision());
    vmcs_oracle_store(&oracles[r], content);
}

static void crowd(unsigned cpu)
{
    for (unsigned i = 0; i < FILLERS; i++)
        EXPECT(l2_vmptrld(VMCS12(FILLER(cpu) + i)) == VMX_OK);
    current[cpu] = NONE;
}

static void leave(unsigned cpu, enum op op)
{
    uint32_t used = 0;
    for (unsigned r = 0; r < REGIONS; r++)
        if (oracles[r].active & BIT(cpu)) {
            used |= (uint32_t)BIT(r);
            vmcs_oracle_begin(&oracles[r], cpu);
        }
    if (op == INIT) {
        nested_machine_exit_reason(REASON_init, 0); /* blocked */
        EXPECT(nested_machine_cpu()->nested->in_vmx);
    }
    int result = l2_vmxoff();
    EXPECT(op == INIT || result == VMX_OK);
    EXPECT(!nested_machine_cpu()->nested->in_vmx);
    l2_restore();
    EXPECT(l2_vmxon() == VMX_OK);
    current[cpu] = NONE;
    for (unsigned r = 0; r < REGIONS; r++)
        if (used & BIT(r)) {
            vmcs_oracle_leave(&oracles[r], cpu);
            vmcs_oracle_end(&oracles[r], cpu);
        }
}

static void run(unsigned cpu, unsigned op)
{
    static const uint8_t zero_page[PAGE_SIZE];
    unsigned r = op >= PER_REGION && op < WRITE;
    switch (op < WRITE ? op % PER_REGION : op) {
    case PTRLD0:
        ptrld(cpu, r);
        break;
    case CLEAR0:
        clear(cpu, r);
        break;
    case SHADOW0:
        shadow(cpu, r);
        break;
    case ZERO0:
        store(r, zero_page, zeroes);
        break;
    case RESTORE0:
        store(r, at_first, content_at_first);
        break;
    case COPY0:
        store(!r, (void *)VMCS12(r), vmcs_oracle_copy(&oracles[r]));
        break;
    case WRITE:
        write(cpu);
        break;
    case LAUNCH:
        launch(cpu);
        break;
    case CROWD:
        crowd(cpu);
        break;
    default:
        leave(cpu, (enum op)op);
        break;
    }
    fake_journal_clear();
}

static bool enabled(unsigned cpu, unsigned op)
{
    bool of_current = op == WRITE || op == LAUNCH;
    return (ops_wanted & BIT(op)) && (!of_current || current[cpu] != NONE);
}

static void check(void)
{
    for (unsigned r = 0; r < REGIONS; r++)
        if (vmcs_oracle_written(&oracles[r]))
            orders_fail("region %u is the guest's, and was written", r);
}

/* --- what a state is --- */

static uint64_t hash_words(uint64_t hash, const void *data, size_t size)
{
    const uint64_t *words = data;
    for (size_t i = 0; i < size / sizeof(*words); i++)
        hash = orders_mix(hash, words[i]);
    return hash;
}

/* Age among the CPU's slots: all that counts of last_use. */
static unsigned age(const struct vmcs_owner *o, const struct vmcs12 *v)
{
    unsigned older = 0;
    for (unsigned i = 0; i < o->slot_count; i++)
        older += o->slots[i]->last_use < v->last_use;
    return older;
}

static uint64_t hash_slot(uint64_t hash, const struct vmcs_owner *o, struct vmcs12 *v)
{
    const struct nested_slot *slot = nested_slot_of(v);
    uint32_t flags[] = { v->state,        v->launched,        v->lent,      v->host_written,
                         v->soft_changed, v->vmcs02.launched, slot->shadow, fake_vmcs_active(v->vmcs02.region),
                         v->unchecked,    v->unmerged,        slot->flags,  age(o, v) };
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        hash = orders_mix(hash, flags[i]);
    hash = orders_mix(hash, v->region.v);
    hash = orders_mix(hash, (uint64_t)slot->link);
    hash = orders_mix(hash, v->state == VMCS12_FREE ? 0 : fake_vmcs_read(v->vmcs02.region, FIELD_GUEST_RSP));
    hash = orders_mix(hash, v->soft[FIELD_HOST_RSP]);
    hash = orders_mix(hash, v->soft[FIELD_VMCS_LINK_POINTER]);
    return hash_words(hash, &v->image, sizeof(v->image));
}

static uint64_t state_hash(void)
{
    uint64_t hash = 1;
    for (unsigned i = 0; i < cpu_count; i++) {
        struct vmcs_owner *o = &cpus[i]->nested->owner;
        hash = orders_mix(hash, (uint64_t)cpus[i]->nested->current);
        hash = orders_mix(hash, current[i]);
        for (unsigned s = 0; s < o->slot_count; s++)
            hash = hash_slot(hash, o, o->slots[s]);
        hash = hash_words(hash, (void *)VMCS12(PARENT(i)), sizeof(struct region_image));
    }
    for (unsigned r = 0; r < REGIONS; r++) {
        const struct vmcs_oracle *o = &oracles[r];
        uint64_t is[] = { o->active, o->busy, o->is.undefined, o->is.sound, o->is.launched, o->is.held, o->is.soft };
        hash = hash_words(hash, is, sizeof(is));
        hash = hash_words(hash, o->page, sizeof(struct region_image) + sizeof(uint64_t));
    }
    return hash;
}

/* --- the explorations --- */

struct event {
    unsigned cpu;
    enum op op;
};
#define PRELUDE_MAX 5

struct exploration {
    const char *name;
    unsigned cpus, ops;
    uint32_t wanted;
    bool shadow_off;
    unsigned prelude_length;
    struct event prelude[PRELUDE_MAX]; /* what has happened before */
};

#define OPS(a) ((uint32_t)BIT(a))
#define REGION0 (OPS(PTRLD0) | OPS(CLEAR0))
#define REGION1 (OPS(PTRLD1) | OPS(CLEAR1))
#define STORES (OPS(ZERO0) | OPS(RESTORE0))
#define USES (OPS(WRITE) | OPS(LAUNCH))

// clang-format off
static const struct exploration explorations[] = {
    { "two CPUs, one region", 2, 3, REGION0 | OPS(SHADOW0) | OPS(ZERO0) | USES | OPS(CROWD) | OPS(OFF),
      false, 0, { { 0 } } },
    { "a launched VMCS was evicted", 2, 3, REGION0 | STORES | USES | OPS(CROWD) | OPS(OFF),
      false, 3, { { 0, PTRLD0 }, { 0, LAUNCH }, { 0, CROWD } } },
    { "it ran", 2, 3, REGION0 | OPS(SHADOW0) | STORES | USES | OPS(OFF),
      false, 3, { { 0, PTRLD0 }, { 0, LAUNCH }, { 0, CLEAR0 } } },
    { "both CPUs have had it", 2, 3, REGION0 | OPS(SHADOW0) | STORES | USES | OPS(CROWD),
      false, 5, { { 0, PTRLD0 }, { 0, WRITE }, { 0, CLEAR0 }, { 1, PTRLD0 }, { 1, CLEAR0 } } },
    { "both CPUs have it", 2, 3, REGION0 | OPS(SHADOW0) | STORES | USES | OPS(CROWD) | OPS(OFF),
      false, 2, { { 0, PTRLD0 }, { 1, PTRLD0 } } },
    { "it was a shadow VMCS", 2, 3, REGION0 | OPS(SHADOW0) | STORES | OPS(COPY0) | USES | OPS(CROWD),
      false, 2, { { 0, SHADOW0 }, { 0, CLEAR0 } } },
    { "copies", 2, 3, REGION0 | REGION1 | STORES | OPS(COPY0) | OPS(COPY1) | USES | OPS(INIT),
      false, 3, { { 0, PTRLD0 }, { 0, WRITE }, { 0, CLEAR0 } } },
    { "no shadowing", 2, 3, REGION0 | OPS(ZERO0) | USES | OPS(CROWD) | OPS(OFF),
      true, 0, { { 0 } } },
    { "three CPUs", 3, 3, REGION0 | OPS(SHADOW0) | OPS(ZERO0) | USES | OPS(CROWD),
      false, 2, { { 0, PTRLD0 }, { 0, CLEAR0 } } },
};
// clang-format on

static const struct exploration *exploration;
static enum region_mistake mistake_wanted;

static void start(void)
{
    machine_make(exploration->cpus, exploration->shadow_off);
    for (unsigned i = 0; i < exploration->prelude_length; i++) {
        const struct event *event = &exploration->prelude[i];
        nested_machine_select(event->cpu);
        run(event->cpu, event->op);
        check();
    }
    region_mistake = mistake_wanted;
}

static struct orders_seen explore(const struct exploration *e, unsigned ops, enum region_mistake mistake)
{
    exploration = e;
    mistake_wanted = mistake;
    ops_wanted = e->wanted;
    struct orders orders = {
        .cpus = e->cpus,
        .op_count = OP_COUNT,
        .ops = ops,
        .names = names,
        .start = start,
        .enabled = enabled,
        .run = run,
        .resume = nested_machine_select,
        .check = check,
        .hash = state_hash,
        .quiet = mistake != MISTAKE_NONE,
    };
    return orders_explore(&orders);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static unsigned more(void)
{
    const char *text = getenv("ORDERS_MORE");
    return text ? (unsigned)atoi(text) : 0;
}

static void every_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(explorations); i++) {
        const struct exploration *e = &explorations[i];
        unsigned ops = e->ops + more() - (SANITIZED ? 1 : 0);
        double before = cpu_seconds();
        struct orders_seen seen = explore(e, ops, MISTAKE_NONE);
        fprintf(stderr,
                "seen: %s, %u operations: %llu states, %llu orders, %llu steps, %llu operations executed, %.1f s of "
                "the processor\n",
                e->name, ops, (unsigned long long)seen.states, (unsigned long long)seen.orders,
                (unsigned long long)seen.steps, (unsigned long long)seen.operations, cpu_seconds() - before);
        assert_false(seen.failed);
    }
}

/* A check that is left out is found by one of them. */
static void mistakes_are_found(void **state)
{
    (void)state;
    for (enum region_mistake mistake = MISTAKE_NONE + 1; mistake < MISTAKE_COUNT; mistake++) {
        bool found = false;
        for (unsigned ops = 1; ops <= MISTAKE_OPS && !found; ops++)
            for (size_t i = 0; i < ARRAY_SIZE(explorations) && !found; i++)
                found = explore(&explorations[i], ops, mistake).failed;
        if (!found)
            fail_msg("mistake %u is not found", mistake);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order), cmocka_unit_test(mistakes_are_found), /* takes too long sanitized */
    };
    return _cmocka_run_group_tests("orders", tests, ARRAY_SIZE(tests) - SANITIZED, NULL, NULL);
}
