/*
 * EPT tables of a guest hypervisor: 1:1 over the low 4 GiB with write-back memory, entries reachable one by one.
 */
#include "vmx.h"
#include "verdict.h"

enum { EPT_CAP_WB = 14, EPT_CAP_2M = 16, EPT_CAP_1G = 17, EPTP_WALK4 = 3 << 3, EPTP_WB = 6, SMALL_TOP = 64 };

static u64 *table_of(u64 entry) { return (u64 *)(ulong)(entry & 0xfffffffff000ull); }

static u64 *table_new(u64 first_gpa, u64 step, u64 flags)
{
    u64 *t = page_alloc(1);
    for (u32 i = 0; i < 512 && flags; i++)
        t[i] = (first_gpa + i * step) | flags;
    return t;
}

/* Entry of the given leaf size for gpa; a larger leaf on the way is split into equal smaller ones. */
u64 *ept_entry(struct ept *e, u64 gpa, u64 leaf_size)
{
    u64 size = 512 * GIB;
    u64 *entry = &e->root[gpa >> 39 & 511];
    for (u32 shift = 30; size > leaf_size; shift -= 9, size >>= 9) {
        if (!(*entry & EPT_RWX) && !(*entry & EPT_LARGE)) {
            *entry = phys(table_new(0, 0, 0)) | EPT_RWX;
        } else if (*entry & EPT_LARGE) {
            u64 keep = *entry & (0x7f | (size == 2 * MIB ? 0 : EPT_LARGE)),
                base = *entry & ~(size - 1) & 0xfffffffff000ull;
            u64 child = size >> 9;
            *entry = phys(table_new(base, child, child == PAGE ? keep & ~(u64)EPT_LARGE : keep | EPT_LARGE)) | EPT_RWX;
        }
        entry = &table_of(*entry)[gpa >> shift & 511];
    }
    return entry;
}

void ept_set(struct ept *e, u64 gpa, u64 leaf_size, u64 v) { *ept_entry(e, gpa, leaf_size) = v; }

struct ept *ept_new(u64 leaf_size)
{
    struct ept *e = page_alloc(1);
    e->root = page_alloc(1);
    e->eptp = phys(e->root) | EPTP_WALK4 | EPTP_WB;
    if (leaf_size == GIB && !ept_has(EPT_CAP_1G))
        leaf_size = 2 * MIB;
    u64 flags = EPT_RWX | EPT_WB | EPT_LARGE, large = leaf_size == PAGE ? 2 * MIB : leaf_size;
    for (u64 gpa = 0; gpa < 4 * GIB; gpa += large)
        ept_set(e, gpa, large, gpa | flags);
    for (u64 gpa = 0; leaf_size == PAGE && gpa < SMALL_TOP * (u64)MIB; gpa += PAGE)
        ept_set(e, gpa, PAGE, gpa | EPT_RWX | EPT_WB);
    return e;
}

outcome_t ept_flush(const struct ept *e)
{
    struct inv d = { e->eptp, 0 };
    return invept(1, &d);
}

void nest_flush(const struct nest *n) { check_outcome("INVEPT", ept_flush(n->ept), VMX_OK); }
