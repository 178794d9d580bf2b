/*
 * What the instructions of VMX cost on the machine itself: the constants of a cost model (bench/calibrate makes one of
 * these lines). Only where "items=calibrate" asks for it, and worth something only with no hypervisor below. A sample
 * is BATCH times the instruction between two fenced readings of the TSC.
 */
#include "cost.h"

enum { BATCH = 16 };

/* Neither before nor after it may the processor begin what stands on the other side. */
static inline u64 stamp(void)
{
    asm volatile("lfence" : : : "memory");
    u64 now = rdtsc();
    asm volatile("lfence" : : : "memory");
    return now;
}

#define TIMES_4(...)                                                                                                   \
    __VA_ARGS__;                                                                                                       \
    __VA_ARGS__;                                                                                                       \
    __VA_ARGS__;                                                                                                       \
    __VA_ARGS__
#define TIMES_16(...)                                                                                                  \
    TIMES_4(__VA_ARGS__);                                                                                              \
    TIMES_4(__VA_ARGS__);                                                                                              \
    TIMES_4(__VA_ARGS__);                                                                                              \
    TIMES_4(__VA_ARGS__)
#define CALIBRATE(name, ...)                                                                                           \
    static void run_##name(u32 count)                                                                                  \
    {                                                                                                                  \
        samples.batch = BATCH;                                                                                         \
        for (u32 i_ = 0; i_ < count; i_++) {                                                                           \
            u64 from_ = stamp();                                                                                       \
            TIMES_16(__VA_ARGS__);                                                                                     \
            sample(from_, stamp());                                                                                    \
        }                                                                                                              \
    }

static u64 regions[2]; /* two VMCSs; the first is current before and after each item */
static struct inv context;
#define VMX_ASM(text, ...) asm volatile(text : : __VA_ARGS__ : "memory", "cc", "rax")
#define LOAD(i) VMX_ASM("vmptrld %0", "m"(regions[i]))

CALIBRATE(empty, barrier())
CALIBRATE(vmread, VMX_ASM("vmread %0,%%rax", "r"((ulong)EXIT_REASON)))
CALIBRATE(vmwrite, VMX_ASM("vmwrite %1,%0", "r"((ulong)GUEST_INTERRUPTIBILITY), "r"(0ul)))
CALIBRATE(vmptrld_two, LOAD(1); LOAD(0))
CALIBRATE(vmclear_vmptrld, VMX_ASM("vmclear %0", "m"(regions[0])); LOAD(0))
CALIBRATE(invept, VMX_ASM("invept %0,%1", "m"(context), "r"(1ul)))
CALIBRATE(invvpid, VMX_ASM("invvpid %0,%1", "m"(context), "r"(1ul)))
CALIBRATE(vmcall, asm volatile("vmcall" : : : "memory"))

/* The same in the nested guest. */
static void job_vmcall(void) { run_vmcall(job_count); }
static void job_empty(void) { run_empty(job_count); }
static void nested(u32 count, void (*job)(void))
{
    job_count = count;
    worker.lean.expect = REASON_VMCALL;
    worker_do(job);
}
static void run_nested_vmcall(u32 count) { nested(count, job_vmcall); }
static void run_nested_empty(u32 count) { nested(count, job_empty); }

static void run_clear(u32 count)
{
    run_vmclear_vmptrld(count);
    worker.lean.launched = 0;
}

void items_calibrate(void)
{
    regions[1] = phys(vmcs_alloc());
    if (!worker_new())
        return;
    regions[0] = phys(worker.nest->vmcs);
    context = (struct inv){ worker.nest->ept->eptp, 0 };
    strata_calibrate(run_empty);
    item_run("calibrate.empty", run_empty);
    item_run("calibrate.vmread", run_vmread);
    item_run("calibrate.vmwrite", run_vmwrite);
    item_run("calibrate.vmptrld-two", run_vmptrld_two);
    item_run("calibrate.vmclear-vmptrld", run_clear);
    item_run("calibrate.invept", run_invept);
    if (proc2_supported(PROC2_VPID)) {
        context = (struct inv){ 1, 0 };
        item_run("calibrate.invvpid", run_invvpid);
    }
    strata_calibrate(run_nested_empty);
    item_run("calibrate.round-trip", run_nested_vmcall);
}
