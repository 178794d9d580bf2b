/*
 * The checks of VM entry once more, written down bit by bit; see entry_model.h. Bits are numbers here on purpose: a
 * name in core/ that stood for the wrong bit would be wrong in both places otherwise.
 */
#include "tests/host/nested/entry_model.h"

#include <string.h>

#include "core/memory/mem.h"

#define MSR(number) v->caps->msr[(number)-0x480]
#define F(name) v->values[FIELD_##name]

static bool bit(uint64_t value, int n) { return value >> n & 1; }

/* Every 1 of "must" is there, and nothing that is not in "may". */
static bool between(uint64_t value, uint64_t must, uint64_t may)
{
    for (int n = 0; n < 64; n++)
        if ((bit(must, n) && !bit(value, n)) || (!bit(may, n) && bit(value, n)))
            return false;
    return true;
}

static bool controls_between(uint64_t value, uint64_t msr) { return between(value, msr & 0xffffffff, msr >> 32); }

static bool address(const struct check_view *v, uint64_t value, uint64_t align)
{
    return value % align == 0 && value < 1ull << v->caps->maxphyaddr;
}

static bool area(const struct check_view *v, uint64_t start, uint64_t entries)
{
    uint64_t limit = 1ull << v->caps->maxphyaddr;
    return entries == 0 || (start % 16 == 0 && start < limit && limit - start >= entries * 16);
}

static bool canonical(const struct check_view *v, uint64_t value)
{
    uint64_t half = 1ull << ((bit(MSR(0x489), 12) ? 57 : 48) - 1);
    return value < half || value >= -half;
}

static bool execution_controls(const struct check_view *v, uint64_t proc2)
{
    uint64_t pin = F(PIN_CONTROLS), proc = F(PROC_CONTROLS);

    if (bit(proc, 25) && (!address(v, F(IO_BITMAP_A), 4096) || !address(v, F(IO_BITMAP_B), 4096)))
        return false;
    if (bit(proc, 28) && !address(v, F(MSR_BITMAP), 4096))
        return false;
    if (bit(proc, 21) && !address(v, F(VIRTUAL_APIC_ADDR), 4096))
        return false;
    if ((!bit(pin, 3) && bit(pin, 5)) || (!bit(pin, 5) && bit(proc, 22)))
        return false;
    if (bit(proc2, 0) && !address(v, F(APIC_ACCESS_ADDR), 4096))
        return false;
    if (!bit(proc, 21) && (bit(proc2, 4) || bit(proc2, 8) || bit(proc2, 9)))
        return false;
    if (bit(proc2, 4) && bit(proc2, 0))
        return false;
    if (bit(proc2, 9) && !bit(pin, 0))
        return false;
    if (bit(pin, 7) && (!bit(proc2, 9) || !bit(F(EXIT_CONTROLS), 15) || F(POSTED_INTR_VECTOR) > 255 ||
                        !address(v, F(POSTED_INTR_DESC), 64)))
        return false;
    if (bit(proc2, 5) && F(VPID) == 0)
        return false;
    if (bit(proc2, 7) && !bit(proc2, 1))
        return false;
    return !bit(proc2, 14) || (address(v, F(VMREAD_BITMAP), 4096) && address(v, F(VMWRITE_BITMAP), 4096));
}

static bool eptp(const struct check_view *v)
{
    uint64_t value = F(EPTP), cap = MSR(0x48c);
    uint64_t type = value % 8;

    if (!(type == 0 && bit(cap, 8)) && !(type == 6 && bit(cap, 14)))
        return false;
    if (value / 8 % 8 != 3 || !bit(cap, 6))
        return false;
    if (bit(value, 6) && !bit(cap, 21))
        return false;
    return value / 128 % 32 == 0 && value < 1ull << v->caps->maxphyaddr;
}

bool model_controls(const struct check_view *v)
{
    bool has_true = bit(MSR(0x480), 55);
    uint64_t proc2 = bit(F(PROC_CONTROLS), 31) ? F(PROC2_CONTROLS) : 0;
    uint64_t exit = F(EXIT_CONTROLS), entry = F(ENTRY_CONTROLS);

    if (!controls_between(F(PIN_CONTROLS), has_true ? MSR(0x48d) : MSR(0x481)) ||
        !controls_between(F(PROC_CONTROLS), has_true ? MSR(0x48e) : MSR(0x482)) ||
        !controls_between(exit, has_true ? MSR(0x48f) : MSR(0x483)) ||
        !controls_between(entry, has_true ? MSR(0x490) : MSR(0x484)))
        return false;
    if (bit(F(PROC_CONTROLS), 31) && !controls_between(F(PROC2_CONTROLS), MSR(0x48b)))
        return false;
    if (!execution_controls(v, proc2) || (bit(proc2, 1) && !eptp(v)))
        return false;
    if (bit(exit, 22) && !bit(F(PIN_CONTROLS), 6))
        return false;
    if (!area(v, F(EXIT_MSR_STORE_ADDR), F(EXIT_MSR_STORE_COUNT)) ||
        !area(v, F(EXIT_MSR_LOAD_ADDR), F(EXIT_MSR_LOAD_COUNT)) ||
        !area(v, F(ENTRY_MSR_LOAD_ADDR), F(ENTRY_MSR_LOAD_COUNT)))
        return false;
    return !bit(entry, 10) && !bit(entry, 11);
}

static bool pat(uint64_t value)
{
    for (int i = 0; i < 8; i++, value /= 256)
        if (value % 256 > 7 || value % 256 == 2 || value % 256 == 3)
            return false;
    return true;
}

static bool host_selectors(const struct check_view *v, bool is_64)
{
    const uint64_t selectors[] = { F(HOST_CS_SEL), F(HOST_TR_SEL), F(HOST_SS_SEL), F(HOST_DS_SEL),
                                   F(HOST_ES_SEL), F(HOST_FS_SEL), F(HOST_GS_SEL) };
    for (int i = 0; i < 7; i++)
        if (selectors[i] % 8 || (i < (is_64 ? 2 : 3) && selectors[i] == 0))
            return false;
    return true;
}

bool model_host(const struct check_view *v)
{
    const uint64_t bases[] = { F(HOST_FS_BASE),   F(HOST_GS_BASE),      F(HOST_TR_BASE),     F(HOST_GDTR_BASE),
                               F(HOST_IDTR_BASE), F(HOST_SYSENTER_ESP), F(HOST_SYSENTER_EIP) };
    uint64_t cr0 = F(HOST_CR0), cr4 = F(HOST_CR4), efer = F(HOST_EFER), exit = F(EXIT_CONTROLS);
    bool is_64 = bit(exit, 9);

    if (!between(cr0, MSR(0x486), MSR(0x487)) || !between(cr4, MSR(0x488), MSR(0x489)) ||
        (bit(cr4, 23) && !bit(cr0, 16)))
        return false;
    if (F(HOST_CR3) >= 1ull << v->caps->maxphyaddr)
        return false;
    for (int i = 0; i < 7; i++)
        if (!canonical(v, bases[i]))
            return false;
    if (bit(exit, 19) && !pat(F(HOST_PAT)))
        return false;
    if (bit(exit, 21) && (!between(efer, 0, v->caps->efer) || bit(efer, 10) != is_64 || bit(efer, 8) != is_64))
        return false;
    if (!host_selectors(v, is_64) || v->ia32e != is_64)
        return false;
    if (is_64)
        return bit(cr4, 5) && canonical(v, F(HOST_RIP));
    return !bit(F(ENTRY_CONTROLS), 9) && !bit(cr4, 17) && F(HOST_RIP) < 1ull << 32;
}

bool model_link(const struct check_view *v)
{
    uint64_t link = F(VMCS_LINK_POINTER);
    uint32_t word;

    if (link == UINT64_MAX)
        return true;
    if (!address(v, link, 4096) || link == v->current_vmcs.v)
        return false;
    memcpy(&word, gpa1_ptr(gpa1(link)), sizeof(word));
    return (word & 0x7fffffff) == (MSR(0x480) & 0x7fffffff) &&
           bit(word, 31) == (bit(F(PROC_CONTROLS), 31) && bit(F(PROC2_CONTROLS), 14));
}
