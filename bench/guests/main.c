/*
 * The list of what is measured, and the items of a plain guest and of the VMX instructions.
 * Words of the command line: items=guest,nested,vmx,invept,smp,x2apic,calibrate (default: all that the machine has but
 * calibrate), invept=64,256,1024 (sizes in MiB), marks=1 (lines at which the machine below notes its counts).
 */
#include "cost.h"
#include "verdict.h"

#define RUN(name, ...)                                                                                                 \
    static void run_##name(u32 count) { SAMPLE(count, __VA_ARGS__) }
RUN(empty, barrier())
RUN(cpuid, cpuid(0, 0))
RUN(cpuid_answered, cpuid(0x40000000, 0)) /* a Strata answers it without asking the one below */
RUN(rdmsr, rdmsr(MSR_SYSENTER_CS))
RUN(in, inb(0x80))
RUN(apic_read, apic_read(APIC_TPR))
RUN(apic_write, apic_write(APIC_TPR, 0))
RUN(cr4, write_cr4(read_cr4()))

struct item {
    const char *name;
    void (*run)(u32 count);
};
static const struct item guest_items[] = {
    { "guest.empty", run_empty },
    { "guest.cpuid", run_cpuid },
    { "guest.cpuid-answered", run_cpuid_answered },
    { "guest.rdmsr", run_rdmsr },
    { "guest.in", run_in },
    { "guest.apic-read", run_apic_read },
    { "guest.apic-write", run_apic_write },
    { "guest.cr4", run_cr4 },
};

void items_guest(void)
{
    strata_calibrate(run_empty);
    for (u32 i = 0; i < COUNT(guest_items); i++)
        item_run(guest_items[i].name, guest_items[i].run);
}

static u64 regions[2]; /* two VMCSs, the first is current */
static struct inv context;
#define VMX_ASM(text, ...) asm volatile(text : : __VA_ARGS__ : "memory", "cc", "rax")
#define READ(field) VMX_ASM("vmread %0,%%rax", "r"((ulong)(field)))
#define WRITE(field, value) VMX_ASM("vmwrite %1,%0", "r"((ulong)(field)), "r"((ulong)(value)))
#define LOAD(i) VMX_ASM("vmptrld %0", "m"(regions[i]))

RUN(read_exit, READ(EXIT_REASON))
RUN(read_guest, READ(GUEST_RIP))
RUN(read_control, READ(PROC_CONTROLS))
RUN(read_host, READ(HOST_RIP))
RUN(write_guest, WRITE(GUEST_INTERRUPTIBILITY, 0))
RUN(write_control, WRITE(EXCEPTION_BITMAP, 0))
RUN(write_host, WRITE(HOST_FS_BASE, 0))
RUN(load_same, LOAD(0))
RUN(invept, VMX_ASM("invept %0,%1", "m"(context), "r"(1ul)))
RUN(invept_all, VMX_ASM("invept %0,%1", "m"(context), "r"(2ul)))
RUN(invvpid, VMX_ASM("invvpid %0,%1", "m"(context), "r"(2ul)))

static void run_load_other(u32 count)
{
    for (u32 i = 0; i < count; i++) {
        u64 from = rdtsc();
        LOAD((i + 1) & 1);
        sample(from, rdtsc());
    }
    LOAD(0);
}

static void run_clear_load(u32 count)
{
    for (u32 i = 0; i < count; i++) {
        u64 from = rdtsc();
        VMX_ASM("vmclear %0", "m"(regions[0]));
        LOAD(0);
        sample(from, rdtsc());
    }
    worker.lean.launched = 0;
}

static const struct item vmx_items[] = {
    { "vmx.vmread-exit-field", run_read_exit },
    { "vmx.vmread-guest-field", run_read_guest },
    { "vmx.vmread-control", run_read_control },
    { "vmx.vmread-host-field", run_read_host },
    { "vmx.vmwrite-guest-field", run_write_guest },
    { "vmx.vmwrite-control", run_write_control },
    { "vmx.vmwrite-host-field", run_write_host },
    { "vmx.vmptrld-same", run_load_same },
    { "vmx.vmptrld-other", run_load_other },
    { "vmx.vmclear-vmptrld", run_clear_load },
    { "vmx.invept-single", run_invept },
    { "vmx.invept-global", run_invept_all },
    { "vmx.invvpid-all", run_invvpid },
};

void items_vmx(void)
{
    regions[1] = phys(vmcs_alloc());
    if (!worker_new())
        return;
    regions[0] = phys(worker.nest->vmcs);
    context = (struct inv){ worker.nest->ept->eptp, 0 };
    strata_calibrate(run_empty);
    for (u32 i = 0; i < COUNT(vmx_items); i++) {
        bool vpid = vmx_items[i].run != run_invvpid || proc2_supported(PROC2_VPID);
        if (vpid && vmx_items[i].run == run_invvpid)
            context = (struct inv){ 0, 0 };
        if (vpid)
            item_run(vmx_items[i].name, vmx_items[i].run);
    }
}

/* The processor's own name, as far as it has one. */
static const char *model(void)
{
    static char name[49];
    for (u32 i = 0; i < 3 && cpuid(0x80000000, 0).a >= 0x80000004; i++) {
        struct cpuid r = cpuid(0x80000002 + i, 0);
        memcpy(name + 16 * i, &r, 16);
    }
    return name;
}

static void all(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
        bool vmx;
    } groups[] = {
        { "guest", items_guest, false },  { "nested", items_nested, true }, { "vmx", items_vmx, true },
        { "invept", items_invept, true }, { "smp", items_smp, false },      { "calibrate", items_calibrate, true },
        { "x2apic", items_x2apic, true },
    };
    bool have_vmx = (cpuid(1, 0).c & 1u << 5) != 0;
    strata_open();
    print("bench-start: exit-cost cpus=%u vmx=%u hypervisor=%u model=%s\n", cpus_present, have_vmx, cpuid(1, 0).c >> 31,
          model());
    for (u32 i = 0; i < COUNT(groups); i++) {
        if (!item_wanted(groups[i].name) || (groups[i].run == items_calibrate && !option("items")))
            continue;
        if (groups[i].vmx && !have_vmx)
            item_skip(groups[i].name, "no VMX here");
        else
            test_run(groups[i].name, groups[i].run, groups[i].vmx);
    }
    put("bench-end: exit-cost\n");
}

static const struct suite cost = { "cost", NULL, all, false, false };
const struct suite *const suites[] = { &cost, NULL };
