/*
 * The nested guest: a VMCS made from nothing for one of a few modes, and running it exit by exit.
 * Its IDT (NEST_SAME) points at stubs that VMCALL with vector and error code on its stack. Controls start minimal:
 * only what the capability MSRs demand; tests add what they need.
 */
#include "vmx.h"
#include "verdict.h"

enum {
    STACK_PAGES = 4,
    AR_CODE64 = 0xa09b,
    AR_CODE32 = 0xc09b,
    AR_DATA = 0xc093,
    AR_TSS = 0x8b,
    AR_UNUSABLE = 0x10000,
    AR_CODE16 = 0x9b,
    AR_DATA16 = 0x93
};

extern char nest_stubs[], nest_vmcall[], nest_host_rip[], nest_thunk[];
ulong nest_enter(struct nest_regs *regs, int launched);

static u64 nest_idt[256 * (IS64 ? 2 : 1)] __attribute__((aligned(16)));

static void idt_fill(void)
{
    for (u32 v = 0; v < 256 && !nest_idt[255]; v++) {
        u64 at = (ulong)nest_stubs + 16 * v;
        u64 low = (at & 0xffff) | SEL_CODE << 16 | 0xee00ull << 32 | (at >> 16 & 0xffff) << 48;
        nest_idt[IS64 ? 2 * v : v] = low;
    }
}

void nest_done(void)
{
    for (;;)
        asm volatile("vmcall");
}

static void set_fields(const u64 (*table)[2], u32 count)
{
    for (u32 i = 0; i < count; i++)
        vmset((u32)table[i][0], table[i][1]);
}
#define SET_FIELDS(...)                                                                                                \
    do {                                                                                                               \
        const u64 table_[][2] = { __VA_ARGS__ };                                                                       \
        set_fields(table_, COUNT(table_));                                                                             \
    } while (0)

static void set_host(void)
{
    struct table_ptr gdtr = read_gdtr(), idtr = read_idtr();
    u16 tr;
    asm volatile("str %0" : "=r"(tr));
    SET_FIELDS({ HOST_ES, SEL_DATA }, { HOST_CS, SEL_CODE }, { HOST_SS, SEL_DATA }, { HOST_DS, SEL_DATA },
               { HOST_FS, SEL_DATA }, { HOST_GS, SEL_DATA }, { HOST_TR, tr }, { HOST_CR0, read_cr0() },
               { HOST_CR3, read_cr3() }, { HOST_CR4, read_cr4() }, { HOST_FS_BASE, 0 }, { HOST_GS_BASE, 0 },
               { HOST_TR_BASE, tss_base(this_cpu()->index) }, { HOST_GDTR_BASE, gdtr.base },
               { HOST_IDTR_BASE, idtr.base }, { HOST_SYSENTER_CS, 0 }, { HOST_SYSENTER_ESP, 0 },
               { HOST_SYSENTER_EIP, 0 }, { HOST_RIP, (ulong)nest_host_rip });
}

static void set_controls(const struct nest *n)
{
    bool same = n->mode == NEST_SAME;
    SET_FIELDS({ PIN_CONTROLS, control_adjust(pin_msr(), 0) }, { PROC_CONTROLS, control_adjust(proc_msr(), 0) },
               { EXIT_CONTROLS, control_adjust(exit_msr(), (IS64 ? EXIT_HOST_64 : 0) | (same ? 0 : EXIT_LOAD_EFER)) },
               { ENTRY_CONTROLS,
                 control_adjust(entry_msr(), (IS64 && same ? ENTRY_GUEST_64 : 0) | (same ? 0 : ENTRY_LOAD_EFER)) },
               { EXCEPTION_BITMAP, 0 }, { PF_MASK, 0 }, { PF_MATCH, 0 }, { CR3_TARGET_COUNT, 0 },
               { EXIT_MSR_STORE_COUNT, 0 }, { EXIT_MSR_LOAD_COUNT, 0 }, { ENTRY_MSR_LOAD_COUNT, 0 },
               { ENTRY_INTR_INFO, 0 }, { ENTRY_ERROR_CODE, 0 }, { ENTRY_INSN_LENGTH, 0 }, { LINK_POINTER, ~0ull },
               { CR0_MASK, 0 }, { CR4_MASK, 0 }, { CR0_SHADOW, 0 }, { CR4_SHADOW, 0 }, { TSC_OFFSET, 0 });
    if (control_supported(entry_msr(), ENTRY_LOAD_EFER))
        SET_FIELDS({ GUEST_EFER, same ? rdmsr(MSR_EFER) : 0 }, { HOST_EFER, rdmsr(MSR_EFER) });
}

/* Selector, base, limit and access rights of one segment; the four fields of segment i are neighbours in encoding. */
static void set_segment(u32 i, u32 selector, u64 base, u32 limit, u32 ar)
{
    SET_FIELDS({ GUEST_ES + 2 * i, selector }, { GUEST_ES_BASE + 2 * i, base }, { GUEST_ES_LIMIT + 2 * i, limit },
               { GUEST_ES_AR + 2 * i, ar });
}
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR };

static void set_segments(const struct nest *n, ulong entry)
{
    bool real = n->mode == NEST_REAL;
    for (u32 i = SEG_ES; i <= SEG_GS; i++) {
        if (real)
            set_segment(i, 0, 0, 0xffff, AR_DATA16);
        else
            set_segment(i, SEL_DATA, 0, 0xffffffff, AR_DATA);
    }
    if (real) /* the function's own address as base: real-mode code runs where it was linked */
        set_segment(SEG_CS, (entry >> 4) & 0xffff, entry, 0xffff, AR_CODE16);
    else
        set_segment(SEG_CS, n->mode == NEST_SAME ? SEL_CODE : SEL_CODE32, 0, 0xffffffff,
                    IS64 && n->mode == NEST_SAME ? AR_CODE64 : AR_CODE32);
    set_segment(SEG_LDTR, 0, 0, 0, AR_UNUSABLE);
    u16 tr;
    asm volatile("str %0" : "=r"(tr));
    set_segment(SEG_TR, tr, tss_base(this_cpu()->index), 0x67, AR_TSS);
}

static ulong pae_tables(struct nest *n)
{
    u64 *pages = page_alloc(5);
    n->pdpt = pages;
    for (u32 i = 0; i < 2048; i++)
        pages[512 + i] = (u64)i << 21 | 0xe7;
    for (u32 i = 0; i < 4; i++)
        pages[i] = phys(pages + 512 * (i + 1)) | 1;
    return (ulong)pages;
}

static void set_control_registers(struct nest *n)
{
    ulong cr0 = read_cr0(), cr4 = read_cr4(), cr3 = read_cr3();
    if (n->mode != NEST_SAME)
        cr4 &= ~(ulong)(CR4_PAE | CR4_PCIDE);
    if (n->mode == NEST_REAL || n->mode == NEST_FLAT32)
        cr0 &= ~CR0_PG;
    if (n->mode == NEST_REAL)
        cr0 &= ~(ulong)CR0_PE;
    if (n->mode == NEST_PAE32) {
        cr4 |= CR4_PAE;
        cr3 = pae_tables(n);
    }
    SET_FIELDS({ GUEST_CR0, cr0 }, { GUEST_CR3, cr3 }, { GUEST_CR4, cr4 });
}

static void set_guest(struct nest *n)
{
    struct table_ptr gdtr = read_gdtr();
    bool same = n->mode == NEST_SAME;
    idt_fill();
    set_control_registers(n);
    SET_FIELDS({ GUEST_GDTR_BASE, gdtr.base }, { GUEST_GDTR_LIMIT, gdtr.limit },
               { GUEST_IDTR_BASE, same ? (ulong)nest_idt : 0 },
               { GUEST_IDTR_LIMIT, same                   ? sizeof nest_idt - 1
                                   : n->mode == NEST_REAL ? 0x3ff
                                                          : 0 },
               { GUEST_DR7, 0x400 }, { GUEST_DEBUGCTL, 0 }, { GUEST_SYSENTER_CS, 0 }, { GUEST_SYSENTER_ESP, 0 },
               { GUEST_SYSENTER_EIP, 0 });
}

void nest_restart(struct nest *n, void (*fn)(void))
{
    n->regs.ax = (ulong)fn;
    set_segments(n, (ulong)fn);
    ulong rip = n->mode == NEST_SAME ? (ulong)nest_thunk : n->mode == NEST_REAL ? 0 : (ulong)fn;
    SET_FIELDS({ GUEST_RIP, rip }, { GUEST_RSP, n->mode == NEST_REAL ? 0x7000 : (ulong)n->stack_top },
               { GUEST_RFLAGS, RFLAGS_FIXED }, { GUEST_INTERRUPTIBILITY, 0 }, { GUEST_ACTIVITY, ACTIVITY_ACTIVE },
               { GUEST_PENDING_DEBUG, 0 }, { ENTRY_INTR_INFO, 0 });
}

struct nest *nest_new(enum nest_mode mode, void (*fn)(void))
{
    bool unrestricted = mode == NEST_REAL || mode == NEST_FLAT32;
    if (unrestricted && !proc2_supported(PROC2_EPT | PROC2_UNRESTRICTED)) {
        test_skip("no unrestricted guest");
        return NULL;
    }
    if (mode != NEST_SAME && !control_supported(entry_msr(), ENTRY_LOAD_EFER)) {
        test_skip("no load of IA32_EFER on entry");
        return NULL;
    }
    struct nest *n = page_alloc(1);
    n->mode = mode;
    n->vmcs = vmcs_alloc();
    n->stack_top = (u8 *)page_alloc(STACK_PAGES) + STACK_PAGES * PAGE - 64;
    check_outcome("VMPTRLD of a new VMCS", vmptrld(phys(n->vmcs)), VMX_OK);
    set_host();
    set_controls(n);
    set_guest(n);
    nest_restart(n, fn);
    if (unrestricted) {
        nest_ept(n, ept_new(2 * MIB));
        nest_control(PROC2_CONTROLS, PROC2_UNRESTRICTED, 0);
    }
    return test_ok() ? n : NULL;
}

void nest_ept(struct nest *n, struct ept *ept)
{
    n->ept = ept;
    if (!(vmget(PROC_CONTROLS) & PROC_SECONDARY)) {
        nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
        vmset(PROC2_CONTROLS, 0);
    }
    nest_control(PROC2_CONTROLS, PROC2_EPT, 0);
    vmset(EPTP, ept->eptp);
    const u64 *pdpt = (const u64 *)(ulong)(vmget(GUEST_CR3) & 0xffffffe0u);
    bool pae = vmget(GUEST_CR0) & CR0_PG && vmget(GUEST_CR4) & CR4_PAE && !(vmget(ENTRY_CONTROLS) & ENTRY_GUEST_64);
    for (u32 i = 0; i < 4; i++)
        vmset(GUEST_PDPTE0 + 2 * i, pae ? pdpt[i] : 0);
}

void nest_adopt(struct nest *n)
{
    check_outcome("VMPTRLD of a guest from elsewhere", vmptrld(phys(n->vmcs)), VMX_OK);
    set_host();
    n->launched = false;
}

outcome_t nest_run(struct nest *n)
{
    this_cpu()->fault.vector = -1;
    ulong flags = nest_enter(&n->regs, n->launched);
    if (flags)
        return vmx_outcome(flags);
    n->reason = (u32)vmget(EXIT_REASON);
    if (!(n->reason & REASON_ENTRY_FAILED))
        n->launched = true;
    return VMX_OK;
}

const struct nest_frame *nest_frame(void)
{
    return vmget(GUEST_RIP) == (ulong)nest_vmcall ? (const struct nest_frame *)(ulong)vmget(GUEST_RSP) : NULL;
}

static void describe(const struct nest *n, u32 want)
{
    const struct nest_frame *f = n->reason == REASON_VMCALL && n->mode == NEST_SAME ? nest_frame() : NULL;
    if (f)
        test_failed("nested guest took vector %lu error %lx at %lx, expected exit reason %u", f->vector, f->error,
                    f->ip, want);
    else
        test_failed("exit reason %x (qualification %llx, rip %llx, interruption info %x), expected %x", n->reason,
                    vmget(EXIT_QUALIFICATION), vmget(GUEST_RIP), (u32)vmget(EXIT_INTR_INFO), want);
}

bool nest_expect(struct nest *n, u32 reason)
{
    if (!check_outcome("VM entry", nest_run(n), VMX_OK))
        return false;
    if (n->reason == reason && !(reason == REASON_VMCALL && n->mode == NEST_SAME && nest_frame()))
        return true;
    describe(n, reason);
    return false;
}

bool nest_event(struct nest *n, u32 vector, u32 error)
{
    if (!check_outcome("VM entry", nest_run(n), VMX_OK))
        return false;
    const struct nest_frame *f = n->reason == REASON_VMCALL ? nest_frame() : NULL;
    if (f)
        return check_eq("vector in the nested guest", f->vector, vector) && check_eq("its error code", f->error, error);
    test_failed("exit reason %x (qualification %llx, rip %llx), expected vector %u in the nested guest", n->reason,
                vmget(EXIT_QUALIFICATION), vmget(GUEST_RIP), vector);
    return false;
}

void nest_skip(void)
{
    vmset(GUEST_RIP, vmget(GUEST_RIP) + vmget(EXIT_INSN_LENGTH));
    vmset(GUEST_INTERRUPTIBILITY, vmget(GUEST_INTERRUPTIBILITY) & ~3ull);
}

void nest_control(u32 field, u32 set, u32 clear) { vmset(field, ((u32)vmget(field) | set) & ~clear); }

bool nest_need(u32 msr, u32 bits, const char *what)
{
    bool have = msr == MSR_VMX_PROC2 ? proc2_supported(bits) : control_supported(msr, bits);
    if (!have)
        test_skip("not offered: %s", what);
    return have;
}
