/*
 * The local APIC as Strata itself uses it: to know its own id and to send INIT, SIPI and what the guest's ICR writes say.
 * Works in whichever mode (xAPIC or x2APIC) the CPU is in at the moment; never changes the mode.
 */
#ifndef STRATA_LAPIC_H
#define STRATA_LAPIC_H

#include "core/lib/types.h"

uint32_t lapic_id(void);
/* Physical address of the xAPIC page. */
uint64_t lapic_page(void);
bool lapic_is_x2apic(void);
/* low: ICR bits 31:0; destination: an APIC id (or logical destination), 8 bits in xAPIC mode. Waits until it was sent. */
void lapic_icr_write(uint32_t low, uint32_t destination);
/* A 32-bit register of the xAPIC page; the CPU must be in xAPIC mode. */
void lapic_write(uint32_t offset, uint32_t value);
uint32_t lapic_read(uint32_t offset);

#endif
