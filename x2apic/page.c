/*
 * The xAPIC page while it is protected, because its ICR is watched or lapic=trap says so: what the guest does there is done for
 * it. Single-stepping over the store instead is not dependable (traps are delivered differently by different
 * processors), and the page must not be open even for one instruction on the CPUs that share ept01.
 */
#include "core/guest/guest.h"
#include "core/guest/guest_memory.h"
#include "core/cpu/lapic.h"
#include "core/cpu/machine.h"
#include "core/memory/ept.h"
#include "core/upcall.h"
#include "x2apic/store_decode.h"
#include "x2apic/x2apic.h"

static enum code_size code_size(void)
{
    uint64_t rights = vmread(GUEST_CS_AR);
    if (guest_is_64bit())
        return CODE_64;
    return rights & AR_DB ? CODE_32 : CODE_16;
}

/* The bytes at RIP: up to the end of the page, and of the next one if that can be read. */
static size_t fetch(const struct guest_paging *paging, const struct guest_memory *memory, uint8_t code[INSTRUCTION_MAX])
{
    uint64_t linear = vmread(GUEST_RIP) + (guest_is_64bit() ? 0 : vmread(GUEST_CS_BASE));
    size_t first = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
    if (guest_read(paging, memory, linear, code, INSTRUCTION_MAX, WALK_FETCH).result == WALK_OK)
        return INSTRUCTION_MAX;
    if (first < INSTRUCTION_MAX && guest_read(paging, memory, linear, code, first, WALK_FETCH).result == WALK_OK)
        return first;
    return 0;
}

static uint32_t register_read(const struct cpu *cpu, unsigned reg)
{
    return (uint32_t)(reg == GPR_RSP ? vmread(GUEST_RSP) : cpu->regs[reg]);
}

static void register_write(struct cpu *cpu, unsigned reg, uint32_t value)
{
    if (reg == GPR_RSP)
        vmwrite(GUEST_RSP, value);
    else
        cpu->regs[reg] = value;
}

static void store(uint32_t offset, uint32_t value)
{
    if (offset == APIC_ICR_LOW)
        x2apic_icr_write(value, lapic_read(APIC_ICR_HIGH) >> 24);
    else
        lapic_write(offset, value);
}

static uint64_t address_part(const struct cpu *cpu, uint8_t reg)
{
    return reg == STORE_NO_REGISTER ? 0 : reg == GPR_RSP ? vmread(GUEST_RSP) : cpu->regs[reg];
}

/*
 * Which register of the page the instruction names: bits 11:0 of its linear address, which are those of the physical one. Of the latter
 * only the page is sure: KVM as the machine below reports addresses cut to it where its own emulator met the violation. Address sizes
 * cut higher bits only.
 */
static uint32_t page_offset(const struct cpu *cpu, const struct store *s)
{
    const struct store_address *a = &s->address;
    uint64_t linear = a->displacement + address_part(cpu, a->base) + (address_part(cpu, a->index) << a->scale);
    if (a->rip_relative)
        linear += vmread(GUEST_RIP) + s->length;
    if (!guest_is_64bit() || a->segment >= SEG_FS) /* in 64-bit mode the others have base 0 */
        linear += hw_vmread(VMCS_GUEST_ES_BASE + 2u * a->segment);
    return (uint32_t)linear & (PAGE_SIZE - 1);
}

static bool emulate(struct cpu *cpu, const struct guest_memory *memory)
{
    uint8_t code[INSTRUCTION_MAX];
    if (vmread(IDT_VECTORING_INFO) & INTR_VALID) /* no instruction: the delivery of an event */
        return false;
    struct guest_paging paging = guest_paging_state();
    struct store s = store_decode(code, fetch(&paging, memory, code), code_size());
    uint64_t made = s.kind == STORE_LOAD ? EPT_QUAL_READ : EPT_QUAL_WRITE;
    if (s.kind > STORE_TRUNCATED && !(vmread(EXIT_QUALIFICATION) & made))
        return true; /* the code has changed since: the guest tries again */
    uint32_t offset = page_offset(cpu, &s);
    switch (s.kind) {
    case STORE_REGISTER:
        store(offset, register_read(cpu, s.reg));
        break;
    case STORE_IMMEDIATE:
        store(offset, s.immediate);
        break;
    case STORE_EXCHANGE: {
        uint32_t old = lapic_read(offset);
        store(offset, register_read(cpu, s.reg));
        register_write(cpu, s.reg, old);
        break;
    }
    case STORE_LOAD:
        register_write(cpu, s.reg, lapic_read(offset));
        break;
    default:
        return false;
    }
    guest_note_access(vmread(GUEST_LINEAR_ADDR), sizeof(uint32_t),
                      s.kind == STORE_LOAD ? GUEST_USE_READ : GUEST_USE_WRITE);
    guest_skip_bytes(cpu, s.length);
    return true;
}

static bool in_page(gpa1_t addr) { return !lapic_is_x2apic() && align_down(addr.v, PAGE_SIZE) == lapic_page(); }

static void lapic_open(uint32_t perm)
{
    memory_lock();
    ept01_protect(&memory01.ept01, gpa1(lapic_page()), perm);
    memory_unlock();
    hw_invept(INVEPT_SINGLE, ept01_eptp(&memory01.ept01));
}

/*
 * An access to the protected xAPIC page. lapic=trap does what older thin hypervisors do to get past it: map the page and
 * invalidate, have the access done, take the page away and invalidate again.
 */
bool x2apic_page_access(struct cpu *cpu, gpa1_t addr)
{
    if (!in_page(addr))
        return false;
    bool trap = machine.options.lapic == LAPIC_TRAP;
    if (trap)
        lapic_open(EPT_RWX);
    bool done = emulate(cpu, &guest_memory1);
    if (trap)
        lapic_open(0);
    return done;
}

bool x2apic_page_store(struct cpu *cpu, const struct guest_memory *memory, gpa1_t addr)
{
    return in_page(addr) && emulate(cpu, memory);
}
