/*
 * Control registers, XCR0, MSRs, MTRRs, CPUID and instructions that a hypervisor has to do for its guest: outside VMX
 * operation, as any operating system uses them.
 */
#include "host.h"

static void want_gp(const char *what, int got) { check_eq(what, (u32)got, VEC_GP); }
static void want_none(const char *what, int got) { check_eq(what, (u32)got, (u32)-1); }

static void cr0(void)
{
    ulong old = read_cr0();
    want_none("CR0.NE = 0", write_cr0_try(old & ~(ulong)CR0_NE));
    check_eq("CR0.NE reads", read_cr0() & CR0_NE, 0);
    want_none("CR0.NE = 1", write_cr0_try(old | CR0_NE));
    check_eq("CR0.NE reads", read_cr0() & CR0_NE, CR0_NE);
    want_none("CR0.CD = 1", write_cr0_try(old | CR0_CD));
    check_eq("CR0.CD reads", read_cr0() & CR0_CD, CR0_CD);
    want_none("CR0.CD = NW = 1", write_cr0_try(old | CR0_CD | CR0_NW));
    check_eq("CR0.CD and NW read", read_cr0() & (CR0_CD | CR0_NW), CR0_CD | CR0_NW);
    want_none("CR0 back", write_cr0_try(old));
    want_gp("CR0.NW without CD", write_cr0_try(old | CR0_NW));
    want_gp("CR0.PG without PE", write_cr0_try(old & ~(ulong)CR0_PE));
    for (u32 bit = 1; bit < 5; bit++) { /* MP, EM, TS; ET is fixed to 1 */
        if (bit == 4)
            continue;
        write_cr0(old ^ 1ul << bit);
        check_eq("CR0 reads", read_cr0(), old ^ 1ul << bit);
    }
    write_cr0(old & ~0x10ul);
    check_masked("CR0.ET", read_cr0(), 0x10, 0x10);
    write_cr0(old);
#ifdef __x86_64__
    want_gp("CR0.PG = 0 in 64-bit mode", write_cr0_try(old & ~CR0_PG));
    want_gp("CR0 bit 32", write_cr0_try(old | BIT(32)));
#endif
    check_eq("CR0 at the end", read_cr0(), old);
}

static void cr4(void)
{
    static const u32 plain[] = { CR4_TSD, CR4_DE, CR4_PGE, CR4_PCE, CR4_OSFXSR, CR4_VMXE };
    ulong old = read_cr4();
    for (u32 i = 0; i < COUNT(plain); i++)
        for (u32 twice = 0; twice < 2; twice++) {
            ulong v = read_cr4() ^ plain[i];
            want_none("a plain bit of CR4", write_cr4_try(v));
            check_eq("CR4 reads", read_cr4(), v);
        }
    want_gp("CR4 bit 31", write_cr4_try(old | 1ul << 31));
    want_gp("CR4 bit 15", write_cr4_try(old | 1ul << 15));
#ifdef __x86_64__
    want_gp("CR4.PAE = 0 in 64-bit mode", write_cr4_try(old & ~(ulong)CR4_PAE));
    want_gp("CR4 bit 63", write_cr4_try(old | BIT(63)));
#else
    want_gp("CR4.PCIDE outside 64-bit mode", write_cr4_try(old | CR4_PCIDE));
#endif
    check_eq("CR4 at the end", read_cr4(), old);
}

static int xsetbv(u32 index, u64 v)
{
    return TRY(".byte 0x0f,0x01,0xd1", "c"(index), "a"((u32)v), "d"((u32)(v >> 32)));
}
static u64 xgetbv(void)
{
    u32 lo, hi;
    asm volatile(".byte 0x0f,0x01,0xd0" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}
static void xsetbv_at_cpl3(void *arg) { *(int *)arg = xsetbv(0, 1); }

static void xcr0(void)
{
    if (!(cpuid(1, 0).c & 1u << 26)) {
        test_skip("no XSAVE");
        return;
    }
    struct cpuid d = cpuid(0xd, 0);
    u64 all = (u64)d.d << 32 | d.a;
    ulong old = read_cr4();
    int at_cpl3 = 0;
    check_eq("XSETBV without CR4.OSXSAVE raises", (u32)xsetbv(0, 1), VEC_UD);
    check_masked("CPUID.OSXSAVE before", cpuid(1, 0).c, 0, 1u << 27);
    write_cr4(old | CR4_OSXSAVE);
    check_masked("CPUID.OSXSAVE after", cpuid(1, 0).c, 1u << 27, 1u << 27);
    u64 before = xgetbv();
    want_none("XCR0 = 1", xsetbv(0, 1));
    check_eq("XCR0", xgetbv(), 1);
    want_none("XCR0 = 3", xsetbv(0, 3));
    check_eq("XCR0", xgetbv(), 3);
    want_none("XCR0 = all that CPUID offers", xsetbv(0, all));
    check_eq("XCR0", xgetbv(), all);
    want_gp("XCR0 without bit 0", xsetbv(0, 2));
    want_gp("XCR0 = 0", xsetbv(0, 0));
    want_gp("XCR0 with AVX without SSE", xsetbv(0, 5));
    want_gp("XCR0 bit 63", xsetbv(0, BIT(63) | 1));
    want_gp("a bit that CPUID does not offer", xsetbv(0, all | (~all & BIT(62))));
    want_gp("XCR1", xsetbv(1, 1));
    want_gp("XCR at FFFFFFFFh", xsetbv(0xffffffff, 1));
    user_call(xsetbv_at_cpl3, &at_cpl3);
    want_gp("XSETBV at CPL 3", at_cpl3);
    check_eq("XCR0 after the faults", xgetbv(), all);
    xsetbv(0, before);
    write_cr4(old);
}

/* ---- MSRs ---- */

static void mtrr(void)
{
    if (!(cpuid(1, 0).d & 1u << 12)) {
        test_skip("no MTRRs");
        return;
    }
    u32 count = rdmsr(MSR_MTRRCAP) & 0xff;
    u64 type = rdmsr(MSR_MTRR_DEF_TYPE), address = BIT(maxphyaddr()) - 1;
    check(count > 0, "no variable MTRRs");
    want_gp("write of IA32_MTRRCAP", wrmsr_try(MSR_MTRRCAP, 0));
    for (u32 i = 0; i < count; i++) { /* an unused pair takes a range where there is nothing */
        u32 base = MSR_MTRR_PHYSBASE0 + 2 * i;
        u64 old_base = rdmsr(base), old_mask = rdmsr(base + 1);
        if (old_mask & BIT(11))
            continue;
        u64 new_base = 0x90000000ull | (i % 2 ? 0 : 6), new_mask = (address & ~(u64)(16 * MIB - 1)) | BIT(11);
        want_none("MTRR base", wrmsr_try(base, new_base));
        want_none("MTRR mask", wrmsr_try(base + 1, new_mask));
        check_eq("MTRR base reads", rdmsr(base), new_base);
        check_eq("MTRR mask reads", rdmsr(base + 1), new_mask);
        want_gp("MTRR base of type 2", wrmsr_try(base, 0x90000002));
        want_gp("MTRR mask beyond MAXPHYADDR", wrmsr_try(base + 1, new_mask | BIT(maxphyaddr())));
        check_eq("MTRR base after the faults", rdmsr(base), new_base);
        wrmsr(base + 1, old_mask);
        wrmsr(base, old_base);
    }
    u64 fixed = rdmsr(MSR_MTRR_FIX64K);
    want_none("fixed MTRR", wrmsr_try(MSR_MTRR_FIX64K, 0x0606060606060606ull));
    check_eq("fixed MTRR reads", rdmsr(MSR_MTRR_FIX64K), 0x0606060606060606ull);
    want_gp("fixed MTRR of type 3", wrmsr_try(MSR_MTRR_FIX64K, 3));
    wrmsr(MSR_MTRR_FIX64K, fixed);
    for (u32 i = 0; i < 8; i++) { /* as an operating system does, many times over */
        want_none("MTRRs off", wrmsr_try(MSR_MTRR_DEF_TYPE, type & ~BIT(11)));
        want_none("MTRRs on", wrmsr_try(MSR_MTRR_DEF_TYPE, type | BIT(11)));
        check_eq("default type reads", rdmsr(MSR_MTRR_DEF_TYPE), type | BIT(11));
    }
    want_gp("default type 7", wrmsr_try(MSR_MTRR_DEF_TYPE, 7));
    wrmsr(MSR_MTRR_DEF_TYPE, type);
}

/* MSRs that nobody has: #GP, or ignored where the machine is set up so; never anything else. */
static void unknown_msrs(void)
{
    static const u32 ranges[][2] = { { 0x2000, 4 },     { 0x4b564d00, 4 }, { 0x40000000, 16 }, { 0x12345678, 2 },
                                     { 0x7fffffff, 2 }, { 0xbfffffff, 1 }, { 0xc0002000, 2 },  { 0xfffffffe, 2 },
                                     { 0x492, 2 },      { 0x1000, 4 },     { 0x80000000, 2 } };
    for (u32 i = 0; i < COUNT(ranges); i++)
        for (u32 msr = ranges[i][0], k = 0; k < ranges[i][1]; k++, msr++) {
            u64 v;
            int read = rdmsr_try(msr, &v), written = wrmsr_try(msr, 0);
            check(read == -1 || read == VEC_GP, "RDMSR %x raises vector %d", msr, read);
            check(written == -1 || written == VEC_GP, "WRMSR %x raises vector %d", msr, written);
        }
}

static void every_msr_read(void) /* reading harms nobody */
{
    static const u32 ranges[][2] = { { 0, 0x1000 }, { 0xc0000000, 0x200 } };
    for (u32 i = 0; i < COUNT(ranges); i++)
        for (u32 k = 0; k < ranges[i][1]; k++) {
            u64 v;
            int read = rdmsr_try(ranges[i][0] + k, &v);
            check(read == -1 || read == VEC_GP, "RDMSR %x raises vector %d", ranges[i][0] + k, read);
        }
}

static void msr_at_cpl3(void *arg)
{
    u64 v;
    ((int *)arg)[0] = rdmsr_try(MSR_TSC, &v);
    ((int *)arg)[1] = wrmsr_try(MSR_TSC, 0);
    ((int *)arg)[2] = rdmsr_try(MSR_VMX_BASIC, &v);
}
static void msr_cpl3(void)
{
    int got[3] = { 0, 0, 0 };
    user_call(msr_at_cpl3, got);
    want_gp("RDMSR at CPL 3", got[0]);
    want_gp("WRMSR at CPL 3", got[1]);
    want_gp("RDMSR of a VMX MSR at CPL 3", got[2]);
}

static void efer(void)
{
    u64 old = rdmsr(MSR_EFER);
    want_none("IA32_EFER, SCE flipped", wrmsr_try(MSR_EFER, old ^ EFER_SCE));
    check_eq("IA32_EFER", rdmsr(MSR_EFER), old ^ EFER_SCE);
    wrmsr(MSR_EFER, old);
    want_gp("IA32_EFER, reserved bit", wrmsr_try(MSR_EFER, old | 2));
    want_gp("IA32_EFER.LME changed while paging", wrmsr_try(MSR_EFER, old ^ EFER_LME));
    check_eq("IA32_EFER at the end", rdmsr(MSR_EFER), old);
}

static void pat(void)
{
    u64 old = rdmsr(MSR_PAT);
    want_none("IA32_PAT", wrmsr_try(MSR_PAT, old ^ BIT(56)));
    check_eq("IA32_PAT reads", rdmsr(MSR_PAT), old ^ BIT(56));
    wrmsr(MSR_PAT, old);
    want_gp("IA32_PAT with type 2", wrmsr_try(MSR_PAT, 2));
    want_gp("IA32_PAT with type 8", wrmsr_try(MSR_PAT, 8ull << 40));
    check_eq("IA32_PAT at the end", rdmsr(MSR_PAT), old);
}

static void tsc(void) /* goes forward, and both ways to read it agree */
{
    u64 last = rdtsc();
    for (u32 i = 0; i < 100; i++) {
        u64 now = i & 1 ? rdtsc() : rdmsr(MSR_TSC);
        check(now > last, "the TSC went from %llx to %llx", last, now);
        last = now;
    }
}

/* ---- CPUID and single instructions ---- */

static void cpuid_leaves(void)
{
    check_masked("CPUID.1 ECX: VMX", cpuid(1, 0).c, 1u << 5, 1u << 5);
    check_eq("CPUID.1 EBX: APIC ID", cpuid(1, 0).b >> 24, this_cpu()->apic_id);
    for (u32 base = 0; base < 4; base++)
        for (u32 leaf = 0; leaf < 0x120; leaf++)
            for (u32 sub = 0; sub < 3; sub++)
                cpuid(base * 0x40000000 + leaf, sub);
    cpuid(0xffffffff, 0xffffffff);
    write_cr4(read_cr4() | CR4_VMXE);
    check_masked("CPUID.1 ECX: VMX with CR4.VMXE", cpuid(1, 0).c, 1u << 5, 1u << 5);
}

/* What CPUID offers must not be #UD. */
static void offered_instructions(void)
{
    static struct {
        u64 low, high;
    } descriptor;
    struct cpuid seven = cpuid(7, 0);
    if (cpuid(0x80000001, 0).d & 1u << 27)
        want_none("RDTSCP", TRY_CLOBBER(".byte 0x0f,0x01,0xf9", "eax", "ecx", "edx"));
    if (seven.b & 1u << 10)
        want_none("INVPCID", TRY("invpcid (%0),%1", "r"(&descriptor), "r"(2ul)));
    if (cpuid(1, 0).c & 1u << 30)
        want_none("RDRAND", TRY_CLOBBER("rdrand %%eax", "eax"));
    if (seven.b & 1u << 18)
        want_none("RDSEED", TRY_CLOBBER("rdseed %%eax", "eax"));
    want_none("INVD", TRY("invd", "i"(0)));
    want_none("WBINVD", TRY("wbinvd", "i"(0)));
    check_eq("RSM outside SMM raises", (u32)TRY("rsm", "i"(0)), VEC_UD);
    check_eq("GETSEC raises", (u32)TRY("getsec", "a"(0), "b"(0)), VEC_UD);
}

#ifdef __x86_64__
static void cr8(void)
{
    for (ulong v = 0; v < 16; v += 5) {
        asm volatile("mov %0,%%cr8" : : "r"(v));
        ulong got;
        asm volatile("mov %%cr8,%0" : "=r"(got));
        check_eq("CR8", got, v);
        check_eq("APIC TPR", apic_read(APIC_TPR), v << 4);
    }
    check_eq("CR8 = 16 raises", (u32)TRY("mov %0,%%cr8", "r"(16ul)), VEC_GP);
    asm volatile("mov %0,%%cr8" : : "r"(0ul));
}
static void task_switch(void) { test_skip("32-bit test"); }
#else
static void cr8(void) { test_skip("64-bit test"); }

/* Every hardware task switch of a VMX guest exits: whoever is below has to carry it out. */
struct tss32 {
    u32 link, stacks[6], cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt, iomap;
};
static struct tss32 task __attribute__((aligned(128)));
static u8 task_stack[4096] __attribute__((aligned(16)));
static volatile u32 task_ran;
static void task_body(void)
{
    for (;;) {
        task_ran++;
        asm volatile("ljmp %0,$0" : : "i"(SEL_TSS0) : "memory");
    }
}

static void task_switch(void)
{
    enum { SEL_TASK = 0xb8 }; /* the second half of the last CPU's slot */
    u64 *gdt = (u64 *)read_gdtr().base, base = (ulong)&task;
    struct tss32 *mine = (struct tss32 *)tss_base(0);
    gdt[SEL_TASK / 8] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    task = (struct tss32){ .cr3 = (u32)read_cr3(),
                           .eip = (u32)task_body,
                           .eflags = 2,
                           .esp = (u32)task_stack + 4000,
                           .es = SEL_DATA,
                           .cs = SEL_CODE,
                           .ss = SEL_DATA,
                           .ds = SEL_DATA,
                           .fs = SEL_DATA,
                           .gs = SEL_DATA,
                           .iomap = 104u << 16 };
    mine->cr3 = (u32)read_cr3();
    for (u32 i = 1; i < 4; i++) {
        asm volatile("ljmp %0,$0" : : "i"(SEL_TASK) : "memory", "cc");
        check_eq("times the task ran", task_ran, i);
        u16 tr;
        asm volatile("str %0" : "=r"(tr));
        check_eq("TR", tr, SEL_TSS0);
    }
    write_cr0(read_cr0() & ~(ulong)CR0_TS);
}
#endif

// clang-format off
const struct test host_register_tests[] = {
    { "cr0", cr0 },
    { "cr4", cr4 },
    { "cr8", cr8 },
    { "xcr0", xcr0 },
    { "mtrr", mtrr },
    { "unknown-msrs", unknown_msrs },
    { "every-msr-read", every_msr_read },
    { "msr-cpl3", msr_cpl3 },
    { "efer", efer },
    { "pat", pat },
    { "tsc", tsc },
    { "cpuid", cpuid_leaves },
    { "offered-instructions", offered_instructions },
    { "task-switch", task_switch },
    { NULL, NULL },
};
// clang-format on
