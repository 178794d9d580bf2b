/*
 * Random steps in the world of ept_world.h: whatever a guest hypervisor, its nested guests and ept01 may do, and a good
 * deal that no sane one would.
 */
#ifndef STRATA_EPT_STEPS_H
#define STRATA_EPT_STEPS_H

/* Some tables and pages to begin with. */
void steps_begin(void);
/* One step, chosen by world_choose(). */
void steps_one(void);

#endif
