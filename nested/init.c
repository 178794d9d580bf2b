/*
 * Nested virtualization at boot: what is offered to the guest hypervisor, each CPU's slots and ept02, the shadow VMCS controls of
 * vmcs01.
 */
#include "core/cpu/machine.h"
#include "core/guest/msr.h"
#include "core/cpu/multihit.h"
#include "core/upcall.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/watch_log.h"
#include "nested/caps.h"
#include "nested/nested.h"

#define LINK_POINTER_NONE (~0ull)

struct vmx_caps nested_caps;
struct ept_shared *nested_ept_shared;
hpa_t nested_vmread_bitmap, nested_vmwrite_bitmap;
static bool shadowing, coalesce_code;

uint64_t nested_cpu_size(void) { return sizeof(struct nested); }
uint64_t nested_shared_size(void) { return sizeof(struct ept_shared); }

const char *nested_init(void *shared)
{
    nested_ept_shared = shared;
    shadowing = machine.options.shadow == OPTION_ON && machine.hw.offered[CAP_SHADOW] &&
                (vmx_caps_msr(&machine.hw, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO);
    coalesce_code = machine.options.coalesce == COALESCE_ON || machine.options.mitigations == MITIGATIONS_OFF ||
                    !multihit_here();
    if (machine.options.coalesce != COALESCE_OFF && !coalesce_code)
        log_info("executable pages are not coalesced: the processor may have a machine check on page size change "
                 "(coalesce=on overrides)");
    struct caps_options options = { .vmcs_shadowing = shadowing, .ept_ad = false };
    caps_filter(&nested_caps, &machine.hw, &options);
    struct vmcs12_config config = {
        .hw = &machine.hw,
        .shadowing = shadowing,
        .revision = (uint32_t)(vmx_caps_msr(&machine.hw, MSR_VMX_BASIC) & VMX_BASIC_REVISION_MASK),
    };
    vmcs12_configure(&config);
    nested_vmread_bitmap = pool_alloc(&memory01.pool);
    nested_vmwrite_bitmap = pool_alloc(&memory01.pool);
    if (!nested_vmread_bitmap.v || !nested_vmwrite_bitmap.v)
        return "no memory for the VMREAD and VMWRITE bitmaps";
    vmcs12_bitmaps(&nested_caps, hpa_ptr(nested_vmread_bitmap), hpa_ptr(nested_vmwrite_bitmap));
    return NULL;
}

static void init_slots(struct cpu *cpu, struct nested *n)
{
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        struct nested_slot *slot = &n->slots[i];
        slot->v.vmcs02.region = pool_alloc(&cpu->pool);
        if (!slot->v.vmcs02.region.v || !bitmap_pages_ready(cpu, &slot->msr))
            panic("a CPU's memory does not hold %u nested VMCSs", OWNER_SLOTS);
        owner_add(&n->owner, &slot->v);
    }
}

void nested_cpu_init(struct cpu *cpu)
{
    struct nested *n = cpu->nested;
    watch_cpu_init(cpu);
    init_slots(cpu, n);
    n->vmxon.v = VMCS12_NONE;
    struct ept02_config config = {
        .ept01_root = memory01.ept01.root,
        .maxphyaddr = machine.hw.maxphyaddr,
        .hw_ept_caps = vmx_caps_msr(&machine.hw, MSR_VMX_EPT_VPID),
        .offered_ept_caps = vmx_caps_msr(&nested_caps, MSR_VMX_EPT_VPID),
        .large = machine.options.large == OPTION_ON,
        .coalesce = machine.options.coalesce != COALESCE_OFF,
        .coalesce_code = coalesce_code,
        .history = machine.options.history == OPTION_ON,
        .prefill = machine.options.prefill == OPTION_ON,
        .watch = watch_client_new(cpu),
    };
    ept02_init(&n->ept02, &config, &cpu->pool, nested_ept_shared);
    if (!shadowing)
        return;
    vmwrite(VMREAD_BITMAP, nested_vmread_bitmap.v);
    vmwrite(VMWRITE_BITMAP, nested_vmwrite_bitmap.v);
    vmwrite(VMCS_LINK_POINTER, LINK_POINTER_NONE);
}

/* Outside VMX operation VMREAD and VMWRITE must raise #UD: they must not find a shadow VMCS. */
void nested_shadowing(bool in_vmx)
{
    uint64_t proc2 = vmread(PROC2_CONTROLS);
    if (shadowing)
        vmwrite(PROC2_CONTROLS, in_vmx ? proc2 | PROC2_SHADOW_VMCS : proc2 & ~PROC2_SHADOW_VMCS);
}

bool nested_caps_msr(uint32_t msr, uint64_t *value)
{
    if (!caps_msr_exists(&nested_caps, msr))
        return false;
    *value = caps_msr(&nested_caps, msr);
    return true;
}

void nested_ept01_changed(struct cpu *cpu)
{
    ept02_ept01_changed(&cpu->nested->ept02);
    for (unsigned i = 0; i < OWNER_SLOTS; i++) { /* Strata's own MSR bitmap changes together with ept01 */
        cpu->nested->slots[i].msr.version = 0;
        cpu->nested->slots[i].msr.seen_valid = false;
    }
}

/* At once: a merge would come only when the CPU exits. One that goes on at this moment is made again, as ept01 is announced to have changed. */
void nested_take_icr(void)
{
    for (unsigned i = 0; i < cpu_count; i++)
        for (unsigned j = 0; j < OWNER_SLOTS; j++)
            msr_bitmap_take_icr(hpa_ptr(cpus[i]->nested->slots[j].msr.page));
}

void nested_counters(struct cpu *cpu)
{
    const struct ept02_counters *from = &cpu->nested->ept02.counters;
    const struct {
        enum counter to;
        uint64_t value;
    } rows[] = {
        { COUNT_EPT02_FILL, from->fills },
        { COUNT_EPT02_COALESCED_2M, from->coalesced_2m },
        { COUNT_EPT02_COALESCED_1G, from->coalesced_1g },
        { COUNT_EPT02_PREFILLED, from->prefilled },
        { COUNT_EPT02_REVALIDATED, from->revalidated },
        { COUNT_EPT02_REWRITTEN, from->rewritten },
        { COUNT_EPT02_EVICTED, from->evictions },
        { COUNT_EPT02_REPAIRED, from->outcome[EPT02_REPAIRED] },
        { COUNT_EPT02_VIOLATION_01, from->outcome[EPT02_FAULT01] },
        { COUNT_EPT02_VIOLATION_12, from->outcome[EPT02_VIOLATION12] },
        { COUNT_EPT02_MISCONFIG_12, from->outcome[EPT02_MISCONFIG12] },
        { COUNT_HISTORY_HIT, from->history_hits },
        { COUNT_HISTORY_WASTE, from->history_waste },
        { COUNT_INVEPT_GUEST, from->invepts },
        { COUNT_INVEPT_HARDWARE, from->hw_invepts },
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        cpu->counters[rows[i].to] = rows[i].value;
}

static uint32_t bitmap_pages(const struct merged_bitmap *m) { return (m->page.v ? 1u : 0u) + (m->seen.v ? 1u : 0u); }

uint32_t nested_pages_kept(const struct cpu *cpu)
{
    uint32_t pages = ept02_pages(&cpu->nested->ept02);
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        const struct nested_slot *slot = &cpu->nested->slots[i];
        pages += bitmap_pages(&slot->msr) + bitmap_pages(&slot->vmread) + bitmap_pages(&slot->vmwrite);
    }
    return pages;
}
