/*
 * The tables of one CPU (GDT, TSS) and the switch to them.
 */
#include "core/cpu/cpu.h"

#include "core/cpu/trap.h"

_Static_assert(offsetof(struct cpu, regs) == CPU_REGS, "exit.S finds the registers there");
_Static_assert(offsetof(struct cpu, event_pending) == CPU_EVENT_PENDING, "exit.S finds the flag there");

#define GDT_CODE64 0x00af9b000000ffffull
#define GDT_DATA 0x00cf93000000ffffull
#define GDT_TSS_PRESENT (0x89ull << 40) /* available 64-bit TSS */

struct cpu *cpus[MAX_CPUS];
unsigned cpu_count;

void cpu_init(struct cpu *cpu, unsigned index, uint32_t apic_id)
{
    cpu->index = index;
    cpu->apic_id = apic_id;
    for (unsigned i = IST_NMI; i < IST_COUNT; i++)
        cpu->tss.ist[i - 1] = (uint64_t)cpu->ist_stacks[i - 1] + IST_STACK_SIZE;
    cpu->tss.io_map = sizeof(cpu->tss);

    uint64_t base = (uint64_t)&cpu->tss, limit = sizeof(cpu->tss) - 1;
    cpu->gdt[SEL_CODE / 8] = GDT_CODE64;
    cpu->gdt[SEL_DATA / 8] = GDT_DATA;
    cpu->gdt[SEL_TSS / 8] = GDT_TSS_PRESENT | (limit & 0xffff) | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    cpu->gdt[SEL_TSS / 8 + 1] = base >> 32;
}

void cpu_load(struct cpu *cpu)
{
    struct descriptor_table gdt = { sizeof(cpu->gdt) - 1, (uint64_t)cpu->gdt };
    hw_lgdt(&gdt);
    hw_load_segments(SEL_CODE, SEL_DATA, SEL_TSS);
    hw_wrmsr(MSR_FS_BASE, 0);
    hw_wrmsr(MSR_GS_BASE, (uint64_t)cpu);
    trap_load();
}
