/*
 * What an EPT violation or misconfiguration tells, execute-only pages, accessed and dirty flags, EPTP switching, PML.
 */
#include "ept.h"

/* Every legal combination of permissions against every access. */
static void permissions(void)
{
    static const u32 bit[] = { EPT_R, EPT_W, EPT_X };
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x1234);
    for (u32 have = 0; n && have < 8; have++) {
        if ((have & 3) == EPT_W || (have == EPT_X && !ept_has(CAP_EXECUTE_ONLY)))
            continue;
        ept_set(n->ept, SPOT, PAGE, phys(p) | have | EPT_WB);
        nest_flush(n);
        for (enum touch_op op = READ; op <= EXECUTE; op++) {
            touched = 0x1234;
            if (!(have & bit[op] ? touch(n, op, SPOT) : touch_violates(n, op, SPOT, have))) {
                test_failed("access %u, permissions %u", op, have);
                return;
            }
        }
    }
}

static void addresses(void) /* bits 11:0 of both addresses, and a write that crosses into a missing page */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0);
    if (!n)
        return;
    ept_set(n->ept, SPOT, PAGE, phys(p) | EPT_RWX | EPT_WB);
    ept_set(n->ept, SPOT + PAGE, PAGE, 0);
    nest_flush(n);
    touch_violates(n, READ, SPOT + PAGE + 0x7f8, 0);
    touch_violates(n, WRITE, SPOT + PAGE + 0xff8, 0);
    touched = ~0ull;
    if (touch(n, WRITE, SPOT + PAGE - 12))
        check_eq("written 12 bytes before the end", *(u32 *)((u8 *)p + PAGE - 12), ~0u);
    touch_crosses(n, SPOT + PAGE - 2);
    check_eq("nothing written before the crossing", *(u16 *)((u8 *)p + PAGE - 2), 0);
}

/* The guest's own page table out of EPT: bit 8 is 0, the linear address is still told. */
static void walk(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x4321), table = hole_table();
    if (!n)
        return;
    hole_map(phys(p), 3);
    touch(n, READ, hole_va);
    check_eq("value read", touched, 0x4321);
    ept_set(n->ept, table, PAGE, 0);
    nest_flush(n);
    touch_walk(n, hole_va, table);
    ept_set(n->ept, table, PAGE, table | EPT_RWX | EPT_WB);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("value read after the repair", touched, 0x4321);
    hole_map(0, 0);
}

/* SDM 3, "EPT Misconfigurations". */
static void misconfigurations(void)
{
    enum { LEAF2M = EPT_RWX | EPT_WB | EPT_LARGE };
    // clang-format off
    static const struct { const char *name; u64 size, value; bool beyond; } rows[] = {
        { "4K: W without R", PAGE, EPT_W | EPT_WB, false },
        { "4K: WX without R", PAGE, EPT_W | EPT_X | EPT_WB, false },
        { "4K: memory type 2", PAGE, EPT_RWX | 2 << 3, false },
        { "4K: memory type 3", PAGE, EPT_RWX | 3 << 3, false },
        { "4K: memory type 7", PAGE, EPT_RWX | 7 << 3, false },
        { "4K: beyond MAXPHYADDR", PAGE, EPT_RWX | EPT_WB, true },
        { "2M: W without R", 2 * MIB, EPT_W | EPT_WB | EPT_LARGE, false },
        { "2M: memory type 7", 2 * MIB, EPT_RWX | 7 << 3 | EPT_LARGE, false },
        { "2M: address bit 20", 2 * MIB, LEAF2M | 1 << 20, false },
        { "2M: address bit 13", 2 * MIB, LEAF2M | 1 << 13, false },
        { "2M: beyond MAXPHYADDR", 2 * MIB, LEAF2M, true },
        { "directory entry: W without R", 2 * MIB, EPT_W, false },
        { "directory entry: bit 3", 2 * MIB, EPT_RWX | 1 << 3, false },
        { "directory entry: bit 6", 2 * MIB, EPT_RWX | 1 << 6, false },
        { "1G: memory type 3", GIB, EPT_RWX | 3 << 3 | EPT_LARGE, false },
        { "1G: address bit 29", GIB, LEAF2M | 1 << 29, false },
        { "1G: address bit 13", GIB, LEAF2M | 1 << 13, false },
        { "pointer entry: bit 5", GIB, EPT_RWX | 1 << 5, false },
    };
    // clang-format on
    for (u32 i = 0; i < COUNT(rows); i++) {
        page_reset();
        vmcs_reset();
        u64 *p = page_marked(0);
        struct nest *n = ept_guest(2 * MIB);
        if (!n)
            return;
        *ept_entry(n->ept, SPOT, rows[i].size) = (rows[i].value & EPT_LARGE ? 0 : phys(p)) | rows[i].value |
                                                 (rows[i].beyond ? BIT(maxphyaddr()) : 0);
        nest_flush(n);
        touch_misconfigured(n, SPOT, rows[i].name);
    }
}

static void misconfigured_bit12(void) /* bit 12 of a large leaf is reserved like bits 13 and up */
{
    struct nest *n = ept_guest(2 * MIB);
    if (!n)
        return;
    *ept_entry(n->ept, SPOT, 2 * MIB) = EPT_RWX | EPT_WB | EPT_LARGE | 1 << 12;
    nest_flush(n);
    touch_misconfigured(n, SPOT, "2M: address bit 12");
}

static void misconfigured_root(void) /* takes everything away: the first fetch already fails */
{
    struct nest *n = ept_guest(2 * MIB);
    if (!n)
        return;
    u64 keep = n->ept->root[0];
    n->ept->root[0] = keep | EPT_LARGE;
    nest_flush(n);
    NEST_RUN(n, REASON_EPT_MISCONFIG);
    n->ept->root[0] = 0;
    nest_flush(n);
    NEST_RUN(n, REASON_EPT_VIOLATION);
    n->ept->root[0] = keep;
    nest_flush(n);
    touch(n, READ, phys(page_marked(1)));
}

static void ignored_bits(void) /* bits that software may use; a not-present entry may hold anything else */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x2222);
    if (!n)
        return;
    ept_set(n->ept, SPOT, PAGE, phys(p) | EPT_RWX | EPT_WB | 0xf80ull | BIT(52) | BIT(61));
    nest_flush(n);
    touch(n, READ, SPOT);
    check_eq("value read", touched, 0x2222);
    ept_set(n->ept, SPOT, PAGE, 0xfffffffffffffff8ull);
    nest_flush(n);
    touch_violates(n, READ, SPOT, 0);
}

static void accessed_dirty(void)
{
    struct nest *n = ept_has(CAP_AD) ? ept_guest(2 * MIB) : NULL;
    u64 *p = page_marked(0x3333);
    if (!n) {
        test_skip("no accessed and dirty flags");
        return;
    }
    n->ept->eptp |= 1 << 6;
    vmset(EPTP, n->ept->eptp);
    u64 *entry = ept_entry(n->ept, SPOT, PAGE), clean = phys(p) | EPT_RWX | EPT_WB;
    for (u32 i = 0; i < 2; i++) {
        *entry = clean;
        nest_flush(n);
        touch(n, READ, SPOT);
        check_eq("entry after a read", *entry, clean | EPT_A);
        touch(n, WRITE, SPOT);
        check_eq("entry after a write", *entry, clean | EPT_A | EPT_D);
        *entry = clean;
        nest_flush(n);
        touch(n, WRITE, SPOT);
        check_eq("entry after a first write", *entry, clean | EPT_A | EPT_D);
    }
    check_masked("directory entry", *ept_entry(n->ept, SPOT, 2 * MIB), EPT_A, EPT_A);
}

static void no_accessed_dirty(void) /* switched off, the bits are ignored and stay */
{
    struct nest *n = ept_guest(2 * MIB);
    u64 *p = page_marked(0x3333);
    if (!n)
        return;
    u64 *entry = ept_entry(n->ept, SPOT, PAGE), clean = phys(p) | EPT_RWX | EPT_WB;
    *entry = clean;
    nest_flush(n);
    touch(n, WRITE, SPOT);
    check_eq("entry after a write", *entry, clean);
}

/* ---- VMFUNC ---- */
static ulong vmfunc_index;
static void g_vmfunc(void)
{
    asm volatile(".byte 0x0f,0x01,0xd4" : : "a"(0), "c"(vmfunc_index) : "memory");
    touched = *(volatile ulong *)(ulong)SPOT;
}

static void eptp_switching(void)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_VMFUNC, "VM functions") ? ept_guest(2 * MIB) : NULL;
    if (!n || !(rdmsr(MSR_VMX_VMFUNC) & 1)) {
        test_skip("no EPTP switching");
        return;
    }
    struct ept *other = ept_new(2 * MIB);
    u64 *list = page_alloc(1);
    ept_set(n->ept, SPOT, PAGE, phys(page_marked(0xaaaa)) | EPT_RWX | EPT_WB);
    ept_set(other, SPOT, PAGE, phys(page_marked(0xbbbb)) | EPT_RWX | EPT_WB);
    list[3] = other->eptp;
    list[4] = n->ept->eptp;
    list[5] = 7; /* no EPT pointer */
    nest_control(PROC2_CONTROLS, PROC2_VMFUNC, 0);
    vmset(VM_FUNCTIONS, 1);
    vmset(EPTP_LIST, phys(list));
    for (vmfunc_index = 3; vmfunc_index < 5; vmfunc_index++) {
        nest_restart(n, g_vmfunc);
        NEST_RUN(n, REASON_VMCALL);
        check_eq("value read after the switch", touched, vmfunc_index == 3 ? 0xbbbb : 0xaaaa);
        check_eq("EPTP", vmget(EPTP), list[vmfunc_index]);
    }
    for (vmfunc_index = 5; vmfunc_index < 1024; vmfunc_index += 507) { /* 5: bad pointer; 512: beyond the list */
        nest_restart(n, g_vmfunc);
        NEST_RUN(n, REASON_VMFUNC);
    }
}

/* SDM 3, "Page-Modification Logging": a page's first write is logged, its address aligned. */
static void pml(u32 low_bits, bool to_the_end)
{
    enum { REASON_PML_FULL = 62 };
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_PML, "PML") ? ept_guest(2 * MIB) : NULL;
    if (!n)
        return;
    u64 *log = page_alloc(1), *p = page_marked(0);
    n->ept->eptp |= 1 << 6;
    vmset(EPTP, n->ept->eptp);
    vmset(PML_ADDRESS, phys(log));
    vmset(PML_INDEX, 511);
    nest_control(PROC2_CONTROLS, PROC2_PML, 0);
    for (u32 i = 0; i < 4; i++)
        ept_set(n->ept, SPOT + i * PAGE, PAGE, phys(p) | EPT_RWX | EPT_WB);
    nest_flush(n);
    for (u32 i = 0; i < 8; i++)
        touch(n, WRITE, SPOT + i % 4 * PAGE + 8 * i);
    u32 found = 0;
    for (u32 at = 511; at > (u32)(vmget(PML_INDEX) & 0xffff); at--)
        found += log[at] >= SPOT && log[at] < SPOT + 4 * PAGE && !(log[at] & low_bits);
    check_eq("writes logged", found, 4);
    if (!to_the_end)
        return;
    vmset(PML_INDEX, 0xffff);
    ept_set(n->ept, SPOT, PAGE, phys(p) | EPT_RWX | EPT_WB);
    nest_flush(n);
    touch_exits(n, WRITE, SPOT, REASON_PML_FULL);
}
static void pml_log(void) { pml(0, true); }
static void pml_aligned(void) { pml(PAGE - 1, false); }

// clang-format off
const struct test ept_violation_tests[] = {
    { "permissions", permissions },
    { "addresses", addresses },
    { "walk", walk },
    { "misconfigurations", misconfigurations },
    { "misconfigured-bit12", misconfigured_bit12 },
    { "misconfigured-root", misconfigured_root },
    { "ignored-bits", ignored_bits },
    { "accessed-dirty", accessed_dirty },
    { "no-accessed-dirty", no_accessed_dirty },
    { "eptp-switching", eptp_switching },
    { "pml", pml_log },
    { "pml-aligned", pml_aligned },
    { NULL, NULL },
};
// clang-format on
