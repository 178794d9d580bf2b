/*
 * Valid vmcs12s; see sample_vmcs.h.
 */
#include "tests/host/machine/sample_vmcs.h"

#include "core/memory/ept.h"
#include "core/memory/mem.h"
#include "tests/host/machine/fake_hw.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define PAT_RESET 0x0007040600070406ull
#define CODE_64 (0xbull | AR_S | AR_PRESENT | AR_L | AR_G)
#define CODE_32 (0xbull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define DATA_32 (0x3ull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define DATA_16 (0x3ull | AR_S | AR_PRESENT)
#define V86_SEGMENT 0xf3ull
#define BUSY_TSS (0xbull | AR_PRESENT)
#define LDT (0x2ull | AR_PRESENT)

static void controls_make(uint64_t *values, enum sample kind)
{
    V(PIN_CONTROLS) = 0x16 | PIN_EXTERNAL_INTR | PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER | PIN_POSTED_INTR;
    V(PROC_CONTROLS) = 0x0401e172 | PROC_TPR_SHADOW | PROC_NMI_WINDOW | PROC_IO_BITMAPS | PROC_MSR_BITMAP |
                       PROC_SECONDARY;
    V(PROC2_CONTROLS) = PROC2_VIRT_APIC_ACCESS | PROC2_EPT | PROC2_VPID | PROC2_APIC_REGISTER |
                        PROC2_VIRT_INTR_DELIVERY | PROC2_SHADOW_VMCS | PROC2_TSC_SCALING;
    if (kind == SAMPLE_REAL)
        V(PROC2_CONTROLS) |= PROC2_UNRESTRICTED;
    V(EXIT_CONTROLS) = 0x00036dff | EXIT_HOST_64 | EXIT_ACK_INTR | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
                       EXIT_LOAD_EFER | EXIT_SAVE_PREEMPTION_TIMER;
    V(ENTRY_CONTROLS) = 0x000011ff | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER | (kind == SAMPLE_LONG ? ENTRY_IA32E : 0);
    V(VPID) = 1;
    V(POSTED_INTR_VECTOR) = 0xf2;
    V(IO_BITMAP_A) = V(IO_BITMAP_B) = V(MSR_BITMAP) = V(APIC_ACCESS_ADDR) = SAMPLE_PAGE;
    V(VMREAD_BITMAP) = V(VMWRITE_BITMAP) = SAMPLE_PAGE;
    V(VIRTUAL_APIC_ADDR) = SAMPLE_VIRTUAL_APIC;
    V(POSTED_INTR_DESC) = SAMPLE_PAGE + 0x40;
    V(EPTP) = SAMPLE_PAGE | EPTP_AD_ENABLE | EPTP_WALK_4 | MEMTYPE_WB;
    V(EXIT_MSR_STORE_ADDR) = V(EXIT_MSR_LOAD_ADDR) = V(ENTRY_MSR_LOAD_ADDR) = SAMPLE_PAGE + 0x10;
    V(EXIT_MSR_STORE_COUNT) = V(EXIT_MSR_LOAD_COUNT) = V(ENTRY_MSR_LOAD_COUNT) = 3;
    V(TSC_MULTIPLIER) = 1;
    V(VMCS_LINK_POINTER) = SAMPLE_LINK;
}

static void host_make(uint64_t *values)
{
    V(HOST_CR0) = CR0_PE | CR0_NE | CR0_WP | CR0_PG;
    V(HOST_CR3) = SAMPLE_PAGE;
    V(HOST_CR4) = CR4_PAE | CR4_VMXE;
    V(HOST_ES_SEL) = V(HOST_DS_SEL) = V(HOST_SS_SEL) = 0x10;
    V(HOST_CS_SEL) = 0x8;
    V(HOST_TR_SEL) = 0x18;
    V(HOST_PAT) = PAT_RESET;
    V(HOST_EFER) = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    V(HOST_GS_BASE) = V(HOST_TR_BASE) = 0xffff888000000000ull;
    V(HOST_RIP) = 0xffffffff81000000ull;
}

static void segments_make(uint64_t *values, uint64_t code, uint64_t data, uint64_t limit)
{
    for (int segment = SEG_ES; segment <= SEG_GS; segment++) {
        values[FIELD_GUEST_ES_SEL + segment] = 0x10;
        values[FIELD_GUEST_ES_LIMIT + segment] = limit;
        values[FIELD_GUEST_ES_AR + segment] = data;
    }
    V(GUEST_CS_AR) = code;
    V(GUEST_LDTR_SEL) = V(GUEST_TR_SEL) = 0x20;
    V(GUEST_LDTR_LIMIT) = V(GUEST_TR_LIMIT) = 0x67;
    V(GUEST_LDTR_AR) = LDT;
    V(GUEST_TR_AR) = BUSY_TSS;
}

static void guest_make(uint64_t *values, enum sample kind)
{
    V(GUEST_CR0) = CR0_PE | CR0_NE | CR0_WP | CR0_PG;
    V(GUEST_CR3) = SAMPLE_PAGE;
    V(GUEST_CR4) = CR4_PAE | CR4_VMXE;
    V(GUEST_PAT) = PAT_RESET;
    V(GUEST_EFER) = EFER_SCE | (kind == SAMPLE_LONG ? EFER_LME | EFER_LMA : 0);
    V(GUEST_DR7) = 0x400;
    V(GUEST_RFLAGS) = RFLAGS_FIXED1;
    V(GUEST_GDTR_LIMIT) = V(GUEST_IDTR_LIMIT) = 0xffff;
    V(GUEST_RIP) = 0x100000;
    switch (kind) {
    case SAMPLE_LONG:
        segments_make(values, CODE_64, DATA_32, 0xffffffff);
        break;
    case SAMPLE_LEGACY:
        segments_make(values, CODE_32, DATA_32, 0xffffffff);
        break;
    case SAMPLE_V86:
        segments_make(values, V86_SEGMENT, V86_SEGMENT, 0xffff);
        for (int segment = SEG_ES; segment <= SEG_GS; segment++)
            values[FIELD_GUEST_ES_BASE + segment] = 0x100;
        V(GUEST_RFLAGS) |= RFLAGS_VM;
        break;
    default:
        segments_make(values, DATA_16, DATA_16, 0xffff);
        V(GUEST_CR0) = CR0_NE;
        break;
    }
}

void sample_make(struct sample_vmcs *sample, enum sample kind)
{
    uint32_t header = SAMPLE_REVISION | (uint32_t)VMCS_SHADOW_INDICATOR;

    test_memory_reset(SAMPLE_MEMORY);
    memset(sample, 0, sizeof(*sample));
    fake_caps_all(&sample->caps);
    sample->caps.msr[MSR_VMX_TRUE_ENTRY - MSR_VMX_FIRST] |= (ENTRY_SMM | ENTRY_DEACTIVATE_DUAL) << 32;
    controls_make(sample->values, kind);
    host_make(sample->values);
    guest_make(sample->values, kind);
    memcpy(gpa1_ptr(gpa1(SAMPLE_LINK)), &header, sizeof(header));
    sample->view = (struct check_view){ sample->values, &sample->caps, true, gpa1(SAMPLE_VMCS) };
}
