/*
 * The guest hypervisor's EPT as real ones have it: its tables lie in memory that the nested guest does not see. (A
 * nested guest that could write them would make the hypervisor below look at all of them on every INVEPT.)
 */
#include "cost.h"
#include "verdict.h"

enum { EPTP_WALK4_WB = 3 << 3 | 6 };
static u32 used; /* bytes of the hidden memory */

bool hidden_present(void)
{
    for (u32 i = 0; i < memory_map_count; i++) {
        const struct mmap_entry *m = &memory_map[i];
        if (m->type == 1 && m->base <= HIDDEN_AT && m->base + m->length >= MEMORY_END)
            return true;
    }
    return false;
}

void *hidden_alloc(u32 pages)
{
    u8 *at = (u8 *)(ulong)(HIDDEN_AT + used);
    used += pages * PAGE;
    if (HIDDEN_AT + used > HIDDEN_END)
        test_fault("(hidden memory used up)");
    return memset(at, 0, (size_t)pages * PAGE);
}

u64 *hidden_entry(struct ept *e, u64 gpa, u64 size)
{
    u64 *entry = &e->root[gpa >> 39 & 511];
    for (u32 shift = 30;; shift -= 9) {
        if (!(*entry & EPT_RWX) || *entry & EPT_LARGE)
            *entry = phys(hidden_alloc(1)) | EPT_RWX;
        entry = (u64 *)(ulong)(*entry & 0xfffffffff000ull) + (gpa >> shift & 511);
        if (BIT(shift) == size)
            return entry;
    }
}

struct ept *hidden_ept(void)
{
    static struct ept ept;
    used = 0;
    ept.root = hidden_alloc(1);
    ept.eptp = phys(ept.root) | EPTP_WALK4_WB;
    for (u64 gpa = 0; gpa < 4 * GIB; gpa += 2 * MIB)
        if (gpa < HIDDEN_AT || gpa >= HIDDEN_END)
            *hidden_entry(&ept, gpa, 2 * MIB) = gpa | EPT_RWX | EPT_WB | EPT_LARGE;
    return &ept;
}
