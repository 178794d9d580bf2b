/*
 * Resetting the machine: what a triple fault of the guest does on a PC without a hypervisor.
 */
#include "core/guest/dispatch.h"

#define RESET_CONTROL 0xcf9
#define RESET_FULL 0x06
#define KEYBOARD_COMMAND 0x64
#define KEYBOARD_PULSE_RESET 0xfe

void machine_reset(void)
{
    hw_outb(RESET_CONTROL, RESET_FULL & ~4);
    hw_outb(RESET_CONTROL, RESET_FULL);
    for (unsigned i = 0; i < 1000000; i++)
        hw_pause();
    hw_outb(KEYBOARD_COMMAND, KEYBOARD_PULSE_RESET);
    hw_halt();
}
