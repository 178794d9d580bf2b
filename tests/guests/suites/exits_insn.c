/*
 * Instructions that exit: reason, qualification, length and instruction information; and that they do not exit while
 * their control is 0. One row each (SDM 3, "Instructions That Cause VM Exits", "Exit Qualification").
 */
#include "exits.h"

extern u64 exits_memory[4];
extern struct table_ptr exits_gdtr, exits_idtr;
u64 exits_memory[4]; /* operands of the assembly below */
struct table_ptr exits_gdtr, exits_idtr;

#define MEM "exits_memory"
// clang-format off
GUEST(g_cpuid, "xor %%eax,%%eax\nxor %%ecx,%%ecx\ncpuid")
GUEST(g_invd, "invd")
GUEST(g_wbinvd, "wbinvd")
GUEST(g_vmcall, "vmcall")
GUEST(g_vmclear, "vmclear " MEM)
GUEST(g_vmlaunch, "vmlaunch")
GUEST(g_vmresume, "vmresume")
GUEST(g_vmptrld, "vmptrld " MEM)
GUEST(g_vmptrst, "vmptrst " MEM)
GUEST(g_vmread, "mov $0x681e,%%ecx\nvmread %%" REG_CX ",%%" REG_DX)
GUEST(g_vmwrite, "mov $0x681e,%%ecx\nvmwrite " MEM ",%%" REG_CX)
GUEST(g_vmxoff, "vmxoff")
GUEST(g_vmxon, "vmxon " MEM)
GUEST(g_invept, "mov $2,%%ecx\ninvept " MEM ",%%" REG_CX)
GUEST(g_invvpid, "mov $2,%%ecx\ninvvpid " MEM ",%%" REG_CX)
GUEST(g_xsetbv, "xor %%ecx,%%ecx\nmov $1,%%eax\nxor %%edx,%%edx\nxsetbv")
GUEST(g_rdmsr, "mov $0x277,%%ecx\nrdmsr")
GUEST(g_wrmsr, "mov $0x174,%%ecx\nxor %%eax,%%eax\nxor %%edx,%%edx\nwrmsr")
GUEST(g_hlt, "hlt")
GUEST(g_rdtsc, "rdtsc")
GUEST(g_rdtscp, ".byte 0x0f,0x01,0xf9")
GUEST(g_rdpmc, "xor %%ecx,%%ecx\nrdpmc")
GUEST(g_pause, "pause")
GUEST(g_monitor, "mov $exits_memory,%%eax\nxor %%ecx,%%ecx\nxor %%edx,%%edx\n.byte 0x0f,0x01,0xc8")
GUEST(g_mwait, "xor %%eax,%%eax\nxor %%ecx,%%ecx\n.byte 0x0f,0x01,0xc9")
GUEST(g_invlpg, "mov $0x123456,%%eax\ninvlpg (%%" REG_AX ")")
GUEST(g_dr_write, "xor %%eax,%%eax\nmov %%" REG_AX ",%%dr3")
GUEST(g_dr_read, "mov %%dr0,%%" REG_DX)
GUEST(g_cr3_write, "mov %%cr3,%%" REG_BX "\nmov %%" REG_BX ",%%cr3")
GUEST(g_cr3_read, "mov %%cr3,%%" REG_SI)
GUEST(g_in_imm, "in $0x80,%%al")
GUEST(g_in_dx, "mov $0x81,%%edx\nin %%dx,%%ax")
GUEST(g_out_imm, "out %%eax,$0x80")
GUEST(g_out_dx, "mov $0x81,%%edx\nout %%al,%%dx")
GUEST(g_rep_outs, "mov $exits_memory,%%esi\nmov $0x80,%%edx\nmov $2,%%ecx\nrep outsb")
GUEST(g_ins, "mov $exits_memory,%%edi\nmov $0x80,%%edx\ninsl")
GUEST(g_sgdt, "sgdt exits_memory")
GUEST(g_sidt, "sidt exits_memory")
GUEST(g_lgdt, "lgdt exits_gdtr")
GUEST(g_lidt, "lidt exits_idtr")
GUEST(g_sldt, "sldt %%edx")
GUEST(g_lldt, "xor %%eax,%%eax\nlldt %%ax")
GUEST(g_str, "str %%edx")
GUEST(g_ltr, "mov $0xb0,%%eax\nltr %%ax")
GUEST(g_rdrand, "rdrand %%edx")
GUEST(g_rdseed, "rdseed %%edx")
GUEST(g_invpcid, "mov $2,%%eax\ninvpcid " MEM ",%%" REG_AX)
#ifdef __x86_64__
GUEST(g_cr8_write, "xor %%eax,%%eax\nmov %%rax,%%cr8")
GUEST(g_cr8_read, "mov %%cr8,%%rdx")
#endif
// clang-format on

enum flags {
    ALWAYS = 1,         /* exits whatever the controls say */
    NO_CONTROL_RUN = 2, /* not tried without its control: it would sleep or fault */
    BY_ZERO = 4,        /* exits when the control is 0 (use MSR bitmaps) */
    ANY_QUAL = 8,       /* qualification is not compared */
    NEEDS_OSXSAVE = 16,
    UD_WITHOUT = 32, /* without `enable` the instruction is #UD in the nested guest */
};
enum { IN = 8, STRING = 16, REP = 32, IMM = 64 }; /* I/O qualification; size - 1 in bits 2:0 */

// clang-format off
static const struct row {
    const char *name;
    void (*guest)(void);
    u32 field, control, enable; /* enable: a secondary control set in both runs */
    u32 reason, length, flags;
    u64 qualification;
    u32 info, info_mask; /* instruction information */
} rows[] = {
    { "cpuid", g_cpuid, 0, 0, 0, REASON_CPUID, 2, ALWAYS, 0, 0, 0 },
    { "invd", g_invd, 0, 0, 0, REASON_INVD, 2, ALWAYS, 0, 0, 0 },
    { "vmcall", g_vmcall, 0, 0, 0, REASON_VMCALL, 3, ALWAYS, 0, 0, 0 },
    { "vmclear", g_vmclear, 0, 0, 0, REASON_VMCLEAR, 0, ALWAYS | ANY_QUAL, 0, 0, 0 },
    { "vmlaunch", g_vmlaunch, 0, 0, 0, REASON_VMLAUNCH, 3, ALWAYS, 0, 0, 0 },
    { "vmresume", g_vmresume, 0, 0, 0, REASON_VMRESUME, 3, ALWAYS, 0, 0, 0 },
    { "vmptrld", g_vmptrld, 0, 0, 0, REASON_VMPTRLD, 0, ALWAYS | ANY_QUAL, 0, 0, 0 },
    { "vmptrst", g_vmptrst, 0, 0, 0, REASON_VMPTRST, 0, ALWAYS | ANY_QUAL, 0, 0, 0 },
    { "vmread", g_vmread, 0, 0, 0, REASON_VMREAD, 3, ALWAYS | ANY_QUAL, 0, 2 << 3 | 1 << 10 | 1 << 28, 0xf0000478 },
    { "vmwrite", g_vmwrite, 0, 0, 0, REASON_VMWRITE, 0, ALWAYS | ANY_QUAL, 0, 1 << 28, 0xf0000400 },
    { "vmxoff", g_vmxoff, 0, 0, 0, REASON_VMXOFF, 3, ALWAYS, 0, 0, 0 },
    { "vmxon", g_vmxon, 0, 0, 0, REASON_VMXON, 0, ALWAYS | ANY_QUAL, 0, 0, 0 },
    { "invept", g_invept, 0, 0, 0, REASON_INVEPT, 0, ALWAYS | ANY_QUAL, 0, 1 << 28, 0xf0000000 },
    { "invvpid", g_invvpid, 0, 0, 0, REASON_INVVPID, 0, ALWAYS | ANY_QUAL, 0, 1 << 28, 0xf0000000 },
    { "xsetbv", g_xsetbv, 0, 0, 0, REASON_XSETBV, 3, ALWAYS | NEEDS_OSXSAVE, 0, 0, 0 },
    { "rdmsr", g_rdmsr, PROC_CONTROLS, PROC_MSR_BITMAPS, 0, REASON_RDMSR, 2, BY_ZERO, 0, 0, 0 },
    { "wrmsr", g_wrmsr, PROC_CONTROLS, PROC_MSR_BITMAPS, 0, REASON_WRMSR, 2, BY_ZERO, 0, 0, 0 },
    { "hlt", g_hlt, PROC_CONTROLS, PROC_HLT, 0, REASON_HLT, 1, NO_CONTROL_RUN, 0, 0, 0 },
    { "rdtsc", g_rdtsc, PROC_CONTROLS, PROC_RDTSC, 0, REASON_RDTSC, 2, 0, 0, 0, 0 },
    { "rdtscp", g_rdtscp, PROC_CONTROLS, PROC_RDTSC, PROC2_RDTSCP, REASON_RDTSCP, 3, UD_WITHOUT, 0, 0, 0 },
    { "rdpmc", g_rdpmc, PROC_CONTROLS, PROC_RDPMC, 0, REASON_RDPMC, 2, NO_CONTROL_RUN, 0, 0, 0 },
    { "pause", g_pause, PROC_CONTROLS, PROC_PAUSE, 0, REASON_PAUSE, 2, 0, 0, 0, 0 },
    { "monitor", g_monitor, PROC_CONTROLS, PROC_MONITOR, 0, REASON_MONITOR, 3, 0, 0, 0, 0 },
    { "mwait", g_mwait, PROC_CONTROLS, PROC_MWAIT, 0, REASON_MWAIT, 3, NO_CONTROL_RUN, 0, 0, 0 },
    { "invlpg", g_invlpg, PROC_CONTROLS, PROC_INVLPG, 0, REASON_INVLPG, 3, 0, 0x123456, 0, 0 },
    { "mov-to-dr3", g_dr_write, PROC_CONTROLS, PROC_MOV_DR, 0, REASON_DR, 3, 0, 3, 0, 0 },
    { "mov-from-dr0", g_dr_read, PROC_CONTROLS, PROC_MOV_DR, 0, REASON_DR, 3, 0, 0x10 | 2 << 8, 0, 0 },
    { "mov-to-cr3", g_cr3_write, PROC_CONTROLS, PROC_CR3_LOAD, 0, REASON_CR, 3, 0, 3 | 3 << 8, 0, 0 },
    { "mov-from-cr3", g_cr3_read, PROC_CONTROLS, PROC_CR3_STORE, 0, REASON_CR, 3, 0, 3 | 1 << 4 | 6 << 8, 0, 0 },
    { "in-imm", g_in_imm, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 2, 0, 0 | IN | IMM | 0x80 << 16, 0, 0 },
    { "in-dx", g_in_dx, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 2, 0, 1 | IN | 0x81 << 16, 0, 0 },
    { "out-imm", g_out_imm, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 2, 0, 3 | IMM | 0x80 << 16, 0, 0 },
    { "out-dx", g_out_dx, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 1, 0, 0 | 0x81 << 16, 0, 0 },
    { "rep-outs", g_rep_outs, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 2, 0, 0 | STRING | REP | 0x80 << 16, 0, 0 },
    { "ins", g_ins, PROC_CONTROLS, PROC_IO, 0, REASON_IO, 1, 0, 3 | IN | STRING | 0x80 << 16, 0, 0 },
    { "wbinvd", g_wbinvd, PROC2_CONTROLS, PROC2_WBINVD, 0, REASON_WBINVD, 2, 0, 0, 0, 0 },
    { "sgdt", g_sgdt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_GDTR_IDTR, 0, ANY_QUAL, 0, 0, 3 << 28 },
    { "sidt", g_sidt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_GDTR_IDTR, 0, ANY_QUAL, 0, 1 << 28, 3 << 28 },
    { "lgdt", g_lgdt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_GDTR_IDTR, 0, ANY_QUAL, 0, 0, 1 << 28 },
    { "lidt", g_lidt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_GDTR_IDTR, 0, ANY_QUAL, 0, 1 << 28, 1 << 28 },
    { "sldt", g_sldt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_LDTR_TR, 3, ANY_QUAL, 0, 2 << 3 | 1 << 10, 0x30000478 },
    { "lldt", g_lldt, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_LDTR_TR, 3, ANY_QUAL, 0, 1 << 10 | 2 << 28, 0x30000478 },
    { "str", g_str, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_LDTR_TR, 3, ANY_QUAL, 0, 2 << 3 | 1 << 10 | 1 << 28, 0x30000478 },
    { "ltr", g_ltr, PROC2_CONTROLS, PROC2_DESCRIPTORS, 0, REASON_LDTR_TR, 3, NO_CONTROL_RUN | ANY_QUAL, 0, 1 << 10 | 3 << 28, 0x30000478 },
    { "rdrand", g_rdrand, PROC2_CONTROLS, PROC2_RDRAND, 0, REASON_RDRAND, 3, 0, 0, 2 << 3, 0x78 },
    { "rdseed", g_rdseed, PROC2_CONTROLS, PROC2_RDSEED, 0, REASON_RDSEED, 3, 0, 0, 2 << 3, 0x78 },
    { "invpcid", g_invpcid, PROC_CONTROLS, PROC_INVLPG, PROC2_INVPCID, REASON_INVPCID, 0, ANY_QUAL | UD_WITHOUT, 0, 0, 0xf0000000 },
#ifdef __x86_64__
    { "mov-to-cr8", g_cr8_write, PROC_CONTROLS, PROC_CR8_LOAD, 0, REASON_CR, 4, 0, 8, 0, 0 },
    { "mov-from-cr8", g_cr8_read, PROC_CONTROLS, PROC_CR8_STORE, 0, REASON_CR, 4, 0, 8 | 1 << 4 | 2 << 8, 0, 0 },
#endif
};
static const struct row *row;
// clang-format on

static bool offered(void)
{
    if (row->flags & NEEDS_OSXSAVE && !(cpuid(1, 0).c & 1u << 26)) {
        test_skip("no XSAVE");
        return false;
    }
    if (row->enable && !nest_need(MSR_VMX_PROC2, row->enable, "a control it needs"))
        return false;
    if (row->field == PROC2_CONTROLS)
        return nest_need(MSR_VMX_PROC2, row->control, "its control");
    return nest_need(proc_msr(), row->control, "its control");
}

static void secondary(u32 set, u32 clear)
{
    if (!(vmget(PROC_CONTROLS) & PROC_SECONDARY)) {
        nest_control(PROC_CONTROLS, PROC_SECONDARY, 0);
        vmset(PROC2_CONTROLS, 0);
    }
    nest_control(PROC2_CONTROLS, set, clear);
}

/* MSR bitmaps of zeroes when they are on, so that only the control decides. */
static void control(bool on)
{
    if (row->flags & BY_ZERO) {
        vmset(MSR_BITMAP, phys(page_alloc(1)));
        nest_control(PROC_CONTROLS, on ? 0 : row->control, on ? row->control : 0);
    } else if (row->field == PROC2_CONTROLS) {
        secondary(on ? row->control : 0, on ? 0 : row->control);
    } else if (row->field) {
        nest_control(PROC_CONTROLS, on ? row->control : 0, on ? 0 : row->control);
    }
}

static void one_row(void)
{
    struct nest *n = offered() ? nest_new(NEST_SAME, row->guest) : NULL;
    if (!n)
        return;
    memset(exits_memory, 0, sizeof exits_memory);
    exits_gdtr = read_gdtr();
    exits_idtr = read_idtr();
    if (row->flags & UD_WITHOUT) {
        secondary(0, row->enable);
        if (!nest_event(n, VEC_UD, 0))
            return;
        nest_restart(n, row->guest);
    }
    if (row->enable)
        secondary(row->enable, 0);
    if (row->flags & NEEDS_OSXSAVE)
        vmset(GUEST_CR4, vmget(GUEST_CR4) | CR4_OSXSAVE);
    if (!(row->flags & (ALWAYS | NO_CONTROL_RUN))) {
        control(false);
        NEST_RUN(n, REASON_VMCALL);
        check_eq("without the control, exit from", vmget(EXIT_INSN_LENGTH), 3);
        nest_restart(n, row->guest);
    }
    control(true);
    NEST_RUN(n, row->reason);
    if (!(row->flags & ANY_QUAL))
        check_eq("exit qualification", vmget(EXIT_QUALIFICATION), row->qualification);
    if (row->length)
        check_eq("instruction length", vmget(EXIT_INSN_LENGTH), row->length);
    check_masked("instruction information", vmget(EXIT_INSN_INFO), row->info, row->info_mask);
    check_eq("interruption information", vmget(EXIT_INTR_INFO) & INTR_VALID, 0);
    check_eq("IDT-vectoring information", vmget(IDT_VECTORING_INFO) & INTR_VALID, 0);
    nest_skip();
    if (row->guest == g_rep_outs || row->guest == g_cr3_write)
        control(false);
    NEST_RUN(n, REASON_VMCALL);
}

/* SDM 3, "Exit Qualification": an instruction without displacement leaves 0 there. */
static void no_displacement(void)
{
    static void (*const guests[])(void) = { g_sldt, g_lldt, g_str, g_ltr };
    struct nest *n = nest_need(MSR_VMX_PROC2, PROC2_DESCRIPTORS, "descriptor-table exiting")
                         ? nest_new(NEST_SAME, g_str)
                         : NULL;
    for (u32 i = 0; n && i < COUNT(guests); i++) {
        nest_restart(n, guests[i]);
        secondary(PROC2_DESCRIPTORS, 0);
        NEST_RUN(n, REASON_LDTR_TR);
        check_eq("exit qualification", vmget(EXIT_QUALIFICATION), 0);
    }
}

void exit_insn_run(void)
{
    test_run("no-displacement", no_displacement, true);
    for (row = rows; row < rows + COUNT(rows); row++)
        test_run(row->name, one_row, true);
}
