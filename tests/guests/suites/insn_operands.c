/*
 * Operands of the VMX instructions: every addressing form, faults on them, field widths and encodings.
 */
#include "insn.h"

enum { PATTERN = 0x5a17c3 };
static u64 slot[16] __attribute__((aligned(64)));

static bool current_new(void) { return check_outcome("VMPTRLD", vmptrld(phys(vmcs_alloc())), VMX_OK); }

/*
 * One memory operand form: VMWRITE from it, VMREAD to it (the neighbours must stay), VMPTRST to it. The operand is
 * slot[8] in every form.
 */
#define FORM(name, operand, ...)                                                                                       \
    do {                                                                                                               \
        vmset(GUEST_SYSENTER_ESP, 0);                                                                                  \
        memset(slot, 0xee, sizeof slot);                                                                               \
        slot[8] = (ulong)PATTERN;                                                                                      \
        check_outcome("VMWRITE from " name,                                                                            \
                      VMX_TRY("vmwrite " operand ",%[f]", [f] "r"((ulong)GUEST_SYSENTER_ESP), __VA_ARGS__), VMX_OK);   \
        check_eq("written from " name, vmget(GUEST_SYSENTER_ESP), PATTERN);                                            \
        slot[8] = ~0ull;                                                                                               \
        check_outcome("VMREAD to " name,                                                                               \
                      VMX_TRY("vmread %[f]," operand, [f] "r"((ulong)GUEST_SYSENTER_ESP), __VA_ARGS__), VMX_OK);       \
        check_eq("read to " name, slot[8], IS64 ? PATTERN : 0xffffffff00000000ull | PATTERN);                          \
        check_outcome("VMPTRST to " name, VMX_TRY("vmptrst " operand, __VA_ARGS__), VMX_OK);                           \
        check_eq("pointer at " name, slot[8], current);                                                                \
        check_eq("before " name, slot[7], 0xeeeeeeeeeeeeeeeeull);                                                      \
        check_eq("after " name, slot[9], 0xeeeeeeeeeeeeeeeeull);                                                       \
        check_outcome("VMPTRLD from " name, VMX_TRY("vmptrld " operand, __VA_ARGS__), VMX_OK);                         \
    } while (0)

static void forms(void)
{
    u64 current = 0;
    if (!current_new())
        return;
    vmptrst(&current);
    ulong at = (ulong)&slot[8];
    FORM("(base)", "(%[b])", [b] "r"(at));
    FORM("disp8(base)", "-64(%[b])", [b] "r"(at + 64));
    FORM("disp32(base)", "0x12345(%[b])", [b] "r"(at - 0x12345));
    FORM("(base,index,8)", "(%[b],%[i],8)", [b] "r"((ulong)slot), [i] "r"(8ul));
    FORM("disp8(base,index,4)", "-16(%[b],%[i],4)", [b] "r"(at), [i] "r"(4ul));
    FORM("disp32(,index,2)", "slot+128(,%[i],2)", [i] "r"(-32l));
    FORM("disp32(base,index,1), negative index", "0x1000(%[b],%[i],1)", [b] "r"(at), [i] "r"(-0x1000l));
    FORM("absolute", "slot+64", "i"(0));
}

#ifdef __x86_64__
static void forms_64(void)
{
    u64 current = 0;
    if (!current_new())
        return;
    vmptrst(&current);
    ulong at = (ulong)&slot[8];
    FORM("rip-relative", "slot+64(%%rip)", "i"(0));
    register ulong r12 asm("r12") = at, r13 asm("r13") = at, r14 asm("r14") = at - 24;
    register ulong r15 asm("r15") = 3;
    FORM("(r12)", "(%[b])", [b] "r"(r12));
    FORM("(r13)", "(%[b])", [b] "r"(r13));
    FORM("(r14,r15,8)", "(%[b],%[i],8)", [b] "r"(r14), [i] "r"(r15));
    ulong high = at | 0xabcd00000000ul;
    FORM("32-bit address size", "(%k[b])", [b] "r"(high));
    FORM("32-bit address size, index wraps", "(%k[b],%k[i],1)", [b] "r"(at + 0x1000ul), [i] "r"(0xfffff000ul));
    wrmsr(MSR_FS_BASE, at - 0x100);
    FORM("fs:disp32", "%%fs:0x100", "i"(0));
    FORM("fs:(base)", "%%fs:(%[b])", [b] "r"(0x100ul));
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, at + 0x8000);
    FORM("gs:-disp(base)", "%%gs:-0x9000(%[b])", [b] "r"(0x1000ul));
    wrmsr(MSR_GS_BASE, 0);
    FORM("ds: override ignored", "%%ds:(%[b])", [b] "r"(at));
}

static void address_faults(void)
{
    if (!current_new())
        return;
    ulong odd = 0x8000000000000000ul;
    check_outcome("VMPTRLD, not canonical", VMX_TRY("vmptrld (%[b])", [b] "r"(odd)), FAULTS(VEC_GP));
    check_outcome("VMREAD, not canonical", VMX_TRY("vmread %[f],(%[b])", [f] "r"(0x681eul), [b] "r"(odd)),
                  FAULTS(VEC_GP));
    check_outcome("VMPTRST, not canonical in the stack segment",
                  VMX_TRY("xchg %[b],%%rbp\n3: vmptrst (%%rbp)\n4: xchg %[b],%%rbp\n" EXTABLE(3b, 4b), [b] "r"(odd)),
                  FAULTS(VEC_SS));
}
#else
static void forms_64(void)
{
    u64 current = 0;
    if (!current_new())
        return;
    vmptrst(&current);
    ulong at = (ulong)&slot[8];
    FORM("es:(base)", "%%es:(%[b])", [b] "r"(at));
    FORM("ss:(base)", "%%ss:(%[b])", [b] "r"(at));
}

static void address_faults(void)
{
    if (!current_new())
        return;
    check_outcome("VMPTRST to CS", VMX_TRY("vmptrst %%cs:slot", "i"(0)), FAULTS(VEC_GP));
    check_outcome("VMREAD to CS", VMX_TRY("vmread %[f],%%cs:slot", [f] "r"((ulong)GUEST_RIP)), FAULTS(VEC_GP));
    check_outcome("VMWRITE from CS", VMX_TRY("vmwrite %%cs:slot,%[f]", [f] "r"((ulong)GUEST_RIP)), VMX_OK);
    asm volatile("mov %0,%%fs" : : "r"(SEL_DATA16));
    check_outcome("VMPTRLD beyond the limit", VMX_TRY("vmptrld %%fs:(%[b])", [b] "r"(0x10000ul)), FAULTS(VEC_GP));
    check_outcome("VMPTRLD across the limit", VMX_TRY("vmptrld %%fs:(%[b])", [b] "r"(0xfffcul)), FAULTS(VEC_GP));
    asm volatile("mov %0,%%fs" : : "r"(0));
    check_outcome("VMPTRLD through a null selector", VMX_TRY("vmptrld %%fs:slot", "i"(0)), FAULTS(VEC_GP));
    asm volatile("mov %0,%%fs" : : "r"(SEL_DATA));
}
#endif

static void want_pf(const char *what, outcome_t got, ulong cr2, u32 error)
{
    if (!check_outcome(what, got, FAULTS(VEC_PF)))
        return;
    check_eq(what, this_cpu()->fault.cr2, cr2);
    check_eq(what, this_cpu()->fault.error, error);
}

static void page_faults(void)
{
    if (!current_new())
        return;
    u64 *p = (u64 *)hole_va;
    ulong end = hole_va + PAGE, field = GUEST_SYSENTER_EIP;
    u8 *page = page_alloc(1);
    want_pf("VMPTRLD", VMX_TRY("vmptrld (%[b])", [b] "r"(p)), hole_va, 0);
    want_pf("VMCLEAR", VMX_TRY("vmclear (%[b])", [b] "r"(p)), hole_va, 0);
    want_pf("VMPTRST", vmptrst(p), hole_va, 2);
    want_pf("VMREAD", VMX_TRY("vmread %[f],(%[b])", [f] "r"(field), [b] "r"(p)), hole_va, 2);
    want_pf("VMWRITE", VMX_TRY("vmwrite (%[b]),%[f]", [f] "r"(field), [b] "r"(p)), hole_va, 0);
    hole_map(phys(page), 1); /* read-only; CR0.WP is 1 */
    want_pf("VMPTRST to a read-only page", vmptrst(p), hole_va, 3);
    want_pf("VMREAD to a read-only page", VMX_TRY("vmread %[f],(%[b])", [f] "r"(field), [b] "r"(p)), hole_va, 3);
    check_outcome("VMWRITE from a read-only page", VMX_TRY("vmwrite (%[b]),%[f]", [f] "r"(field), [b] "r"(p)), VMX_OK);
    hole_map(phys(page), 3);
    want_pf("VMPTRLD across the end", VMX_TRY("vmptrld (%[b])", [b] "r"(end - 4)), end, 0);
    memset(page, 0, PAGE);
    want_pf("VMPTRST across the end", vmptrst((u64 *)(end - 4)), end, 2);
    check_eq("nothing written", *(u32 *)(page + PAGE - 4), 0);
    check_outcome("VMREAD of no field, operand not mapped",
                  VMX_TRY("vmread %[f],(%[b])", [f] "r"(0x7ffeul), [b] "r"(p)), FAIL_VALID(ERR_FIELD));
    check_outcome("VMPTRST once mapped", vmptrst(p), VMX_OK);
    vmset(field, PATTERN);
    check_outcome("VMREAD once mapped", VMX_TRY("vmread %[f],(%[b])", [f] "r"(field), [b] "r"(p)), VMX_OK);
    check_eq("its value", *(ulong *)page, PATTERN);
    hole_map(0, 0);
}

static void encodings(void)
{
    static const u32 none[] = { 0x7ffe,
                                0x0c0e,
                                0x0ffe,
                                0x2ffe,
                                0x4ffe,
                                0x6ffe,
                                0x1000,
                                0x8000,
                                0x10000,
                                0x80000000,
                                GUEST_RIP | 1,
                                GUEST_CS | 1,
                                GUEST_CS_LIMIT | 1,
                                EXIT_REASON | 1,
                                0x0400 };
    ulong v = PATTERN;
    if (!current_new())
        return;
    for (u32 i = 0; i < COUNT(none); i++) {
        char what[40];
        format(what, sizeof what, "VMREAD of %x", none[i]);
        check_outcome(what, vmread(none[i], &v), FAIL_VALID(ERR_FIELD));
        format(what, sizeof what, "VMWRITE of %x", none[i]);
        check_outcome(what, vmwrite(none[i], 0), FAIL_VALID(ERR_FIELD));
    }
    check_eq("destination after failures", v, PATTERN);
#ifdef __x86_64__
    check_outcome("VMREAD, encoding bit 32", vmread(BIT(32) | GUEST_RIP, &v), FAIL_VALID(ERR_FIELD));
    check_outcome("VMWRITE, encoding bit 63", vmwrite(BIT(63) | GUEST_RIP, 0), FAIL_VALID(ERR_FIELD));
#endif
    check_eq("VM-instruction error", vmget(INSN_ERROR), ERR_FIELD);
}

static void read_only_fields(void)
{
    static const u32 fields[] = { INSN_ERROR, EXIT_REASON, EXIT_QUALIFICATION, EXIT_INSN_LENGTH, GUEST_LINEAR };
    bool writable = rdmsr(MSR_VMX_MISC) >> 29 & 1;
    if (!current_new())
        return;
    for (u32 i = 0; i < COUNT(fields); i++) {
        char what[40];
        format(what, sizeof what, "VMWRITE of %x", fields[i]);
        check_outcome(what, vmwrite(fields[i], 0x31), writable ? VMX_OK : FAIL_VALID(ERR_READ_ONLY));
        if (writable)
            check_eq(what, vmget(fields[i]), 0x31);
    }
}

static void widths(void)
{
    ulong all = (ulong)0x8877665544332211ull, v = 0;
    if (!current_new())
        return;
    vmwrite(GUEST_ES, all);
    vmread(GUEST_ES, &v);
    check_eq("16-bit field", v, 0x2211);
    vmwrite(GUEST_ES_LIMIT, all);
    vmread(GUEST_ES_LIMIT, &v);
    check_eq("32-bit field", v, 0x44332211);
    vmwrite(GUEST_ES_BASE, all);
    vmread(GUEST_ES_BASE, &v);
    check_eq("natural-width field", v, all);
    vmwrite(TSC_OFFSET, (ulong)-1);
    vmwrite(TSC_OFFSET | 1, 0x12345678);
    vmread(TSC_OFFSET, &v);
    check_eq("64-bit field after its high half", v, IS64 ? 0x12345678ffffffffull : 0xffffffff);
    vmread(TSC_OFFSET | 1, &v);
    check_eq("high half", v, 0x12345678);
    vmwrite(TSC_OFFSET, all);
    vmread(TSC_OFFSET | 1, &v);
    check_eq("high half after a full write", v, IS64 ? 0x88776655 : 0); /* outside 64-bit mode: bits 63:32 cleared */
#ifdef __x86_64__
    vmwrite(TSC_OFFSET | 1, all); /* only bits 31:0 of the operand count */
    vmread(TSC_OFFSET | 1, &v);
    check_eq("high half from 64 bits", v, 0x44332211);
    u64 memory[2] = { ~0ull, ~0ull };
    check_outcome("VMREAD of a 16-bit field to memory", vmread(GUEST_ES, (ulong *)memory), VMX_OK);
    check_eq("all 8 bytes written", memory[0], 0x2211);
    check_eq("no more than 8", memory[1], ~0ull);
#endif
}

// clang-format off
const struct test insn_operand_tests[] = {
    { "forms", forms },           { "forms-of-this-mode", forms_64 }, { "address-faults", address_faults },
    { "page-faults", page_faults }, { "encodings", encodings },       { "read-only-fields", read_only_fields },
    { "widths", widths },         { NULL, NULL },
};
// clang-format on
