/*
 * Exits for task switches (reason 9), which happen whatever the controls say: the switch is made here. task.c makes it, on
 * values; this file brings them out of the VMCS and back. vmcs01 is current.
 */
#include "core/guest/dispatch.h"
#include "core/guest/guest.h"
#include "core/guest/guest_memory.h"
#include "core/lib/log.h"
#include "core/guest/task.h"
#include "core/cpu/vmcs01.h"

#define QUAL_SELECTOR 0xffffull
#define QUAL_SOURCE_SHIFT 30
#define QUAL_SOURCE_MASK 3
#define DR6_BT BIT(15)

/* task_switch_dr6.S: sets bits in DR6, which is the guest's while Strata runs. */
void task_switch_dr6_set(uint64_t bits);

/* Encodings of neighbouring segments differ by 2. */
static uint32_t field(uint32_t of_es, unsigned segment) { return of_es + 2 * segment; }

static void state_read(const struct cpu *cpu, struct task_state *s)
{
    for (unsigned i = 0; i < TASK_GPRS; i++)
        s->gpr[i] = (uint32_t)(i == GPR_RSP ? vmread(GUEST_RSP) : cpu->regs[i]);
    s->eip = (uint32_t)vmread(GUEST_RIP);
    s->eflags = (uint32_t)vmread(GUEST_RFLAGS);
    s->dr7 = vmread(GUEST_DR7);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->segment[i] = (struct task_segment){
            .selector = (uint16_t)hw_vmread(field(VMCS_GUEST_ES_SEL, i)),
            .base = hw_vmread(field(VMCS_GUEST_ES_BASE, i)),
            .limit = (uint32_t)hw_vmread(field(VMCS_GUEST_ES_LIMIT, i)),
            .rights = (uint32_t)hw_vmread(field(VMCS_GUEST_ES_AR, i)),
        };
    s->gdt_base = vmread(GUEST_GDTR_BASE);
    s->gdt_limit = (uint32_t)vmread(GUEST_GDTR_LIMIT);
    s->paging = guest_paging_state();
}

static void cr3_write(const struct guest_paging *paging)
{
    vmwrite(GUEST_CR3, paging->cr3);
    if (paging->cr4 & CR4_PAE)
        for (unsigned i = 0; i < ARRAY_SIZE(paging->pdpte); i++)
            hw_vmwrite(VMCS_GUEST_PDPTE0 + 2 * i, paging->pdpte[i]);
    hw_invvpid(INVVPID_SINGLE, VPID01, 0);
}

static void state_write(struct cpu *cpu, const struct task_state *s)
{
    for (unsigned i = 0; i < TASK_GPRS; i++)
        if (i != GPR_RSP)
            cpu->regs[i] = s->gpr[i];
    vmwrite(GUEST_RSP, s->gpr[GPR_RSP]);
    vmwrite(GUEST_RIP, s->eip);
    vmwrite(GUEST_RFLAGS, s->eflags);
    vmwrite(GUEST_DR7, s->dr7);
    vmwrite(GUEST_CR0, s->paging.cr0);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        hw_vmwrite(field(VMCS_GUEST_ES_SEL, i), s->segment[i].selector);
        hw_vmwrite(field(VMCS_GUEST_ES_BASE, i), s->segment[i].base);
        hw_vmwrite(field(VMCS_GUEST_ES_LIMIT, i), s->segment[i].limit);
        hw_vmwrite(field(VMCS_GUEST_ES_AR, i), s->segment[i].rights);
    }
}

/* What an instruction boundary, an event and IRET end. */
static void blocking_end(enum task_source source, bool committed)
{
    uint64_t blocking = vmread(GUEST_INTERRUPTIBILITY), ends = 0;
    if (source == TASK_IRET) /* even one that faults. SDM 3, "Handling Multiple NMIs" */
        ends |= BLOCKING_NMI;
    if (committed) {
        ends |= BLOCKING_STI | BLOCKING_MOV_SS;
        /* Traps of the instruction that ended the old task stayed behind with it. */
        vmwrite(GUEST_PENDING_DEBUG, 0);
    }
    vmwrite(GUEST_INTERRUPTIBILITY, blocking & ~ends);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_ACTIVE); /* the event may have ended HLT */
}

/*
 * The pending-debug-exceptions field has no BT, so the trap is injected. Injection leaves DR6 and IA32_DEBUGCTL
 * as they are, where the exception would have changed them: SDM 3, "Vectored-Event Injection".
 */
static void inject_debug_trap(void)
{
    task_switch_dr6_set(DR6_BT);
    vmwrite(GUEST_DEBUGCTL, vmread(GUEST_DEBUGCTL) & ~(DEBUGCTL_LBR | DEBUGCTL_BTF));
    guest_inject(VECTOR_DB, NO_ERROR_CODE);
}

static void inject_fault(const struct task_result *result)
{
    if (result->page_fault)
        hw_write_cr2(result->linear);
    guest_inject(result->vector, result->error);
}

static struct task_request request_read(void)
{
    uint64_t qualification = vmread(EXIT_QUALIFICATION);
    struct task_request r = {
        .source = (enum task_source)(qualification >> QUAL_SOURCE_SHIFT & QUAL_SOURCE_MASK),
        .selector = (uint16_t)(qualification & QUAL_SELECTOR),
        .length = (uint32_t)vmread(EXIT_INSTRUCTION_LEN),
    };
    if (r.source == TASK_GATE) {
        r.event = vmread(IDT_VECTORING_INFO);
        r.error = (uint32_t)vmread(IDT_VECTORING_ERROR);
    }
    return r;
}

void task_switch_handle(struct cpu *cpu, uint32_t reason)
{
    (void)reason;
    struct task_state state;
    struct task_request request = request_read();
    state_read(cpu, &state);
    struct task_result result = task_run(&state, &request, &guest_memory1);
    if (result.kind == TASK_RETRY) { /* the instruction again, or the event */
        guest_redeliver(cpu);
        return;
    }
    if (result.kind == TASK_SHUTDOWN) {
        guest_shutdown(cpu);
        return;
    }
    if (result.committed)
        state_write(cpu, &state);
    if (result.cr3_changed)
        cr3_write(&state.paging);
    blocking_end(request.source, result.committed);
    if (result.kind == TASK_FAULTED)
        inject_fault(&result);
    else if (result.debug_trap)
        inject_debug_trap();
}
