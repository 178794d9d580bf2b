/*
 * See verdict.h.
 */
#include "tests/fuzz/hypervisor/verdict.h"

#include <string.h>

#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/vmcs01.h"
#include "core/memory/ept.h"
#include "core/upcall.h"
#include "nested/nested.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/hypervisor/snapshot.h"
#include "tests/host/machine/nested_machine.h"

#define LINK_NONE (~0ull)
#define WINDOW_BITS (PIN_NMI | PIN_VIRTUAL_NMIS)
#define JOURNAL_MAX 400000u           /* privileged operations of one step */
#define EPT_RESERVED_IN_TABLE 0x78ull /* bits 6:3 */

static bool hidden(uint64_t address) { return address >= HIDDEN_START && address < NESTED_MACHINE_END; }

/* A page whose address Strata may hand to the processor on a guest's behalf. */
static bool of_guest_or_nobody(uint64_t address)
{
    return address % PAGE_SIZE == 0 &&
           ((address >= NESTED_MACHINE_START && address < GUEST_END) || address == memory01.junk.v);
}

/* --- vmcs02 --- */

static void check_shadow(const uint64_t *values, const struct nested_slot *slot)
{
    bool shadowing = values[FIELD_PROC2_CONTROLS] & PROC2_SHADOW_VMCS;
    fuzz_check(shadowing == (slot->link != NULL));
    fuzz_check(values[FIELD_VMCS_LINK_POINTER] == (shadowing ? slot->link->vmcs02.region.v : LINK_NONE));
    if (shadowing)
        fuzz_check(values[FIELD_VMREAD_BITMAP] == slot->vmread.page.v &&
                   values[FIELD_VMWRITE_BITMAP] == slot->vmwrite.page.v);
}

static void check_addresses(const uint64_t *values, const struct nested_slot *slot)
{
    uint64_t root = values[FIELD_EPTP] & EPT_ADDR_MASK;
    fuzz_check(hidden(root));
    fuzz_check(slot->root ? values[FIELD_EPTP] == slot->root->eptp02
                          : values[FIELD_EPTP] == ept01_eptp(&memory01.ept01));
    if (values[FIELD_PROC_CONTROLS] & PROC_IO_BITMAPS)
        fuzz_check(of_guest_or_nobody(values[FIELD_IO_BITMAP_A]) && of_guest_or_nobody(values[FIELD_IO_BITMAP_B]));
    if (values[FIELD_PROC_CONTROLS] & PROC_TPR_SHADOW)
        fuzz_check(of_guest_or_nobody(values[FIELD_VIRTUAL_APIC_ADDR]));
    if (values[FIELD_PIN_CONTROLS] & PIN_POSTED_INTR)
        fuzz_check(of_guest_or_nobody(values[FIELD_POSTED_INTR_DESC] & PAGE_MASK));
    if (values[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP)
        fuzz_check(values[FIELD_MSR_BITMAP] == slot->msr.page.v);
}

/* What the processor loads is Strata's copy, and holds no MSR that is Strata's: but for the last entry, at which the entry fails. */
static void check_msr_area(const struct nested *n, const uint64_t *values)
{
    uint64_t count = values[FIELD_ENTRY_MSR_LOAD_COUNT];
    fuzz_check(count <= ARRAY_SIZE(n->area));
    fuzz_check(!count || values[FIELD_ENTRY_MSR_LOAD_ADDR] == (uint64_t)n->area);
    for (uint64_t i = 0; i < count; i++)
        fuzz_check(msr_is_guests(n->area[i].msr) && (i == count - 1 || n->area[i].msr != MSR_FS_BASE));
}

static void check_vmcs02(const struct cpu *cpu, const uint64_t *values)
{
    const struct nested_slot *slot = cpu->nested->current;
    uint64_t window = cpu->nmi_virtual ? WINDOW_BITS : 0;
    uint64_t pin = vmx_caps_allowed1(&nested_caps, MSR_VMX_PIN) | window;
    uint64_t proc = vmx_caps_allowed1(&nested_caps, MSR_VMX_PROC) | PROC_SECONDARY | (window ? PROC_NMI_WINDOW : 0);
    uint64_t proc2 = vmx_caps_allowed1(&nested_caps, MSR_VMX_PROC2) | PROC2_EPT | PROC2_VPID;
    fuzz_check(!(values[FIELD_PIN_CONTROLS] & ~pin));
    fuzz_check(!(values[FIELD_PROC_CONTROLS] & ~proc) && (values[FIELD_PROC_CONTROLS] & PROC_SECONDARY));
    fuzz_check(!(values[FIELD_PROC2_CONTROLS] & ~proc2));
    fuzz_check((values[FIELD_PROC2_CONTROLS] & (PROC2_EPT | PROC2_VPID)) == (PROC2_EPT | PROC2_VPID));
    fuzz_check(values[FIELD_VPID] > VPID01);
    fuzz_check(!values[FIELD_EXIT_MSR_STORE_COUNT] && !values[FIELD_EXIT_MSR_LOAD_COUNT]);
    check_msr_area(cpu->nested, values);
    check_shadow(values, slot);
    check_addresses(values, slot);
}

/* Strata's bits of the MSR bitmap are never lost; the guest hypervisor's are those of its page when it was merged. */
static void check_msr_bitmap(const struct nested_slot *slot, const uint64_t *values)
{
    const uint64_t *merged = hpa_ptr(slot->msr.page), *want1 = hpa_ptr(machine.msr_bitmap01);
    if (!(values[FIELD_PROC_CONTROLS] & PROC_MSR_BITMAP))
        return;
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(*merged); i++)
        fuzz_check((merged[i] & want1[i]) == want1[i]);
}

/* --- vmcs01 and the machine --- */

static bool host_row(int row) { return vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_HOST; }

static void check_vmcs01(const struct cpu *cpu)
{
    static const enum vmcs_row fixed[] = { FIELD_EPTP,          FIELD_MSR_BITMAP,     FIELD_EXIT_CONTROLS,   FIELD_VPID,
                                           FIELD_VMREAD_BITMAP, FIELD_VMWRITE_BITMAP, FIELD_EXCEPTION_BITMAP };
    const uint64_t *values = fake_vmcs_values(cpu->vmcs01.region), *before = snapshot_vmcs01[cpu->index];
    for (int row = 0; row < FIELD_COUNT; row++)
        fuzz_check(!host_row(row) || values[row] == before[row]);
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        fuzz_check(values[fixed[i]] == before[fixed[i]]);
    if (!cpu->in_nested)
        fuzz_check(!!(values[FIELD_PIN_CONTROLS] & PIN_NMI) == cpu->nmi_virtual);
}

static void check_cpu(const struct cpu *cpu)
{
    check_vmcs01(cpu);
    if (!cpu->in_nested)
        return;
    const uint64_t *values = fake_vmcs_values(cpu->nested->current->v.vmcs02.region);
    for (int row = 0; row < FIELD_COUNT; row++)
        fuzz_check(!host_row(row) || values[row] == snapshot_vmcs01[cpu->index][row]);
    check_vmcs02(cpu, values);
    check_msr_bitmap(cpu->nested->current, values);
}

void verdict_step(void)
{
    fuzz_check(fake_journal_size() < JOURNAL_MAX);
    for (unsigned i = 0; i < cpu_count; i++)
        check_cpu(cpus[i]);
}

/* --- ept01 and ept02 --- */

/* No byte of the page is Strata's but the junk page, and ept01 gives every right that it gives. */
static void check_leaf(uint64_t base, uint64_t size, uint64_t perm)
{
    for (uint64_t at = base; at - base < size;) {
        struct ept_leaf leaf = ept01_lookup(memory01.ept01.root, gpa1(at));
        if (hidden(base)) /* only ept01 itself maps it, and to the junk page; ept02 maps that page as such */
            fuzz_check(base == memory01.junk.v && size == PAGE_SIZE && !(perm & EPT_X));
        else
            fuzz_check(leaf.size && leaf.base + (at & (leaf.size - 1)) == at && !(perm & ~(uint64_t)leaf.perm));
        at += leaf.size ? leaf.size - (at & (leaf.size - 1)) : PAGE_SIZE;
    }
}

static void check_table(uint64_t table, int level)
{
    fuzz_check(hidden(table));
    const uint64_t *entries = hpa_ptr(hpa(table));
    for (unsigned i = 0; i < EPT_ENTRIES; i++) {
        if (!(entries[i] & EPT_RWX))
            continue;
        if (!ept_is_leaf(entries[i], level))
            check_table(entries[i] & EPT_ADDR_MASK, level - 1);
        else
            check_leaf(entries[i] & EPT_ADDR_MASK, ept_span(level), entries[i] & EPT_RWX);
    }
}

void verdict_tables(void)
{
    for (unsigned i = 0; i < cpu_count; i++)
        for (unsigned k = 0; k < EPT02_ROOTS; k++) {
            const struct ept02_root *root = &cpus[i]->nested->ept02.roots[k];
            if (root->used)
                check_table(root->eptp02 & EPT_ADDR_MASK, EPT_LEVELS);
        }
    for (unsigned i = 0; i < cpu_count; i++) {
        nested_counters(cpus[i]);
        fuzz_check(nested_pages_kept(cpus[i]) + cpus[i]->pool.free_count <= cpus[i]->pool.total);
    }
    for (uint64_t at = HIDDEN_START; at < NESTED_MACHINE_END; at += PAGE_SIZE) {
        struct ept_leaf leaf = ept01_lookup(memory01.ept01.root, gpa1(at));
        fuzz_check(leaf.base + (at & (leaf.size - 1)) == memory01.junk.v && !(leaf.perm & EPT_X));
    }
}

struct verdict_leaf verdict_lookup(struct cpu *cpu, uint64_t gpa2)
{
    uint64_t eptp = fake_vmcs_read(cpu->nested->current->v.vmcs02.region, FIELD_EPTP);
    struct ept_leaf leaf = ept01_lookup(hpa(eptp & EPT_ADDR_MASK), gpa1(gpa2));
    if (!leaf.size)
        return (struct verdict_leaf){ 0, 0 };
    return (struct verdict_leaf){ leaf.base + (gpa2 & (leaf.size - 1)), leaf.perm };
}

/* SDM 3, "EPT Misconfigurations". */
static bool misconfigured(uint64_t entry, int level)
{
    uint64_t caps = vmx_caps_msr(&nested_caps, MSR_VMX_EPT_VPID);
    uint64_t type = (entry & EPT_MEMTYPE_MASK) >> EPT_MEMTYPE_SHIFT;
    if ((entry & (EPT_R | EPT_W)) == EPT_W || (entry & EPT_ADDR_MASK) >> nested_caps.maxphyaddr ||
        ((entry & EPT_RWX) == EPT_X && !(caps & EPT_CAP_EXEC_ONLY)))
        return true;
    if (!ept_is_leaf(entry, level))
        return entry & EPT_RESERVED_IN_TABLE;
    if (level == EPT_LEVELS || (level == 3 && !(caps & EPT_CAP_1G)) || (level == 2 && !(caps & EPT_CAP_2M)))
        return true;
    return type == 2 || type == 3 || type > MEMTYPE_WB || (entry & EPT_ADDR_MASK & (ept_span(level) - 1));
}

/* SDM 3, "EPT Translation Mechanism": the address that ept12 gives. False: none, or too few rights. */
static bool walk12(uint64_t eptp12, uint64_t gpa2, uint64_t access, uint64_t *address)
{
    uint64_t table = eptp12 & EPT_ADDR_MASK;
    for (int level = EPT_LEVELS;; level--) {
        uint64_t entry = ((uint64_t *)gpa1_ptr(gpa1(table)))[ept_index(gpa2, level)];
        if (!ept_present(entry) || misconfigured(entry, level) || (access & ~entry))
            return false;
        table = entry & EPT_ADDR_MASK;
        if (ept_is_leaf(entry, level)) {
            *address = table + (gpa2 & (ept_span(level) - 1));
            return true;
        }
    }
}

bool verdict_allowed12(struct cpu *cpu, uint64_t gpa2, struct verdict_leaf leaf, uint64_t access)
{
    const struct nested_slot *slot = cpu->nested->current;
    uint64_t address = gpa2;
    if (slot->root && !walk12(slot->v.soft[FIELD_EPTP], gpa2, access, &address))
        return false;
    struct ept_leaf leaf01 = ept01_lookup(memory01.ept01.root, gpa1(address));
    return leaf01.size && !(access & ~(uint64_t)leaf01.perm) && leaf.hpa == leaf01.base + (address & (leaf01.size - 1));
}
