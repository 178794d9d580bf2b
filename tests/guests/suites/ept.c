/*
 * EPT: changes of a mapping and INVEPT. After the guest hypervisor has changed an entry and executed INVEPT, the nested
 * guest must see the new mapping and no other, on every CPU; without INVEPT an entry that was not present may be filled.
 */
#include "ept.h"

volatile u64 touched;
static volatile struct {
    enum touch_op op;
    ulong at;
} order;

void touch_guest(void)
{
    if (order.op == READ)
        touched = *(volatile ulong *)order.at;
    else if (order.op == WRITE)
        *(volatile ulong *)order.at = (ulong)touched;
    else
        ((void (*)(void))(order.at + 8))();
}

u64 *page_marked(u64 mark)
{
    u64 *p = page_alloc(1);
    p[0] = mark;
    p[1] = 0xc3;
    return p;
}

struct nest *ept_guest(u64 leaf_size)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(NEST_SAME, touch_guest) : NULL;
    if (n)
        nest_ept(n, ept_new(leaf_size));
    return n;
}

static void order_touch(struct nest *n, enum touch_op op, u64 at)
{
    order.op = op;
    order.at = (ulong)at;
    nest_restart(n, touch_guest);
}

bool touch(struct nest *n, enum touch_op op, u64 at)
{
    order_touch(n, op, at);
    return nest_expect(n, REASON_VMCALL);
}

bool touch_violates(struct nest *n, enum touch_op op, u64 at, u32 permissions)
{
    static const u32 access[] = { 1, 2, 4 };
    u64 first = op == EXECUTE ? at + 8 : at;
    order_touch(n, op, at);
    if (!nest_expect(n, REASON_EPT_VIOLATION))
        return false;
    return check_masked("exit qualification", vmget(EXIT_QUALIFICATION), access[op] | permissions << 3 | 0x180, 0x1bf) &
           check_eq("guest-physical address", vmget(GUEST_PHYSICAL), first) &
           check_eq("guest-linear address", vmget(GUEST_LINEAR), first);
}

bool touch_exits(struct nest *n, enum touch_op op, u64 at, u32 reason)
{
    order_touch(n, op, at);
    return nest_expect(n, reason);
}

void touch_crosses(struct nest *n, u64 at)
{
    u64 page = (at + 7) & ~(u64)(PAGE - 1);
    if (!touch_exits(n, WRITE, at, REASON_EPT_VIOLATION))
        return;
    check_masked("exit qualification", vmget(EXIT_QUALIFICATION), 0x182, 0x1bf);
    check_eq("guest-physical address", vmget(GUEST_PHYSICAL), page);
    check_eq("guest-linear address", vmget(GUEST_LINEAR), page);
}

void touch_walk(struct nest *n, u64 linear, u64 physical)
{
    if (!touch_exits(n, READ, linear, REASON_EPT_VIOLATION))
        return;
    check_masked("exit qualification", vmget(EXIT_QUALIFICATION), 0x81, 0x1bd);
    check_eq("guest-physical address", vmget(GUEST_PHYSICAL), physical);
    check_eq("guest-linear address", vmget(GUEST_LINEAR), linear);
}

void touch_misconfigured(struct nest *n, u64 at, const char *name)
{
    if (!touch_exits(n, READ, at, REASON_EPT_MISCONFIG))
        test_failed("%s", name);
    else
        check_eq(name, vmget(GUEST_PHYSICAL), at);
}

bool touch_reads(struct nest *n, u64 at, u64 want)
{
    return touch(n, READ, at) && check_eq("value read", touched, want);
}

/* What was there was present, and may be cached though nobody touched it: INVEPT is due. SDM 3, "Guidelines for Use of the INVEPT Instruction". */
void touch_map(struct nest *n, u64 at, const void *page, u64 permissions)
{
    ept_set(n->ept, at, PAGE, phys(page) | permissions | EPT_WB);
    nest_flush(n);
}

static void sizes(void)
{
    static const u64 all[] = { PAGE, 2 * MIB, GIB };
    for (u32 i = 0; i < COUNT(all); i++) {
        struct nest *n = ept_guest(all[i]);
        u64 *p = page_marked(0x1000 + i);
        if (!n || !touch_reads(n, phys(p), 0x1000 + i))
            return;
        touched = 77;
        if (touch(n, WRITE, phys(p)))
            check_eq("value written", p[0], 77);
        touch(n, EXECUTE, phys(p));
    }
}

static void remap(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb), page_marked(0xcccc) };
    if (!n)
        return;
    for (u32 i = 0; i < 12; i++) {
        touch_map(n, SPOT, pages[i % 3], EPT_RWX);
        nest_flush(n);
        if (!touch_reads(n, SPOT, 0xaaaa + 0x1111 * (i % 3)))
            return;
    }
    touched = 0x4444;
    if (touch(n, WRITE, SPOT))
        check_eq("written to the page mapped last", pages[2][0], 0x4444);
    check_eq("not to the one before", pages[1][0], 0xbbbb);
}

static void remap_global(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb) };
    struct inv d = { 0, 0 };
    if (!n)
        return;
    for (u32 i = 0; i < 4; i++) {
        touch_map(n, SPOT, pages[i % 2], EPT_RWX);
        check_outcome("INVEPT global", invept(2, &d), VMX_OK);
        if (!touch_reads(n, SPOT, 0xaaaa + 0x1111 * (i % 2)))
            return;
    }
}

/* A large leaf moved: `size` at SPOT (or 2 GiB) shows another part of memory. */
static void remap_large(u64 size, u32 capability)
{
    struct nest *n = ept_has(capability) ? ept_guest(2 * MIB) : NULL;
    u64 *a = page_marked(0xa1a1), *b = page_marked(0xb1b1);
    u64 spot = size == GIB ? 0x80000000 : SPOT, offset_a = phys(a) & (size - 1), offset_b = phys(b) & (size - 1);
    if (!n) {
        test_skip("not this page size");
        return;
    }
    u64 flags = EPT_RWX | EPT_WB | EPT_LARGE;
    ept_set(n->ept, spot, size, (phys(a) & ~(size - 1)) | flags);
    nest_flush(n);
    touch_reads(n, spot + offset_a, 0xa1a1);
    ept_set(n->ept, spot, size, (phys(b) & ~(size - 1)) | flags);
    nest_flush(n);
    touch_reads(n, spot + offset_b, 0xb1b1);
    ept_set(n->ept, spot, size, (phys(b) & ~(size - 1)) | EPT_R | EPT_WB | EPT_LARGE);
    nest_flush(n);
    touch_reads(n, spot + offset_b, 0xb1b1);
    touch_violates(n, WRITE, spot + offset_b, EPT_R);
    touch_map(n, spot + (offset_b & ~(u64)(PAGE - 1)), a, EPT_RWX); /* splits the large leaf */
    nest_flush(n);
    touch_reads(n, spot + (offset_b & ~(u64)(PAGE - 1)), 0xa1a1);
    touch(n, WRITE, spot + (offset_b & ~(u64)(PAGE - 1)));
    ept_set(n->ept, spot, size, 0);
    nest_flush(n);
    touch_violates(n, READ, spot + offset_b, 0);
}
static void remap_2m(void) { remap_large(2 * MIB, CAP_2M); }
static void remap_1g(void) { remap_large(GIB, CAP_1G); }

static void permission_loss(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x5555);
    if (!n)
        return;
    touch_map(n, SPOT, p, EPT_RWX);
    nest_flush(n);
    touched = 0x5555;
    touch(n, WRITE, SPOT);
    touch(n, EXECUTE, SPOT);
    touch_map(n, SPOT, p, EPT_R | EPT_X);
    nest_flush(n);
    touch_violates(n, WRITE, SPOT, EPT_R | EPT_X);
    touch_reads(n, SPOT, 0x5555);
    touch(n, EXECUTE, SPOT);
    touch_map(n, SPOT, p, EPT_R | EPT_W);
    nest_flush(n);
    touch_violates(n, EXECUTE, SPOT, EPT_R | EPT_W);
    touch(n, WRITE, SPOT);
    touch_map(n, SPOT, p, EPT_R);
    nest_flush(n);
    touch_violates(n, WRITE, SPOT, EPT_R);
    touch_violates(n, EXECUTE, SPOT, EPT_R);
    touch_reads(n, SPOT, 0x5555);
    touch_map(n, SPOT, p, 0);
    nest_flush(n);
    touch_violates(n, READ, SPOT, 0);
    check_eq("the page itself", p[0], 0x5555);
}

static void unmap(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x6666);
    if (!n)
        return;
    for (u32 i = 0; i < 4; i++) {
        touch_map(n, SPOT, p, EPT_RWX);
        touch_reads(n, SPOT, 0x6666); /* was not present, or was flushed: no INVEPT needed */
        *ept_entry(n->ept, SPOT, i & 1 ? 2 * MIB : PAGE) = 0;
        nest_flush(n);
        touch_violates(n, READ, SPOT, 0);
        touch_violates(n, WRITE, SPOT, 0);
        touch_violates(n, EXECUTE, SPOT, 0);
    }
}

/* After a violation, a permission added is enough: the violation has invalidated what was cached for the address. */
static void upgrade_without_invept(void)
{
    // clang-format off
    static const struct { enum touch_op op; u32 before, after; } rows[] = {
        { READ, 0, EPT_R }, { WRITE, EPT_R, EPT_R | EPT_W }, { EXECUTE, EPT_R | EPT_W, EPT_RWX },
    };
    // clang-format on
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x7777);
    if (!n)
        return;
    touch_map(n, SPOT, p, 0);
    nest_flush(n);
    for (u32 i = 0; i < COUNT(rows); i++) {
        touched = 0x7777;
        if (!touch_violates(n, rows[i].op, SPOT, rows[i].before))
            return;
        touch_map(n, SPOT, p, rows[i].after);
        NEST_RUN(n, REASON_VMCALL); /* the same access, resumed */
    }
    check_eq("value at the end", p[0], 0x7777);
}

static void table_replaced(void) /* a table page, not a leaf, changes */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *a = page_marked(0xaaaa), *b = page_marked(0xbbbb), *other = page_alloc(1);
    if (!n)
        return;
    touch_map(n, SPOT, a, EPT_RWX);
    touch_map(n, SPOT + 5 * PAGE, b, EPT_RWX);
    nest_flush(n);
    touch_reads(n, SPOT, 0xaaaa);
    touch_reads(n, SPOT + 5 * PAGE, 0xbbbb);
    u64 *directory_entry = ept_entry(n->ept, SPOT, 2 * MIB), first = *directory_entry;
    other[0] = phys(b) | EPT_RWX | EPT_WB;
    *directory_entry = phys(other) | EPT_RWX;
    nest_flush(n);
    touch_reads(n, SPOT, 0xbbbb);
    touch_violates(n, READ, SPOT + 5 * PAGE, 0);
    *directory_entry = phys(other) | EPT_R; /* a table's permissions count, too */
    nest_flush(n);
    touch_reads(n, SPOT, 0xbbbb);
    touch_violates(n, WRITE, SPOT, EPT_R);
    *directory_entry = first;
    nest_flush(n);
    touch_reads(n, SPOT, 0xaaaa);
    touch_reads(n, SPOT + 5 * PAGE, 0xbbbb);
}

/* A large leaf that was present becomes a table, without INVEPT: the old mapping may still be seen, but no mixture. */
static void split_without_invept(void)
{
    enum { AS_BUILT, UNTOUCHED, TOUCHED };
    for (u32 way = AS_BUILT; way <= TOUCHED; way++) {
        struct nest *n = ept_guest(2 * MIB);
        u64 *p = page_marked(0x9999), from = 32 * (u64)MIB, old = way == AS_BUILT ? (ulong)~0ul : 0x8888;
        if (!n)
            return;
        *(u64 *)(ulong)from = 0x8888;
        if (way != AS_BUILT) { /* else SPOT shows itself, where the machine has nothing */
            ept_set(n->ept, SPOT, 2 * MIB, from | EPT_RWX | EPT_WB | EPT_LARGE);
            nest_flush(n);
        }
        if (way == TOUCHED)
            touch_reads(n, SPOT, 0x8888);
        touch_map(n, SPOT, p, EPT_RWX);
        touch(n, READ, SPOT);
        check(touched == old || touched == 0x9999, "way %u: read %llx, neither the old page's nor the new one's", way,
              touched);
        nest_flush(n);
        touch_reads(n, SPOT, 0x9999);
    }
}

static void two_roots(void) /* EPTP changes in the VMCS need no INVEPT */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *a = page_marked(0xaaaa), *b = page_marked(0xbbbb);
    if (!n)
        return;
    struct ept *first = n->ept, *second = ept_new(2 * MIB);
    touch_map(n, SPOT, a, EPT_RWX);
    n->ept = second;
    touch_map(n, SPOT, b, EPT_RWX);
    for (u32 i = 0; i < 6; i++) {
        n->ept = i & 1 ? second : first;
        vmset(EPTP, n->ept->eptp);
        touch_reads(n, SPOT, i & 1 ? 0xbbbb : 0xaaaa);
    }
    ept_set(first, SPOT, PAGE, 0);
    n->ept = second;
    vmset(EPTP, second->eptp);
    check_outcome("INVEPT of the other root", ept_flush(first), VMX_OK);
    touch_reads(n, SPOT, 0xbbbb);
    vmset(EPTP, first->eptp);
    touch_violates(n, READ, SPOT, 0);
}

static void many_roots(void) /* more EPT pointers than anybody keeps */
{
    enum { ROOTS = 20 };
    struct nest *n = ept_guest(2 * MIB);
    struct ept *ept[ROOTS];
    if (!n)
        return;
    for (u32 i = 0; i < ROOTS; i++) {
        ept[i] = ept_new(2 * MIB);
        ept_set(ept[i], SPOT, PAGE, phys(page_marked(i)) | EPT_RWX | EPT_WB);
    }
    for (u32 i = 0; i < 2 * ROOTS; i++) {
        vmset(EPTP, ept[i * 7 % ROOTS]->eptp);
        if (!touch_reads(n, SPOT, i * 7 % ROOTS))
            return;
    }
}

static void root_reused(void) /* the same table page as root of something new, after INVEPT */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *a = page_marked(0xaaaa), *b = page_marked(0xbbbb);
    if (!n)
        return;
    touch_map(n, SPOT, a, EPT_RWX);
    touch_reads(n, SPOT, 0xaaaa);
    struct ept *fresh = ept_new(2 * MIB);
    ept_set(fresh, SPOT, PAGE, phys(b) | EPT_RWX | EPT_WB);
    memcpy(n->ept->root, fresh->root, PAGE);
    nest_flush(n);
    touch_reads(n, SPOT, 0xbbbb);
}

/* Many 4 KiB pages, each second one taken away, then every mapping shifted by one. */
static void many_pages(void)
{
    enum { PAGES = 128 };
    struct nest *n = ept_guest(2 * MIB);
    u64 *pages[PAGES];
    if (!n)
        return;
    for (u32 i = 0; i < PAGES; i++) {
        pages[i] = page_marked(i);
        touch_map(n, SPOT + i * PAGE, pages[i], EPT_RWX);
    }
    nest_flush(n);
    for (u32 i = 0; i < PAGES; i++)
        if (!touch_reads(n, SPOT + i * PAGE, i))
            return;
    for (u32 i = 0; i < PAGES; i += 2)
        ept_set(n->ept, SPOT + i * PAGE, PAGE, 0);
    nest_flush(n);
    for (u32 i = 0; i < PAGES; i++)
        if (!(i & 1 ? touch_reads(n, SPOT + i * PAGE, i) : touch_violates(n, READ, SPOT + i * PAGE, 0)))
            return;
    for (u32 i = 0; i < PAGES; i++)
        touch_map(n, SPOT + i * PAGE, pages[(i + 1) % PAGES], EPT_R);
    nest_flush(n);
    for (u32 i = 0; i < PAGES; i++)
        if (!touch_reads(n, SPOT + i * PAGE, (i + 1) % PAGES) || !touch_violates(n, WRITE, SPOT + i * PAGE, EPT_R))
            return;
}

/* 512 neighbours that form a 2 MiB page, as a coalescing hypervisor sees them; then one leaves the row. */
static void neighbours(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *odd = page_marked(0x0dd), from = 32 * (u64)MIB;
    if (!n)
        return;
    for (u32 i = 0; i < 512; i++) {
        ept_set(n->ept, SPOT + i * PAGE, PAGE, (from + i * PAGE) | EPT_RWX | EPT_WB);
        *(u64 *)(ulong)(from + i * PAGE) = 0x100000 + i;
    }
    nest_flush(n);
    nest_flush(n);
    for (u32 i = 0; i < 512; i += 73)
        touch_reads(n, SPOT + i * PAGE, 0x100000 + i);
    touch_map(n, SPOT + 100 * PAGE, odd, EPT_RWX);
    nest_flush(n);
    touch_reads(n, SPOT + 99 * PAGE, 0x100000 + 99);
    touch_reads(n, SPOT + 100 * PAGE, 0x0dd);
    touch_reads(n, SPOT + 101 * PAGE, 0x100000 + 101);
    ept_set(n->ept, SPOT + 100 * PAGE, PAGE, (from + 100 * PAGE) | EPT_R | EPT_WB);
    nest_flush(n);
    touch_violates(n, WRITE, SPOT + 100 * PAGE, EPT_R);
    touch_reads(n, SPOT + 100 * PAGE, 0x100000 + 100);
    touch(n, WRITE, SPOT + 101 * PAGE);
    ept_set(n->ept, SPOT + 511 * PAGE, PAGE, 0);
    nest_flush(n);
    touch_violates(n, READ, SPOT + 511 * PAGE, 0);
    touch_reads(n, SPOT + 510 * PAGE, 0x100000 + 510);
}

static const struct test change_tests[] = {
    { "sizes", sizes },
    { "remap", remap },
    { "remap-global", remap_global },
    { "remap-2m", remap_2m },
    { "remap-1g", remap_1g },
    { "permission-loss", permission_loss },
    { "unmap", unmap },
    { "upgrade-without-invept", upgrade_without_invept },
    { "table-replaced", table_replaced },
    { "split-without-invept", split_without_invept },
    { "two-roots", two_roots },
    { "many-roots", many_roots },
    { "root-reused", root_reused },
    { "many-pages", many_pages },
    { "neighbours", neighbours },
    { NULL, NULL },
};
// clang-format on

static void run(void)
{
    static const struct test *const lists[] = { change_tests, ept_order_tests, ept_smp_tests, ept_violation_tests,
                                                ept_mode_tests };
    for (u32 i = 0; i < COUNT(lists); i++)
        for (const struct test *t = lists[i]; t->name; t++)
            test_run(t->name, t->run, true);
}
const struct suite suite_ept = { "ept", NULL, run, true, true };
