/*
 * How an instruction ends that a hypervisor below may carry out in the processor's place: behind it a single step and a data breakpoint
 * trap, RF is over, an interrupt that STI held back comes. And how one that faults ends: flags with RF, in whichever level's handler.
 * SDM 3, "Debug Exceptions", "Masking Instruction Breakpoints", "Masking Exceptions and Interrupts When Switching Stacks".
 */
#include "exits.h"

enum { DR6_B0 = 1, DR6_B1 = 2, DR6_BS = 1 << 14, VECTOR = 0x53 };
enum { DR7_DATA0 = 2 | 3 << 16, DR7_WRITE0 = 2 | 1 << 16, DR7_CODE1 = 8, DR7_OFF = 0x400 };
enum { FIELD_REGISTER = 1, MEMORY = 2, STORES = 4, LONG = 8 /* SIZE words */ };

extern u64 retire_memory[2];
extern volatile ulong retire_flags;
u64 retire_memory[2] __attribute__((aligned(16))); /* operands of the assembly below */
volatile ulong retire_flags;

/*
 * name: sets up, then IRET with retire_flags to the instruction; name_after is right behind it. name_sti: the same after STI.
 * Interrupts are off and TF is 0 when both return.
 */
#ifdef __x86_64__
#define IRET_TO(at) "mov %rsp, %rbx\n push $0x10\n push %rbx\n push retire_flags\n push $8\n push $" at "\n"
#define IRET "iretq\n"
#define BX "%rbx"
#define CX "%rcx"
#define DX "%rdx"
#define PUSHED_FLAGS_OFF "push $2\n popf\n"
#else
#define IRET_TO(at) "push retire_flags\n push $8\n push $" at "\n"
#define IRET "iretl\n"
#define BX "%ebx"
#define CX "%ecx"
#define DX "%edx"
#define PUSHED_FLAGS_OFF "push $2\n popf\n"
#endif
#define INSN(name, setup, insn)                                                                                        \
    void name(void);                                                                                                   \
    void name##_sti(void);                                                                                             \
    extern char name##_after[], name##_sti_after[];                                                                    \
    asm(#name ":\n push " BX "\n" IRET_TO(#name "_at") setup                                                           \
        "\n" IRET #name "_at: " insn "\n" #name "_after: nop\n" PUSHED_FLAGS_OFF "pop " BX "\n ret\n" #name            \
        "_sti:\n push " BX "\n" setup "\n sti\n" insn "\n" #name "_sti_after: nop\n cli\n pop " BX "\n ret\n");

INSN(r_cpuid, "xor %eax,%eax\n xor %ecx,%ecx", "cpuid")
INSN(r_rdmsr, "mov $0x480,%ecx", "rdmsr")
INSN(r_wrmsr, "mov $0x1b,%ecx\n rdmsr", "wrmsr")
INSN(r_invd, "", "invd")
INSN(r_vmread, "mov $0x6c14," CX, "vmread " CX "," DX)
INSN(r_vmread_mem, "mov $0x6c14," CX, "vmread " CX ",retire_memory")
INSN(r_vmwrite_mem, "mov $0x6c14," CX, "vmwrite retire_memory," CX)
INSN(r_vmptrst, "", "vmptrst retire_memory")
INSN(r_vmptrld, "", "vmptrld retire_memory")
INSN(r_vmclear, "", "vmclear retire_memory")
INSN(r_invept, "mov $2," CX, "invept retire_memory," CX)
INSN(r_invvpid, "mov $2," CX, "invvpid retire_memory," CX)

static const struct insn {
    const char *name;
    void (*run)(void), (*run_sti)(void);
    const char *after, *sti_after;
    u32 flags;
} insns[] = {
#define ROW(name, flags)                                                                                               \
    {                                                                                                                  \
#name, r_##name, r_##name##_sti, r_##name##_after, r_##name##_sti_after, flags                                 \
    }
    ROW(cpuid, 0),
    ROW(rdmsr, 0),
    ROW(wrmsr, 0),
    ROW(invd, 0),
    ROW(vmread, 0),
    ROW(vmread_mem, MEMORY | STORES),
    ROW(vmwrite_mem, MEMORY),
    ROW(vmptrst, MEMORY | STORES),
    ROW(vmptrld, MEMORY),
    ROW(vmclear, MEMORY),
    ROW(invept, MEMORY),
    ROW(invvpid, MEMORY),
};

static void dr_set(ulong address0, ulong address1, ulong dr7)
{
    asm volatile("mov %0,%%dr0" : : "r"(address0));
    asm volatile("mov %0,%%dr1" : : "r"(address1));
    asm volatile("mov %0,%%dr6" : : "r"(0ul));
    asm volatile("mov %0,%%dr7" : : "r"(dr7));
}

/* A VMCS is current, another one is the operand. */
static void make_ready(void)
{
    static void *current, *other;
    current = vmcs_alloc();
    other = vmcs_alloc();
    check_outcome("VMPTRLD", vmptrld(phys(current)), VMX_OK);
    memset(retire_memory, 0, sizeof retire_memory);
    retire_memory[0] = phys(other);
    this_cpu()->debug = (struct debug){ .expected = true };
}

static void expect_trap(const struct insn *i, const char *why, ulong dr6)
{
    const struct debug *d = &this_cpu()->debug;
    dr_set(0, 0, DR7_OFF);
    check(d->count == 1, "%s, %s: %u debug exceptions, expected 1", i->name, why, d->count);
    if (d->count != 1)
        return;
    check(d->ip == (ulong)i->after, "%s, %s: trap at %lx, expected %lx", i->name, why, d->ip, (ulong)i->after);
    check((d->dr6 & 0x600f) == dr6, "%s, %s: DR6 is %lx, expected %lx", i->name, why, d->dr6 & 0x600f, dr6);
}

static void for_each(void (*test)(const struct insn *i))
{
    for (const struct insn *i = insns; i < insns + COUNT(insns); i++) {
        make_ready();
        test(i);
        this_cpu()->debug.expected = false;
        vmcs_reset();
    }
}

static void step_one(const struct insn *i)
{
    retire_flags = RFLAGS_FIXED | RFLAGS_TF;
    i->run();
    expect_trap(i, "single step", DR6_BS);
}
static void step(void) { for_each(step_one); }

/* RF was for this instruction alone: the breakpoint on the next one is met. */
static void rf_one(const struct insn *i)
{
    dr_set(0, (ulong)i->after, DR7_OFF | DR7_CODE1);
    retire_flags = RFLAGS_FIXED | RFLAGS_RF;
    i->run();
    expect_trap(i, "RF before", DR6_B1);
}
static void rf(void) { for_each(rf_one); }

static void data_one(const struct insn *i)
{
    if (!(i->flags & MEMORY))
        return;
    dr_set((ulong)retire_memory + 3, 0, DR7_OFF | (i->flags & STORES ? DR7_WRITE0 : DR7_DATA0));
    retire_flags = RFLAGS_FIXED;
    i->run();
    expect_trap(i, "data breakpoint", DR6_B0);
}
static void data(void) { for_each(data_one); }

/* A read is no write. */
static void no_data_one(const struct insn *i)
{
    if (!(i->flags & MEMORY) || (i->flags & STORES))
        return;
    dr_set((ulong)retire_memory + 3, 0, DR7_OFF | DR7_WRITE0);
    retire_flags = RFLAGS_FIXED;
    i->run();
    dr_set(0, 0, DR7_OFF);
    check(this_cpu()->debug.count == 0, "%s: its load meets a breakpoint on stores", i->name);
}
static void no_data(void) { for_each(no_data_one); }

static void sti_one(const struct insn *i)
{
    u32 before = this_cpu()->irqs[VECTOR];
    apic_icr(this_cpu()->apic_id, ICR_FIXED | ICR_ASSERT | VECTOR);
    i->run_sti();
    check(this_cpu()->irqs[VECTOR] == before + 1, "%s: no interrupt after STI", i->name);
    check(this_cpu()->irq_ip == (ulong)i->sti_after, "%s: the interrupt after STI came at %lx, expected %lx", i->name,
          this_cpu()->irq_ip, (ulong)i->sti_after);
}
static void sti(void) { for_each(sti_one); }

/* --- faults --- */

static void faulting_flags(const char *what, int got, int vector)
{
    check(got == vector, "%s: vector %d, expected %d", what, got, vector);
    check(this_cpu()->fault.flags & RFLAGS_RF, "%s: RF is clear in the flags pushed", what);
}

static void faults(void)
{
    faulting_flags("WRMSR of IA32_FEATURE_CONTROL", wrmsr_try(MSR_FEATURE_CONTROL, 5), VEC_GP);
    faulting_flags("WRMSR of a capability", wrmsr_try(MSR_VMX_BASIC, 0), VEC_GP);
    faulting_flags("MOV to CR0 without PE", write_cr0_try(read_cr0() & ~1ul), VEC_GP);
    faulting_flags("MOV to CR4 without VMXE", write_cr4_try(read_cr4() & ~(ulong)CR4_VMXE), VEC_GP);
    faulting_flags("VMPTRLD of no page", TRY("vmptrld (%0)", "r"(hole_va)), VEC_PF);
    check_eq("CR2", this_cpu()->fault.cr2, hole_va);
    faulting_flags("VMPTRST to no page", TRY("vmptrst (%0)", "r"(hole_va)), VEC_PF);
    faulting_flags("UD2", TRY("ud2"), VEC_UD);
}

/* --- the nested guest's --- */

void g_step(void);
extern char g_step_after[];
asm("g_step: mov $0x480,%ecx\n pushf\n"
#ifdef __x86_64__
    "orl $0x100,(%rsp)\n"
#else
    "orl $0x100,(%esp)\n"
#endif
    "popf\n rdmsr\n g_step_after: nop\n");
GUEST(g_feature_control, "mov $0x3a,%%ecx\nxor %%eax,%%eax\nxor %%edx,%%edx\nwrmsr")

/* MSRs of the nested guest do not exit for this hypervisor. */
static struct nest *nest_with_msrs(void (*fn)(void))
{
    struct nest *n = nest_need(proc_msr(), PROC_MSR_BITMAPS, "MSR bitmaps") ? nest_new(NEST_SAME, fn) : NULL;
    if (!n)
        return NULL;
    vmset(MSR_BITMAP, phys(page_alloc(1)));
    nest_control(PROC_CONTROLS, PROC_MSR_BITMAPS, 0);
    return n;
}

static void nested_step(void)
{
    struct nest *n = nest_with_msrs(g_step);
    if (!n || !nest_event(n, VEC_DB, 0))
        return;
    check_eq("the trap", nest_frame()->ip, (ulong)g_step_after);
}

static void nested_step_exits(void)
{
    struct nest *n = nest_with_msrs(g_step);
    if (!n)
        return;
    vmset(EXCEPTION_BITMAP, 1u << VEC_DB);
    NEST_RUN(n, REASON_EXCEPTION);
    check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_HARD | VEC_DB);
    check_masked("exit qualification", vmget(EXIT_QUALIFICATION), DR6_BS, DR6_BS);
    check_eq("RIP", vmget(GUEST_RIP), (ulong)g_step_after);
}

static bool fault_exits(void)
{
    struct nest *n = nest_with_msrs(g_feature_control);
    if (!n)
        return false;
    vmset(EXCEPTION_BITMAP, 1u << VEC_GP);
    return nest_expect(n, REASON_EXCEPTION);
}

static void nested_fault_exits(void)
{
    if (!fault_exits())
        return;
    check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_HARD | INTR_ERROR | VEC_GP);
    check_eq("error code", vmget(EXIT_INTR_ERROR), 0);
    check_eq("IDT-vectoring information", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
    check_masked("the instruction at RIP: WRMSR", *(const u16 *)(ulong)vmget(GUEST_RIP), 0x300f, 0xffff);
}

/* SDM 3, "Saving RIP, RSP, RFLAGS, and SSP": RF as the exception would have pushed it. */
static void nested_fault_exits_rf(void)
{
    if (fault_exits())
        check_masked("RF saved", vmget(GUEST_RFLAGS), RFLAGS_RF, RFLAGS_RF);
}

static void nested_fault(void)
{
    struct nest *n = nest_with_msrs(g_feature_control);
    if (!n || !nest_event(n, VEC_GP, 0))
        return;
    check_masked("the instruction: WRMSR", *(const u16 *)nest_frame()->ip, 0x300f, 0xffff);
    check_masked("RF in the flags pushed", nest_frame()->flags, RFLAGS_RF, RFLAGS_RF);
}

// clang-format off
static const struct test tests[] = {
    { "step", step },
    { "rf", rf },
    { "data-breakpoint", data },
    { "no-data-breakpoint", no_data },
    { "sti", sti },
    { "faults", faults },
    { "nested-step", nested_step },
    { "nested-step-exits", nested_step_exits },
    { "nested-fault", nested_fault },
    { "nested-fault-exits", nested_fault_exits },
    { "nested-fault-exits-rf", nested_fault_exits_rf },
    { NULL, NULL },
};
// clang-format on
const struct suite suite_retire = { "retire", tests, NULL, true, false };
