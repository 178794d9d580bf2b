/*
 * VMCS shadowing for the guest hypervisor: L3, itself a hypervisor, reads and writes in place the VMCS that L2 lends to it. That one is
 * a vmcs12 of L2's as well, active for as long as it is used so (shadow-vmcs/owner.h), so its vmcs02 page serves as the shadow VMCS in hardware. Rows whose values
 * are not there (stored SOFT) always exit; if L2 did not ask for that exit, the access is carried out here.
 */
#include "core/guest/guest.h"
#include "core/cpu/machine.h"
#include "nested/insn.h"
#include "nested/nested.h"

#define LINK_POINTER_NONE (~0ull)

static void shadowing_off(struct nested_slot *slot)
{
    slot->link = NULL;
    vmwrite(VMCS_LINK_POINTER, LINK_POINTER_NONE);
    vmwrite(PROC2_CONTROLS, vmread(PROC2_CONTROLS) & ~PROC2_SHADOW_VMCS);
}

/* The merged bitmaps' pages. False: no memory; then every VMREAD and VMWRITE of L3 exits. */
static bool pages_ready(struct cpu *cpu, struct nested_slot *slot)
{
    return bitmap_pages_ready(cpu, &slot->vmread) && bitmap_pages_ready(cpu, &slot->vmwrite);
}

/* A region that another slot has passes the rules on its address and is not the current VMCS: what can change is its first word. */
bool shadow_link_known(const struct nested_slot *slot)
{
    gpa1_t region = gpa1(slot->v.soft[FIELD_VMCS_LINK_POINTER]);
    if (!slot->link || slot->link == &slot->v || slot->link->region.v != region.v)
        return false;
    uint32_t revision = (uint32_t)(vmx_caps_msr(&nested_caps, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK);
    return *(const volatile uint32_t *)gpa1_ptr(region) == (revision | (uint32_t)VMCS_SHADOW_INDICATOR);
}

/* Bits 11:0 of a link pointer are 0: SDM 3, "Checks on Guest Non-Register State". */
#define LINK_POINTER_REFUSED 1ull

void shadow_refuse(void) { vmwrite(VMCS_LINK_POINTER, LINK_POINTER_REFUSED); }

void shadow_refused(struct nested_slot *slot)
{
    slot->link_refused = false;
    vmwrite(VMCS_LINK_POINTER, slot->link ? slot->link->vmcs02.region.v : LINK_POINTER_NONE);
}

void shadow_enter(struct cpu *cpu, struct nested_slot *slot)
{
    const struct vmcs12 *v = &slot->v;
    gpa1_t region = gpa1(v->soft[FIELD_VMCS_LINK_POINTER]);
    bool wanted = (v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY) &&
                  (v->soft[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS);
    if (!wanted || region.v == LINK_POINTER_NONE || !pages_ready(cpu, slot)) {
        if (slot->link)
            shadowing_off(slot);
        return;
    }
    struct vmcs12 *link = slot->link;
    if (!owner_is_shadow(link, region)) {
        link = owner_shadow(cpu, &cpu->nested->owner, region, v);
        vmcs_load(cpu, &slot->v.vmcs02);
        if (!link) {
            if (slot->link)
                shadowing_off(slot);
            return;
        }
    }
    if (link != slot->link) {
        slot->link = link;
        vmwrite(VMCS_LINK_POINTER, link->vmcs02.region.v);
        vmwrite(VMREAD_BITMAP, slot->vmread.page.v);
        vmwrite(VMWRITE_BITMAP, slot->vmwrite.page.v);
        vmwrite(PROC2_CONTROLS, vmread(PROC2_CONTROLS) | PROC2_SHADOW_VMCS);
    }
    bitmap_refresh(cpu, &slot->vmread, gpa1(v->soft[FIELD_VMREAD_BITMAP]), nested_vmread_bitmap);
    bitmap_refresh(cpu, &slot->vmwrite, gpa1(v->soft[FIELD_VMWRITE_BITMAP]), nested_vmwrite_bitmap);
}

/* L2 wants the exit: shadowing is off, the encoding is beyond the bitmaps, or its bit is set. SDM 3, "VMREAD", "VMWRITE". */
static bool wanted_by_l2(const struct nested_slot *slot, uint64_t encoding, bool write)
{
    const struct vmcs12 *v = &slot->v;
    bool shadowing = (v->soft[FIELD_PROC_CONTROLS] & PROC_SECONDARY) &&
                     (v->soft[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS);
    if (!shadowing || encoding >> 15)
        return true;
    /* As the processor had it; without a shadow VMCS every access exits, and this is the first look. */
    const struct merged_bitmap *m = write ? &slot->vmwrite : &slot->vmread;
    const uint8_t *bitmap = slot->link ? hpa_ptr(m->seen)
                                       : gpa1_ptr(gpa1(v->soft[write ? FIELD_VMWRITE_BITMAP : FIELD_VMREAD_BITMAP]));
    return bitmap[encoding >> 3] >> (encoding & 7) & 1;
}

/* VMfailValid: the number goes to the current VMCS, the one that runs L3. SDM 3, "Conventions" of "VMX Instruction Reference". */
static void fail(struct insn i, struct nested_slot *slot, enum vmx_error error)
{
    vmcs12_set_error(&slot->v, error);
    insn_finish_l3(i, RFLAGS_ZF);
}

static void emulate(struct insn i, struct nested_slot *slot, struct vmcs12 *shadow, bool write)
{
    struct cpu *cpu = i.cpu;
    uint64_t encoding = insn_reg2(i), value = 0;
    if (write && !insn_read_value(i, &value))
        return;
    int row = insn_field_row(encoding);
    bool high = vmcs_encoding_high((uint32_t)encoding);
    if (row < 0) {
        fail(i, slot, VMERR_UNSUPPORTED_FIELD);
        return;
    }
    if (write && vmcs_encoding_type((uint32_t)encoding) == TYPE_INFO &&
        !(vmx_caps_msr(&nested_caps, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO)) {
        fail(i, slot, VMERR_READ_ONLY_FIELD);
        return;
    }
    uint64_t old = vmcs12_read(cpu, shadow, (enum vmcs_row)row); /* leaves vmcs01 current */
    if (write)
        vmcs12_write(cpu, shadow, (enum vmcs_row)row, high ? (uint32_t)old | value << 32 : value);
    if (!shadow->lent)
        vmcs12_lend(shadow);
    vmcs_load(cpu, &slot->v.vmcs02);
    if (write || insn_write_value(i, high ? old >> 32 : old))
        insn_finish_l3(i, 0);
}

bool shadow_emulate(struct cpu *cpu, uint32_t reason)
{
    struct nested_slot *slot = cpu->nested->current;
    bool write = reason == REASON_vmwrite;
    struct insn i = insn_of_l3(cpu);
    if (wanted_by_l2(slot, insn_reg2(i), write))
        return false;
    gpa1_t region = gpa1(slot->v.soft[FIELD_VMCS_LINK_POINTER]);
    if (guest_cpl()) {
        guest_fault(cpu, VECTOR_GP, 0);
        return true;
    }
    if (region.v == LINK_POINTER_NONE) {
        insn_finish_l3(i, RFLAGS_CF);
        return true;
    }
    struct vmcs12 *link = slot->link;
    if (!owner_is_shadow(link, region))
        link = owner_shadow(cpu, &cpu->nested->owner, region, &slot->v);
    vmcs_load(cpu, &slot->v.vmcs02);
    if (!link)
        return false;
    emulate(i, slot, link, write);
    return true;
}
