/*
 * The nested guest: a worker that runs one job after the other in the build's own mode, ended by HLT. Items whose exit
 * needs no more than going on behind the instruction take the lean path; the others have a handler in C.
 */
#include "cost.h"
#include "verdict.h"

struct worker worker;
bool (*worker_exit)(int reason);
volatile u32 job_count;
static void (*volatile job)(void);

/* In the nested guest. */
static void worker_loop(void)
{
    for (;;) {
        job();
        asm volatile("hlt" : : : "memory");
    }
}

/* Guest fields loaded on entry and saved on exit, as hypervisors for any guest have it. */
static void controls_full(void)
{
    vmset(GUEST_PAT, rdmsr(MSR_PAT));
    vmset(HOST_PAT, rdmsr(MSR_PAT));
    vmset(EXIT_CONTROLS, control_adjust(exit_msr(), (u32)vmget(EXIT_CONTROLS) | EXIT_SAVE_DEBUG | EXIT_SAVE_PAT |
                                                        EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_LOAD_EFER));
    vmset(ENTRY_CONTROLS, control_adjust(entry_msr(), (u32)vmget(ENTRY_CONTROLS) | ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT |
                                                          ENTRY_LOAD_EFER));
}

bool worker_new(void)
{
    if (!hidden_present()) {
        test_skip("less than 128 MiB of memory");
        return false;
    }
    if (!nest_need(proc_msr(), PROC_HLT | PROC_IO, "HLT and I/O exiting"))
        return false;
    if (!nest_need(proc_msr(), PROC_SECONDARY, "secondary controls") || !nest_need(MSR_VMX_PROC2, PROC2_EPT, "EPT"))
        return false;
    memset(&worker, 0, sizeof worker);
    worker.nest = nest_new(NEST_SAME, worker_loop);
    if (!worker.nest)
        return false;
    worker.lean.regs[0] = worker.nest->regs.ax;
    worker.lean.expect = ~0ul;
    vmset(HOST_RIP, (ulong)lean_exit);
    nest_ept(worker.nest, hidden_ept());
    nest_control(PROC_CONTROLS, PROC_HLT | PROC_IO, PROC_MSR_BITMAPS);
    if (proc2_supported(PROC2_VPID)) { /* without it every transition flushes what is cached */
        nest_control(PROC2_CONTROLS, PROC2_VPID, 0);
        vmset(VPID, 1);
    }
    controls_full();
    worker_exit = NULL;
    return true;
}

static void give_up(int reason)
{
    char what[120];
    format(what, sizeof what, "(the nested guest's exit %x, qualification %llx, RIP %llx, error %u)", (u32)reason,
           vmget(EXIT_QUALIFICATION), vmget(GUEST_RIP), reason < 0 ? (u32)vmget(INSN_ERROR) : 0);
    test_fault(what);
}

void worker_do(void (*fn)(void))
{
    job = fn;
    barrier();
    for (;;) {
        int reason = lean_run(&worker.lean);
        if (reason == REASON_HLT) {
            nest_skip();
            vmset(GUEST_ACTIVITY, ACTIVITY_ACTIVE);
            return;
        }
        if (!worker_exit || !worker_exit(reason))
            give_up(reason);
    }
}

#define JOB(name, ...)                                                                                                 \
    static void job_##name(void) { SAMPLE(job_count, __VA_ARGS__) }
JOB(empty, barrier())
JOB(cpuid, cpuid(0, 0))
JOB(vmcall, asm volatile("vmcall" : : : "memory"))
JOB(rdmsr, rdmsr(MSR_SYSENTER_CS))
JOB(wrmsr, wrmsr(MSR_SYSENTER_CS, 0))
JOB(in, inb(0x80))
JOB(out, outb(0x80, 0))
JOB(cr3, write_cr3(read_cr3()))
JOB(cr0, write_cr0(read_cr0() | CR0_TS))

static struct lean_item {
    const char *name;
    void (*job)(void);
    int reason;
} lean_items[] = {
    { "nested.empty", job_empty, -2 },
    { "nested.cpuid", job_cpuid, REASON_CPUID },
    { "nested.vmcall", job_vmcall, REASON_VMCALL },
    { "nested.rdmsr", job_rdmsr, REASON_RDMSR },
    { "nested.wrmsr", job_wrmsr, REASON_WRMSR },
    { "nested.in", job_in, REASON_IO },
    { "nested.out", job_out, REASON_IO },
    { "nested.cr0", job_cr0, REASON_CR },
    { "nested.cr3", job_cr3, REASON_CR },
};
static const struct lean_item *current;

static void lean_go(u32 count)
{
    job_count = count;
    worker.lean.expect = (ulong)(long)current->reason;
    worker_do(current->job);
}

static void items_lean(void)
{
    current = &lean_items[0];
    strata_calibrate(lean_go);
    for (u32 i = 0; i < COUNT(lean_items); i++) {
        current = &lean_items[i];
        if (current->job == job_cr3)
            nest_control(PROC_CONTROLS, PROC_CR3_LOAD, PROC_CR3_STORE);
        if (current->job == job_cr0)
            vmset(CR0_MASK, CR0_TS);
        item_run(current->name, lean_go);
    }
    vmset(CR0_MASK, 0);
    nest_control(PROC_CONTROLS, 0, PROC_CR3_LOAD);
    /* KVM does not have PAT and EFER saved: it keeps them by intercepting the guest's writes. */
    nest_control(EXIT_CONTROLS, 0, EXIT_SAVE_PAT | EXIT_SAVE_EFER);
    current = &lean_items[1];
    item_run("nested.cpuid-unsaved", lean_go);
    controls_full();
}

/* EPT violations that the guest hypervisor answers by mapping one more page, as on demand. */
static volatile u8 *next_touch;
static u64 touch_step;

static void job_touch(void) { SAMPLE(job_count, (void)*next_touch; next_touch += touch_step) }

static bool exit_map(int reason)
{
    if (reason != REASON_EPT_VIOLATION)
        return false;
    u64 gpa = vmget(GUEST_PHYSICAL) & ~(touch_step - 1);
    *hidden_entry(worker.nest->ept, gpa, touch_step) = gpa | EPT_RWX | EPT_WB | (touch_step > PAGE ? EPT_LARGE : 0);
    return true;
}

static void touch_go(u32 count)
{
    job_count = count;
    worker.lean.expect = ~0ul;
    worker_do(job_touch);
}

enum { TOUCH_FROM = 64 * MIB };

static void item_violation(const char *name, u64 step)
{
    u32 touches = WARM_UP + (option("marks") ? 3 : 2) * REPEATS;
    for (u64 gpa = TOUCH_FROM; gpa < TOUCH_FROM + (u64)touches * step; gpa += step)
        *hidden_entry(worker.nest->ept, gpa, step) = 0;
    nest_flush(worker.nest);
    next_touch = (volatile u8 *)(ulong)TOUCH_FROM;
    touch_step = step;
    worker_exit = exit_map;
    item_run(name, touch_go);
}

/* An external interrupt: the nested guest sends it to itself, the guest hypervisor acknowledges and ends it. */
enum { VECTOR = 0x58 };
static void job_self_ipi(void)
{
    asm volatile("sti" : : : "memory");
    SAMPLE(job_count, apic_icr(0, ICR_SELF | ICR_ASSERT | VECTOR); asm volatile("nop\nnop\nnop\nnop"))
    asm volatile("cli" : : : "memory");
}

static bool exit_interrupt(int reason)
{
    if (reason != REASON_EXT_INT || (vmget(EXIT_INTR_INFO) & 0xff) != VECTOR)
        return false;
    apic_eoi();
    return true;
}

static void interrupt_go(u32 count)
{
    job_count = count;
    worker.lean.expect = ~0ul;
    worker_do(job_self_ipi);
}

static void items_interrupt(void)
{
    struct table_ptr idtr = read_idtr();
    vmset(GUEST_IDTR_BASE, idtr.base); /* whose handler counts and ends it, in the nested guest */
    vmset(GUEST_IDTR_LIMIT, idtr.limit);
    item_run("nested.interrupt-native", interrupt_go);
    if (!control_supported(exit_msr(), EXIT_ACK_INT))
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, EXIT_ACK_INT, 0);
    worker_exit = exit_interrupt;
    item_run("nested.interrupt", interrupt_go);
    nest_control(PIN_CONTROLS, 0, PIN_EXT_INT);
}

void items_nested(void)
{
    if (!worker_new())
        return;
    items_lean();
    items_interrupt();
    item_violation("nested.violation-2m", 2 * MIB);
    item_violation("nested.violation-4k", PAGE);
}
