/*
 * What trap.h says. The NMI handler may interrupt anything, the window between the last check of cpu->event_pending and
 * the VM entry included (exit.S): it takes no lock, prints nothing and touches only its own CPU's flags.
 */
#include "core/cpu/trap.h"

#define VECTORS 32
#define STUB_SIZE 16
#define GATE_INTERRUPT_PRESENT 0x8e00u

struct gate {
    uint16_t offset0, selector, flags, offset1;
    uint32_t offset2, reserved;
} __attribute__((packed));
struct fixup {
    uint64_t where, to;
};

extern const uint8_t trap_stubs[];
extern const uint8_t entry_window[], entry_window_end[], entry_again[];
extern const struct fixup fixup_table[], fixup_table_end[];

static struct gate idt[VECTORS] __attribute__((aligned(16)));

void trap_init(void)
{
    for (unsigned i = 0; i < VECTORS; i++) {
        uint64_t stub = (uint64_t)(trap_stubs + i * STUB_SIZE);
        unsigned ist = i == VECTOR_NMI ? IST_NMI : i == VECTOR_MC ? IST_MACHINE_CHECK : IST_FAULT;
        idt[i] = (struct gate){
            .offset0 = (uint16_t)stub,
            .selector = SEL_CODE,
            .flags = (uint16_t)(GATE_INTERRUPT_PRESENT | ist),
            .offset1 = (uint16_t)(stub >> 16),
            .offset2 = (uint32_t)(stub >> 32),
        };
    }
}

void trap_load(void)
{
    struct descriptor_table table = { sizeof(idt) - 1, (uint64_t)idt };
    hw_lidt(&table);
}

uint64_t trap_idt_base(void) { return (uint64_t)idt; }

static bool fixup_apply(struct trap_frame *frame)
{
    for (const struct fixup *f = fixup_table; f < fixup_table_end; f++)
        if (f->where == frame->rip) {
            frame->rip = f->to;
            return true;
        }
    return false;
}

/* Makes an entry that is about to happen look at the pending flags once more. */
static void entry_retry(struct cpu *cpu, struct trap_frame *frame)
{
    if (frame->rip >= (uint64_t)entry_window && frame->rip < (uint64_t)entry_window_end) {
        frame->rip = (uint64_t)entry_again;
        frame->rsp = (uint64_t)&cpu->regs[0];
    }
}

static struct cpu *this_cpu(void) { return (struct cpu *)hw_rdmsr(MSR_GS_BASE); }

/* The processor says that what it interrupted cannot go on, and that was Strata. SDM 3, "IA32_MCG_STATUS MSR". */
static void machine_check_survive(const struct trap_frame *frame)
{
    if (!(hw_cpuid(1, 0).edx & CPUID1_EDX_MCA))
        return;
    uint64_t status = hw_rdmsr(MSR_MCG_STATUS);
    if (status & MCG_STATUS_RIPV)
        return;
    unsigned banks = (unsigned)(hw_rdmsr(MSR_MCG_CAP) & MCG_CAP_BANKS_MASK), bank = 0;
    while (bank + 1 < banks && !(hw_rdmsr(MSR_MC0_STATUS + 4 * bank) & MCI_STATUS_VALID))
        bank++;
    panic("machine check in Strata at %016llx, which cannot go on: MCG_STATUS %llx, bank %u has %016llx",
          (unsigned long long)frame->rip, (unsigned long long)status, bank,
          (unsigned long long)hw_rdmsr(MSR_MC0_STATUS + 4 * bank));
}

void trap_handle(struct trap_frame *frame)
{
    struct cpu *cpu = this_cpu();
    switch (frame->vector) {
    case VECTOR_NMI:
        cpu->nmi_pending = 1;
        cpu->event_pending = 1;
        count(cpu, COUNT_NMI_IN_ROOT);
        entry_retry(cpu, frame);
        return;
    case VECTOR_MC:
        machine_check_survive(frame);
        cpu->machine_check_pending = 1;
        cpu->event_pending = 1;
        count(cpu, COUNT_MACHINE_CHECK_IN_ROOT);
        entry_retry(cpu, frame);
        return;
    case VECTOR_GP:
    case VECTOR_UD:
        if (fixup_apply(frame))
            return;
        break;
    default:
        break;
    }
    panic("exception %llu (error %llxh) at %016llx, CR2 %llx, RSP %llx", (unsigned long long)frame->vector,
          (unsigned long long)frame->error, (unsigned long long)frame->rip, (unsigned long long)hw_read_cr2(),
          (unsigned long long)frame->rsp);
}
