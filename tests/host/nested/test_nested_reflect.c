/* sources: machine */
/*
 * What the guest hypervisor has after an exit of its guest: SDM 3, "Loading Host State", "Saving Guest State", "MSR-Load areas",
 * written down here row by row, for 64-bit and 32-bit hosts and for entries that fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory/ept.h"
#include "core/cpu/machine.h"
#include "tests/host/support/isolated.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define V(row) values[FIELD_##row]
#define ENTRY_AREA L2_MSR_AREAS
#define STORE_AREA (L2_MSR_AREAS + 0x400)
#define LOAD_AREA (L2_MSR_AREAS + 0x800)
#define CODE_32 (0xbull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define DATA_32 (0x3ull | AR_S | AR_PRESENT | AR_DB | AR_G)
#define PDPT32 (GUEST_PAGE(30) + 0xe0)

static const struct nested_machine_config usual = { 0 }, no_write_info = { .no_write_info = true };
static uint64_t values[FIELD_COUNT];
static struct test_random seed = { 31337 };

static uint64_t in_vmcs02(enum vmcs_row row) { return fake_vmcs_read(nested_machine_vmcs02(), row); }
static void vmcs02_set(enum vmcs_row row, uint64_t value) { fake_vmcs_write(nested_machine_vmcs02(), row, value); }
static uint64_t in_vmcs01(enum vmcs_row row) { return fake_vmcs_read(nested_machine_cpu()->vmcs01.region, row); }
static void vmcs01_set(enum vmcs_row row, uint64_t value)
{
    fake_vmcs_write(nested_machine_cpu()->vmcs01.region, row, value);
}

static void enter(enum exit_reason instruction)
{
    assert_int_equal(l2_enter(instruction), VMX_OK);
    assert_true(nested_machine_in_l3());
}

enum host { HOST_64, HOST_32, HOST_PAE };

/* The guest hypervisor leaves 64-bit mode (it has no memory operands from here on), and so does its guest. */
static void legacy(enum host host)
{
    V(EXIT_CONTROLS) &= ~EXIT_HOST_64;
    V(ENTRY_CONTROLS) &= ~ENTRY_IA32E;
    V(HOST_EFER) = V(HOST_EFER) & ~(EFER_LMA | EFER_LME);
    V(GUEST_EFER) = 0;
    V(GUEST_CS_AR) = CODE_32;
    V(GUEST_CR4) = CR4_VMXE;
    V(HOST_CR3) = host == HOST_PAE ? PDPT32 : 0x50012000;
    V(HOST_CR4) = CR4_VMXE | (host == HOST_PAE ? CR4_PAE : 0);
    static const enum vmcs_row wide[] = { FIELD_HOST_GS_BASE,   FIELD_HOST_TR_BASE,      FIELD_HOST_GDTR_BASE,
                                          FIELD_HOST_IDTR_BASE, FIELD_HOST_SYSENTER_ESP, FIELD_HOST_SYSENTER_EIP,
                                          FIELD_HOST_RSP };
    for (size_t i = 0; i < ARRAY_SIZE(wide); i++)
        values[wide[i]] &= 0xffffffff;
}

static void vmcs01_leaves_long_mode(void)
{
    vmcs01_set(FIELD_GUEST_EFER, EFER_NXE);
    vmcs01_set(FIELD_ENTRY_CONTROLS, in_vmcs01(FIELD_ENTRY_CONTROLS) & ~ENTRY_IA32E);
    vmcs01_set(FIELD_GUEST_CS_AR, CODE_32);
    vmcs01_set(FIELD_GUEST_CR4, CR4_VMXE);
    nested_machine_cpu()->nested->ia32e = false;
}

static void start(const struct nested_machine_config *config, enum host host)
{
    nested_machine_start(config);
    l2_make(0, values);
    if (host != HOST_64)
        vmcs01_leaves_long_mode();
}

/* --- loading host state --- */

static uint64_t canonical(void) { return (uint64_t)((int64_t)(test_random(&seed) << 16) >> 16); }

static void random_host(enum host host)
{
    static const enum vmcs_row selectors[] = { FIELD_HOST_ES_SEL, FIELD_HOST_SS_SEL, FIELD_HOST_DS_SEL,
                                               FIELD_HOST_FS_SEL, FIELD_HOST_GS_SEL };
    static const enum vmcs_row addresses[] = { FIELD_HOST_FS_BASE,   FIELD_HOST_GS_BASE,      FIELD_HOST_TR_BASE,
                                               FIELD_HOST_GDTR_BASE, FIELD_HOST_IDTR_BASE,    FIELD_HOST_SYSENTER_ESP,
                                               FIELD_HOST_RIP,       FIELD_HOST_SYSENTER_EIP, FIELD_HOST_RSP };
    for (size_t i = 0; i < ARRAY_SIZE(selectors); i++)
        values[selectors[i]] = test_random_below(&seed, 3) ? test_random(&seed) & 0xfff8 : 0;
    if (host != HOST_64 && !V(HOST_SS_SEL))
        V(HOST_SS_SEL) = 0x18;
    V(HOST_CS_SEL) = (test_random(&seed) & 0xfff8) | 8;
    V(HOST_TR_SEL) = (test_random(&seed) & 0xfff8) | 8;
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++)
        values[addresses[i]] = canonical() & (host == HOST_64 ? ~0ull : 0xffffffff);
    V(HOST_SYSENTER_CS) = test_random(&seed) & 0xffffffff;
    V(HOST_CR0) = CR0_PE | CR0_NE | CR0_PG | (test_random(&seed) & (CR0_WP | CR0_AM | CR0_TS | CR0_MP | CR0_EM));
    V(HOST_CR4) |= test_random(&seed) & (CR4_PGE | CR4_OSFXSR | CR4_DE | CR4_TSD);
    if (host == HOST_64)
        V(HOST_CR4) |= test_random(&seed) & CR4_PCIDE;
    V(HOST_PAT) = test_random_below(&seed, 2) ? 0x0007040600070406ull : 0x0101010101010106ull;
    V(HOST_EFER) = (host == HOST_64 ? EFER_LMA | EFER_LME : 0) | (test_random(&seed) & (EFER_SCE | EFER_NXE));
}

static void expect01(enum vmcs_row row, uint64_t value)
{
    if (in_vmcs01(row) != value)
        fail_msg("%s is %llxh, not %llxh", vmcs_fields[row].name, (unsigned long long)in_vmcs01(row),
                 (unsigned long long)value);
}

static void expect_segment(enum segment s, uint64_t selector, uint64_t base, uint64_t limit, uint64_t rights)
{
    bool unusable = rights & AR_UNUSABLE;
    expect01(FIELD_GUEST_ES_SEL + (unsigned)s, selector);
    expect01(FIELD_GUEST_ES_AR + (unsigned)s,
             unusable ? in_vmcs01(FIELD_GUEST_ES_AR + (unsigned)s) | AR_UNUSABLE : rights);
    if (!unusable || s == SEG_FS || s == SEG_GS)
        expect01(FIELD_GUEST_ES_BASE + (unsigned)s, base);
    if (!unusable)
        expect01(FIELD_GUEST_ES_LIMIT + (unsigned)s, limit);
}

static uint64_t data_rights(uint64_t selector) { return selector ? DATA_32 : AR_UNUSABLE; }

/* SDM 3, "Loading Host Segment and Descriptor-Table Registers" */
static void expect_segments(void)
{
    bool wide = V(EXIT_CONTROLS) & EXIT_HOST_64;
    uint64_t code = 0xb | AR_S | AR_PRESENT | AR_G | (wide ? AR_L : AR_DB);
    expect_segment(SEG_CS, V(HOST_CS_SEL), 0, 0xffffffff, code);
    expect_segment(SEG_SS, V(HOST_SS_SEL), 0, 0xffffffff, data_rights(V(HOST_SS_SEL)));
    assert_int_equal(in_vmcs01(FIELD_GUEST_SS_AR) & AR_DPL_MASK, 0);
    expect_segment(SEG_DS, V(HOST_DS_SEL), 0, 0xffffffff, data_rights(V(HOST_DS_SEL)));
    expect_segment(SEG_ES, V(HOST_ES_SEL), 0, 0xffffffff, data_rights(V(HOST_ES_SEL)));
    expect_segment(SEG_FS, V(HOST_FS_SEL), V(HOST_FS_BASE), 0xffffffff, data_rights(V(HOST_FS_SEL)));
    expect_segment(SEG_GS, V(HOST_GS_SEL), V(HOST_GS_BASE), 0xffffffff, data_rights(V(HOST_GS_SEL)));
    expect_segment(SEG_TR, V(HOST_TR_SEL), V(HOST_TR_BASE), 0x67, 0xb | AR_PRESENT);
    expect_segment(SEG_LDTR, 0, 0, 0, AR_UNUSABLE);
    expect01(FIELD_GUEST_GDTR_BASE, V(HOST_GDTR_BASE));
    expect01(FIELD_GUEST_GDTR_LIMIT, 0xffff);
    expect01(FIELD_GUEST_IDTR_BASE, V(HOST_IDTR_BASE));
    expect01(FIELD_GUEST_IDTR_LIMIT, 0xffff);
}

/* efer, pat: what the processor had before the exit (or the failed entry). */
static void expect_host_state(uint64_t efer, uint64_t pat, uint64_t blocking)
{
    bool wide = V(EXIT_CONTROLS) & EXIT_HOST_64;
    uint64_t lm = EFER_LMA | EFER_LME, cr4 = wide ? V(HOST_CR4) | CR4_PAE : V(HOST_CR4) & ~CR4_PCIDE;
    assert_false(nested_machine_in_l3());
    assert_int_equal(fake_current(), nested_machine_cpu()->vmcs01.region.v);
    expect01(FIELD_GUEST_CR0, V(HOST_CR0) | CR0_ET);
    expect01(FIELD_CR0_SHADOW, V(HOST_CR0) | CR0_ET);
    expect01(FIELD_GUEST_CR3, V(HOST_CR3));
    expect01(FIELD_GUEST_CR4, cr4);
    expect01(FIELD_CR4_SHADOW, cr4);
    expect01(FIELD_GUEST_DR7, 0x400);
    expect01(FIELD_GUEST_DEBUGCTL, 0);
    expect01(FIELD_GUEST_SYSENTER_CS, V(HOST_SYSENTER_CS));
    expect01(FIELD_GUEST_SYSENTER_ESP, V(HOST_SYSENTER_ESP));
    expect01(FIELD_GUEST_SYSENTER_EIP, V(HOST_SYSENTER_EIP));
    efer = wide ? efer | lm : efer & ~lm;
    expect01(FIELD_GUEST_EFER, V(EXIT_CONTROLS) & EXIT_LOAD_EFER ? V(HOST_EFER) : efer);
    expect01(FIELD_GUEST_PAT, V(EXIT_CONTROLS) & EXIT_LOAD_PAT ? V(HOST_PAT) : pat);
    assert_int_equal((in_vmcs01(FIELD_ENTRY_CONTROLS) & ENTRY_IA32E) != 0, wide);
    expect_segments();
    expect01(FIELD_GUEST_RSP, V(HOST_RSP));
    expect01(FIELD_GUEST_RIP, V(HOST_RIP));
    expect01(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1);
    expect01(FIELD_GUEST_PENDING_DEBUG, 0);
    expect01(FIELD_GUEST_INTERRUPTIBILITY, blocking);
    expect01(FIELD_GUEST_ACTIVITY, ACTIVITY_ACTIVE);
    assert_int_equal(in_vmcs01(FIELD_ENTRY_INTR_INFO) & INTR_VALID, 0);
    struct cpu *cpu = nested_machine_cpu();
    assert_int_equal(cpu->cr0_shadow, in_vmcs01(FIELD_CR0_SHADOW));
    assert_int_equal(cpu->cr4_shadow, in_vmcs01(FIELD_CR4_SHADOW));
}

static void pdptes_make(uint64_t salt)
{
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t pdpte = i == 2 ? 0 : GUEST_PAGE(31 + i) | salt << 9 | 1;
        memcpy((void *)(PDPT32 + 8 * i), &pdpte, sizeof(pdpte));
    }
}

static void expect_pdptes(void)
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t pdpte;
        memcpy(&pdpte, (void *)(PDPT32 + 8 * i), sizeof(pdpte));
        expect01(FIELD_GUEST_PDPTE0 + i, pdpte);
    }
}

/* With and without the load controls, over random host states; L3 changes what the exit does not load. */
static void host_state_is_loaded(enum host host)
{
    for (unsigned round = 0; round < 24; round++) {
        vmcs12_sample(values);
        if (host != HOST_64)
            legacy(host);
        random_host(host);
        V(GUEST_RFLAGS) |= RFLAGS_IF;
        if (round & 1)
            V(EXIT_CONTROLS) &= ~EXIT_LOAD_EFER;
        if (round & 2)
            V(EXIT_CONTROLS) &= ~EXIT_LOAD_PAT;
        start(&usual, host);
        pdptes_make(round & 7);
        vmcs01_set(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        vmcs01_set(FIELD_GUEST_DR7, 0x455);
        vmcs01_set(FIELD_GUEST_PENDING_DEBUG, 0);
        vmcs01_set(FIELD_GUEST_INTERRUPTIBILITY, 0);
        enter(REASON_vmlaunch);
        uint64_t efer = in_vmcs02(FIELD_GUEST_EFER) ^ EFER_SCE, pat = 0x0606060606060600ull;
        for (unsigned again = 0; again < 2; again++) {
            vmcs02_set(FIELD_GUEST_EFER, efer);
            vmcs02_set(FIELD_GUEST_PAT, pat);
            vmcs02_set(FIELD_GUEST_INTERRUPTIBILITY, round & 4 ? BLOCKING_NMI : BLOCKING_STI);
            nested_machine_exit_reason(REASON_cpuid, 0);
            expect_host_state(efer, pat, round & 4 ? BLOCKING_NMI : 0);
            if (host == HOST_PAE)
                expect_pdptes();
            vmcs01_set(FIELD_GUEST_INTERRUPTIBILITY, 0);
            if (again == 0) {
                nested_machine_exit_reason(REASON_vmresume, 0);
                assert_true(nested_machine_in_l3());
            }
        }
    }
}

static void hosts_of_64_bits(void **state) { (void)state, host_state_is_loaded(HOST_64); }
static void hosts_of_32_bits(void **state) { (void)state, host_state_is_loaded(HOST_32); }
static void hosts_with_pae(void **state) { (void)state, host_state_is_loaded(HOST_PAE); }

/* A VMX abort: the CPU shuts down, and with it the machine. It must not be anything worse: a panic fails the test. */
static jmp_buf machine_was_reset;
static void on_reset(void) { longjmp(machine_was_reset, 1); }

static void expect_abort(void)
{
    nested_machine_on_reset(on_reset);
    if (setjmp(machine_was_reset) == 0) {
        nested_machine_exit_reason(REASON_cpuid, 0);
        fail_msg("the guest hypervisor goes on");
    }
}

static void bad_pdptes_of_the_host(void **state)
{
    (void)state;
    vmcs12_sample(values);
    legacy(HOST_PAE);
    start(&usual, HOST_PAE);
    pdptes_make(0);
    enter(REASON_vmlaunch);
    uint64_t bad = GUEST_PAGE(31) | 3;
    memcpy((void *)PDPT32, &bad, sizeof(bad));
    expect_abort();
}

/* Blocking: an NMI exit blocks NMIs; under virtual NMIs vmcs02's bit is not the processor's. */
static void blocking_by_nmi(void **state)
{
    (void)state;
    for (unsigned virtual_nmis = 0; virtual_nmis < 2; virtual_nmis++)
        for (unsigned nmi = 0; nmi < 2; nmi++)
            for (unsigned bit = 0; bit < 2; bit++) {
                vmcs12_sample(values);
                V(PIN_CONTROLS) |= virtual_nmis ? PIN_VIRTUAL_NMIS : 0;
                start(&usual, HOST_64);
                vmcs01_set(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
                enter(REASON_vmlaunch);
                vmcs02_set(FIELD_GUEST_INTERRUPTIBILITY, bit ? BLOCKING_NMI : 0);
                nested_machine_exit(
                    &(struct nested_exit_info){ .reason = REASON_exception_nmi,
                                                .intr_info = nmi ? INTR_VALID | INTR_TYPE_NMI | VECTOR_NMI
                                                                 : INTR_VALID | INTR_TYPE_HW_EXCEPTION | VECTOR_UD });
                bool blocked = nmi || (bit && !virtual_nmis);
                expect01(FIELD_GUEST_INTERRUPTIBILITY, blocked ? BLOCKING_NMI : 0);
                assert_int_equal(l2_field(VMCS_GUEST_INTERRUPTIBILITY), bit ? BLOCKING_NMI : 0);
            }
}

/* --- guest fields without load or save controls --- */

static const struct kept {
    enum vmcs_row row;
    uint64_t load, save, in12, in01, in3;
} kept[] = {
    { FIELD_GUEST_EFER, ENTRY_LOAD_EFER, EXIT_SAVE_EFER, EFER_LMA | EFER_LME | EFER_SCE, EFER_LMA | EFER_LME | EFER_NXE,
      EFER_LMA | EFER_LME },
    { FIELD_GUEST_PAT, ENTRY_LOAD_PAT, EXIT_SAVE_PAT, 0x0606060606060606, 0x0106010601060106, 0x0404040404040404 },
    { FIELD_GUEST_DR7, ENTRY_LOAD_DEBUG, EXIT_SAVE_DEBUG, 0x401, 0x404, 0x410 },
    { FIELD_GUEST_DEBUGCTL, ENTRY_LOAD_DEBUG, EXIT_SAVE_DEBUG, 1, 2, 3 },
    { FIELD_PREEMPTION_TIMER, 0, EXIT_SAVE_PREEMPTION_TIMER, 1000, 0, 200 },
};

static void kept_fields(const struct kept *k, bool load, bool save)
{
    vmcs12_sample(values);
    values[k->row] = k->in12;
    if (k->row == FIELD_PREEMPTION_TIMER)
        V(PIN_CONTROLS) |= PIN_PREEMPTION_TIMER;
    V(ENTRY_CONTROLS) = load ? V(ENTRY_CONTROLS) | k->load : V(ENTRY_CONTROLS) & ~k->load;
    V(EXIT_CONTROLS) = save ? V(EXIT_CONTROLS) | k->save : V(EXIT_CONTROLS) & ~k->save;
    start(&usual, HOST_64);
    uint64_t expected12 = k->in12;
    for (unsigned round = 0; round < 3; round++) {
        if (k->load)
            vmcs01_set(k->row, k->in01);
        enter(round ? REASON_vmresume : REASON_vmlaunch);
        assert_int_equal(in_vmcs02(k->row), load || !k->load ? expected12 : k->in01);
        /* An exit that the guest hypervisor does not see changes nothing. */
        vmcs02_set(k->row, k->in3);
        nested_machine_exit(&(struct nested_exit_info){
            .reason = REASON_ept_violation, .qualification = EPT_QUAL_READ, .gpa = GUEST_PAGE(1000 + 600 * round) });
        assert_true(nested_machine_in_l3());
        assert_int_equal(in_vmcs02(k->row), k->in3);
        nested_machine_exit_reason(REASON_cpuid, 0);
        expected12 = save ? k->in3 : expected12;
        assert_int_equal(l2_field(vmcs_fields[k->row].encoding), expected12);
    }
}

static void fields_that_are_not_loaded_or_saved(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        for (unsigned variant = 0; variant < 4; variant++)
            kept_fields(&kept[i], variant & 1, variant & 2);
}

/* A guest without "load IA32_EFER" that has entered long mode by itself goes on there. */
static void l3_enters_long_mode(void **state)
{
    (void)state;
    for (unsigned moves = 0; moves < 2; moves++) {
        vmcs12_sample(values);
        V(ENTRY_CONTROLS) &= ~(ENTRY_IA32E | ENTRY_LOAD_EFER);
        V(EXIT_CONTROLS) &= ~EXIT_SAVE_EFER;
        V(GUEST_CS_AR) = CODE_32;
        V(GUEST_CR0) = CR0_PE | CR0_NE;
        start(&usual, HOST_64);
        enter(REASON_vmlaunch);
        assert_int_equal(in_vmcs02(FIELD_GUEST_EFER) & EFER_LMA, 0);
        vmcs02_set(FIELD_GUEST_EFER, EFER_LMA | EFER_LME);
        vmcs02_set(FIELD_GUEST_CR0, CR0_PE | CR0_NE | CR0_PG);
        vmcs02_set(FIELD_ENTRY_CONTROLS, in_vmcs02(FIELD_ENTRY_CONTROLS) | ENTRY_IA32E); /* the exit saves it */
        nested_machine_exit_reason(REASON_cpuid, 0);
        if (moves) { /* another way of storing what the exit saved */
            assert_int_equal(l2_vmclear(VMCS12(0)), VMX_OK);
            assert_int_equal(l2_vmptrld(VMCS12(0)), VMX_OK);
            assert_true(l2_field(VMCS_ENTRY_CONTROLS) & ENTRY_IA32E);
        }
        assert_int_equal(l2_enter(moves ? REASON_vmlaunch : REASON_vmresume), VMX_OK);
        if (!nested_machine_in_l3())
            fail_msg("the entry fails with reason %llxh", (unsigned long long)l2_field(VMCS_EXIT_REASON));
        assert_int_equal(in_vmcs02(FIELD_GUEST_EFER) & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
        nested_machine_exit_reason(REASON_cpuid, 0);
        assert_true(l2_field(VMCS_ENTRY_CONTROLS) & ENTRY_IA32E);
    }
}

/* --- MSR areas --- */

static void area_set(uint64_t area, unsigned i, uint32_t msr, uint64_t value)
{
    uint32_t head[2] = { msr, 0 };
    memcpy((void *)(area + 16 * i), head, sizeof(head));
    memcpy((void *)(area + 16 * i + 8), &value, sizeof(value));
}

static uint64_t area_value(uint64_t area, unsigned i)
{
    uint64_t value;
    memcpy(&value, (void *)(area + 16 * i + 8), sizeof(value));
    return value;
}

static void msr_areas_are_used(void **state)
{
    (void)state;
    vmcs12_sample(values);
    V(ENTRY_MSR_LOAD_COUNT) = V(EXIT_MSR_STORE_COUNT) = V(EXIT_MSR_LOAD_COUNT) = 3;
    start(&usual, HOST_64);
    area_set(ENTRY_AREA, 0, MSR_KERNEL_GS_BASE, 0x1111);
    area_set(ENTRY_AREA, 1, MSR_SYSENTER_ESP, 0x2222);
    area_set(ENTRY_AREA, 2, MSR_PAT, 0x0006000600060006);
    area_set(STORE_AREA, 0, MSR_KERNEL_GS_BASE, 0);
    area_set(STORE_AREA, 1, MSR_EFER, 0);
    area_set(STORE_AREA, 2, MSR_FS_BASE, 0);
    area_set(LOAD_AREA, 0, MSR_KERNEL_GS_BASE, 0x3333);
    area_set(LOAD_AREA, 1, MSR_SYSENTER_EIP, 0x4444);
    area_set(LOAD_AREA, 2, MSR_EFER, EFER_LMA | EFER_LME | EFER_SCE | EFER_NXE);
    enter(REASON_vmlaunch);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
    assert_int_equal(in_vmcs02(FIELD_GUEST_SYSENTER_ESP), 0x2222);
    assert_int_equal(in_vmcs02(FIELD_GUEST_PAT), 0x0006000600060006);
    fake_msr_set(MSR_KERNEL_GS_BASE, 0x1212);
    vmcs02_set(FIELD_GUEST_FS_BASE, 0x5555);
    nested_machine_exit_reason(REASON_cpuid, 0);
    assert_int_equal(area_value(STORE_AREA, 0), 0x1212);
    assert_int_equal(area_value(STORE_AREA, 1), V(GUEST_EFER));
    assert_int_equal(area_value(STORE_AREA, 2), 0x5555);
    assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x3333);
    expect01(FIELD_GUEST_SYSENTER_EIP, 0x4444);
    expect01(FIELD_GUEST_EFER, EFER_LMA | EFER_LME | EFER_SCE | EFER_NXE);
}

static const struct {
    uint32_t msr;
    uint64_t value;
} bad_msrs[] = { { MSR_FS_BASE, 0 },
                 { MSR_GS_BASE, 0 },
                 { 0x808, 0 },
                 { MSR_BIOS_UPDT_TRIG, 0 },
                 { MSR_PAT, 0x0202020202 },
                 { MSR_EFER, BIT(3) },
                 { MSR_EFER, EFER_SCE },
                 { 0x12345, 1 },
                 { MSR_VMX_BASIC, 1 },
                 { MSR_FEATURE_CONTROL, 5 },
                 { MSR_SYSENTER_ESP, BIT(50) },
                 { MSR_SYSENTER_EIP, BIT(63) },
                 { MSR_DEBUGCTL, BIT(40) } };

/* SDM 3, "Loading MSRs" of "VM Entries": the first bad entry fails the entry; its number is the qualification. */
static void msr_loads_fail(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_msrs); i++) {
        vmcs12_sample(values);
        V(ENTRY_MSR_LOAD_COUNT) = 3;
        start(&usual, HOST_64);
        area_set(ENTRY_AREA, 0, MSR_KERNEL_GS_BASE, 0x1111);
        area_set(ENTRY_AREA, 1, bad_msrs[i].msr, bad_msrs[i].value);
        area_set(ENTRY_AREA, 2, MSR_KERNEL_GS_BASE, 0x2222);
        assert_int_equal(l2_enter(REASON_vmlaunch), VMX_OK);
        assert_false(nested_machine_in_l3());
        assert_int_equal(l2_field(VMCS_EXIT_REASON), REASON_entry_msr_load | REASON_ENTRY_FAILURE);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), 2);
        assert_int_equal(fake_msr_get(MSR_KERNEL_GS_BASE), 0x1111);
        expect_host_state(V(GUEST_EFER), V(GUEST_PAT), 0);
    }
}

/* Nothing that an area holds may leave a state that cannot be entered. */
static void msr_loads_that_fail_at_exit(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_msrs); i++) {
        vmcs12_sample(values);
        V(EXIT_MSR_LOAD_COUNT) = 1;
        start(&usual, HOST_64);
        area_set(LOAD_AREA, 0, bad_msrs[i].msr, bad_msrs[i].value);
        enter(REASON_vmlaunch);
        expect_abort();
    }
}

/* SDM 3, "Saving MSRs": a failure is a VMX abort, too. */
static void msr_stores_that_fail(void **state)
{
    (void)state;
    static const uint32_t bad[] = { 0x808, 0x9b, 0x12345 };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        vmcs12_sample(values);
        V(EXIT_MSR_STORE_COUNT) = 2;
        start(&usual, HOST_64);
        area_set(STORE_AREA, 0, MSR_KERNEL_GS_BASE, 0);
        area_set(STORE_AREA, 1, bad[i], 0xabcd);
        enter(REASON_vmlaunch);
        expect_abort();
        assert_int_equal(area_value(STORE_AREA, 1), 0xabcd);
    }
}

/* --- failed entries --- */

/* How an entry fails although all controls are right. */
enum failure { FAIL_PROCESSOR, FAIL_LINK, FAIL_PDPTE, FAIL_MSR, FAILURES };

static void failure_make(enum failure failure)
{
    switch (failure) {
    case FAIL_PROCESSOR:
        V(GUEST_RFLAGS) = 0;
        break;
    case FAIL_LINK:
        V(VMCS_LINK_POINTER) = GUEST_PAGE(50);
        break;
    case FAIL_PDPTE: {
        V(PROC2_CONTROLS) &= ~(PROC2_EPT | PROC2_UNRESTRICTED);
        V(ENTRY_CONTROLS) &= ~ENTRY_IA32E;
        V(GUEST_EFER) = 0;
        V(GUEST_CS_AR) = CODE_32;
        V(GUEST_CR3) = PDPT32;
        break;
    }
    default:
        V(ENTRY_MSR_LOAD_COUNT) = 1;
        break;
    }
}

static const uint64_t qualifications[FAILURES] = { 0, ENTRY_FAIL_LINK_POINTER, ENTRY_FAIL_PDPTE, 1 };

/*
 * Host state is loaded as by an exit; EFER and PAT, not loaded, are the guest hypervisor's own (reason 33) since no guest state was
 * loaded; the guest state in the VMCS is as it was; no MSR is stored; blocking by NMI is as before.
 */
static void entries_fail(const struct nested_machine_config *config, uint64_t entry_off, uint64_t exit_off)
{
    for (enum failure failure = 0; failure < FAILURES; failure++) {
        nested_machine_start(config);
        vmcs12_sample(values);
        V(ENTRY_CONTROLS) &= ~entry_off;
        V(EXIT_CONTROLS) &= ~exit_off;
        V(GUEST_DR7) = 0x402;
        failure_make(failure);
        V(EXIT_MSR_STORE_COUNT) = 1;
        l2_make(0, values);
        uint64_t bad = 3;
        memcpy((void *)PDPT32, &bad, sizeof(bad));
        area_set(STORE_AREA, 0, MSR_KERNEL_GS_BASE, 0xabcd);
        area_set(ENTRY_AREA, 0, MSR_FS_BASE, 0);
        uint64_t efer = in_vmcs01(FIELD_GUEST_EFER), pat = in_vmcs01(FIELD_GUEST_PAT);
        vmcs01_set(FIELD_GUEST_DR7, 0x410);
        vmcs01_set(FIELD_GUEST_RFLAGS, RFLAGS_FIXED1 | RFLAGS_IF);
        vmcs01_set(FIELD_GUEST_INTERRUPTIBILITY, BLOCKING_NMI);
        nested_machine_exit_reason(REASON_vmlaunch, 0);
        if (failure == FAIL_MSR && (exit_off & EXIT_LOAD_EFER)) {
            efer = entry_off & ENTRY_LOAD_EFER ? efer : V(GUEST_EFER);
            pat = entry_off & ENTRY_LOAD_PAT ? pat : V(GUEST_PAT);
        }
        expect_host_state(efer, pat, BLOCKING_NMI);
        assert_int_equal(l2_field(VMCS_EXIT_REASON),
                         (failure == FAIL_MSR ? REASON_entry_msr_load : REASON_entry_guest_state) |
                             REASON_ENTRY_FAILURE);
        assert_int_equal(l2_field(VMCS_EXIT_QUALIFICATION), qualifications[failure]);
        assert_int_equal(area_value(STORE_AREA, 0), 0xabcd);
        for (int row = 0; row < FIELD_COUNT; row++)
            if (nested_caps.offered[vmcs_fields[row].cap] &&
                vmcs_encoding_type(vmcs_fields[row].encoding) == TYPE_GUEST &&
                (row < FIELD_GUEST_PDPTE0 || row > FIELD_GUEST_PDPTE3) &&
                l2_field(vmcs_fields[row].encoding) != values[row])
                fail_msg("%s has changed to %llxh (failure %d)", vmcs_fields[row].name,
                         (unsigned long long)l2_field(vmcs_fields[row].encoding), failure);
        assert_int_equal(l2_enter(REASON_vmresume), VMERR_VMRESUME_NOT_LAUNCHED);
    }
}

static void failed_entries(void **state) { (void)state, entries_fail(&usual, 0, 0); }
static void failed_entries_without_misc_29(void **state) { (void)state, entries_fail(&no_write_info, 0, 0); }
static void failed_entries_that_load_nothing(void **state)
{
    (void)state;
    entries_fail(&usual, ENTRY_LOAD_EFER | ENTRY_LOAD_PAT | ENTRY_LOAD_DEBUG, EXIT_LOAD_EFER | EXIT_LOAD_PAT);
}
static void failed_entries_that_save_nothing(void **state)
{
    (void)state;
    entries_fail(&no_write_info, ENTRY_LOAD_EFER | ENTRY_LOAD_PAT | ENTRY_LOAD_DEBUG,
                 EXIT_LOAD_EFER | EXIT_LOAD_PAT | EXIT_SAVE_EFER | EXIT_SAVE_PAT | EXIT_SAVE_DEBUG);
}

/* VMfailValid(7), found by the processor after Strata had prepared vmcs02: the guest state is untouched, too. */
static void refused_entries_change_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        for (unsigned save = 0; save < 2; save++) {
            vmcs12_sample(values);
            values[kept[i].row] = kept[i].in12;
            V(ENTRY_CONTROLS) &= ~kept[i].load;
            V(EXIT_CONTROLS) = save ? V(EXIT_CONTROLS) | kept[i].save : V(EXIT_CONTROLS) & ~kept[i].save;
            V(PIN_CONTROLS) |= kept[i].load ? 0 : PIN_PREEMPTION_TIMER;
            V(CR3_TARGET_COUNT) = 9;
            start(&usual, HOST_64);
            if (kept[i].load)
                vmcs01_set(kept[i].row, kept[i].in01);
            for (unsigned again = 0; again < 2; again++) {
                assert_int_equal(l2_enter(REASON_vmlaunch), VMERR_ENTRY_CONTROLS);
                assert_int_equal(l2_field(vmcs_fields[kept[i].row].encoding), kept[i].in12);
            }
        }
}

int main(void)
{
#define TEST(function)                                                                                                 \
    {                                                                                                                  \
#function, function                                                                                            \
    }
    static const struct isolated_test tests[] = {
        TEST(hosts_of_64_bits),
        TEST(hosts_of_32_bits),
        TEST(hosts_with_pae),
        TEST(bad_pdptes_of_the_host),
        TEST(blocking_by_nmi),
        TEST(fields_that_are_not_loaded_or_saved),
        TEST(l3_enters_long_mode),
        TEST(msr_areas_are_used),
        TEST(msr_loads_fail),
        TEST(msr_loads_that_fail_at_exit),
        TEST(msr_stores_that_fail),
        TEST(failed_entries),
        TEST(failed_entries_without_misc_29),
        TEST(failed_entries_that_load_nothing),
        TEST(failed_entries_that_save_nothing),
        TEST(refused_entries_change_nothing),
    };
    return isolated_tests_run(tests, ARRAY_SIZE(tests));
}
