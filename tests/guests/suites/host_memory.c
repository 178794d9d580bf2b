/*
 * Memory that is not RAM by the memory map: a guest may touch all of it, by itself and through a nested guest, and put
 * it into every VMX pointer; the machine must go on and nothing but refusals may come of it.
 */
#include "host.h"
#include "nest_code.h"

enum { RAM = 1, ACPI = 3, NVS = 4, PROBE_STEP = PAGE };
#define PATTERN 0x5157a7a5157a7a55ull

static void map_sane(void)
{
    u64 ram = 0;
    bool own = false;
    check(memory_map_count > 2, "%u entries in the memory map", memory_map_count);
    for (u32 i = 0; i < memory_map_count; i++) {
        const struct mmap_entry *e = &memory_map[i];
        check(e->length > 0, "entry %u at %llx is empty", i, e->base);
        check(e->base + e->length > e->base, "entry %u at %llx wraps", i, e->base);
        for (u32 k = 0; k < i; k++) {
            const struct mmap_entry *o = &memory_map[k];
            check(e->base >= o->base + o->length || o->base >= e->base + e->length, "entries at %llx and %llx overlap",
                  e->base, o->base);
        }
        if (e->type != RAM)
            continue;
        ram += e->length;
        own = own || (e->base <= (ulong)map_sane && (ulong)map_sane < e->base + e->length);
    }
    check(ram >= 32 * (u64)MIB, "only %llx bytes of RAM", ram);
    check(own, "this program is not in RAM");
}

/* Where the machine's memory ends below 4 GiB: CMOS 34h/35h count 64 KiB units above 16 MiB. */
static u64 memory_top(void)
{
    outb(0x70, 0x34);
    u64 units = inb(0x71);
    outb(0x70, 0x35);
    units |= (u64)inb(0x71) << 8;
    return 16 * (u64)MIB + units * 65536;
}

/* Type of an address by the map; 0: not listed. */
static u32 type_at(u64 at)
{
    for (u32 i = 0; i < memory_map_count; i++)
        if (at >= memory_map[i].base && at - memory_map[i].base < memory_map[i].length)
            return memory_map[i].type;
    return 0;
}

/* Calls each(address) for one address per page of [1 MiB, top) that is neither RAM nor ACPI's. */
static u32 for_each_hidden(void (*each)(u64 at))
{
    u32 pages = 0;
    for (u64 at = MIB, top = memory_top(); at < top; at += PROBE_STEP) {
        u32 type = type_at(at);
        if (type == RAM || type == ACPI || type == NVS)
            continue;
        each(at);
        pages++;
    }
    return pages;
}

static void probe(u64 at)
{
    volatile u64 *p = (volatile u64 *)(ulong)(at + (at >> 9 & 0xff8));
    (void)*p;
    *p = PATTERN;
    (void)*p;
    if ((at & 0xffff) == 0)
        cpuid(0, 0);
}

static u64 hidden[64]; /* the first hidden pages, for the tests below */
static u32 hidden_count;
static void note_hidden(u64 at)
{
    if (hidden_count < COUNT(hidden))
        hidden[hidden_count++] = at;
}

/* At least one address that is nobody's memory: without a hidden page, one behind the machine's memory. */
static u64 strange_address(void)
{
    hidden_count = 0;
    for_each_hidden(note_hidden);
    return hidden_count ? hidden[hidden_count / 2] : 0x90000000;
}

static void hidden_direct(void)
{
    u32 pages = for_each_hidden(probe);
    print("note host.hidden-direct: %u pages are neither RAM nor ACPI's below %llx\n", pages, memory_top());
    cpuid(0, 0);
}

/* Instructions that a hypervisor might have to decode, if it decodes. */
static void hidden_instructions(void)
{
    ulong at = (ulong)strange_address();
    asm volatile("movb $1,(%0)\nmovw $2,1(%0)\nmovl $3,3(%0)\n" : : "r"(at) : "memory");
    asm volatile("lock incl (%0)\nlock cmpxchg %1,(%0)\nxchg %1,8(%0)\nbtsl $3,16(%0)"
                 :
                 : "r"(at), "r"(0)
                 : "eax", "memory", "cc");
    asm volatile("push (%0)\npop 8(%0)\nnotl (%0)\nnegl 4(%0)\nshll $3,8(%0)\nadcl $1,12(%0)"
                 :
                 : "r"(at)
                 : "memory", "cc");
    ulong to = at, from = at + 64, count = 16;
    asm volatile("cld\nrep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    to = at, count = 64;
    asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(0x5a) : "memory");
    from = at + PAGE - 2;
    asm volatile("movl (%0),%%eax" : : "r"(from) : "eax"); /* across the page's end */
    u8 table[10];
    asm volatile("sidt (%0)\nsgdt 16(%0)\nsmsw 32(%0)\nsldt 34(%0)\nstr 36(%0)" : : "r"(at) : "memory");
    asm volatile("movl (%1),%%eax\nmov %%eax,%0" : "=m"(*(u32 *)table) : "r"(at) : "eax");
    asm volatile(
        "fs movl (%0),%%eax\nmovzbl (%0),%%ecx\nmovsbl (%0),%%ecx\nbswap %%ecx\ncmpl %%ecx,(%0)\ntestl %%ecx,(%0)"
        :
        : "r"(at)
        : "eax", "ecx", "cc");
    cpuid(0, 0);
}

static volatile ulong nest_from, nest_to;
static void g_probe(void)
{
    for (ulong at = nest_from; at < nest_to; at += PAGE) {
        (void)*(volatile u64 *)at;
        *(volatile u64 *)at = PATTERN;
    }
}

static void hidden_nested(void) /* the same pages, by a nested guest whose EPT maps all 4 GiB 1:1 */
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(NEST_SAME, g_probe) : NULL;
    if (!n)
        return;
    nest_ept(n, ept_new(2 * MIB));
    strange_address();
    u32 exits = 0;
    for (u32 i = 0; i < hidden_count || i == 0; i++) {
        nest_from = hidden_count ? (ulong)hidden[i] : 0x90000000;
        nest_to = nest_from + PAGE;
        nest_restart(n, g_probe);
        if (!check_outcome("VM entry", nest_run(n), VMX_OK))
            return;
        exits += n->reason != REASON_VMCALL; /* a violation of an address beyond the machine is no harm */
    }
    if (exits)
        print("note host.hidden-nested: %u of %u probes came out by exit %u\n", exits, hidden_count, n->reason);
    page_reset();
    vmcs_reset();
}

#ifdef __x86_64__
static void beyond_memory(void) /* physical addresses far above everything */
{
    u64 rows[] = { 5 * GIB, 64 * GIB, BIT(maxphyaddr()) - PAGE, BIT(maxphyaddr() - 1) };
    for (u32 i = 0; i < COUNT(rows); i++) {
        hole_map(rows[i], 3);
        volatile u64 *p = (volatile u64 *)hole_va;
        (void)*p;
        *p = PATTERN;
        (void)*p;
        hole_map(0, 0);
    }
    cpuid(0, 0);
}

enum { FAR_READS = 400 };
static u64 far_address(u32 i) { return (8 + i) * GIB % BIT(maxphyaddr()) + i * PAGE; }

/* More places than a hypervisor has tables at hand for, while the other CPUs take no exits: nobody has to wait for them. */
static void far_memory(void)
{
    for (u32 i = 0; i < FAR_READS; i++) {
        hole_map(far_address(i), 3);
        (void)*(volatile u64 *)hole_va;
        hole_map(0, 0);
    }
    cpuid(0, 0);
}

static volatile ulong far_seen;
static void g_far(void) { far_seen = *(volatile ulong *)nest_from; }

static void far_memory_nested(void) /* the same by a nested guest whose EPT leads there */
{
    enum { SPOT = 0xa0000000 };
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT") ? nest_new(NEST_SAME, g_far) : NULL;
    if (!n)
        return;
    nest_ept(n, ept_new(2 * MIB));
    nest_from = SPOT;
    for (u32 i = 0; i < FAR_READS && test_ok(); i++) {
        ept_set(n->ept, SPOT, PAGE, far_address(i) | EPT_R);
        nest_flush(n);
        nest_restart(n, g_far);
        nest_expect(n, REASON_VMCALL);
    }
    page_reset();
    vmcs_reset();
}
#else
static void beyond_memory(void) { test_skip("64-bit test"); }
static void far_memory(void) { test_skip("64-bit test"); }
static void far_memory_nested(void) { test_skip("64-bit test"); }
#endif

/* VMX pointers at memory that is no RAM: any outcome the SDM names, and the machine goes on. */
static void pointers(void)
{
    u64 at = strange_address(), got;
    struct inv d = { at | 0x1e, 0 };
    vmptrld(at);
    vmptrst(&got);
    vmclear(at);
    vmptrld(at | BIT(maxphyaddr() - 1));
    vmclear(BIT(maxphyaddr()) - PAGE);
    vmptrld(0xfee00000);
    invept(1, &d);
    invvpid(0, &d);
    vmxoff();
    outcome_t o = vmxon(at);
    check(o == VMX_OK || o == VMX_INVALID, "VMXON there: outcome %x", o);
    if (o == VMX_INVALID)
        check_outcome("VMXON", vmxon(phys(this_cpu()->vmxon)), VMX_OK);
}

static void g_some_exits(void)
{
    inb(0x80);
    rdmsr(MSR_TSC);
    cpuid(0, 0);
}

/*
 * One field after another points there, with its control on. The nested guest may fail to enter or exit at once. (Not the
 * MSR areas of the exit: garbage there is a VMX abort, which ends the machine.)
 */
static void hostile_fields(void)
{
    // clang-format off
    static const struct { const char *name; u32 field, count, control, bit; u32 flags; } rows[] = {
        { "I/O bitmap A", IO_BITMAP_A, 0, PROC_CONTROLS, PROC_IO_BITMAPS, 0 },
        { "I/O bitmap B", IO_BITMAP_B, 0, PROC_CONTROLS, PROC_IO_BITMAPS, 0 },
        { "MSR bitmap", MSR_BITMAP, 0, PROC_CONTROLS, PROC_MSR_BITMAPS, 0 },
        { "virtual-APIC page", VIRTUAL_APIC, 0, PROC_CONTROLS, PROC_TPR_SHADOW, 0 },
        { "APIC-access page", APIC_ACCESS, 0, PROC2_CONTROLS, PROC2_APIC_ACCESS, 0 },
        { "EPT root", EPTP, 0, PROC2_CONTROLS, PROC2_EPT, 0x1e },
        { "VMREAD bitmap", VMREAD_BITMAP, 0, PROC2_CONTROLS, PROC2_SHADOW, 0 },
        { "VMWRITE bitmap", VMWRITE_BITMAP, 0, PROC2_CONTROLS, PROC2_SHADOW, 0 },
        { "entry MSR load", ENTRY_MSR_LOAD, ENTRY_MSR_LOAD_COUNT, 0, 0, 0 },
        { "link pointer", LINK_POINTER, 0, 0, 0, 0 },
        { "CR3", GUEST_CR3, 0, 0, 0, 0 },
    };
    // clang-format on
    u64 at = strange_address();
    for (u32 i = 0; i < COUNT(rows); i++) {
        page_reset();
        vmcs_reset();
        struct nest *n = nest_new(NEST_SAME, g_some_exits);
        u64 msr = rows[i].control == PROC2_CONTROLS ? MSR_VMX_PROC2 : proc_msr();
        if (!n)
            return;
        if (rows[i].field == GUEST_CR3 && !hidden_count)
            continue; /* behind the machine's memory page tables of ones make Bochs itself crash now and then */
        if (rows[i].bit &&
            !(msr == MSR_VMX_PROC2 ? proc2_supported(rows[i].bit) : control_supported((u32)msr, rows[i].bit)))
            continue;
        vmset(GUEST_IDTR_LIMIT, 0); /* what goes wrong ends in a triple fault */
        vmset(IO_BITMAP_A, phys(page_alloc(1)));
        vmset(IO_BITMAP_B, phys(page_alloc(1)));
        vmset(rows[i].field, at | rows[i].flags);
        if (rows[i].count)
            vmset(rows[i].count, 2);
        if (rows[i].control == PROC2_CONTROLS) {
            nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
            vmset(PROC2_CONTROLS, rows[i].bit);
        } else if (rows[i].control) {
            nest_control(rows[i].control, rows[i].bit, 0);
        }
        if (rows[i].field == VIRTUAL_APIC)
            vmset(TPR_THRESHOLD, 0);
        for (u32 exits = 0; exits < 4; exits++) {
            outcome_t o = nest_run(n);
            check(o < VMX_FLAGS, "%s: outcome %x", rows[i].name, o);
            if (o != VMX_OK || n->reason & REASON_ENTRY_FAILED || n->reason == REASON_TRIPLE_FAULT)
                break;
            nest_skip();
        }
        vmclear(phys(n->vmcs));
    }
}

/* ---- the BIOS memory map, as a real-mode nested guest gets it: every level's INT 15h stub is on the way ---- */
static void int15_e820(void)
{
    enum { CODE = 0x9000, BUFFER = 0x9800, SMAP = 0x534d4150 };
    struct nest *n = nest_new(NEST_REAL, real_e820);
    volatile struct mmap_entry *e = (volatile struct mmap_entry *)BUFFER;
    u32 found = 0, listed = 0;
    if (!n)
        return;
    memcpy((void *)CODE, (void *)real_e820, 64); /* IRET comes back to CS * 16: below 1 MiB */
    n->regs.bx = 0;
    do {
        *e = (struct mmap_entry){ 0, 0, 0, 0 };
        ulong bx = n->regs.bx;
        nest_restart(n, real_e820);
        vmset(GUEST_CS, CODE >> 4);
        vmset(GUEST_CS_BASE, CODE);
        n->regs = (struct nest_regs){ 0xe820, bx, 20, SMAP, 0, BUFFER, 0 };
        NEST_RUN(n, REASON_VMCALL);
        check_masked("carry after INT 15h", n->regs.si, 0, 1);
        check_eq("EAX after INT 15h", (u32)n->regs.ax, SMAP);
        bool known = false;
        for (u32 i = 0; i < memory_map_count; i++)
            known = known || (e->base >= memory_map[i].base && e->type == memory_map[i].type &&
                              e->base + e->length <= memory_map[i].base + memory_map[i].length);
        check(known, "entry %llx + %llx type %u is not as GRUB reported it", e->base, e->length, e->type);
        found++;
    } while ((u32)n->regs.bx && found < 100 && test_ok());
    for (u32 i = 0; i < memory_map_count; i++)
        listed += memory_map[i].type == RAM;
    check(found >= listed, "%u entries from INT 15h, %u of RAM from GRUB", found, listed);
}

// clang-format off
const struct test host_memory_tests[] = {
    { "map-sane", map_sane },
    { "hidden-direct", hidden_direct },
    { "hidden-instructions", hidden_instructions },
    { "hidden-nested", hidden_nested },
    { "beyond-memory", beyond_memory },
    { "far-memory", far_memory },
    { "far-memory-nested", far_memory_nested },
    { "pointers", pointers },
    { "hostile-fields", hostile_fields },
    { "int15-e820", int15_e820 },
    { NULL, NULL },
};
// clang-format on
