/*
 * The spurious interrupt of the 8259: its request is withdrawn before the processor acknowledges it, and the controller
 * answers with IRQ 7, which then is not in service. The timer (8254, channel 0) makes the request and takes it back.
 */
#include "exits.h"

enum {
    PIC = 0x20,
    PIC_MASK = 0x21,
    READ_REQUESTS = 0x0a, /* OCW3 */
    READ_IN_SERVICE = 0x0b,
    PIC_EOI = 0x20,
    PIT = 0x40,
    PIT_MODE = 0x43,
    PIT_ONE_SHOT =
        0x30, /* channel 0, mode 0: the output falls when this is written and rises at the end of the count */
    LINT0_EXTINT = 0x700,
    LINT0_MASKED = 0x10000,
    TIMER_VECTOR = 0x40, /* pic_init */
    SPURIOUS_VECTOR = 0x47,
    PATIENCE = 1000000,
};

static u8 pic_read(u8 what)
{
    outb(PIC, what);
    return inb(PIC);
}

static void pit_start(void)
{
    outb(PIT_MODE, PIT_ONE_SHOT);
    outb(PIT, 20);
    outb(PIT, 0);
}

/* Leaves the processor's interrupt pin asserted with nothing behind it. Interrupts are off. */
static void request_withdrawn(void)
{
    pit_start();
    for (u32 i = 0; i < PATIENCE && !(pic_read(READ_REQUESTS) & 1); i++)
        pause();
    outb(PIT_MODE, PIT_ONE_SHOT);
}

static void pic_open(void)
{
    apic_write(APIC_LVT_LINT0, LINT0_EXTINT);
    outb(PIC_MASK, 0xfe);
}

static void pic_close(void)
{
    check_eq("8259: in service", pic_read(READ_IN_SERVICE), 0);
    outb(PIC_MASK, 0xff);
    apic_write(APIC_LVT_LINT0, LINT0_MASKED);
}

static void taken_here(u32 vector)
{
    u32 before = this_cpu()->irqs[vector];
    irq_on();
    irq_off();
    check_eq("times that the guest hypervisor took the vector", this_cpu()->irqs[vector] - before, 1);
}

/* So that the others mean something: a request that stays is IRQ 0, one that goes is IRQ 7. */
static void hypervisor(void)
{
    pic_open();
    request_withdrawn();
    taken_here(SPURIOUS_VECTOR);
    pit_start();
    for (u32 i = 0; i < PATIENCE && !(pic_read(READ_REQUESTS) & 1); i++)
        pause();
    taken_here(TIMER_VECTOR);
    check_eq("8259: in service", pic_read(READ_IN_SERVICE), 1);
    outb(PIC, PIC_EOI);
    pic_close();
}

static void g_withdrawn_sti(void)
{
    request_withdrawn();
    irq_on();
    irq_off();
}

static void delivered(void) /* made and taken by the nested guest */
{
    struct nest *n = nest_new(NEST_SAME, g_withdrawn_sti);
    if (!n)
        return;
    pic_open();
    if (nest_event(n, SPURIOUS_VECTOR, 0)) {
        nest_skip();
        NEST_RUN(n, REASON_VMCALL);
    }
    pic_close();
}

GUEST(g_nop, "nop")

static void exiting(bool acknowledge)
{
    struct nest *n = nest_need(pin_msr(), PIN_EXT_INT, "external-interrupt exiting") ? nest_new(NEST_SAME, g_nop)
                                                                                     : NULL;
    if (!n || (acknowledge && !nest_need(exit_msr(), EXIT_ACK_INT, "acknowledge on exit")))
        return;
    nest_control(PIN_CONTROLS, PIN_EXT_INT, 0);
    nest_control(EXIT_CONTROLS, acknowledge ? EXIT_ACK_INT : 0, acknowledge ? 0 : EXIT_ACK_INT);
    vmset(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    pic_open();
    request_withdrawn();
    if (nest_expect(n, REASON_EXT_INT)) {
        if (acknowledge)
            check_eq("interruption information", vmget(EXIT_INTR_INFO), INTR_VALID | INTR_EXT | SPURIOUS_VECTOR);
        else
            taken_here(SPURIOUS_VECTOR);
        nest_expect(n, REASON_VMCALL); /* and no second one */
    }
    pic_close();
}
static void exits(void) { exiting(false); }
static void exits_acknowledged(void) { exiting(true); }

// clang-format off
const struct test exit_pic_tests[] = {
    { "irq7-hypervisor", hypervisor },
    { "irq7-delivered", delivered },
    { "irq7-exit", exits },
    { "irq7-acknowledged", exits_acknowledged },
    { NULL, NULL },
};
// clang-format on
