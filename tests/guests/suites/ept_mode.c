/*
 * EPT with what only hardware does in one go: string input into a missing page, PAE paging switched on with CR3's page
 * missing; EPT over a device; and guests without EPT, with VPID.
 */
#include "ept.h"
#include "nest_code.h"

enum {
    ATA = 0x1f0,
    ATA_COUNT = ATA + 2,
    ATA_LBA0 = ATA + 3,
    ATA_LBA1,
    ATA_LBA2,
    ATA_DRIVE,
    ATA_COMMAND,
    ATA_READ_SECTORS = 0x20,
    ATA_BUSY = 0x80,
    ATA_DATA_READY = 8,
    SECTOR = 512
};

/* Asks the first disk for its first sector (PIO); true when the data waits in the port. */
static bool sector_request(void)
{
    outb(0x3f6, 2); /* no interrupt */
    outb(ATA_DRIVE, 0xe0);
    outb(ATA_COUNT, 1);
    outb(ATA_LBA0, 0);
    outb(ATA_LBA1, 0);
    outb(ATA_LBA2, 0);
    outb(ATA_COMMAND, ATA_READ_SECTORS);
    for (u32 i = 0; i < 1000000; i++)
        if ((inb(ATA_COMMAND) & (ATA_BUSY | ATA_DATA_READY)) == ATA_DATA_READY)
            return true;
    return check(false, "the disk does not answer");
}

static ulong string_to;
static u32 string_left;
static void g_rep_ins(void)
{
    ulong to = string_to, count = SECTOR / 2;
    asm volatile("cld\nrep insw" : "+D"(to), "+c"(count) : "d"(ATA) : "memory");
    string_left = (u32)count;
}
static void string_read(u8 *to)
{
    string_to = (ulong)to;
    g_rep_ins();
}

/* The sector, read by the guest hypervisor itself, then by the nested guest to `offset` in SPOT's pages. */
static void rep_ins(u32 offset)
{
    struct nest *n = ept_guest(2 * MIB);
    u8 *want = page_alloc(1), *pages = page_alloc(2);
    if (!n || !sector_request())
        return;
    string_read(want);
    check_eq("boot signature of the sector", want[510] | want[511] << 8, 0xaa55);
    ept_set(n->ept, SPOT, PAGE, 0);
    ept_set(n->ept, SPOT + PAGE, PAGE, 0);
    nest_flush(n);
    if (!sector_request())
        return;
    string_to = (ulong)SPOT + offset;
    nest_restart(n, g_rep_ins);
    for (u32 i = 0; i < 2 && (i == 0 || offset + SECTOR > PAGE); i++) {
        NEST_RUN(n, REASON_EPT_VIOLATION);
        check_masked("exit qualification", vmget(EXIT_QUALIFICATION), 0x182, 0x1bf);
        check_eq("guest-physical address", vmget(GUEST_PHYSICAL), i ? SPOT + PAGE : SPOT + offset);
        check_eq("words left", n->regs.cx, i ? (offset + SECTOR - PAGE) / 2 : SECTOR / 2);
        ept_set(n->ept, SPOT + i * PAGE, PAGE, (phys(pages) + i * PAGE) | EPT_RWX | EPT_WB);
    }
    NEST_RUN(n, REASON_VMCALL);
    check_eq("words left at the end", string_left, 0);
    for (u32 i = 0; i < SECTOR; i++)
        if (!check(pages[offset + i] == want[i], "byte %u is %x, the disk has %x", i, pages[offset + i], want[i]))
            return;
}
static void rep_ins_page(void) { rep_ins(0); }
static void rep_ins_crossing(void) { rep_ins(PAGE - 100); }

static void g_rep_outs(void)
{
    ulong from = string_to, count = 16;
    asm volatile("cld\nrep outsb" : "+S"(from), "+c"(count) : "d"(0x80) : "memory");
    string_left = (u32)count;
}
static void rep_outs(void)
{
    struct nest *n = ept_guest(2 * MIB);
    u8 *p = page_alloc(1);
    if (!n)
        return;
    ept_set(n->ept, SPOT, PAGE, 0);
    nest_flush(n);
    string_to = (ulong)SPOT + 0x20;
    nest_restart(n, g_rep_outs);
    NEST_RUN(n, REASON_EPT_VIOLATION);
    check_masked("exit qualification", vmget(EXIT_QUALIFICATION), 0x181, 0x1bf);
    ept_set(n->ept, SPOT, PAGE, phys(p) | EPT_RWX | EPT_WB);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("bytes left", string_left, 0);
}

/* 32-bit nested guest: CR3 (or the new CR3 under PAE) points into a page that EPT lacks. */
static void pae_missing(enum nest_mode mode, void (*fn)(void))
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(mode, fn) : NULL;
    if (!n)
        return;
    if (mode == NEST_PAE32)
        nest_ept(n, ept_new(2 * MIB));
    u64 *tables = page_alloc(1 + 4), *data = page_marked(0xfeedbeef);
    for (u32 i = 0; i < 2048; i++)
        tables[512 + i] = (u64)i << 21 | 0xe7;
    for (u32 i = 0; i < 4; i++)
        tables[i] = phys(tables + 512 * (i + 1)) | 1;
    ept_set(n->ept, SPOT, PAGE, 0);
    nest_flush(n);
    n->regs.si = (ulong)SPOT;
    n->regs.di = (ulong)phys(data);
    vmset(EXCEPTION_BITMAP, BIT(VEC_GP)); /* what a wrong hypervisor raises instead */
    NEST_RUN(n, REASON_EPT_VIOLATION);
    check_masked("exit qualification: a read, no linear address", vmget(EXIT_QUALIFICATION), 1, 0xbf);
    check_eq("guest-physical page", vmget(GUEST_PHYSICAL) & ~0x1full, SPOT);
    check_masked("CR0.PG", vmget(GUEST_CR0), mode == NEST_PAE32 ? CR0_PG : 0, CR0_PG);
    ept_set(n->ept, SPOT, PAGE, phys(tables) | EPT_RWX | EPT_WB);
    NEST_RUN(n, REASON_VMCALL);
    check_masked("CR0.PG after", vmget(GUEST_CR0), CR0_PG, CR0_PG);
    check_eq("CR3 after", vmget(GUEST_CR3), SPOT);
    check_eq("PDPTE 1", vmget(GUEST_PDPTE1), tables[1]);
    nest_skip();
    NEST_RUN(n, REASON_VMCALL);
    check_eq("read through the new tables", (u32)n->regs.bx, 0xfeedbeef);
}
static void pae_enable(void) { pae_missing(NEST_FLAT32, code32_enable_pae); }
static void pae_load(void) { pae_missing(NEST_PAE32, code32_load_cr3); }

/* The nested guest reaches a device through EPT at another address. */
static void g_read32(void) { touched = *(volatile u32 *)(ulong)(SPOT + APIC_ID); }
static void device(void)
{
    struct nest *n = ept_guest(2 * MIB);
    if (!n)
        return;
    ept_set(n->ept, SPOT, PAGE, 0xfee00000 | EPT_R);
    nest_flush(n);
    nest_restart(n, g_read32);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("APIC ID register", (u32)touched >> 24, this_cpu()->apic_id);
    touch_violates(n, WRITE, SPOT + 0x20, EPT_R);
}

/* ---- without EPT ---- */
static void g_read_hole(void) { touched = *(volatile ulong *)hole_va; }
static void g_read_hole_flushed(void)
{
    write_cr3(read_cr3());
    touched = *(volatile ulong *)hole_va;
}

static bool hole_reads(struct nest *n, u64 *page, void (*fn)(void))
{
    hole_map(phys(page), 3);
    nest_restart(n, fn);
    return nest_expect(n, REASON_VMCALL) && check_eq("value read", touched, *page);
}

static void no_ept(void) /* no VPID either: entry and exit flush */
{
    struct nest *n = nest_new(NEST_SAME, g_read_hole);
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb) };
    for (u32 i = 0; n && i < 4; i++)
        if (!hole_reads(n, pages[i & 1], g_read_hole))
            return;
    hole_map(0, 0);
    if (n) {
        nest_restart(n, g_read_hole);
        nest_event(n, VEC_PF, 0);
    }
}

static void vpid(void)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_VPID, "VPID") ? nest_new(NEST_SAME, g_read_hole) : NULL;
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb) };
    struct inv rows[] = { { 7, hole_va }, { 7, 0 }, { 0, 0 }, { 7, 0 } };
    if (!n)
        return;
    nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
    vmset(PROC2_CONTROLS, PROC2_VPID);
    vmset(VPID, 7);
    for (u32 i = 0; i < 8; i++) {
        u32 type = i % 4;
        if (!ept_has(40 + type))
            continue;
        hole_map(phys(pages[i & 1]), 3);
        check_outcome("INVVPID", invvpid(type, &rows[type]), VMX_OK);
        if (!hole_reads(n, pages[i & 1], g_read_hole)) {
            test_failed("after INVVPID of type %u", type);
            return;
        }
    }
    for (u32 i = 0; i < 4; i++) /* the nested guest's own MOV to CR3 is enough as well */
        if (!hole_reads(n, pages[i & 1], g_read_hole_flushed))
            return;
    vmset(VPID, 8);
    hole_reads(n, pages[0], g_read_hole); /* a VPID never used knows nothing of 7's translations */
    nest_control(PROC2_CONTROLS, 0, PROC2_VPID);
    for (u32 i = 0; i < 4; i++)
        if (!hole_reads(n, pages[i & 1], g_read_hole))
            return;
    hole_map(0, 0);
}

static void vpid_ept(void) /* INVEPT alone covers mappings made under a VPID */
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_VPID, "VPID") ? ept_guest(2 * MIB) : NULL;
    u64 *pages[] = { page_marked(0xaaaa), page_marked(0xbbbb) };
    if (!n)
        return;
    nest_control(PROC2_CONTROLS, PROC2_VPID, 0);
    for (u32 i = 0; i < 8; i++) {
        vmset(VPID, 1 + i / 2 % 2);
        ept_set(n->ept, SPOT, PAGE, phys(pages[i & 1]) | EPT_RWX | EPT_WB);
        nest_flush(n);
        touch(n, READ, SPOT);
        check_eq("value read", touched, i & 1 ? 0xbbbb : 0xaaaa);
    }
}

// clang-format off
const struct test ept_mode_tests[] = {
    { "rep-ins", rep_ins_page },
    { "rep-ins-crossing", rep_ins_crossing },
    { "rep-outs", rep_outs },
    { "pae-enable", pae_enable },
    { "pae-load-cr3", pae_load },
    { "device", device },
    { "no-ept", no_ept },
    { "vpid", vpid },
    { "vpid-ept", vpid_ept },
    { NULL, NULL },
};
// clang-format on
