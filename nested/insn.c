/*
 * The VMX instructions of the guest hypervisor but VMLAUNCH and VMRESUME: SDM 3, "VMX Instruction Reference", in the order of the
 * checks there. #UD for wrong modes comes from the processor before it exits.
 */
#include "nested/insn.h"

#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/vmcs_image.h"
#include "nested/caps.h"
#include "nested/invalidate.h"
#include "nested/nested.h"

static void finish(const struct cpu *cpu, uint64_t flags) { insn_finish(flags, cpu->nested->ia32e); }

void insn_succeed(const struct cpu *cpu) { finish(cpu, 0); }
void insn_fail_invalid(const struct cpu *cpu) { finish(cpu, RFLAGS_CF); }

void insn_fail(struct cpu *cpu, enum vmx_error error)
{
    if (!cpu->nested->current || error == VMX_FAIL_INVALID) {
        insn_fail_invalid(cpu);
        return;
    }
    vmcs12_set_error(&cpu->nested->current->v, error);
    finish(cpu, RFLAGS_ZF);
}

static uint32_t memory_revision(gpa1_t region)
{
    return __atomic_load_n((uint32_t *)gpa1_ptr(region), __ATOMIC_RELAXED);
}

static uint32_t revision(void) { return (uint32_t)(caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK); }

static bool region_address_ok(uint64_t addr) { return !(addr & (PAGE_SIZE - 1)) && !(addr >> nested_caps.maxphyaddr); }

static uint64_t fixed0(uint32_t msr) { return caps_msr(&nested_caps, msr); }

/* A CR as L2 sees it obeys the fixed bits. */
static bool cr_fixed_ok(uint64_t value, uint32_t fixed0_msr)
{
    return !(fixed0(fixed0_msr) & ~value) && !(value & ~fixed0(fixed0_msr + 1));
}

static uint64_t cr_seen(uint64_t real, uint64_t mask, uint64_t shadow) { return (real & ~mask) | (shadow & mask); }

/* In VMX operation PE, PG and NE cannot be cleared: their writes must exit. */
static void own_cr0(struct cpu *cpu, bool in_vmx)
{
    uint64_t seen = cr_seen(vmread(GUEST_CR0), vmread(CR0_MASK), vmread(CR0_SHADOW));
    vmwrite(CR0_MASK, vmcs01_cr0_mask() | (in_vmx ? fixed0(MSR_VMX_CR0_FIXED0) : 0));
    vmwrite(CR0_SHADOW, seen);
    cpu->cr0_shadow = seen;
}

void nested_vmxon(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    struct nested *n = cpu->nested;
    n->ia32e = vmread(GUEST_EFER) & EFER_LMA;
    uint64_t cr0 = cr_seen(vmread(GUEST_CR0), vmread(CR0_MASK), vmread(CR0_SHADOW));
    uint64_t cr4 = cr_seen(vmread(GUEST_CR4), vmread(CR4_MASK), vmread(CR4_SHADOW));
    if (!(cr4 & CR4_VMXE)) {
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
        return;
    }
    if (n->in_vmx) {
        if (guest_cpl())
            guest_fault(cpu, VECTOR_GP, 0);
        else
            insn_fail(cpu, VMERR_VMXON_IN_ROOT);
        return;
    }
    if (guest_cpl() || !cr_fixed_ok(cr0, MSR_VMX_CR0_FIXED0) || !cr_fixed_ok(cr4, MSR_VMX_CR4_FIXED0)) {
        guest_fault(cpu, VECTOR_GP, 0);
        return;
    }
    struct insn i = insn_of_l2(cpu);
    uint64_t addr;
    if (!insn_read_pointer(i, &addr))
        return;
    if (!region_address_ok(addr) || memory_revision(gpa1(addr)) != revision()) {
        insn_fail_invalid(cpu);
        return;
    }
    n->in_vmx = true;
    n->vmxon = gpa1(addr);
    n->current = NULL;
    for (unsigned k = 0; k < OWNER_SLOTS; k++) /* in VMX operation IA-32e mode cannot change, before it could */
        n->slots[k].v.unchecked = VMCS12_ALL_GROUPS;
    own_cr0(cpu, true);
    nested_shadowing(true);
    insn_succeed(cpu);
}

static void set_current(struct cpu *cpu, struct nested_slot *slot)
{
    cpu->nested->current = slot;
    vmcs12_link(cpu, slot ? &slot->v : NULL);
}

static void leave_vmx(struct cpu *cpu)
{
    struct nested *n = cpu->nested;
    set_current(cpu, NULL);
    owner_leave(cpu, &n->owner);
    n->in_vmx = false;
    own_cr0(cpu, false);
    nested_shadowing(false);
}

static void handle_vmxoff(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    leave_vmx(cpu);
    insn_succeed(cpu);
    if (cpu->nested->init_pending) {
        cpu->nested->init_pending = false;
        start_handle_init(cpu, REASON_init);
    }
}

static void handle_vmclear(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    struct nested *n = cpu->nested;
    struct insn i = insn_of_l2(cpu);
    uint64_t addr;
    if (!insn_read_pointer(i, &addr))
        return;
    if (!region_address_ok(addr)) {
        insn_fail(cpu, VMERR_VMCLEAR_ADDRESS);
        return;
    }
    if (addr == n->vmxon.v) {
        insn_fail(cpu, VMERR_VMCLEAR_VMXON_PTR);
        return;
    }
    if (n->current && n->current->v.region.v == addr)
        set_current(cpu, NULL);
    owner_clear(cpu, &n->owner, gpa1(addr));
    insn_succeed(cpu);
}

static void handle_vmptrld(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    struct nested *n = cpu->nested;
    struct insn i = insn_of_l2(cpu);
    uint64_t addr;
    if (!insn_read_pointer(i, &addr))
        return;
    if (!region_address_ok(addr)) {
        insn_fail(cpu, VMERR_VMPTRLD_ADDRESS);
        return;
    }
    if (addr == n->vmxon.v) {
        insn_fail(cpu, VMERR_VMPTRLD_VMXON_PTR);
        return;
    }
    uint32_t found = memory_revision(gpa1(addr));
    bool shadow = found & VMCS_SHADOW_INDICATOR;
    if ((found & VMX_BASIC_REVISION_MASK) != revision() || (shadow && !nested_caps.offered[CAP_SHADOW])) {
        insn_fail(cpu, VMERR_VMPTRLD_REVISION);
        return;
    }
    if (vmcs_image.on && n->current && n->current->v.region.v != addr)
        owner_leave_in_memory(cpu, &n->current->v);
    struct nested_slot *slot = nested_slot_of(
        owner_activate(cpu, &n->owner, gpa1(addr), n->current ? &n->current->v : NULL));
    slot->shadow = shadow;
    set_current(cpu, slot);
    insn_succeed(cpu);
}

static void handle_vmptrst(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    const struct nested_slot *slot = cpu->nested->current;
    struct insn i = insn_of_l2(cpu);
    if (insn_write_pointer(i, slot ? slot->v.region.v : VMCS12_NONE))
        insn_succeed(cpu);
}

static void handle_vmread(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    count(cpu, COUNT_VMREAD_TRAPPED);
    struct nested_slot *slot = cpu->nested->current;
    if (!slot) {
        insn_fail_invalid(cpu);
        return;
    }
    struct insn i = insn_of_l2(cpu);
    uint64_t encoding = insn_reg2(i);
    int row = insn_field_row(encoding);
    if (row < 0) {
        insn_fail(cpu, VMERR_UNSUPPORTED_FIELD);
        return;
    }
    uint64_t value = vmcs12_read(cpu, &slot->v, (enum vmcs_row)row);
    if (vmcs_encoding_high((uint32_t)encoding))
        value >>= 32;
    if (insn_write_value(i, value))
        insn_succeed(cpu);
}

static void handle_vmwrite(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    count(cpu, COUNT_VMWRITE_TRAPPED);
    struct nested_slot *slot = cpu->nested->current;
    if (!slot) {
        insn_fail_invalid(cpu);
        return;
    }
    struct insn i = insn_of_l2(cpu);
    uint64_t value;
    if (!insn_read_value(i, &value))
        return;
    uint64_t encoding = insn_reg2(i);
    int row = insn_field_row(encoding);
    if (row < 0) {
        insn_fail(cpu, VMERR_UNSUPPORTED_FIELD);
        return;
    }
    bool info = vmcs_encoding_type((uint32_t)encoding) == TYPE_INFO;
    if (info && !(caps_msr(&nested_caps, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO)) {
        insn_fail(cpu, VMERR_READ_ONLY_FIELD);
        return;
    }
    if (vmcs_encoding_high((uint32_t)encoding))
        value = (uint32_t)vmcs12_read(cpu, &slot->v, (enum vmcs_row)row) | value << 32;
    vmcs12_write(cpu, &slot->v, (enum vmcs_row)row, value);
    insn_succeed(cpu);
}

typedef void insn_handler(struct cpu *cpu, uint32_t reason);

static insn_handler *const handlers[REASON_COUNT] = {
    [REASON_vmclear] = handle_vmclear,  [REASON_vmptrld] = handle_vmptrld, [REASON_vmptrst] = handle_vmptrst,
    [REASON_vmread] = handle_vmread,    [REASON_vmwrite] = handle_vmwrite, [REASON_vmxoff] = handle_vmxoff,
    [REASON_vmlaunch] = nested_launch,  [REASON_vmresume] = nested_launch, [REASON_invept] = invalidate_ept,
    [REASON_invvpid] = invalidate_vpid,
};

void nested_instruction(struct cpu *cpu, uint32_t reason)
{
    if (!cpu->nested->in_vmx)
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
    else if (guest_cpl())
        guest_fault(cpu, VECTOR_GP, 0);
    else
        handlers[reason](cpu, reason);
}

/* Unlike the others it exits in every mode. */
void nested_vmcall(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    bool compatibility_mode = cpu->nested->ia32e && !guest_is_64bit();
    if (!cpu->nested->in_vmx || compatibility_mode || (vmread(GUEST_RFLAGS) & RFLAGS_VM))
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
    else if (guest_cpl())
        guest_fault(cpu, VECTOR_GP, 0);
    else
        insn_fail(cpu, VMERR_VMCALL_IN_ROOT);
}

bool nested_in_vmx(const struct cpu *cpu) { return cpu->nested->in_vmx; }

void nested_reset(struct cpu *cpu)
{
    if (cpu->nested->in_vmx)
        leave_vmx(cpu);
    cpu->nested->init_pending = false;
    vmwrite(CR0_MASK, vmcs01_cr0_mask());
}
