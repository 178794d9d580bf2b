/*
 * See invalidate.h. SDM 3, "INVEPT - Invalidate Translations Derived from EPT", "INVVPID - Invalidate Translations Based on VPID".
 */
#include "nested/invalidate.h"

#include "core/guest/guest.h"
#include "nested/caps.h"
#include "nested/insn.h"
#include "nested/nested.h"

_Static_assert(1 == VPID02_SHARED - 0xfffe, "vpid02 = vpid12 + 1; VPID 1 is the guest hypervisor's");

uint16_t vpid02_of(uint16_t vpid12, bool *shared)
{
    *shared = vpid12 == 0 || vpid12 >= VPID02_SHARED - 1;
    return *shared ? VPID02_SHARED : (uint16_t)(vpid12 + 1);
}

static bool ept_type_offered(uint64_t type)
{
    uint64_t caps = caps_msr(&nested_caps, MSR_VMX_EPT_VPID);
    return (type == INVEPT_SINGLE && (caps & EPT_CAP_INVEPT_SINGLE)) ||
           (type == INVEPT_GLOBAL && (caps & EPT_CAP_INVEPT_GLOBAL));
}

static bool eptp_valid(uint64_t eptp)
{
    uint64_t caps = caps_msr(&nested_caps, MSR_VMX_EPT_VPID), memtype = eptp & EPTP_MEMTYPE_MASK;
    bool memtype_ok = (memtype == MEMTYPE_UC && (caps & EPT_CAP_UC)) || (memtype == MEMTYPE_WB && (caps & EPT_CAP_WB));
    bool ad_ok = !(eptp & EPTP_AD_ENABLE) || (caps & EPT_CAP_AD);
    uint64_t reserved = 0xf80 | ~(BIT(nested_caps.maxphyaddr) - 1);
    return memtype_ok && ad_ok && (eptp & EPTP_WALK_MASK) == EPTP_WALK_4 && !(eptp & reserved);
}

void invalidate_ept(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if (!(caps_msr(&nested_caps, MSR_VMX_EPT_VPID) & EPT_CAP_INVEPT)) {
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
        return;
    }
    struct insn i = insn_of_l2(cpu);
    uint64_t type = insn_reg2(i), descriptor[2];
    if (!ept_type_offered(type)) {
        insn_fail(cpu, VMERR_INVEPT_OPERAND);
        return;
    }
    if (!insn_read_descriptor(i, descriptor))
        return;
    struct ept02 *ept02 = &cpu->nested->ept02;
    /* One that a nested guest was entered with is known to be valid. */
    if (type == INVEPT_SINGLE && !ept02_is_recent(ept02, descriptor[0]) && !eptp_valid(descriptor[0])) {
        insn_fail(cpu, VMERR_INVEPT_OPERAND);
        return;
    }
    ept02_invept(ept02, (enum invept_type)type, descriptor[0]);
    insn_succeed(cpu);
}

static bool vpid_type_offered(uint64_t type)
{
    uint64_t caps = caps_msr(&nested_caps, MSR_VMX_EPT_VPID);
    return type <= INVVPID_SINGLE_NOGLOBAL && (caps & EPT_CAP_INVVPID_ADDR << type);
}

static bool canonical(uint64_t linear, bool la57)
{
    unsigned shift = la57 ? 7 : 16;
    return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

/* Without EPT in vmcs12, L3's linear mappings are tagged by vpid02 and ept01: INVVPID reaches those, too. */
void invalidate_vpid(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    if (!(caps_msr(&nested_caps, MSR_VMX_EPT_VPID) & EPT_CAP_INVVPID)) {
        guest_fault(cpu, VECTOR_UD, NO_ERROR_CODE);
        return;
    }
    struct insn i = insn_of_l2(cpu);
    uint64_t type = insn_reg2(i), descriptor[2];
    if (!vpid_type_offered(type)) {
        insn_fail(cpu, VMERR_INVEPT_OPERAND);
        return;
    }
    if (!insn_read_descriptor(i, descriptor))
        return;
    uint64_t vpid12 = descriptor[0];
    bool bad_vpid = (vpid12 >> 16) || (type != INVVPID_ALL && vpid12 == 0);
    if (bad_vpid || (type == INVVPID_ADDRESS && !canonical(descriptor[1], vmread(GUEST_CR4) & CR4_LA57))) {
        insn_fail(cpu, VMERR_INVEPT_OPERAND);
        return;
    }
    bool shared;
    uint16_t vpid02 = vpid02_of((uint16_t)vpid12, &shared);
    if (type == INVVPID_ALL)
        hw_invvpid(INVVPID_ALL, 0, 0);
    else if (!shared) /* the shared one is flushed at every entry */
        hw_invvpid((enum invvpid_type)type, vpid02, descriptor[1]);
    insn_succeed(cpu);
}
