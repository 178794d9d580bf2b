/*
 * See vmcs_oracle.h.
 */
#include "tests/host/shadow-vmcs/vmcs_oracle.h"

#include <string.h>

static bool is_guests(const struct vmcs_oracle *o) { return !o->active && !o->busy; }

static void note_page(struct vmcs_oracle *o)
{
    if (is_guests(o))
        memcpy(o->expected, o->page, PAGE_SIZE);
}

static void undefine(struct vmcs_oracle *o) { o->is = (struct vmcs_content){ .undefined = true }; }

void vmcs_oracle_init(struct vmcs_oracle *o, void *page, struct vmcs_content content)
{
    memset(o, 0, sizeof(*o));
    o->page = page;
    o->is = content;
    note_page(o);
}

void vmcs_oracle_begin(struct vmcs_oracle *o, unsigned cpu)
{
    if (o->busy & ~BIT(cpu))
        undefine(o);
    o->busy |= (uint32_t)BIT(cpu);
}

void vmcs_oracle_end(struct vmcs_oracle *o, unsigned cpu)
{
    o->busy &= ~(uint32_t)BIT(cpu);
    note_page(o);
}

void vmcs_oracle_activate(struct vmcs_oracle *o, unsigned cpu)
{
    if (o->active & ~BIT(cpu))
        undefine(o);
    o->active |= (uint32_t)BIT(cpu);
}

void vmcs_oracle_clear(struct vmcs_oracle *o, unsigned cpu)
{
    if (o->active & ~BIT(cpu))
        undefine(o);
    o->active &= ~(uint32_t)BIT(cpu);
    o->is.launched = false;
}

void vmcs_oracle_leave(struct vmcs_oracle *o, unsigned cpu)
{
    if (o->active & BIT(cpu) && o->active & ~BIT(cpu))
        undefine(o);
    o->active &= ~(uint32_t)BIT(cpu);
}

void vmcs_oracle_store(struct vmcs_oracle *o, struct vmcs_content content)
{
    if (is_guests(o))
        o->is = content;
    else
        undefine(o);
    note_page(o);
}

struct vmcs_content vmcs_oracle_copy(const struct vmcs_oracle *o)
{
    struct vmcs_content undefined = { .undefined = true };
    return is_guests(o) ? o->is : undefined;
}

bool vmcs_oracle_written(const struct vmcs_oracle *o)
{
    return is_guests(o) && memcmp(o->expected, o->page, PAGE_SIZE) != 0;
}
