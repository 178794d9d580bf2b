/*
 * What a panic shows of its CPU: current VMCS, exit information, the last exits.
 */
#include "core/cpu/panic_page.h"

#include "core/cpu/cpu.h"
#include "core/lib/panic.h"

// clang-format off
static const struct { uint32_t field; const char *name; } panic_fields[] = {
    { VMCS_EXIT_REASON, "exit reason" },          { VMCS_EXIT_QUALIFICATION, "qualification" },
    { VMCS_EXIT_INTR_INFO, "interruption" },      { VMCS_IDT_VECTORING_INFO, "IDT-vectoring" },
    { VMCS_EXIT_INSTRUCTION_LEN, "length" },      { VMCS_EXIT_INSTRUCTION_INFO, "instruction info" },
    { VMCS_GUEST_PHYSICAL_ADDR, "guest-physical" }, { VMCS_GUEST_LINEAR_ADDR, "guest-linear" },
    { VMCS_VM_INSTRUCTION_ERROR, "instruction error" }, { VMCS_ENTRY_INTR_INFO, "entry event" },
    { VMCS_GUEST_RIP, "RIP" },   { VMCS_GUEST_RSP, "RSP" }, { VMCS_GUEST_RFLAGS, "RFLAGS" },
    { VMCS_GUEST_CS_SEL, "CS" }, { VMCS_GUEST_CS_AR, "CS rights" }, { VMCS_GUEST_CS_BASE, "CS base" },
    { VMCS_GUEST_CR0, "CR0" },   { VMCS_GUEST_CR3, "CR3" }, { VMCS_GUEST_CR4, "CR4" },
    { VMCS_GUEST_ACTIVITY, "activity" }, { VMCS_GUEST_INTERRUPTIBILITY, "interruptibility" },
    { VMCS_PIN_CONTROLS, "pin" }, { VMCS_PROC_CONTROLS, "proc" }, { VMCS_PROC2_CONTROLS, "proc2" },
    { VMCS_EXIT_CONTROLS, "exit" }, { VMCS_ENTRY_CONTROLS, "entry" }, { VMCS_EPTP, "EPTP" },
};
// clang-format on

static void print_vmcs(const struct cpu *cpu)
{
    panic_print("  current VMCS %llx (%s)\n", (unsigned long long)cpu->current->region.v,
                cpu->current == &cpu->vmcs01 ? "vmcs01" : "vmcs02");
    for (size_t i = 0; i < ARRAY_SIZE(panic_fields); i++)
        panic_print("  %-18s %016llx%s", panic_fields[i].name, (unsigned long long)hw_vmread(panic_fields[i].field),
                    i % 2 ? "\n" : "");
    panic_print("\n  last exits (newest last):");
    for (uint32_t i = 0; i < LAST_EXITS; i++) {
        uint16_t e = cpu->last_exits[(cpu->last_exit_count + i) % LAST_EXITS];
        const char *name = exit_reason_name(e & 0x7fff);
        panic_print(" %s:%s", e & 0x8000 ? "L3" : "L2", name ? name : "?");
    }
    panic_print("\n");
}

void panic_page(void)
{
    struct cpu *cpu = (struct cpu *)hw_rdmsr(MSR_GS_BASE);
    bool known = false;
    for (unsigned i = 0; i < cpu_count; i++)
        known |= cpus[i] == cpu;
    if (!known)
        return;
    panic_print("  CPU %u, APIC id %u\n", cpu->index, cpu->apic_id);
    if (cpu->current)
        print_vmcs(cpu);
}
