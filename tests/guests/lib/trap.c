/*
 * GDT, TSS and IDT; what happens on an interrupt or fault.
 * Order: interrupts are counted; a fault at a guarded instruction (.extable) continues at its fixup; any other fault
 * ends the running test on the first CPU and stops any other CPU.
 */
#include "verdict.h"

enum { TRAP_STACK = 8192, USER_STACK = 8192 };
struct tss {
#ifdef __x86_64__
    u32 zero;
    u64 rsp[3], zero2, ist[7];
    u32 zero3, zero4;
    u16 zero5, iomap;
#else
    u32 link, esp0, ss0, rest[22];
    u16 trap, iomap;
#endif
} __attribute__((packed));

struct trap_frame {
#ifdef __x86_64__
    ulong r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
    ulong di, si, bp, sp, bx, dx, cx, ax;
#endif
    ulong vector, error, ip, cs, flags;
};
struct extable {
    ulong from, to;
};
struct gate {
    u32 word[IS64 ? 4 : 2];
};

extern char trap_stubs[], extable_start[], extable_end[];
void user_enter(void (*fn)(void *), void *arg, void *stack);
void trap_handle(struct trap_frame *f);

struct cpu cpus[CPUS];
static u64 gdt[8 + 2 * CPUS] __attribute__((aligned(16)));
static struct gate idt[256] __attribute__((aligned(16)));
static struct tss tss[CPUS] __attribute__((aligned(128)));
static u8 trap_stack[CPUS][TRAP_STACK] __attribute__((aligned(16)));
static u8 user_stack[CPUS][USER_STACK] __attribute__((aligned(16)));

ulong tss_base(u32 index) { return (ulong)&tss[index]; }

static void gdt_fill(void)
{
    static const u64 fixed[8] = {
        0,
        IS64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
        0x00cf93000000ffff,
        0x00cf9b000000ffff,
        IS64 ? 0x00affb000000ffff : 0x00cffb000000ffff,
        0x00cff3000000ffff,
        0x00009b000000ffff,
        0x000093000000ffff,
    };
    memcpy(gdt, fixed, sizeof fixed);
    for (u32 i = 0; i < CPUS; i++) {
        u64 base = tss_base(i);
        gdt[8 + 2 * i] = (sizeof tss[0] - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
        gdt[9 + 2 * i] = base >> 32;
    }
}

static void idt_fill(void)
{
    for (u32 v = 0; v < 256; v++) {
        ulong at = (ulong)trap_stubs + 16 * v;
        idt[v].word[0] = SEL_CODE << 16 | (at & 0xffff);
        idt[v].word[1] = ((u32)at & 0xffff0000) | 0x8e00 | (v == VEC_USER_RETURN ? 0x6000 : 0);
#ifdef __x86_64__
        idt[v].word[2] = (u32)(at >> 32);
#endif
    }
}

/* Loads GDT, segments, TR and IDT of this CPU; this_cpu() works from here on. */
void trap_init_cpu(u32 index)
{
    if (index == 0) {
        gdt_fill();
        idt_fill();
    }
    struct tss *t = &tss[index];
    ulong top = (ulong)trap_stack[index] + TRAP_STACK;
#ifdef __x86_64__
    t->rsp[0] = top;
#else
    t->esp0 = (u32)top;
    t->ss0 = SEL_DATA;
#endif
    t->iomap = sizeof *t;
    gdt[8 + 2 * index] &= ~(2ull << 40); /* not busy */
    struct table_ptr g = { sizeof gdt - 1, (ulong)gdt }, i = { sizeof idt - 1, (ulong)idt };
    asm volatile("lgdt %0\nlidt %1" : : "m"(g), "m"(i));
    asm volatile("mov %0,%%ds\nmov %0,%%es\nmov %0,%%ss\nmov %0,%%fs\nmov %0,%%gs" : : "r"(SEL_DATA));
#ifdef __x86_64__
    asm volatile("pushq %0\nleaq 1f(%%rip),%%rax\npush %%rax\nlretq\n1:" : : "i"(SEL_CODE) : "rax", "memory");
#else
    asm volatile("ljmp %0,$1f\n1:" : : "i"(SEL_CODE));
#endif
    asm volatile("lldt %w0\nltr %w1" : : "r"(0), "r"(SEL_TSS0 + SEL_TSS_STEP * index));
    cpus[index].index = index;
    cpus[index].fault.vector = -1;
}

static bool fixup(struct trap_frame *f, struct cpu *cpu)
{
    for (const struct extable *e = (void *)extable_start; e < (struct extable *)extable_end; e++) {
        if (e->from != f->ip)
            continue;
        cpu->fault = (struct fault){ (int)f->vector, (u32)f->error, read_cr2(), f->flags };
        f->ip = e->to;
        return true;
    }
    return false;
}

/* One step is enough, and the instruction at a breakpoint is executed. */
static void debug_note(struct trap_frame *f, struct debug *d)
{
    d->count++;
    d->ip = f->ip;
    d->flags = f->flags;
    asm volatile("mov %%dr6,%0" : "=r"(d->dr6));
    f->flags = (f->flags & ~(ulong)RFLAGS_TF) | RFLAGS_RF;
}

void trap_handle(struct trap_frame *f)
{
    struct cpu *cpu = this_cpu();
    if (f->vector == VEC_USER_RETURN && (f->cs & 3)) {
        /* The IRET to CPL 3 left FS and GS null, the way back SS (64-bit). */
        asm volatile("mov %0,%%ss\nmov %0,%%ds\nmov %0,%%es\nmov %0,%%fs\nmov %0,%%gs" : : "r"(SEL_DATA));
        context_jump(&cpu->user);
    }
    if (f->vector >= 32 || f->vector == VEC_NMI) {
        cpu->irqs[f->vector]++;
        cpu->irq_ip = f->ip;
        if (f->vector >= 32 && f->vector != VEC_SPURIOUS)
            apic_eoi();
        return;
    }
    if (f->vector == VEC_DB && cpu->debug.expected) {
        debug_note(f, &cpu->debug);
        return;
    }
    if (fixup(f, cpu))
        return;
    char what[120];
    format(what, sizeof what, "vector %u error %lx at %lx cr2 %lx cpu %u", (u32)f->vector, f->error, f->ip, read_cr2(),
           cpu->index);
    if (cpu->index == 0)
        test_fault(what);
    put("note lib.trap: ");
    put(what);
    put("\n");
    for (;;)
        asm volatile("cli\nhlt");
}

void user_call(void (*fn)(void *), void *arg)
{
    struct cpu *cpu = this_cpu();
    if (context_save(&cpu->user) == 0)
        user_enter(fn, arg, user_stack[cpu->index] + USER_STACK - 64);
}
