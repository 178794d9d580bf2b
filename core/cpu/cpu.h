/*
 * The state of one CPU: its stack and saved guest registers, which hardware VMCS is current, its counters.
 * A CPU touches only its own; what other CPUs may read says so.
 */
#ifndef STRATA_CPU_H
#define STRATA_CPU_H

#include "core/lib/asm.h"
#include "core/lib/counters.h"
#include "core/lib/hw.h"
#include "core/lib/limits.h"
#include "core/memory/mem.h"
#include "core/lib/types.h"
#include "core/cpu/vmcs_fields.h"
#include "core/lib/x86.h"

/* A VMCS that the processor runs or has run. */
struct vmcs {
    hpa_t region;
    bool launched; /* the launch state that the processor keeps: VMRESUME rather than VMLAUNCH */
};

#define IST_STACK_SIZE 4096
enum ist { IST_NMI = 1, IST_MACHINE_CHECK = 2, IST_FAULT = 3, IST_COUNT = 4 };

struct tss64 {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map;
} __attribute__((packed));

enum cpu_state { CPU_ABSENT, CPU_WAITING /* for the guest's SIPI */, CPU_STARTED, CPU_FAILED };

#define LAST_EXITS 16

struct cpu {
    uint8_t stack[CPU_STACK_SIZE];
    uint64_t regs[GPR_COUNT]; /* the guest's; [GPR_RSP] is unused: the VMCS holds it */
    uint8_t event_pending;    /* set by the NMI and machine-check handlers; read by exit.S */
    uint8_t nmi_pending, machine_check_pending;

    bool in_nested;        /* the nested guest runs: vmcs02 is current */
    struct vmcs *current;  /* what is current on the processor */
    struct nested *nested; /* nested/'s part */
    uint32_t index;        /* 0 = the CPU that booted */
    uint32_t apic_id;
    struct vmcs vmcs01;
    struct page_pool pool;           /* pages of this CPU alone */
    uint64_t cr0_shadow, cr4_shadow; /* what vmcs01 has in these fields */
    const char *failure;             /* why this CPU could not start VMX (state CPU_FAILED) */
    struct watch_log *watch_log;     /* what the processor logs of writes to watched pages; NULL: it does not */
    uint32_t state;                  /* enum cpu_state; read by other CPUs with __atomic */
    uint64_t flush_epoch;            /* memory01.flush_epoch when this CPU last invalidated ept01; read by other CPUs */
    uint32_t init_taken;    /* a guest took an INIT here, and no SIPI since; read by other CPUs with __atomic */
    uint64_t plain_entries; /* of its counters, at the last nested entry with barriers */
    uint32_t ept01_content; /* memory01.ept01_content as this CPU's ept02 knows it */
    bool waits_in_nested;   /* entered a nested guest that waits for a SIPI: executes nothing; read by other CPUs */
    bool smi_blocked;       /* exits on this CPU save "blocking by SMI": see start_handle_sipi */
    bool nmi_virtual;       /* vmcs01 has NMI exiting and NMI-window exiting on: an NMI waits for its window */

    uint64_t counters[COUNTER_COUNT];
    uint32_t last_exit_count;
    uint16_t last_exits[LAST_EXITS]; /* reason, bit 15: from the nested guest */

    struct tss64 tss __attribute__((aligned(16)));
    uint64_t gdt[8];
    uint8_t ist_stacks[IST_COUNT - 1][IST_STACK_SIZE] __attribute__((aligned(16)));
};

extern struct cpu *cpus[MAX_CPUS];
extern unsigned cpu_count;

/* Fills a zeroed struct cpu: GDT, TSS. */
void cpu_init(struct cpu *cpu, unsigned index, uint32_t apic_id);
/* Loads this CPU's tables (GDT, IDT, TSS, GS) and control registers. */
void cpu_load(struct cpu *cpu);

/* VMREAD/VMWRITE of what is current. A shorthand that reads like the field's name. */
#define vmread(name) hw_vmread(VMCS_##name)
#define vmwrite(name, value) hw_vmwrite(VMCS_##name, (value))
#define vmwrite_sure(name, value) hw_vmwrite_sure(VMCS_##name, (value))

static inline void count(struct cpu *cpu, unsigned counter) { cpu->counters[counter]++; }

/* enum cpu_state, as other CPUs see it and set it. */
static inline uint32_t cpu_state(const struct cpu *cpu) { return __atomic_load_n(&cpu->state, __ATOMIC_ACQUIRE); }
static inline void cpu_set_state(struct cpu *cpu, enum cpu_state state)
{
    __atomic_store_n(&cpu->state, state, __ATOMIC_RELEASE);
}

/* Makes vmcs current on this processor. */
static inline void vmcs_load(struct cpu *cpu, struct vmcs *vmcs)
{
    hw_vmptrld(vmcs->region);
    cpu->current = vmcs;
}

#endif
