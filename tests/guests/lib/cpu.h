/*
 * The processor as the small test guests see it: types, register helpers, per-CPU data.
 * Compiles for 64-bit and 32-bit guests; `ulong` is the natural width of the build.
 * Nothing here may depend on Strata: these guests run the same on the bare machine.
 */
#ifndef GUESTS_CPU_H
#define GUESTS_CPU_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long ulong;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
typedef __SIZE_TYPE__ size_t;

#ifdef __x86_64__
#define IS64 1
#define REG_SUFFIX "q"
#define REG_AX "rax"
#define REG_BX "rbx"
#define REG_CX "rcx"
#define REG_DX "rdx"
#define REG_SI "rsi"
#else
#define IS64 0
#define REG_SUFFIX "l"
#define REG_AX "eax"
#define REG_BX "ebx"
#define REG_CX "ecx"
#define REG_DX "edx"
#define REG_SI "esi"
#endif

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE 4096u
#define MIB (1u << 20)
#define GIB (1ull << 30)
#define BIT(n) (1ull << (n))

// clang-format off
/* Selectors of the one GDT (trap.c). TSS slots follow, one per CPU; STR names the CPU. */
enum { SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_CODE32 = 0x18, SEL_UCODE = 0x23, SEL_UDATA = 0x2b,
       SEL_CODE16 = 0x30, SEL_DATA16 = 0x38, SEL_TSS0 = 0x40, SEL_TSS_STEP = 0x10 };

enum {
    CR0_PE = 1u << 0, CR0_MP = 1u << 1, CR0_EM = 1u << 2, CR0_TS = 1u << 3, CR0_NE = 1u << 5,
    CR0_WP = 1u << 16, CR0_AM = 1u << 18, CR0_NW = 1u << 29, CR0_CD = 1u << 30,
};
#define CR0_PG 0x80000000ul
enum {
    CR4_TSD = 1u << 2, CR4_DE = 1u << 3, CR4_PSE = 1u << 4, CR4_PAE = 1u << 5, CR4_PGE = 1u << 7,
    CR4_PCE = 1u << 8, CR4_OSFXSR = 1u << 9, CR4_VMXE = 1u << 13, CR4_PCIDE = 1u << 17, CR4_OSXSAVE = 1u << 18,
};
enum { RFLAGS_CF = 1u << 0, RFLAGS_FIXED = 1u << 1, RFLAGS_ZF = 1u << 6, RFLAGS_TF = 1u << 8,
       RFLAGS_IF = 1u << 9, RFLAGS_RF = 1u << 16, RFLAGS_VM = 1u << 17, RFLAGS_ARITH = 0x8d5 };
enum { EFER_SCE = 1u << 0, EFER_LME = 1u << 8, EFER_LMA = 1u << 10, EFER_NXE = 1u << 11 };

enum {
    MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_FEATURE_CONTROL = 0x3a, MSR_MTRRCAP = 0xfe,
    MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176,
    MSR_MTRR_PHYSBASE0 = 0x200, MSR_MTRR_PHYSMASK0 = 0x201, MSR_MTRR_FIX64K = 0x250, MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_VMX_BASIC = 0x480, MSR_VMX_PIN = 0x481, MSR_VMX_PROC = 0x482, MSR_VMX_EXIT = 0x483, MSR_VMX_ENTRY = 0x484,
    MSR_VMX_MISC = 0x485, MSR_VMX_CR0_FIXED0 = 0x486, MSR_VMX_CR0_FIXED1 = 0x487, MSR_VMX_CR4_FIXED0 = 0x488,
    MSR_VMX_CR4_FIXED1 = 0x489, MSR_VMX_VMCS_ENUM = 0x48a, MSR_VMX_PROC2 = 0x48b, MSR_VMX_EPT_VPID = 0x48c,
    MSR_VMX_TRUE_PIN = 0x48d, MSR_VMX_TRUE_PROC = 0x48e, MSR_VMX_TRUE_EXIT = 0x48f, MSR_VMX_TRUE_ENTRY = 0x490,
    MSR_VMX_VMFUNC = 0x491, MSR_X2APIC = 0x800,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
// clang-format on

// clang-format off
enum { VEC_DE, VEC_DB, VEC_NMI, VEC_BP, VEC_OF, VEC_BR, VEC_UD, VEC_NM, VEC_DF, VEC_TS = 10, VEC_NP, VEC_SS, VEC_GP,
       VEC_PF, VEC_MF = 16, VEC_AC, VEC_USER_RETURN = 0x80, VEC_CALL = 0xf0, VEC_SPURIOUS = 0xff };
// clang-format on

struct fault {  /* what the last guarded instruction raised */
    int vector; /* -1: nothing */
    u32 error;
    ulong cr2, flags;
};

struct debug { /* debug exceptions where a test expects them: how many, and the last one */
    bool expected;
    u32 count;
    ulong ip, flags, dr6;
};

struct context { /* context_save/context_jump: callee-saved registers, stack and return address */
    ulong slot[8];
};

struct cpu {
    u32 index, apic_id;
    struct fault fault;
    struct context *rescue; /* where an unguarded fault goes; NULL: it is the end of this CPU */
    struct context user;    /* where VEC_USER_RETURN goes */
    struct debug debug;
    u32 irqs[256]; /* interrupts and NMIs taken, by vector */
    ulong irq_ip;  /* where the last one came */
    void (*volatile job)(void *);
    void *volatile job_arg;
    u8 *vmxon;
    bool vmx; /* in VMX operation */
};

enum { CPUS = 8 };
extern struct cpu cpus[CPUS];
extern volatile u32 cpu_count; /* CPUs that run, the first included */

static inline struct cpu *this_cpu(void)
{
    u16 tr;
    asm volatile("str %0" : "=r"(tr));
    return &cpus[(tr - SEL_TSS0) / SEL_TSS_STEP % CPUS];
}

/* An instruction that may fault: EXTABLE(from, to) sends a fault at label `from` to `to`, after recording it. */
#ifdef __x86_64__
#define EXTABLE(from, to) ".pushsection .extable,\"a\"\n.quad " #from ", " #to "\n.popsection\n"
#else
#define EXTABLE(from, to) ".pushsection .extable,\"a\"\n.long " #from ", " #to "\n.popsection\n"
#endif

/* Runs one guarded instruction given as asm text with operands; value: the vector it raised, or -1. */
#define TRY(insn, ...)                                                                                                 \
    ({                                                                                                                 \
        this_cpu()->fault.vector = -1;                                                                                 \
        asm volatile("1: " insn "\n2:\n" EXTABLE(1b, 2b) : : __VA_ARGS__ : "memory", "cc");                            \
        this_cpu()->fault.vector;                                                                                      \
    })

/* The same for an instruction without operands that changes registers: they are named instead. */
#define TRY_CLOBBER(insn, ...)                                                                                         \
    ({                                                                                                                 \
        this_cpu()->fault.vector = -1;                                                                                 \
        asm volatile("1: " insn "\n2:\n" EXTABLE(1b, 2b) : : : "memory", "cc", __VA_ARGS__);                           \
        this_cpu()->fault.vector;                                                                                      \
    })

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
    asm volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline int wrmsr_try(u32 msr, u64 v) { return TRY("wrmsr", "c"(msr), "a"((u32)v), "d"((u32)(v >> 32))); }
static inline int rdmsr_try(u32 msr, u64 *v)
{
    u32 lo = 0, hi = 0;
    this_cpu()->fault.vector = -1;
    asm volatile("1: rdmsr\n2:\n" EXTABLE(1b, 2b) : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");
    *v = (u64)hi << 32 | lo;
    return this_cpu()->fault.vector;
}

struct cpuid {
    u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "0"(leaf), "2"(sub));
    return r;
}
static inline u32 maxphyaddr(void)
{
    return cpuid(0x80000000u, 0).a >= 0x80000008u ? cpuid(0x80000008u, 0).a & 0xff : 36;
}

#define DEFINE_CR(n)                                                                                                   \
    static inline ulong read_cr##n(void)                                                                               \
    {                                                                                                                  \
        ulong v;                                                                                                       \
        asm volatile("mov %%cr" #n ",%0" : "=r"(v));                                                                   \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_cr##n(ulong v) { asm volatile("mov %0,%%cr" #n : : "r"(v) : "memory"); }                  \
    static inline int write_cr##n##_try(ulong v) { return TRY("mov %0,%%cr" #n, "r"(v)); }
DEFINE_CR(0)
DEFINE_CR(2)
DEFINE_CR(3)
DEFINE_CR(4)

static inline u8 inb(u16 p)
{
    u8 v;
    asm volatile("inb %1,%0" : "=a"(v) : "Nd"(p));
    return v;
}
static inline void outb(u16 p, u8 v) { asm volatile("outb %0,%1" : : "a"(v), "Nd"(p) : "memory"); }
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}
static inline void pause(void) { asm volatile("pause" : : : "memory"); }
static inline void barrier(void) { asm volatile("" : : : "memory"); }
static inline void irq_on(void) { asm volatile("sti\nnop" : : : "memory"); }
static inline void irq_off(void) { asm volatile("cli" : : : "memory"); }
static inline void invlpg(ulong va) { asm volatile("invlpg (%0)" : : "r"(va) : "memory"); }

struct table_ptr {
    u16 limit;
    ulong base;
} __attribute__((packed));
static inline struct table_ptr read_gdtr(void)
{
    struct table_ptr p;
    asm volatile("sgdt %0" : "=m"(p));
    return p;
}
static inline struct table_ptr read_idtr(void)
{
    struct table_ptr p;
    asm volatile("sidt %0" : "=m"(p));
    return p;
}

/* util.c */
void *memset(void *d, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
int strcmp(const char *a, const char *b);
size_t strlen(const char *s);
void *page_alloc(u32 pages); /* zeroed, page aligned, identity mapped; given back by page_reset */
void page_reset(void);
void serial_init(void);
void put(const char *s);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* %d %u %x %lx %llx %s %c, width with 0 */
void vformat(char *out, size_t size, const char *fmt, __builtin_va_list ap);
void format(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void machine_off(void) __attribute__((noreturn));

/* trap.c, trap.S */
int context_save(struct context *c) __attribute__((returns_twice));
void context_jump(struct context *c) __attribute__((noreturn));
void trap_init_cpu(u32 index);
ulong tss_base(u32 index);
void user_call(void (*fn)(void *), void *arg); /* runs fn at CPL 3 on a stack of its own */

/* boot.c */
struct mmap_entry {
    u64 base, length;
    u32 type, zero;
};
extern struct mmap_entry memory_map[64];
extern u32 memory_map_count;
extern char command_line[1024];
extern u32 cpus_present;              /* by the ACPI MADT */
const char *option(const char *name); /* value of name= on the command line, up to the next blank; NULL: not there */
extern ulong hole_va;                 /* a linear address that is not mapped, with 4 MiB of nothing behind it */
void hole_map(u64 pa, u32 flags);     /* maps one 4 KiB page at hole_va; flags 0 takes it away */
u64 hole_table(void);                 /* the page table that hole_map writes */

/* apic.c, smp.c */
void apic_init_cpu(void);
u32 apic_read(u32 reg); /* xAPIC register offset; x2APIC when that is on */
void apic_write(u32 reg, u32 v);
void apic_icr(u32 dest, u32 low);
u32 apic_id(void);
void apic_eoi(void);
void delay(u32 us);
u32 cpus_start(void);                                    /* starts all, once; value: how many run */
void cpu_call(u32 index, void (*fn)(void *), void *arg); /* starts fn there */
bool cpu_wait(u32 index, u32 ms);                        /* false: not done in time */
// clang-format off
enum { APIC_ID = 0x20, APIC_TPR = 0x80, APIC_EOI = 0xb0, APIC_SVR = 0xf0, APIC_ISR = 0x100, APIC_IRR = 0x200,
       APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310, APIC_LVT_TIMER = 0x320, APIC_LVT_LINT0 = 0x350,
       APIC_TIMER_INIT = 0x380, APIC_TIMER_NOW = 0x390, APIC_TIMER_DIV = 0x3e0 };
enum { ICR_FIXED = 0, ICR_NMI = 0x400, ICR_INIT = 0x500, ICR_SIPI = 0x600, ICR_ASSERT = 0x4000, ICR_LEVEL = 0x8000,
       ICR_SELF = 0x40000 };
// clang-format on

#endif
