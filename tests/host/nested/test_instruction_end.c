/* sources: machine */
/*
 * How instructions end that Strata carries out in the processor's place, or whose exception it raises: every path that does either is a
 * row, of the guest hypervisor and of the nested guest; what the guest is in the middle of (RF, single step, blocking, breakpoints, the
 * monitor trap flag) are the columns, in all combinations. What the SDM says of each column is written here once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/guest/start.h"
#include "core/cpu/machine.h"
#include "core/guest/guest.h"
#include "core/memory/ept.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define MEMORY_OPERAND (2u << 7 | 3u << 15 | BIT(22) | BIT(27))
#define REGISTER_OPERAND (2u << 7 | BIT(10) | BIT(22) | BIT(27) | GPR_RAX << 3)
#define IN_RBX ((uint64_t)GPR_RBX << 28)
#define APIC_PAGE GUEST_PAGE(0x600)
#define L3_CODE GUEST_PAGE(0x100)
#define LENGTH 3
#define NOT_PRESENT 0x0000123456789000ull /* in a part of L2's address space that is not mapped */

static uint64_t values[FIELD_COUNT];

static uint64_t now(enum vmcs_row row) { return fake_vmcs_read(hpa(fake_current()), row); }
static void set_now(enum vmcs_row row, uint64_t value) { fake_vmcs_write(hpa(fake_current()), row, value); }
static uint64_t *regs(void) { return nested_machine_cpu()->regs; }

/* --- the instructions --- */

static void plain(struct nested_exit_info *info) { (void)info; }

static void xsetbv(struct nested_exit_info *info)
{
    (void)info;
    regs()[GPR_RCX] = regs()[GPR_RDX] = 0;
    regs()[GPR_RAX] = 1;
}

static void rdmsr_vmx(struct nested_exit_info *info)
{
    (void)info;
    regs()[GPR_RCX] = MSR_VMX_BASIC;
}

static void wrmsr_apic_base(struct nested_exit_info *info)
{
    (void)info;
    uint64_t value = fake_msr_get(MSR_APIC_BASE);
    regs()[GPR_RCX] = MSR_APIC_BASE;
    regs()[GPR_RAX] = (uint32_t)value;
    regs()[GPR_RDX] = value >> 32;
}

static void wrmsr_feature_control(struct nested_exit_info *info)
{
    (void)info;
    regs()[GPR_RCX] = MSR_FEATURE_CONTROL;
}

static void mov_cr0(struct nested_exit_info *info)
{
    info->qualification = 0 | GPR_RBX << 8;
    regs()[GPR_RBX] = nested_machine_cpu()->cr0_shadow;
}

static void mov_cr0_bad(struct nested_exit_info *info)
{
    info->qualification = 0 | GPR_RBX << 8;
    regs()[GPR_RBX] = CR0_PG;
}

static void mov_cr4(struct nested_exit_info *info)
{
    info->qualification = 4 | GPR_RBX << 8;
    regs()[GPR_RBX] = nested_machine_cpu()->cr4_shadow;
}

static void operand(struct nested_exit_info *info, uint64_t first, uint64_t second)
{
    info->instruction = MEMORY_OPERAND | IN_RBX;
    info->qualification = L2_OPERAND;
    memcpy((void *)L2_OPERAND, &first, sizeof(first));
    memcpy((void *)(L2_OPERAND + 8), &second, sizeof(second));
}

static void of_region(struct nested_exit_info *info) { operand(info, VMCS12(3), 0); }
static void of_bad_region(struct nested_exit_info *info) { operand(info, 1, 0); }
static void invept(struct nested_exit_info *info)
{
    operand(info, EPTP12, 0);
    regs()[GPR_RBX] = INVEPT_SINGLE;
}
static void invvpid(struct nested_exit_info *info)
{
    operand(info, 5, 0);
    regs()[GPR_RBX] = INVVPID_SINGLE;
}

/* A field that vmcs02 does not hold, so that accesses exit. */
static void field_register(struct nested_exit_info *info)
{
    info->instruction = REGISTER_OPERAND | IN_RBX;
    regs()[GPR_RBX] = VMCS_HOST_RSP;
    regs()[GPR_RAX] = 0x1000;
}
static void field_memory(struct nested_exit_info *info)
{
    operand(info, 0x1000, 0);
    regs()[GPR_RBX] = VMCS_HOST_RSP;
}
static void field_unknown(struct nested_exit_info *info)
{
    field_register(info);
    regs()[GPR_RBX] = 0x7ffe;
}

static void code(struct nested_exit_info *info, const char *bytes, size_t size)
{
    memcpy((void *)now(FIELD_GUEST_RIP), bytes, size);
    info->length = 0; /* the processor does not say */
    info->gpa = info->linear = regs()[GPR_RAX] = APIC_PAGE + APIC_EOI;
    info->qualification = EPT_QUAL_WRITE | EPT_QUAL_LINEAR_VALID | EPT_QUAL_LINEAR_TRANSLATION;
}
/* Three bytes all of them. */
static void apic_store(struct nested_exit_info *info) { code(info, "\x44\x89\x08", LENGTH); } /* mov %r9d, (%rax) */
static void apic_load(struct nested_exit_info *info)                                          /* mov (%rax), %r9d */
{
    code(info, "\x44\x8b\x08", LENGTH);
    info->qualification ^= EPT_QUAL_READ | EPT_QUAL_WRITE;
}
static void apic_exchange(struct nested_exit_info *info) { code(info, "\x44\x87\x08", LENGTH); } /* xchg %r9d, (%rax) */

static void apic_other(struct nested_exit_info *info) { code(info, "\x44\x01\x08", LENGTH); } /* add %r9d, (%rax) */

static void user_mode(struct nested_exit_info *info)
{
    field_register(info);
    set_now(FIELD_GUEST_SS_AR, now(FIELD_GUEST_SS_AR) | AR_DPL_MASK);
    set_now(FIELD_GUEST_SS_SEL, now(FIELD_GUEST_SS_SEL) | 3);
    set_now(FIELD_GUEST_CS_AR, now(FIELD_GUEST_CS_AR) | AR_DPL_MASK);
    set_now(FIELD_GUEST_CS_SEL, now(FIELD_GUEST_CS_SEL) | 3);
    for (unsigned row = FIELD_GUEST_ES_AR; row <= FIELD_GUEST_GS_AR; row++)
        set_now((enum vmcs_row)row, now((enum vmcs_row)row) | AR_DPL_MASK);
}

static void not_present(struct nested_exit_info *info)
{
    field_memory(info);
    info->qualification = NOT_PRESENT;
}
static void not_canonical(struct nested_exit_info *info)
{
    field_memory(info);
    info->qualification = BIT(60);
}
static void stack_not_canonical(struct nested_exit_info *info)
{
    not_canonical(info);
    info->instruction = (info->instruction & ~(7u << 15)) | 2u << 15;
}

static void code_in_strata(struct nested_exit_info *info)
{
    info->gpa = info->linear = HIDDEN_START + 5 * MIB;
    info->qualification = EPT_QUAL_FETCH | EPT_QUAL_LINEAR_VALID | EPT_QUAL_LINEAR_TRANSLATION;
}

enum outcome { ENDS, FAULTS };
struct path {
    const char *name;
    enum exit_reason reason;
    void (*prepare)(struct nested_exit_info *info);
    enum outcome outcome;
    enum vector vector; /* FAULTS */
    int error;
    uint64_t linear;     /* ENDS: what it accesses; FAULTS with #PF: CR2 */
    unsigned size;       /* of the access, bytes; 0: none */
    bool write, outside; /* outside VMX operation */
};

#define END(n, r, p, ...)                                                                                              \
    {                                                                                                                  \
        .name = n, .reason = REASON_##r, .prepare = p, __VA_ARGS__                                                     \
    }
#define FAULT(n, r, p, v, e, ...)                                                                                      \
    {                                                                                                                  \
        .name = n, .reason = REASON_##r, .prepare = p, .outcome = FAULTS, .vector = VECTOR_##v, .error = e,            \
        __VA_ARGS__                                                                                                    \
    }
#define READS(at, bytes) .linear = at, .size = bytes
#define WRITES(at, bytes) .linear = at, .size = bytes, .write = true
#define APIC_AT APIC_PAGE + APIC_EOI
#define OUTSIDE .outside = true

// clang-format off
static const struct path of_l2[] = {
    END("CPUID", cpuid, plain, OUTSIDE),
    END("CPUID in VMX operation", cpuid, plain),
    END("INVD", invd, plain),
    END("XSETBV", xsetbv, xsetbv),
    FAULT("XSETBV refused", xsetbv, user_mode, GP, 0),
    END("RDMSR", rdmsr, rdmsr_vmx),
    END("WRMSR", wrmsr, wrmsr_apic_base),
    FAULT("WRMSR refused", wrmsr, wrmsr_feature_control, GP, 0),
    END("MOV to CR0", cr_access, mov_cr0),
    END("MOV to CR4", cr_access, mov_cr4),
    FAULT("MOV to CR0 refused", cr_access, mov_cr0_bad, GP, 0),
    FAULT("GETSEC", getsec, plain, UD, NO_ERROR_CODE),
    FAULT("VMFUNC", vmfunc, plain, UD, NO_ERROR_CODE),
    FAULT("ENCLS", encls, plain, UD, NO_ERROR_CODE),
    END("VMCALL", vmcall, plain),
    FAULT("VMCALL outside", vmcall, plain, UD, NO_ERROR_CODE, OUTSIDE),
    END("VMXON in VMX operation", vmxon, of_region),
    END("VMXON that fails", vmxon, of_bad_region, READS(L2_OPERAND, 8), OUTSIDE),
    FAULT("VMXON of no page", vmxon, not_present, PF, 0, .linear = NOT_PRESENT, OUTSIDE),
    END("VMXOFF", vmxoff, plain),
    FAULT("VMXOFF outside", vmxoff, plain, UD, NO_ERROR_CODE, OUTSIDE),
    END("VMCLEAR", vmclear, of_region, READS(L2_OPERAND, 8)),
    END("VMCLEAR that fails", vmclear, of_bad_region, READS(L2_OPERAND, 8)),
    FAULT("VMCLEAR at CPL 3", vmclear, user_mode, GP, 0),
    END("VMPTRLD", vmptrld, of_region, READS(L2_OPERAND, 8)),
    FAULT("VMPTRLD of no page", vmptrld, not_present, PF, 0, .linear = NOT_PRESENT),
    FAULT("VMPTRLD not canonical", vmptrld, not_canonical, GP, 0),
    FAULT("VMPTRLD beyond the stack", vmptrld, stack_not_canonical, SS, 0),
    END("VMPTRST", vmptrst, of_region, WRITES(L2_OPERAND, 8)),
    FAULT("VMPTRST to no page", vmptrst, not_present, PF, PFERR_WRITE, .linear = NOT_PRESENT),
    END("VMREAD", vmread, field_register),
    END("VMREAD to memory", vmread, field_memory, WRITES(L2_OPERAND, 8)),
    FAULT("VMREAD to no page", vmread, not_present, PF, PFERR_WRITE, .linear = NOT_PRESENT),
    END("VMREAD that fails", vmread, field_unknown),
    END("VMWRITE", vmwrite, field_register),
    END("VMWRITE from memory", vmwrite, field_memory, READS(L2_OPERAND, 8)),
    FAULT("VMWRITE from no page", vmwrite, not_present, PF, 0, .linear = NOT_PRESENT),
    END("VMWRITE that fails", vmwrite, field_unknown),
    END("VMRESUME that fails", vmresume, plain),
    END("INVEPT", invept, invept, READS(L2_OPERAND, 16)),
    END("INVVPID", invvpid, invvpid, READS(L2_OPERAND, 16)),
    END("MOV to the APIC", ept_violation, apic_store, WRITES(APIC_AT, 4)),
    END("MOV from the APIC", ept_violation, apic_load, READS(APIC_AT, 4)),
    END("XCHG with the APIC", ept_violation, apic_exchange, WRITES(APIC_AT, 4)),
    FAULT("ADD to the APIC", ept_violation, apic_other, GP, 0),
    FAULT("code in Strata", ept_violation, code_in_strata, GP, 0),
};

static const struct path of_l3[] = {
    END("RDMSR", rdmsr, rdmsr_vmx),
    END("WRMSR", wrmsr, wrmsr_apic_base),
    FAULT("WRMSR refused", wrmsr, wrmsr_feature_control, GP, 0),
    END("VMREAD", vmread, field_register),
    END("VMREAD to memory", vmread, field_memory, WRITES(L2_OPERAND, 8)),
    FAULT("VMREAD to no page", vmread, not_present, PF, PFERR_WRITE, .linear = NOT_PRESENT),
    FAULT("VMREAD at CPL 3", vmread, user_mode, GP, 0),
    END("VMREAD that fails", vmread, field_unknown),
    END("VMWRITE", vmwrite, field_register),
    END("VMWRITE from memory", vmwrite, field_memory, READS(L2_OPERAND, 8)),
    FAULT("VMWRITE from no page", vmwrite, not_present, PF, 0, .linear = NOT_PRESENT),
    FAULT("VMWRITE not canonical", vmwrite, not_canonical, GP, 0),
    FAULT("VMWRITE beyond the stack", vmwrite, stack_not_canonical, SS, 0),
    END("MOV to the APIC", ept_violation, apic_store, WRITES(APIC_AT, 4)),
    END("MOV from the APIC", ept_violation, apic_load, READS(APIC_AT, 4)),
    FAULT("ADD to the APIC", ept_violation, apic_other, GP, 0),
    FAULT("code in Strata", ept_violation, code_in_strata, GP, 0),
};
// clang-format on

/* --- what the guest is in the middle of --- */

enum column {
    IN_RF = 1,
    IN_TF = 2,
    IN_BTF = 4,      /* single steps are of branches only */
    IN_STI = 8,      /* blocking */
    IN_MOV_SS = 16,  /* blocking */
    IN_NMI = 32,     /* blocking */
    IN_BREAK = 64,   /* a data breakpoint on the last byte accessed, of its kind */
    IN_OTHER = 128,  /* and one on the byte behind it, and one of code */
    IN_MTF = 256,    /* L3 only: vmcs12's monitor trap flag */
    IN_WANTED = 512, /* L3 only: L2's exception bitmap has all exceptions */
};
#define COLUMNS_L2 256
#define COLUMNS_L3 1024

static bool possible(unsigned in)
{
    if ((in & IN_STI) && (in & IN_MOV_SS))
        return false;
    return !(in & IN_BTF) || (in & IN_TF);
}

#define DR7_ENTRY(number, when, length)                                                                                \
    ((uint64_t)((length) << 2 | (when)) << (16 + 4 * (number)) | 2ull << 2 * (number))

static void breakpoints_set(const struct path *path, unsigned in)
{
    uint64_t dr7 = 0x400, last = path->linear + path->size - 1;
    fake_breakpoint_set(0, last + 1);
    fake_breakpoint_set(1, last);
    fake_breakpoint_set(2, path->linear);
    fake_breakpoint_set(3, last);
    if (in & IN_OTHER) /* DR3: a store where a load is, if it is one */
        dr7 |= DR7_ENTRY(0, 3, 0) | DR7_ENTRY(2, 0, 0) | (path->write ? 0 : DR7_ENTRY(3, 1, 0));
    if ((in & IN_BREAK) && path->size)
        dr7 |= DR7_ENTRY(1, path->write ? 1 : 3, 0);
    set_now(FIELD_GUEST_DR7, dr7);
}

static bool steps(unsigned in) { return (in & IN_TF) && !(in & IN_BTF); }

/* SDM 3, "Checks on Guest Non-Register State": under blocking the processor has saved the step that is pending. */
static uint64_t pending_before(unsigned in) { return steps(in) && (in & (IN_STI | IN_MOV_SS)) ? PENDING_DEBUG_BS : 0; }

static uint64_t blocking_before(unsigned in)
{
    return (in & IN_STI ? BLOCKING_STI : 0) | (in & IN_MOV_SS ? BLOCKING_MOV_SS : 0) | (in & IN_NMI ? BLOCKING_NMI : 0);
}

static void columns_set(const struct path *path, unsigned in)
{
    set_now(FIELD_GUEST_RFLAGS,
            RFLAGS_FIXED1 | RFLAGS_IF | (in & IN_RF ? RFLAGS_RF : 0) | (in & IN_TF ? RFLAGS_TF : 0));
    set_now(FIELD_GUEST_DEBUGCTL, in & IN_BTF ? DEBUGCTL_BTF : 0);
    set_now(FIELD_GUEST_INTERRUPTIBILITY, blocking_before(in));
    set_now(FIELD_GUEST_PENDING_DEBUG, pending_before(in));
    breakpoints_set(path, in);
    fake_cr2_set(0xbad);
}

/* --- and what becomes of it --- */

static void expect(const struct path *path, unsigned in, const char *what, uint64_t got, uint64_t wanted)
{
    if (got != wanted)
        fail_msg("%s with columns %xh: %s is %llxh, not %llxh", path->name, in, what, (unsigned long long)got,
                 (unsigned long long)wanted);
}

static void expect_end(const struct path *path, unsigned in, hpa_t vmcs, uint64_t rip)
{
    uint64_t pending = (steps(in) ? PENDING_DEBUG_BS : 0) |
                       ((in & IN_BREAK) && path->size ? BIT(1) | PENDING_DEBUG_ENABLED : 0);
    expect(path, in, "RIP", fake_vmcs_read(vmcs, FIELD_GUEST_RIP), rip + LENGTH);
    expect(path, in, "RF", fake_vmcs_read(vmcs, FIELD_GUEST_RFLAGS) & RFLAGS_RF, 0);
    expect(path, in, "TF", fake_vmcs_read(vmcs, FIELD_GUEST_RFLAGS) & RFLAGS_TF, in & IN_TF ? RFLAGS_TF : 0);
    expect(path, in, "blocking", fake_vmcs_read(vmcs, FIELD_GUEST_INTERRUPTIBILITY), in & IN_NMI ? BLOCKING_NMI : 0);
    expect(path, in, "pending debug exceptions", fake_vmcs_read(vmcs, FIELD_GUEST_PENDING_DEBUG), pending);
    expect(path, in, "the event", fake_vmcs_read(vmcs, FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    expect(path, in, "CR2", hw_read_cr2(), 0xbad);
}

static uint64_t event_of(const struct path *path)
{
    uint64_t has_code = path->error == NO_ERROR_CODE ? 0 : INTR_ERROR_VALID;
    return INTR_VALID | INTR_TYPE_HW_EXCEPTION | has_code | (uint64_t)path->vector;
}

/* Nothing but RF has changed. */
static void expect_stopped(const struct path *path, unsigned in, hpa_t vmcs, uint64_t rip)
{
    uint64_t flags = RFLAGS_FIXED1 | RFLAGS_IF | RFLAGS_RF | (in & IN_TF ? RFLAGS_TF : 0);
    expect(path, in, "RIP", fake_vmcs_read(vmcs, FIELD_GUEST_RIP), rip);
    expect(path, in, "RFLAGS", fake_vmcs_read(vmcs, FIELD_GUEST_RFLAGS), flags);
    expect(path, in, "blocking", fake_vmcs_read(vmcs, FIELD_GUEST_INTERRUPTIBILITY), blocking_before(in));
    expect(path, in, "pending debug exceptions", fake_vmcs_read(vmcs, FIELD_GUEST_PENDING_DEBUG), pending_before(in));
}

static void expect_fault(const struct path *path, unsigned in, hpa_t vmcs, uint64_t rip)
{
    expect_stopped(path, in, vmcs, rip);
    expect(path, in, "the event", fake_vmcs_read(vmcs, FIELD_ENTRY_INTR_INFO), event_of(path));
    if (path->error != NO_ERROR_CODE)
        expect(path, in, "the error code", fake_vmcs_read(vmcs, FIELD_ENTRY_EXCEPTION_ERROR), (uint64_t)path->error);
    expect(path, in, "CR2", hw_read_cr2(), path->vector == VECTOR_PF ? path->linear : 0xbad);
}

static struct nested_exit_info prepare(const struct path *path, unsigned in)
{
    struct nested_exit_info info = { .reason = path->reason, .length = LENGTH };
    columns_set(path, in);
    path->prepare(&info);
    return info;
}

/* --- the guest hypervisor's --- */

static void apic_closed(void)
{
    fake_msr_set(MSR_APIC_BASE, APIC_PAGE | APIC_BASE_ENABLE | APIC_BASE_BSP);
    ept01_protect(&memory01.ept01, gpa1(APIC_PAGE), 0);
}

static void l2_make_ready(bool outside)
{
    static const struct nested_machine_config usual = { 0 };
    nested_machine_start(&usual);
    apic_closed();
    if (outside)
        return;
    uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    vmcs12_sample(values);
    l2_make(0, values);
    memcpy((void *)VMCS12(3), &revision, sizeof(revision));
}

static void l2_row(const struct path *path, unsigned in)
{
    if (nested_machine_cpu()->nested->in_vmx == path->outside) /* VMXOFF */
        l2_make_ready(path->outside);
    set_now(FIELD_GUEST_RIP, L2_ENTRY_RIP);
    struct nested_exit_info info = prepare(path, in);
    hpa_t vmcs01 = nested_machine_cpu()->vmcs01.region;
    nested_machine_exit(&info);
    if (path->outcome == ENDS)
        expect_end(path, in, vmcs01, L2_ENTRY_RIP);
    else
        expect_fault(path, in, vmcs01, L2_ENTRY_RIP);
}

static void instructions_of_l2(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(of_l2); i++) {
        l2_make_ready(of_l2[i].outside);
        for (unsigned in = 0; in < COLUMNS_L2; in++)
            if (possible(in))
                l2_row(&of_l2[i], in);
    }
}

/*
 * Another CPU has put a store where the load was that EPT stopped (or the other way round): what was not stopped is not carried out, the
 * guest tries again.
 */
static void code_that_changed(void **state)
{
    (void)state;
    for (unsigned load = 0; load < 2; load++) {
        static const struct path path = { .name = "changed code", .reason = REASON_ept_violation };
        l2_make_ready(false);
        set_now(FIELD_GUEST_RIP, L2_ENTRY_RIP);
        columns_set(&path, 0);
        struct nested_exit_info info = { .reason = REASON_ept_violation };
        (load ? apic_load : apic_store)(&info);
        info.qualification ^= EPT_QUAL_READ | EPT_QUAL_WRITE;
        volatile uint32_t *eoi = (volatile uint32_t *)(APIC_PAGE + APIC_EOI);
        *eoi = 0x11;
        regs()[GPR_R9] = 0x22;
        nested_machine_exit(&info);
        assert_int_equal(*eoi, 0x11);
        assert_int_equal(regs()[GPR_R9], 0x22);
        assert_int_equal(now(FIELD_GUEST_RIP), L2_ENTRY_RIP);
        assert_int_equal(now(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    }
}

/* --- the nested guest's --- */

/* L3 runs with L2's page tables, L2's VMCS 1 is its shadow VMCS, and nothing of it exits for L2. */
static void l3_make(unsigned in)
{
    static const struct nested_machine_config usual = { 0 };
    nested_machine_start(&usual);
    vmcs12_sample(values);
    l2_make(1, values);
    assert_int_equal(l2_vmclear(VMCS12(1)), VMX_OK);
    *(uint32_t *)VMCS12(1) |= (uint32_t)VMCS_SHADOW_INDICATOR;
    V(PROC_CONTROLS) |= in & IN_MTF ? PROC_MONITOR_TRAP : 0;
    V(PROC2_CONTROLS) |= PROC2_SHADOW_VMCS;
    V(VMCS_LINK_POINTER) = VMCS12(1);
    V(VMREAD_BITMAP) = GUEST_PAGE(40);
    V(VMWRITE_BITMAP) = GUEST_PAGE(41);
    V(EXCEPTION_BITMAP) = in & IN_WANTED ? 0xffffffff : 0;
    V(GUEST_CR3) = L2_PML4;
    V(GUEST_RIP) = L3_CODE;
    l2_make(0, values);
    apic_closed();
    assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
    assert_true(nested_machine_in_l3());
    static const uint64_t used[] = { L3_CODE, L2_PML4, L2_OPERAND };
    for (size_t i = 0; i < ARRAY_SIZE(used); i++)
        nested_machine_exit(&(struct nested_exit_info){
            .reason = REASON_ept_violation, .qualification = EPT_QUAL_WRITE, .gpa = used[i], .linear = used[i] });
    assert_true(nested_machine_in_l3());
}

static void expect_exit(const struct path *path, unsigned in, uint64_t reason)
{
    if (nested_machine_in_l3())
        fail_msg("%s with columns %xh: no exit to L2", path->name, in);
    expect(path, in, "the exit reason", l2_field(VMCS_EXIT_REASON), reason);
    expect(path, in, "IDT-vectoring information", l2_field(VMCS_IDT_VECTORING_INFO) & INTR_VALID, 0);
}

static void l3_row(const struct path *path, unsigned in)
{
    if (!nested_machine_in_l3())
        assert_int_equal(l2_enter(REASON_vmresume), VMX_OK);
    set_now(FIELD_GUEST_RIP, L3_CODE);
    struct nested_exit_info info = prepare(path, in);
    hpa_t vmcs02 = nested_machine_vmcs02();
    nested_machine_exit(&info);
    bool mtf = path->outcome == ENDS && (in & IN_MTF), wanted = path->outcome == FAULTS && (in & IN_WANTED);
    if (!mtf && !wanted && !nested_machine_in_l3())
        fail_msg("%s with columns %xh: an exit to L2", path->name, in);
    if (path->outcome == ENDS)
        expect_end(path, in, vmcs02, L3_CODE);
    else if (!wanted)
        expect_fault(path, in, vmcs02, L3_CODE);
    if (mtf) {
        expect_exit(path, in, REASON_monitor_trap);
        expect(path, in, "interruption information", l2_field(VMCS_EXIT_INTR_INFO) & INTR_VALID, 0);
    }
    if (!wanted)
        return;
    expect_stopped(path, in, vmcs02, L3_CODE);
    expect_exit(path, in, REASON_exception_nmi);
    expect(path, in, "interruption information", l2_field(VMCS_EXIT_INTR_INFO), event_of(path));
    if (path->error != NO_ERROR_CODE)
        expect(path, in, "the error code", l2_field(VMCS_EXIT_INTR_ERROR), (uint64_t)path->error);
    expect(path, in, "the qualification", l2_field(VMCS_EXIT_QUALIFICATION),
           path->vector == VECTOR_PF ? path->linear : 0);
    expect(path, in, "CR2", hw_read_cr2(), 0xbad);
}

static void instructions_of_l3(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(of_l3); i++)
        for (unsigned in = 0; in < COLUMNS_L3; in++) {
            if (in % COLUMNS_L2 == 0) /* another vmcs12 */
                l3_make(in);
            if (possible(in))
                l3_row(&of_l3[i], in);
        }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(instructions_of_l2),
        TEST(code_that_changed),
        TEST(instructions_of_l3),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
