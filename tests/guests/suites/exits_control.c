/*
 * Exits decided by more than one control bit: MSR and I/O bitmaps, CR0/CR4 masks and shadows, CR3 targets, the
 * exception bitmap with the page-fault mask, and the TSC offset.
 */
#include "exits.h"

static struct {
    u64 in, out;
    u32 index;
    u16 port;
} arg; /* what the nested guest below works on */

static void msr_read(void) { arg.out = rdmsr(arg.index); }
static void msr_write(void) { wrmsr(arg.index, arg.in); }

/* SDM 3, "MSR-Bitmap Address": read low, read high, write low, write high, 1 KiB each. */
static void msr_bitmap(void)
{
    // clang-format off
    static const struct { u32 msr, write, byte, bit; } rows[] = {
        { 0x174, 0, 0x174 / 8, 0x174 % 8 },           { 0x174, 1, 2048 + 0x174 / 8, 0x174 % 8 },
        { MSR_STAR, 0, 1024 + 0x81 / 8, 0x81 % 8 },   { MSR_STAR, 1, 3072 + 0x81 / 8, 0x81 % 8 },
        { MSR_PAT, 0, 0x277 / 8, 0x277 % 8 },         { MSR_KERNEL_GS_BASE, 1, 3072 + 0x102 / 8, 0x102 % 8 },
    };
    // clang-format on
    struct nest *n = nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps") ? nest_new(NEST_SAME, msr_read) : NULL;
    if (!n)
        return;
    u8 *map = page_alloc(1);
    vmset(MSR_BITMAP, phys(map));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    for (u32 i = 0; i < COUNT(rows); i++) {
        u32 reason = rows[i].write ? REASON_WRMSR : REASON_RDMSR;
        arg.index = rows[i].msr;
        arg.in = rdmsr(arg.index);
        for (u32 mode = 0; mode < 3; mode++) { /* all clear; all others set; only this one set */
            memset(map, mode == 1 ? 0xff : 0, PAGE);
            map[rows[i].byte] = (u8)(mode == 1 ? ~(1u << rows[i].bit) : mode == 2 ? 1u << rows[i].bit : 0);
            nest_restart(n, rows[i].write ? msr_write : msr_read);
            NEST_RUN(n, mode == 2 ? reason : REASON_VMCALL);
            if (mode == 2)
                check_eq("ECX at the exit", (u32)n->regs.cx, rows[i].msr);
        }
    }
    memset(map, 0, PAGE);
    static const u32 outside[] = { 0x2000, 0x40000000, 0xbfffffff, 0xc0002000, 0xffffffff };
    for (u32 i = 0; i < COUNT(outside); i++) {
        arg.index = outside[i];
        nest_restart(n, i & 1 ? msr_write : msr_read);
        NEST_RUN(n, i & 1 ? REASON_WRMSR : REASON_RDMSR);
    }
}

static void port_in8(void) { arg.out = inb(arg.port); }
static void port_in32(void)
{
    u32 v;
    asm volatile("inl %1,%0" : "=a"(v) : "d"(arg.port));
    arg.out = v;
}

static void io_bitmap(void)
{
    struct nest *n = nest_need(proc_msr(), PROC_IO_BITMAPS, "I/O bitmaps") ? nest_new(NEST_SAME, port_in8) : NULL;
    if (!n)
        return;
    u8 *a = page_alloc(1), *b = page_alloc(1);
    // clang-format off
    static const struct { u16 port, marked; void (*guest)(void); bool exits; } rows[] = {
        { 0x80, 0x80, port_in8, true },    { 0x80, 0x81, port_in8, false },     { 0x81, 0x80, port_in8, false },
        { 0x80, 0x83, port_in32, true },   { 0x80, 0x84, port_in32, false },    { 0x84, 0x83, port_in32, false },
        { 0x7fff, 0x7fff, port_in8, true }, { 0x8000, 0x8000, port_in8, true }, { 0x8000, 0x0000, port_in8, false },
        { 0x7ffe, 0x8001, port_in32, true }, { 0xffff, 0xffff, port_in8, true }, { 0xfffe, 0x1234, port_in32, true },
    };
    // clang-format on
    vmset(IO_BITMAP_A, phys(a));
    vmset(IO_BITMAP_B, phys(b));
    nest_control(PROC_CONTROLS, PROC_IO_BITMAPS | PROC_IO, 0); /* bitmaps win over unconditional exiting */
    if (!control_supported(proc_msr(), PROC_IO))
        nest_control(PROC_CONTROLS, 0, PROC_IO);
    for (u32 i = 0; i < COUNT(rows); i++) {
        u8 *byte = (rows[i].marked & 0x8000 ? b : a) + (rows[i].marked & 0x7fff) / 8;
        *byte = (u8)(1u << rows[i].marked % 8);
        arg.port = rows[i].port;
        nest_restart(n, rows[i].guest);
        if (!nest_expect(n, rows[i].exits ? REASON_IO : REASON_VMCALL)) {
            test_failed("port %x with %x in the bitmap", rows[i].port, rows[i].marked);
            return;
        }
        if (rows[i].exits)
            check_eq("port in the qualification", vmget(EXIT_QUALIFICATION) >> 16, rows[i].port);
        *byte = 0;
    }
}

static void cr0_in_out(void)
{
    arg.out = read_cr0();
    write_cr0((ulong)arg.in);
}
static void cr0_lmsw(void) { asm volatile("lmsw %w0" : : "r"((u32)arg.in)); }
static void cr0_clts(void) { asm volatile("clts"); }
static void cr0_smsw(void)
{
    ulong v;
    asm volatile("smsw %0" : "=r"(v));
    arg.out = v;
}

/* SDM 3, "Guest/Host Masks and Read Shadows for CR0 and CR4": reads give the shadow's masked bits; a write exits when
 * a masked bit differs from the shadow. */
static void cr0_mask(void)
{
    struct nest *n = nest_new(NEST_SAME, cr0_in_out);
    if (!n)
        return;
    u64 real = vmget(GUEST_CR0);
    vmset(CR0_MASK, CR0_TS | CR0_AM | CR0_MP);
    vmset(CR0_SHADOW, CR0_TS); /* TS reads 1, AM and MP read 0 */
    u64 seen = (real & ~(u64)(CR0_AM | CR0_MP)) | CR0_TS;
    arg.in = seen;
    NEST_RUN(n, REASON_VMCALL);
    check_eq("CR0 read through the shadow", arg.out, seen);
    check_eq("real CR0 after an equal write", vmget(GUEST_CR0), real);
    arg.in = seen & ~(u64)CR0_WP; /* not masked */
    nest_restart(n, cr0_in_out);
    NEST_RUN(n, REASON_VMCALL);
    check_eq("real CR0 after a write of a free bit", vmget(GUEST_CR0), real & ~(u64)CR0_WP);
    vmset(GUEST_CR0, real);
    arg.in = seen ^ CR0_AM;
    nest_restart(n, cr0_in_out);
    NEST_RUN(n, REASON_CR);
    check_masked("qualification (MOV to CR0)", vmget(EXIT_QUALIFICATION), 0, 0x3f);
    check_eq("real CR0 after the exit", vmget(GUEST_CR0), real);
    nest_restart(n, cr0_clts); /* shadow TS is 1: exits */
    NEST_RUN(n, REASON_CR);
    check_eq("qualification (CLTS)", vmget(EXIT_QUALIFICATION), 2 << 4);
    vmset(CR0_SHADOW, 0);
    nest_restart(n, cr0_clts); /* shadow TS is 0: does nothing */
    NEST_RUN(n, REASON_VMCALL);
    arg.in = 9; /* PE and TS; TS differs from the shadow */
    nest_restart(n, cr0_lmsw);
    NEST_RUN(n, REASON_CR);
    check_eq("qualification (LMSW)", vmget(EXIT_QUALIFICATION), 3 << 4 | 9 << 16);
    vmset(CR0_SHADOW, CR0_TS | CR0_MP);
    nest_restart(n, cr0_smsw);
    NEST_RUN(n, REASON_VMCALL);
    check_masked("SMSW", arg.out, CR0_TS | CR0_MP | CR0_PE, 0xf);
}

static void cr4_in_out(void)
{
    arg.out = read_cr4();
    write_cr4((ulong)arg.in);
}
static void cr4_mask(void)
{
    struct nest *n = nest_new(NEST_SAME, cr4_in_out);
    if (!n)
        return;
    u64 real = vmget(GUEST_CR4);
    vmset(CR4_MASK, CR4_VMXE | CR4_PCE);
    vmset(CR4_SHADOW, CR4_PCE); /* VMXE reads 0 */
    u64 seen = (real & ~(u64)CR4_VMXE) | CR4_PCE;
    arg.in = seen | CR4_DE;
    NEST_RUN(n, REASON_VMCALL);
    check_eq("CR4 read through the shadow", arg.out, seen);
    check_eq("real CR4", vmget(GUEST_CR4), real | CR4_DE);
    arg.in = seen | CR4_VMXE;
    nest_restart(n, cr4_in_out);
    NEST_RUN(n, REASON_CR);
    check_masked("qualification (MOV to CR4)", vmget(EXIT_QUALIFICATION), 4, 0x3f);
}

static void nest_ud_cr4(void) { write_cr4(read_cr4() & ~(ulong)CR4_VMXE); }
static void cr4_fixed(void) /* VMXE is fixed to 1 in VMX operation, also for the nested guest */
{
    struct nest *n = nest_new(NEST_SAME, nest_ud_cr4);
    if (n)
        nest_event(n, VEC_GP, 0);
}

static void cr3_write(void) { write_cr3((ulong)arg.in); }
static void cr3_targets(void)
{
    struct nest *n = nest_need(proc_msr(), PROC_CR3_LOAD, "CR3-load exiting") ? nest_new(NEST_SAME, cr3_write) : NULL;
    if (!n)
        return;
    u32 most = rdmsr(MSR_VMX_MISC) >> 16 & 0x1ff;
    nest_control(PROC_CONTROLS, PROC_CR3_LOAD, 0);
    arg.in = read_cr3();
    for (u32 i = 0; i < 4; i++)
        vmset(CR3_TARGET0 + 2 * i, i == 2 ? arg.in : 0x1000);
    for (u32 count = 0; count <= most && count <= 4; count++) {
        vmset(CR3_TARGET_COUNT, count);
        nest_restart(n, cr3_write);
        NEST_RUN(n, count > 2 ? REASON_VMCALL : REASON_CR);
    }
}

/* ---- exceptions ---- */
GUEST(g_ud, "ud2")
GUEST(g_de, "xor %%edx,%%edx\nxor %%eax,%%eax\ndivl %%eax")
GUEST(g_bp, "int3")
GUEST(g_db, ".byte 0xf1")
GUEST(g_gp, "mov $0x1234,%%eax\nmov %%ax,%%ds")
static void g_pf_read(void) { *(volatile u8 *)hole_va; }
static void g_pf_write(void) { *(volatile u8 *)(hole_va + 8) = 0; }

static void exceptions(void)
{
    // clang-format off
    static const struct { const char *name; void (*guest)(void); u32 vector, type, error, length; bool has_error; } rows[] = {
        { "#UD", g_ud, VEC_UD, INTR_HARD, 0, 0, false },      { "#DE", g_de, VEC_DE, INTR_HARD, 0, 0, false },
        { "#BP", g_bp, VEC_BP, INTR_SOFT, 0, 1, false },      { "INT1", g_db, VEC_DB, INTR_PRIV, 0, 1, false },
        { "#GP", g_gp, VEC_GP, INTR_HARD, 0x1234, 0, true },  { "#PF", g_pf_read, VEC_PF, INTR_HARD, 0, 0, true },
    };
    // clang-format on
    struct nest *n = nest_new(NEST_SAME, g_ud);
    if (!n)
        return;
    for (u32 i = 0; i < COUNT(rows); i++) {
        vmset(EXCEPTION_BITMAP, BIT(rows[i].vector));
        nest_restart(n, rows[i].guest);
        NEST_RUN(n, REASON_EXCEPTION);
        check_masked(rows[i].name, vmget(EXIT_INTR_INFO),
                     INTR_VALID | rows[i].vector | rows[i].type | (rows[i].has_error ? INTR_ERROR : 0), 0x80000fff);
        if (rows[i].has_error)
            check_eq(rows[i].name, vmget(EXIT_INTR_ERROR), rows[i].error);
        if (rows[i].length)
            check_eq(rows[i].name, vmget(EXIT_INSN_LENGTH), rows[i].length);
        if (rows[i].vector == VEC_PF)
            check_eq("#PF address as qualification", vmget(EXIT_QUALIFICATION), hole_va);
        check_eq(rows[i].name, vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
        vmset(EXCEPTION_BITMAP, ~BIT(rows[i].vector) & 0xffffffff & ~BIT(VEC_PF));
        nest_restart(n, rows[i].guest);
        if (!nest_event(n, rows[i].vector, rows[i].error)) {
            test_failed("%s not in the bitmap", rows[i].name);
            return;
        }
    }
}

/* SDM 3, "Exception Bitmap": a #PF exits if bit 14 = (error & mask == match). */
static void pf_mask(void)
{
    // clang-format off
    static const struct { u32 bit14, mask, match; bool write, exits; } rows[] = {
        { 1, 0, 0, false, true },  { 1, 0, 1, false, false }, { 0, 0, 1, false, true },  { 0, 0, 0, true, false },
        { 1, 2, 2, true, true },   { 1, 2, 2, false, false }, { 0, 2, 2, true, false },  { 0, 2, 2, false, true },
        { 1, 2, 0, false, true },  { 1, 2, 0, true, false },  { 1, 0x1f, 2, true, true }, { 1, 0x1f, 3, true, false },
    };
    // clang-format on
    struct nest *n = nest_new(NEST_SAME, g_pf_read);
    if (!n)
        return;
    for (u32 i = 0; i < COUNT(rows); i++) {
        vmset(EXCEPTION_BITMAP, rows[i].bit14 << VEC_PF);
        vmset(PF_MASK, rows[i].mask);
        vmset(PF_MATCH, rows[i].match);
        nest_restart(n, rows[i].write ? g_pf_write : g_pf_read);
        bool good = rows[i].exits ? nest_expect(n, REASON_EXCEPTION) : nest_event(n, VEC_PF, rows[i].write ? 2 : 0);
        if (!check(good, "in row %u", i))
            return;
    }
}

static void tsc_read(void) { arg.out = rdtsc(); }
static void tsc_msr(void) { arg.out = rdmsr(MSR_TSC); }

static void tsc_offset(void)
{
    static void (*const guests[])(void) = { tsc_read, tsc_msr };
    struct nest *n = nest_new(NEST_SAME, tsc_read);
    if (!n || !nest_need(proc_msr(), PROC_TSC_OFFSET | PROC_MSR_BITMAPS, "TSC offsetting or MSR bitmaps"))
        return;
    vmset(MSR_BITMAP, phys(page_alloc(1)));
    nest_control(PROC_CONTROLS, PROC_TSC_OFFSET | PROC_MSR_BITMAPS, 0);
    for (u32 i = 0; i < COUNT(guests); i++) {
        for (u32 negative = 0; negative < 2; negative++) {
            u64 offset = negative ? 0 - BIT(40) : BIT(50) + 12345;
            vmset(TSC_OFFSET, offset);
            nest_restart(n, guests[i]);
            u64 before = rdtsc();
            NEST_RUN(n, REASON_VMCALL);
            u64 after = rdtsc(), seen = arg.out - offset;
            check(seen - before < after - before, "TSC in the nested guest: %llx - %llx outside %llx..%llx", arg.out,
                  offset, before, after);
        }
    }
    nest_control(PROC_CONTROLS, 0, PROC_TSC_OFFSET);
    nest_restart(n, tsc_read);
    u64 before = rdtsc();
    NEST_RUN(n, REASON_VMCALL);
    check(arg.out - before < rdtsc() - before, "TSC without the control: %llx", arg.out);
}

static void tsc_scaling(void)
{
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_TSC_SCALING, "TSC scaling") ? nest_new(NEST_SAME, tsc_read) : NULL;
    if (!n)
        return;
    nest_control(PROC_CONTROLS, PROC_TSC_OFFSET | PROC_SECONDARY, 0);
    vmset(PROC2_CONTROLS, PROC2_TSC_SCALING);
    vmset(TSC_MULTIPLIER, BIT(47)); /* half speed */
    vmset(TSC_OFFSET, 1000);
    u64 before = rdtsc();
    NEST_RUN(n, REASON_VMCALL);
    u64 seen = (arg.out - 1000) * 2;
    check(seen - before + 2 < rdtsc() - before, "scaled TSC %llx, before %llx", arg.out, before);
}

// clang-format off
const struct test exit_control_tests[] = {
    { "msr-bitmap", msr_bitmap }, { "io-bitmap", io_bitmap },   { "cr0-mask", cr0_mask },     { "cr4-mask", cr4_mask },
    { "cr4-fixed", cr4_fixed },   { "cr3-targets", cr3_targets }, { "exceptions", exceptions }, { "pf-mask", pf_mask },
    { "tsc-offset", tsc_offset }, { "tsc-scaling", tsc_scaling }, { NULL, NULL },
};
// clang-format on
