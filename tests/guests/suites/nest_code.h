/* Entry points of nest_code.S. */
#ifndef GUESTS_NEST_CODE_H
#define GUESTS_NEST_CODE_H

void code32_hello(void);
void code32_switch(void);
void code32_enable_pae(void);
void code32_load_cr3(void);
void code32_touch(void);
void code32_pdpte_stored(void);
void code32_pdpte_cr3(void);
void code32_pdpte_cr4(void);
void code32_pdpte_cr0(void);
void code32_gp(void);
void real_e820(void);
void real_hello(void);
void real_int(void);
void real_wait(void);
void real_protect(void);
void real_handler(void);
extern char real_handler_end[];

#endif
