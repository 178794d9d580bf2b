/*
 * EPT: INVEPT first, edit after, then entry. From INVEPT to the next entry with the EPTP a processor can cache nothing for it
 * (SDM 3, "Caching Translation Information"), so what the tables say at the entry counts, whoever wrote it and when.
 */
#include "ept.h"

enum { OLD = 0x01d, NEW = 0x2e3 };
#define REGION (32 * (u64)MIB) /* of the machine's memory: a large page's */
/* In front of SPOT's GiB there is nothing of the nested guest's own. */
#define SPOT_2M (SPOT + 2 * MIB)

static struct nest *nest;
static struct ept *other; /* the same as nest's, but SPOT leads to the new page */
static u64 *old_page, *new_page;

static u64 *entry_at(struct ept *ept, u64 size) { return ept_entry(ept, SPOT, size); }
static u64 leaf(const void *page, u64 rights) { return phys(page) | rights | EPT_WB; }

/* SPOT: a 4-KiB page that holds OLD; SPOT_2M: a large page whose first word is OLD. Both are touched. */
static bool begin(void)
{
    nest = ept_guest(2 * MIB);
    if (!nest)
        return false;
    old_page = page_marked(OLD);
    new_page = page_marked(NEW);
    other = ept_new(2 * MIB);
    *(u64 *)(ulong)REGION = OLD;
    *(u64 *)(ulong)(REGION + 2 * MIB) = NEW;
    ept_set(nest->ept, SPOT, PAGE, leaf(old_page, EPT_RWX));
    ept_set(nest->ept, SPOT_2M, 2 * MIB, REGION | EPT_RWX | EPT_WB | EPT_LARGE);
    ept_set(other, SPOT, PAGE, leaf(new_page, EPT_RWX));
    nest_flush(nest);
    touched = OLD;
    return touch(nest, WRITE, SPOT) && touch_reads(nest, SPOT, OLD) && touch_reads(nest, SPOT_2M, OLD);
}

/* ---- edits ---- */
static void moved(void) { *entry_at(nest->ept, PAGE) = leaf(new_page, EPT_RWX); }
static void removed(void) { *entry_at(nest->ept, PAGE) = 0; }
static void read_only(void) { *entry_at(nest->ept, PAGE) = leaf(old_page, EPT_R); }
static void misconfigured(void) { *entry_at(nest->ept, PAGE) = leaf(old_page, EPT_W); }
static void table_moved(void) { *entry_at(nest->ept, 2 * MIB) = *entry_at(other, 2 * MIB); }
static void table_removed(void) { *entry_at(nest->ept, 2 * MIB) = 0; }
static void table_read_only(void) { *entry_at(nest->ept, 2 * MIB) &= ~(u64)(EPT_W | EPT_X); }
static void directory_moved(void) { *entry_at(nest->ept, GIB) = *entry_at(other, GIB); }
static void directory_removed(void) { *entry_at(nest->ept, GIB) = 0; }
static void root_moved(void) { nest->ept->root[0] = other->root[0]; }
static void large_moved(void)
{
    *ept_entry(nest->ept, SPOT_2M, 2 * MIB) = (REGION + 2 * MIB) | EPT_RWX | EPT_WB | EPT_LARGE;
}
static void large_removed(void) { *ept_entry(nest->ept, SPOT_2M, 2 * MIB) = 0; }
static void large_split(void) { ept_set(nest->ept, SPOT_2M, PAGE, leaf(new_page, EPT_RWX)); }

/* ---- what the nested guest must find ---- */
static void sees_new(void) { touch_reads(nest, SPOT, NEW); }
static void finds_nothing(void) { touch_violates(nest, READ, SPOT, 0); }
static void cannot_write(void)
{
    touch_violates(nest, WRITE, SPOT, EPT_R);
    touch_reads(nest, SPOT, OLD);
}
static void finds_misconfiguration(void) { touch_misconfigured(nest, SPOT, "misconfigured"); }
static void sees_new_large(void) { touch_reads(nest, SPOT_2M, NEW); }
static void finds_nothing_large(void) { touch_violates(nest, READ, SPOT_2M, 0); }

// clang-format off
static const struct edit { const char *name; void (*make)(void); void (*found)(void); } edits[] = {
    { "page moved", moved, sees_new },
    { "page removed", removed, finds_nothing },
    { "page read-only", read_only, cannot_write },
    { "page misconfigured", misconfigured, finds_misconfiguration },
    { "table moved", table_moved, sees_new },
    { "table removed", table_removed, finds_nothing },
    { "table read-only", table_read_only, cannot_write },
    { "directory moved", directory_moved, sees_new },
    { "directory removed", directory_removed, finds_nothing },
    { "root entry moved", root_moved, sees_new },
    { "large page moved", large_moved, sees_new_large },
    { "large page removed", large_removed, finds_nothing_large },
    { "large page split", large_split, sees_new_large },
};
// clang-format on

static void flush_single(void) { nest_flush(nest); }
static void flush_global(void)
{
    struct inv d = { 0, 0 };
    check_outcome("INVEPT global", invept(2, &d), VMX_OK);
}

static bool edits_after(void (*flush)(void))
{
    for (u32 i = 0; i < COUNT(edits) && test_ok(); i++) {
        if (!begin())
            return false;
        flush();
        edits[i].make();
        edits[i].found();
        if (!test_ok())
            test_failed("%s", edits[i].name);
    }
    return true;
}
static void edit_after_single(void) { edits_after(flush_single); }
static void edit_after_global(void) { edits_after(flush_global); }

/* An entry that fails is none: SDM 3, "VM-Entry Failures During or After Loading Guest State". */
static void edit_after_failed_entry(void)
{
    for (u32 i = 0; i < COUNT(edits) && test_ok(); i++) {
        if (!begin())
            return;
        nest_flush(nest);
        vmset(GUEST_RFLAGS, 0);
        check_outcome("VM entry", nest_run(nest), VMX_OK);
        check_eq("exit reason", nest->reason, REASON_ENTRY_FAILED | REASON_BAD_GUEST);
        edits[i].make();
        edits[i].found();
        if (!test_ok())
            test_failed("%s", edits[i].name);
    }
}

static void edit_between_and_after(void)
{
    if (!begin())
        return;
    nest_flush(nest);
    moved();
    nest_flush(nest);
    *entry_at(nest->ept, PAGE) = leaf(old_page, EPT_RWX);
    flush_global();
    removed();
    finds_nothing();
    moved(); /* was not present: needs no INVEPT */
    sees_new();
}

/* Entries with another EPTP meanwhile use nothing of this one's. */
static void edit_after_other_entry(void)
{
    if (!begin())
        return;
    struct ept *own = nest->ept;
    for (u32 i = 0; i < 4; i++) {
        void (*flush)(void) = i & 1 ? flush_global : flush_single;
        nest->ept = own;
        *entry_at(own, PAGE) = leaf(old_page, EPT_RWX);
        flush();
        vmset(EPTP, own->eptp);
        touch_reads(nest, SPOT, OLD);
        flush();
        nest->ept = other;
        vmset(EPTP, other->eptp);
        touch_reads(nest, SPOT, NEW);
        nest->ept = own;
        removed();
        vmset(EPTP, own->eptp);
        finds_nothing();
    }
}

/* A violation invalidates its own address, on the CPU that took it. */
static void edit_after_violation(void)
{
    if (!begin())
        return;
    read_only();
    nest_flush(nest);
    for (u32 i = 0; i < 4; i++) {
        if (!touch_violates(nest, WRITE, SPOT, EPT_R))
            return;
        moved();
        touched = NEW;
        touch(nest, WRITE, SPOT);
        sees_new();
        read_only();
        nest_flush(nest);
    }
}

static void store_there(void *arg)
{
    (void)arg;
    removed();
}

/* Another CPU writes between INVEPT and entry here, and is heard. */
static void edit_by_other_cpu(void)
{
    if (cpu_count < 2) {
        test_skip("one CPU");
        return;
    }
    for (u32 i = 0; i < 8 && test_ok(); i++) {
        if (!begin())
            return;
        nest_flush(nest);
        cpu_call(1, store_there, NULL);
        if (!check(cpu_wait(1, 2000), "the other CPU did not finish"))
            return;
        finds_nothing();
    }
}

// clang-format off
const struct test ept_order_tests[] = {
    { "edit-after-invept", edit_after_single },
    { "edit-after-invept-global", edit_after_global },
    { "edit-after-failed-entry", edit_after_failed_entry },
    { "edit-between-and-after", edit_between_and_after },
    { "edit-after-other-entry", edit_after_other_entry },
    { "edit-after-violation", edit_after_violation },
    { "edit-by-other-cpu", edit_by_other_cpu },
    { NULL, NULL },
};
