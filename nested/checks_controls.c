/*
 * The rules of SDM 3, "Checks on VMX Controls", on rows stored SOFT: "VM-Execution Control Fields", "VM-Exit Control
 * Fields", "VM-Entry Control Fields". Pure. A field is looked at only when the control that makes it count is 1:
 * anything may stand in it otherwise.
 */
#include "nested/checks_rules.h"

#define MSR_AREA_ENTRY 16 /* bytes: SDM 3, "Format of an MSR Entry" */
#define MSR_AREA_ALIGN_MASK 0xfull
#define POSTED_VECTOR_MASK 0xffull
#define POSTED_DESC_ALIGN_MASK 0x3full

/* Conditions */
static bool with_secondary(const struct check_view *v) { return check_proc(v) & PROC_SECONDARY; }
static bool with_io_bitmaps(const struct check_view *v) { return check_proc(v) & PROC_IO_BITMAPS; }
static bool with_msr_bitmaps(const struct check_view *v) { return check_proc(v) & PROC_MSR_BITMAP; }
static bool with_tpr_shadow(const struct check_view *v) { return check_proc(v) & PROC_TPR_SHADOW; }
static bool without_tpr_shadow(const struct check_view *v) { return !with_tpr_shadow(v); }
static bool without_nmi_exiting(const struct check_view *v) { return !(check_pin(v) & PIN_NMI); }
static bool without_virtual_nmis(const struct check_view *v) { return !(check_pin(v) & PIN_VIRTUAL_NMIS); }
static bool with_virt_apic(const struct check_view *v) { return check_proc2(v) & PROC2_VIRT_APIC_ACCESS; }
static bool with_x2apic_mode(const struct check_view *v) { return check_proc2(v) & PROC2_VIRT_X2APIC; }
static bool with_vid(const struct check_view *v) { return check_proc2(v) & PROC2_VIRT_INTR_DELIVERY; }
static bool with_posted(const struct check_view *v) { return check_pin(v) & PIN_POSTED_INTR; }
static bool with_vpid(const struct check_view *v) { return check_proc2(v) & PROC2_VPID; }
static bool with_ept(const struct check_view *v) { return check_proc2(v) & PROC2_EPT; }
static bool with_unrestricted(const struct check_view *v) { return check_proc2(v) & PROC2_UNRESTRICTED; }
static bool with_shadowing(const struct check_view *v) { return check_proc2(v) & PROC2_SHADOW_VMCS; }
static bool without_timer(const struct check_view *v) { return !(check_pin(v) & PIN_PREEMPTION_TIMER); }

static uint32_t controls_msr(enum vmcs_row row)
{
    switch (row) {
    case FIELD_PIN_CONTROLS:
        return MSR_VMX_PIN;
    case FIELD_PROC_CONTROLS:
        return MSR_VMX_PROC;
    case FIELD_EXIT_CONTROLS:
        return MSR_VMX_EXIT;
    default:
        return MSR_VMX_ENTRY;
    }
}

static bool controls_allowed(uint64_t controls, uint64_t msr)
{
    return check_fixed(controls, (uint32_t)msr, msr >> 32);
}

static bool reserved_bits(const struct check_view *v, enum vmcs_row row)
{
    return controls_allowed(v->values[row], vmx_caps_controls(v->caps, controls_msr(row)));
}

static bool proc2_reserved_bits(const struct check_view *v, enum vmcs_row row)
{
    return controls_allowed(v->values[row], vmx_caps_msr(v->caps, MSR_VMX_PROC2));
}

static bool virtual_nmis_0(const struct check_view *v, enum vmcs_row row)
{
    return !(v->values[row] & PIN_VIRTUAL_NMIS);
}

static bool nmi_window_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & PROC_NMI_WINDOW); }

static bool tpr_dependents_0(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return !(check_proc2(v) & (PROC2_VIRT_X2APIC | PROC2_APIC_REGISTER | PROC2_VIRT_INTR_DELIVERY));
}

static bool virt_apic_0(const struct check_view *v, enum vmcs_row row)
{
    return !(v->values[row] & PROC2_VIRT_APIC_ACCESS);
}

static bool external_intr_1(const struct check_view *v, enum vmcs_row row)
{
    return v->values[row] & PIN_EXTERNAL_INTR;
}

static bool vid_1(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return with_vid(v);
}

static bool ack_intr_1(const struct check_view *v, enum vmcs_row row) { return v->values[row] & EXIT_ACK_INTR; }

static bool posted_vector(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & ~POSTED_VECTOR_MASK) == 0;
}

static bool posted_descriptor(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & POSTED_DESC_ALIGN_MASK) == 0 && check_in_width(v, v->values[row]);
}

static bool not_zero(const struct check_view *v, enum vmcs_row row) { return v->values[row] != 0; }

/* SDM 3, "Extended-Page-Table Pointer (EPTP)" */
static bool eptp_memtype(const struct check_view *v, enum vmcs_row row)
{
    uint64_t cap = vmx_caps_msr(v->caps, MSR_VMX_EPT_VPID);

    switch (v->values[row] & EPTP_MEMTYPE_MASK) {
    case MEMTYPE_UC:
        return cap & EPT_CAP_UC;
    case MEMTYPE_WB:
        return cap & EPT_CAP_WB;
    default:
        return false;
    }
}

static bool eptp_walk(const struct check_view *v, enum vmcs_row row)
{
    return (v->values[row] & EPTP_WALK_MASK) == EPTP_WALK_4 && vmx_caps_msr(v->caps, MSR_VMX_EPT_VPID) & EPT_CAP_WALK_4;
}

static bool eptp_ad(const struct check_view *v, enum vmcs_row row)
{
    return check_implies(v->values[row] & EPTP_AD_ENABLE, vmx_caps_msr(v->caps, MSR_VMX_EPT_VPID) & EPT_CAP_AD);
}

static bool eptp_reserved(const struct check_view *v, enum vmcs_row row)
{
    uint64_t low = EPTP_MEMTYPE_MASK | EPTP_WALK_MASK | EPTP_AD_ENABLE;
    return (v->values[row] & ~PAGE_MASK & ~low) == 0 && check_in_width(v, v->values[row]);
}

static bool ept_1(const struct check_view *v, enum vmcs_row row)
{
    (void)row;
    return with_ept(v);
}

static bool save_timer_0(const struct check_view *v, enum vmcs_row row)
{
    return !(v->values[row] & EXIT_SAVE_PREEMPTION_TIMER);
}

/* An area of count entries. Counts have 32 bits, so that the sum overflows only from an address out of width. */
static bool msr_area(const struct check_view *v, enum vmcs_row address_row, enum vmcs_row count_row)
{
    uint64_t address = v->values[address_row];
    uint64_t count = v->values[count_row];

    if (count == 0)
        return true;
    return (address & MSR_AREA_ALIGN_MASK) == 0 && check_in_width(v, address) &&
           check_in_width(v, address + count * MSR_AREA_ENTRY - 1);
}

static bool exit_store_area(const struct check_view *v, enum vmcs_row row)
{
    return msr_area(v, row, FIELD_EXIT_MSR_STORE_COUNT);
}

static bool exit_load_area(const struct check_view *v, enum vmcs_row row)
{
    return msr_area(v, row, FIELD_EXIT_MSR_LOAD_COUNT);
}

static bool entry_load_area(const struct check_view *v, enum vmcs_row row)
{
    return msr_area(v, row, FIELD_ENTRY_MSR_LOAD_COUNT);
}

static bool smm_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & ENTRY_SMM); }
static bool dual_0(const struct check_view *v, enum vmcs_row row) { return !(v->values[row] & ENTRY_DEACTIVATE_DUAL); }

#define CTL BIT(GROUP_CONTROLS)
#define BMP (CTL | BIT(GROUP_BITMAPS))
#define APIC (CTL | BIT(GROUP_APIC))
#define EPT (CTL | BIT(GROUP_EPT))
#define AREA BIT(GROUP_MSR_AREAS)

// clang-format off
static const struct check_rule rules[] = {
    /* "VM-Execution Control Fields" */
    { "pin-based controls: reserved bits",                   CTL, 0, FIELD_PIN_CONTROLS, NULL, reserved_bits },
    { "primary processor-based controls: reserved bits",     CTL, 0, FIELD_PROC_CONTROLS, NULL, reserved_bits },
    { "secondary processor-based controls: reserved bits",   CTL, 0, FIELD_PROC2_CONTROLS, with_secondary, proc2_reserved_bits },
    { "use I/O bitmaps: I/O-bitmap address A",               BMP, 0, FIELD_IO_BITMAP_A, with_io_bitmaps, check_page },
    { "use I/O bitmaps: I/O-bitmap address B",               BMP, 0, FIELD_IO_BITMAP_B, with_io_bitmaps, check_page },
    { "use MSR bitmaps: MSR-bitmap address",                 BMP, 0, FIELD_MSR_BITMAP, with_msr_bitmaps, check_page },
    { "use TPR shadow: virtual-APIC address",                APIC, 0, FIELD_VIRTUAL_APIC_ADDR, with_tpr_shadow, check_page },
    { "virtual NMIs without NMI exiting",                    CTL, 0, FIELD_PIN_CONTROLS, without_nmi_exiting, virtual_nmis_0 },
    { "NMI-window exiting without virtual NMIs",             CTL, 0, FIELD_PROC_CONTROLS, without_virtual_nmis, nmi_window_0 },
    { "virtualize APIC accesses: APIC-access address",       APIC, 0, FIELD_APIC_ACCESS_ADDR, with_virt_apic, check_page },
    { "APIC virtualization without TPR shadow",              CTL, 0, FIELD_PROC2_CONTROLS, without_tpr_shadow, tpr_dependents_0 },
    { "virtualize x2APIC mode with virtualize APIC accesses", CTL, 0, FIELD_PROC2_CONTROLS, with_x2apic_mode, virt_apic_0 },
    { "virtual-interrupt delivery without external-interrupt exiting", CTL, 0, FIELD_PIN_CONTROLS, with_vid, external_intr_1 },
    { "process posted interrupts without virtual-interrupt delivery", CTL, 0, FIELD_PROC2_CONTROLS, with_posted, vid_1 },
    { "process posted interrupts without acknowledge on exit", CTL, 0, FIELD_EXIT_CONTROLS, with_posted, ack_intr_1 },
    { "process posted interrupts: notification vector",      CTL, 0, FIELD_POSTED_INTR_VECTOR, with_posted, posted_vector },
    { "process posted interrupts: descriptor address",       APIC, 0, FIELD_POSTED_INTR_DESC, with_posted, posted_descriptor },
    { "enable VPID: VPID is 0000H",                          CTL, 0, FIELD_VPID, with_vpid, not_zero },
    { "EPTP: memory type",                                   EPT, 0, FIELD_EPTP, with_ept, eptp_memtype },
    { "EPTP: page-walk length",                              EPT, 0, FIELD_EPTP, with_ept, eptp_walk },
    { "EPTP: accessed and dirty flags",                      EPT, 0, FIELD_EPTP, with_ept, eptp_ad },
    { "EPTP: reserved bits",                                 EPT, 0, FIELD_EPTP, with_ept, eptp_reserved },
    { "unrestricted guest without EPT",                      CTL, 0, FIELD_PROC2_CONTROLS, with_unrestricted, ept_1 },
    { "VMCS shadowing: VMREAD-bitmap address",               BMP, 0, FIELD_VMREAD_BITMAP, with_shadowing, check_page },
    { "VMCS shadowing: VMWRITE-bitmap address",              BMP, 0, FIELD_VMWRITE_BITMAP, with_shadowing, check_page },

    /* "VM-Exit Control Fields" */
    { "VM-exit controls: reserved bits",                     CTL, 0, FIELD_EXIT_CONTROLS, NULL, reserved_bits },
    { "save VMX-preemption timer without the timer",         CTL, 0, FIELD_EXIT_CONTROLS, without_timer, save_timer_0 },
    { "VM-exit MSR-store area",                              AREA, 0, FIELD_EXIT_MSR_STORE_ADDR, NULL, exit_store_area },
    { "VM-exit MSR-load area",                               AREA, 0, FIELD_EXIT_MSR_LOAD_ADDR, NULL, exit_load_area },

    /* "VM-Entry Control Fields" */
    { "VM-entry controls: reserved bits",                    CTL, 0, FIELD_ENTRY_CONTROLS, NULL, reserved_bits },
    { "VM-entry MSR-load area",                              AREA, 0, FIELD_ENTRY_MSR_LOAD_ADDR, NULL, entry_load_area },
    { "entry to SMM outside SMM",                            CTL, 0, FIELD_ENTRY_CONTROLS, NULL, smm_0 },
    { "deactivate dual-monitor treatment outside SMM",       CTL, 0, FIELD_ENTRY_CONTROLS, NULL, dual_0 },
};
// clang-format on

const struct check_table checks_controls = { rules, ARRAY_SIZE(rules) };
