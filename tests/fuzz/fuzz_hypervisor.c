/* sources: machine tests/fuzz/hypervisor/snapshot.c tests/fuzz/hypervisor/verdict.c tests/fuzz/hypervisor/nearly.c
 * tests/fuzz/hypervisor/l2.c tests/fuzz/hypervisor/l3.c core/cpu/vmx_require.c */
/*
 * A whole guest hypervisor as input: which processor, how many of them, which switches, then a program of VMX instructions in any
 * order with any operands, VMCSs near the border between valid and invalid, edits of its memory, exits and accesses of its
 * nested guests. Never a panic (what Strata leaves, the fake processor enters), nor a breach of verdict.h, nor an endless step.
 * Input: 4 bytes that name a machine, then steps of 12 bytes (struct step).
 */
#include <setjmp.h>
#include <string.h>

#include "core/cpu/machine.h"
#include "nested/nested.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/hypervisor/l3.h"
#include "tests/fuzz/hypervisor/nearly.h"
#include "tests/fuzz/hypervisor/snapshot.h"
#include "tests/fuzz/hypervisor/verdict.h"

#define HEADER_SIZE 4u
#define STEPS_MAX 240u
#define WORD_PAGES 112u /* as the seeds' generator has it */
#define CAPABILITIES 5u /* ways to thin them out */
#define TABLES_EVERY 32u
/* Header byte 3 */
#define PREPARED 1u /* the guest hypervisor is in VMX operation with a valid VMCS, on each CPU */
#define LEGACY 2u   /* in 32-bit mode */

static jmp_buf machine_is_reset;
static void on_reset(void) { longjmp(machine_is_reset, 1); }

static struct cpu *cpu(void) { return nested_machine_cpu(); }

/* --- vmcs12 --- */

static int current_row(uint16_t which)
{
    int row = which % FIELD_COUNT;
    return nested_caps.offered[vmcs_fields[row].cap] ? row : -1;
}

static void op_field(const struct step *s)
{
    int row = current_row(s->which);
    uint64_t base[FIELD_COUNT], old = 0;
    if (row < 0 || !l2_ready(s->how) || !cpu()->nested->in_vmx)
        return;
    uint32_t encoding = vmcs_fields[row].encoding;
    switch (s->how & 7) {
    case 0:
        l2_vmwrite(encoding, s->value);
        break;
    case 1:
        nearly_base(base, NEARLY_LONG, cpu()->nested->ia32e);
        l2_vmwrite(encoding, base[row] ^ s->value);
        break;
    case 2:
        if (l2_vmread(encoding, &old) == VMX_OK)
            l2_vmwrite(encoding, old ^ BIT(s->value & 63));
        break;
    case 3:
        l2_vmwrite(encoding, l2_address(s->how >> 3 & 7, s->value));
        break;
    case 4:
        l2_vmwrite(encoding | 1, s->value);
        break;
    case 5:
        l2_vmwrite(s->which | (uint32_t)s->value << 16, s->value);
        break;
    case 6:
        l2_vmread(s->which | (uint32_t)s->value << 16, &old);
        break;
    default:
        l2_vmread(encoding | (s->value & 1), &old);
        break;
    }
}

static void write_all(const uint64_t *values)
{
    for (int row = 0; row < FIELD_COUNT; row++)
        if (nested_caps.offered[vmcs_fields[row].cap] && vmcs_encoding_type(vmcs_fields[row].encoding) != TYPE_INFO)
            l2_vmwrite(vmcs_fields[row].encoding, values[row]);
}

/* The whole current VMCS: as it is or scattered, rounded, a few bits flipped. */
static void op_vmcs(const struct step *s)
{
    uint64_t values[FIELD_COUNT] = { 0 }, base[FIELD_COUNT];
    bool ia32e = cpu()->nested->ia32e;
    struct test_random random = { s->value | 1 };
    if (!l2_ready(s->how) || !cpu()->nested->current)
        return;
    for (int row = 0; row < FIELD_COUNT; row++)
        if (nested_caps.offered[vmcs_fields[row].cap])
            l2_vmread(vmcs_fields[row].encoding, &values[row]);
    nearly_base(base, s->which % NEARLY_COUNT, ia32e);
    if (s->how & 1)
        memcpy(values, base, sizeof(values));
    if (s->how & 2)
        nearly_scatter(values, base, &random);
    if (s->how & 4)
        nearly_round(values, base, ia32e, cpu()->nested->current->v.region);
    nearly_flip(values, &random, s->how >> 3 & 3);
    write_all(values);
}

/* --- VMX instructions --- */

static void op_pointer(const struct step *s)
{
    static const enum exit_reason reasons[] = { REASON_vmptrld, REASON_vmclear, REASON_vmptrld, REASON_vmxon };
    if (l2_ready(s->how))
        l2_instruction(reasons[s->which % ARRAY_SIZE(reasons)], l2_address(s->how & 15, s->value), 0, 0);
}

static void op_odd(const struct step *s)
{
    static const enum exit_reason reasons[] = { REASON_vmclear, REASON_vmptrld, REASON_vmptrst,
                                                REASON_vmread,  REASON_vmwrite, REASON_vmxon,
                                                REASON_invept,  REASON_invvpid, REASON_vmcall };
    if (!l2_ready(s->how))
        return;
    for (int i = 0; i < GPR_COUNT; i++)
        cpu()->regs[i] = l2_address((unsigned)(s->how + i), s->value >> i);
    l2_user(s->how);
    l2_odd_instruction(reasons[s->which % ARRAY_SIZE(reasons)], s->value >> 32, l2_address(s->which >> 3, s->value));
}

static void op_enter(const struct step *s)
{
    if (!l2_ready(s->how))
        return;
    const struct nested_slot *slot = cpu()->nested->current;
    bool resume = (slot && slot->v.launched) != !!(s->how & 1);
    l2_user(s->how);
    nested_machine_exit_reason(resume ? REASON_vmresume : REASON_vmlaunch, 0);
}

static void op_vmxoff(const struct step *s)
{
    if (!l2_ready(s->how))
        return;
    l2_odd_instruction(REASON_vmxoff, 0, 0);
    if (s->which & 1 && l2_ready(s->how))
        l2_instruction(REASON_vmxon, l2_address(2, 0), 0, 0);
}

static void op_invalidate(const struct step *s)
{
    if (!l2_ready(s->how))
        return;
    const struct nested_slot *slot = cpu()->nested->current;
    uint64_t eptp = slot && s->how & 1 ? slot->v.soft[FIELD_EPTP] : s->value;
    if (s->which & 0x100)
        l2_instruction(REASON_invvpid, s->value & 0xffff, s->value, s->which & 7);
    else if (l2_instruction(REASON_invept, eptp, 0, s->which & 3) && (s->which & 3) == INVEPT_GLOBAL)
        l3_flushed();
}

/* --- memory, other exits, events --- */

static void op_word(const struct step *s)
{
    if (l2_ready(s->how))
        l2_write(GUEST_PAGE(s->which % WORD_PAGES) + (s->which / WORD_PAGES * 8u) % PAGE_SIZE, s->value);
}

/* An entry of ept12. */
static void op_entry(const struct step *s)
{
    uint64_t table = GUEST_PAGE(TABLE_FIRST + s->which % TABLE_COUNT), slot = s->which / TABLE_COUNT % 512;
    if (l2_ready(0))
        l2_write(table + slot * 8, (l2_address(s->how & 15, s->value) & PAGE_MASK) | (s->value >> 52));
}

static void op_fill(const struct step *s)
{
    if (l2_ready(0))
        l2_fill(s->which & 0x100 ? GUEST_PAGE(TABLE_FIRST + s->which % TABLE_COUNT) : GUEST_PAGE(8 + s->which % 70),
                s->how, s->value);
}

/* Of VMCS regions, mostly: software may copy them in memory. */
static void op_copy(const struct step *s)
{
    if (l2_ready(0))
        l2_copy(l2_address(s->how & 15, s->value) & PAGE_MASK, VMCS12(s->which % REGION_COUNT));
}

static void op_l2_exit(const struct step *s)
{
    if (l2_ready(s->how))
        l2_other_exit(s->which, s->how, s->value);
}

/* An NMI or machine check while Strata runs; L2's interruptibility; INIT. */
static void op_event(const struct step *s)
{
    struct cpu *c = cpu();
    switch (s->which % 4) {
    case 0:
        c->nmi_pending = c->event_pending = 1;
        break;
    case 1:
        c->machine_check_pending = c->event_pending = 1;
        break;
    case 2:
        if (!l2_ready(0))
            break;
        fake_vmcs_write(c->vmcs01.region, FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        fake_vmcs_write(c->vmcs01.region, FIELD_GUEST_INTERRUPTIBILITY, s->how % 3);
        nested_machine_exit_reason(s->value & 1 ? REASON_vmresume : REASON_cpuid, 0);
        break;
    default:
        if (l2_ready(s->how))
            nested_machine_exit_reason(REASON_init, 0);
        break;
    }
}

static void op_l3(const struct step *s, void (*run)(const struct step *s))
{
    if (cpu()->in_nested)
        run(s);
}
static void op_l3_exit(const struct step *s) { op_l3(s, l3_exit); }
static void op_l3_msr(const struct step *s) { op_l3(s, l3_msr); }
static void op_l3_vmx(const struct step *s) { op_l3(s, l3_vmx); }
static void op_l3_state(const struct step *s) { op_l3(s, l3_state); }
static void op_l3_touch(const struct step *s) { op_l3(s, l3_touch); }

/* The seeds' generator reads this list: its names, in this order. */
static void (*const ops[])(const struct step *s) = {
    op_field, op_vmcs,    op_pointer, op_odd,     op_enter,  op_vmxoff, op_invalidate, op_word,     op_entry,
    op_fill,  op_l2_exit, op_event,   op_l3_exit, op_l3_msr, op_l3_vmx, op_l3_state,   op_l3_touch, op_copy,
};

/* --- an input --- */

static void cpu_prepare(unsigned index, bool legacy)
{
    uint64_t values[FIELD_COUNT];
    nested_machine_select(index);
    l2_ready(0);
    nearly_base(values, NEARLY_LONG, snapshot_vmcs01[index][FIELD_GUEST_EFER] & EFER_LMA && !legacy);
    if (l2_instruction(REASON_vmxon, l2_address(2, 0), 0, 0))
        l2_make(index, values);
}

static void run(const uint8_t *data, size_t size)
{
    for (unsigned i = 0; i < STEPS_MAX && size >= sizeof(struct step); i++) {
        struct step s;
        memcpy(&s, data, sizeof(s));
        data += sizeof(s);
        size -= sizeof(s);
        nested_machine_select(s.how & HOW_CPU1 && cpu_count > 1 ? 1 : 0);
        ops[s.op % ARRAY_SIZE(ops)](&s);
        verdict_step();
        fake_journal_clear();
        if (i % TABLES_EVERY == TABLES_EVERY - 1)
            verdict_tables();
    }
    verdict_tables();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEADER_SIZE)
        return 0;
    snapshot_start((struct snapshot_key){ data[0], data[1] & SNAPSHOT_SWITCHES, data[2] % CAPABILITIES });
    l2_begin(data[3] & LEGACY);
    l3_begin();
    if (setjmp(machine_is_reset))
        return 0;
    nested_machine_on_reset(on_reset);
    for (unsigned i = 0; data[3] & PREPARED && i < cpu_count; i++)
        cpu_prepare(i, data[3] & LEGACY);
    run(data + HEADER_SIZE, size - HEADER_SIZE);
    return 0;
}
