/*
 * Finding out where a hypervisor keeps the fields of a VMCS; see vmcs_image.h.
 */
#include "core/cpu/vmcs_image.h"

#include "core/cpu/vmx_caps.h"
#include "core/lib/hw.h"

/*
 * What is written into each row: recognizable at its own width, no part of it is another row's. Hypervisors drop reserved bits of
 * access rights (KVM keeps 1F0FFh), as processors may.
 */
#define MARK_W16 0xa000ull
#define MARK_W32 0xb1b0c100ull
#define MARK_RIGHTS 0x13000ull
#define MARK_W64 0xd1d0e1e0f1f00000ull
#define SECOND_MARK 0x0a00ull /* other values for the way back; for access rights 8000h */
#define SECOND_RIGHTS 0x8000ull
#define REGION_DATA 8 /* the revision and the abort indicator are before it */

struct vmcs_image vmcs_image;

static bool is_rights(enum vmcs_row row) { return row >= FIELD_GUEST_ES_AR && row <= FIELD_GUEST_TR_AR; }

static uint64_t mark(enum vmcs_row row)
{
    if (is_rights(row))
        return MARK_RIGHTS | row;
    switch (vmcs_fields[row].width) {
    case WIDTH_W16:
        return MARK_W16 | row;
    case WIDTH_W32:
        return MARK_W32 | row;
    default:
        return MARK_W64 | row;
    }
}

static uint64_t other_mark(enum vmcs_row row) { return mark(row) ^ (is_rights(row) ? SECOND_RIGHTS : SECOND_MARK); }

static unsigned width_bytes(enum vmcs_row row)
{
    enum vmcs_width width = vmcs_fields[row].width;
    return width == WIDTH_W16 ? 2 : width == WIDTH_W32 ? 4 : 8;
}

static bool is_wanted(const struct vmx_caps *hw, enum vmcs_row row)
{
    return hw->offered[vmcs_fields[row].cap] && !hw->missing[row];
}

/* The one offset at which value stands in the region; 0: none, or more than one. */
static uint16_t find(hpa_t region, uint64_t value, unsigned bytes)
{
    const char *data = hpa_ptr(region);
    uint16_t found = 0;
    for (unsigned at = REGION_DATA; at < PAGE_SIZE; at += bytes) {
        if (memcmp(data + at, &value, bytes) != 0)
            continue;
        if (found)
            return 0;
        found = (uint16_t)at;
    }
    return found;
}

static void write_marks(const struct vmx_caps *hw)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
        if (is_wanted(hw, row))
            hw_vmwrite(vmcs_fields[row].encoding, mark(row));
}

/* Each mark was written to memory when the VMCS was left. */
static bool find_places(hpa_t region, const struct vmx_caps *hw)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++) {
        if (!is_wanted(hw, row))
            continue;
        vmcs_image.place[row] = find(region, mark(row), width_bytes(row));
        if (!vmcs_image.place[row])
            return false;
    }
    return true;
}

/* What is in memory is what VMREAD gives once the VMCS is current again, the other fields as they were. */
static bool comes_back(const struct vmx_caps *hw)
{
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
        if (is_wanted(hw, row) && hw_vmread(vmcs_fields[row].encoding) != (row & 1 ? mark(row) : other_mark(row)))
            return false;
    return true;
}

static bool try_out(hpa_t first, hpa_t second, const struct vmx_caps *hw)
{
    /* One field first: elsewhere nothing more is asked. */
    hw_vmptrld(first);
    hw_vmwrite(VMCS_GUEST_RIP, mark(FIELD_GUEST_RIP));
    hw_vmptrld(second);
    if (!find(first, mark(FIELD_GUEST_RIP), width_bytes(FIELD_GUEST_RIP)))
        return false;
    hw_vmptrld(first);
    write_marks(hw);
    hw_vmptrld(second);
    if (!find_places(first, hw))
        return false;
    for (enum vmcs_row row = 0; row < FIELD_COUNT; row++)
        if (is_wanted(hw, row) && !(row & 1))
            vmcs_image_write(first, row, other_mark(row));
    hw_vmptrld(first);
    return comes_back(hw);
}

static void empty(hpa_t region)
{
    uint32_t revision = *(const uint32_t *)hpa_ptr(region);
    hw_vmclear(region);
    memset(hpa_ptr(region), 0, PAGE_SIZE);
    *(uint32_t *)hpa_ptr(region) = revision;
    hw_vmclear(region);
}

void vmcs_image_probe(hpa_t first, hpa_t second, const struct vmx_caps *hw)
{
    vmcs_image.on = false;
    if (!(vmx_caps_msr(hw, MSR_VMX_MISC) & VMX_MISC_WRITE_INFO)) /* exit information could not be tried out */
        return;
    hw_vmclear(first);
    hw_vmclear(second);
    vmcs_image.on = try_out(first, second, hw);
    empty(first);
    empty(second);
}
