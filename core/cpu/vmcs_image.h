/*
 * VMCSs of a machine that is a hypervisor and keeps them in memory as they are: KVM writes the current VMCS to its region whenever another
 * becomes current, and reads the region when it becomes current again. Where that is so, the fields of a VMCS that is not current
 * are ordinary memory, and what otherwise is an exit to that hypervisor for each VMREAD and VMWRITE costs nothing.
 *
 * No processor promises that, and no list says which hypervisor does: it is tried out at start, field by field, both ways, with
 * VMCSs that are never entered. Nothing is assumed of a bare machine, where it is not even tried.
 */
#ifndef STRATA_VMCS_IMAGE_H
#define STRATA_VMCS_IMAGE_H

#include "core/cpu/vmcs_fields.h"
#include "core/cpu/vmx_caps.h"
#include "core/memory/mem.h"

struct vmcs_image {
    bool on;                     /* every field that the machine has has a place */
    uint16_t place[FIELD_COUNT]; /* offset in the region, bytes; 0: none */
};
extern struct vmcs_image vmcs_image; /* written before the guest runs */

/*
 * Tries it out: sets vmcs_image. first and second are regions with the revision in them, neither current nor ever entered since; both
 * are cleared (VMCLEAR) afterwards, and no VMCS is current. hw: with the fields that the machine lacks.
 */
void vmcs_image_probe(hpa_t first, hpa_t second, const struct vmx_caps *hw);

/* A field of a VMCS that is not current on any processor. The row has a place. */
static inline void vmcs_image_write(hpa_t region, enum vmcs_row row, uint64_t value)
{
    void *at = (char *)hpa_ptr(region) + vmcs_image.place[row];
    switch (vmcs_fields[row].width) {
    case WIDTH_W16:
        *(volatile uint16_t *)at = (uint16_t)value;
        break;
    case WIDTH_W32:
        *(volatile uint32_t *)at = (uint32_t)value;
        break;
    default:
        *(volatile uint64_t *)at = value;
    }
}

static inline uint64_t vmcs_image_read(hpa_t region, enum vmcs_row row)
{
    const void *at = (const char *)hpa_ptr(region) + vmcs_image.place[row];
    switch (vmcs_fields[row].width) {
    case WIDTH_W16:
        return *(const volatile uint16_t *)at;
    case WIDTH_W32:
        return *(const volatile uint32_t *)at;
    default:
        return *(const volatile uint64_t *)at;
    }
}

#endif
