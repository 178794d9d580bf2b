/*
 * What SDM 3, "Software Use of Virtual-Machine Control Structures", says of one VMCS region that several CPUs use, and nothing of how
 * that is done: on which CPUs it is active, what VMREAD must give, the launch state, and whether its page is the guest's alone.
 * Where software breaks a rule (active on two CPUs, a store to an active region, two at once), contents are undefined
 * until the region is clear and written anew.
 */
#ifndef STRATA_TEST_VMCS_ORACLE_H
#define STRATA_TEST_VMCS_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/lib/types.h"

struct vmcs_content {
    bool undefined, launched;
    bool sound;          /* the other fields pass all checks of a VM entry */
    uint64_t held, soft; /* the two fields that are followed: GUEST_RSP, HOST_RSP */
};

struct vmcs_oracle {
    uint8_t *page;
    uint32_t active, busy; /* BIT(cpu): is active there; an instruction there is in the middle of using it */
    struct vmcs_content is;
    uint8_t expected[PAGE_SIZE]; /* the page while it is the guest's */
};

void vmcs_oracle_init(struct vmcs_oracle *o, void *page, struct vmcs_content content);
/* An instruction of the CPU that uses the region begins and ends. */
void vmcs_oracle_begin(struct vmcs_oracle *o, unsigned cpu);
void vmcs_oracle_end(struct vmcs_oracle *o, unsigned cpu);
/* What it was; before vmcs_oracle_end. */
void vmcs_oracle_activate(struct vmcs_oracle *o, unsigned cpu);
void vmcs_oracle_clear(struct vmcs_oracle *o, unsigned cpu);
/* VMXOFF: the SDM lets it corrupt the VMCS; owner.h promises that it does not, and that nothing is written later. */
void vmcs_oracle_leave(struct vmcs_oracle *o, unsigned cpu);
/* The page was written with ordinary stores and means this if it is a clear VMCS. */
void vmcs_oracle_store(struct vmcs_oracle *o, struct vmcs_content content);
/* What a copy of the page is. */
struct vmcs_content vmcs_oracle_copy(const struct vmcs_oracle *o);
/* The page is the guest's and is not what the guest and VMCLEAR made of it. */
bool vmcs_oracle_written(const struct vmcs_oracle *o);

#endif
