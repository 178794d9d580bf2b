/*
 * VMX for the small guests: each instruction with the SDM's outcome, a nested guest that can be set up in several
 * modes and run exit by exit, and EPT tables.
 */
#ifndef GUESTS_VMX_H
#define GUESTS_VMX_H
#include "cpu.h"
#include "vmcs.h"

/*
 * Outcome of a VMX instruction: OK, VMfailInvalid, VMfailValid(n), a fault, or flags the SDM does not allow
 * (SDM 3, "VMX Instruction Reference", "Conventions": success clears all six, each failure sets exactly one).
 */
typedef u32 outcome_t;
enum { VMX_OK = 0, VMX_INVALID = 0x100, VMX_VALID = 0x200, VMX_FAULT = 0x300, VMX_FLAGS = 0x10000 };
#define FAIL_VALID(n) (VMX_VALID | (n))
#define FAULTS(v) (VMX_FAULT | (v))
outcome_t vmx_outcome(ulong flags);
bool check_outcome(const char *what, outcome_t got, outcome_t want);

/* All arithmetic flags set, the instruction, its flags. */
#define VMX_TRY(insn, ...)                                                                                             \
    ({                                                                                                                 \
        ulong vmx_flags_;                                                                                              \
        this_cpu()->fault.vector = -1;                                                                                 \
        asm volatile("pushf\nor" REG_SUFFIX " $0x8d5,(%%" VMX_SP ")\npopf\n1: " insn                                   \
                     "\n2: pushf\npop %[flags_]\n" EXTABLE(1b, 2b)                                                     \
                     : [flags_] "=&r"(vmx_flags_)                                                                      \
                     : __VA_ARGS__                                                                                     \
                     : "memory", "cc");                                                                                \
        vmx_outcome(vmx_flags_);                                                                                       \
    })
#ifdef __x86_64__
#define VMX_SP "rsp"
#else
#define VMX_SP "esp"
#endif

struct inv {
    u64 low, high;
}; /* INVEPT and INVVPID descriptors */

static inline outcome_t vmxon(u64 pa) { return VMX_TRY("vmxon %[m]", [m] "m"(pa)); }
static inline outcome_t vmxoff(void) { return VMX_TRY("vmxoff", "i"(0)); }
static inline outcome_t vmclear(u64 pa) { return VMX_TRY("vmclear %[m]", [m] "m"(pa)); }
static inline outcome_t vmptrld(u64 pa) { return VMX_TRY("vmptrld %[m]", [m] "m"(pa)); }
static inline outcome_t vmptrst(u64 *pa) { return VMX_TRY("vmptrst (%[m])", [m] "r"(pa)); }
static inline outcome_t vmcall(void) { return VMX_TRY("vmcall", "i"(0)); }
static inline outcome_t vmlaunch(void) { return VMX_TRY("vmlaunch", "i"(0)); }
static inline outcome_t vmresume(void) { return VMX_TRY("vmresume", "i"(0)); }
static inline outcome_t vmwrite(ulong f, ulong v) { return VMX_TRY("vmwrite %[v],%[f]", [v] "r"(v), [f] "r"(f)); }
static inline outcome_t vmread(ulong f, ulong *v) { return VMX_TRY("vmread %[f],(%[v])", [f] "r"(f), [v] "r"(v)); }
static inline outcome_t invept(ulong type, const struct inv *d)
{
    return VMX_TRY("invept (%[d]),%[t]", [d] "r"(d), [t] "r"(type));
}
static inline outcome_t invvpid(ulong type, const struct inv *d)
{
    return VMX_TRY("invvpid (%[d]),%[t]", [d] "r"(d), [t] "r"(type));
}

/* Whole fields of the current VMCS; a failure ends the test. 64-bit fields take two accesses in the 32-bit build. */
u64 vmget(u32 field);
void vmset(u32 field, u64 v);
outcome_t field_read(u32 field, u64 *v);
outcome_t field_write(u32 field, u64 v);
u64 field_mask(u32 field); /* the bits its width has */

/* Capabilities. `want` bits that may not be 1 are dropped, bits that must be 1 are added. */
u32 control_adjust(u32 msr, u32 want);
bool control_supported(u32 msr, u32 bits);
u32 pin_msr(void);
u32 proc_msr(void);
u32 exit_msr(void);
u32 entry_msr(void);
bool proc2_supported(u32 bits);
u32 vmcs_revision(void);

void vmx_enter_operation(void); /* VMXON on this CPU, test fails if it cannot */
void vmx_leave_operation(void); /* VMCLEARs what this CPU has from vmcs_alloc, VMXOFF */
void *vmcs_alloc(void);         /* a cleared VMCS region of this CPU with its revision identifier */
void vmcs_reset(void);
extern u8 vmcs_fill; /* what a new region holds behind its revision identifier; 0 again after each test */
static inline u64 phys(const void *p) { return (ulong)p; }

/* ---- nested guests (nest.c) ---- */
enum nest_mode {
    NEST_SAME,   /* this build's own mode, page tables and GDT; C functions run in it */
    NEST_FLAT32, /* 32-bit, unpaged: needs unrestricted guest */
    NEST_PAE32,  /* 32-bit, PAE paging, 1:1 */
    NEST_REAL,   /* real mode: needs unrestricted guest */
};
struct nest_regs {
    ulong ax, bx, cx, dx, si, di, bp;
};
struct nest {
    struct nest_regs regs; /* first: nest_enter.S knows the layout */
    void *vmcs;
    bool launched;
    enum nest_mode mode;
    u32 reason; /* of the last exit, whole */
    struct ept *ept;
    u8 *stack_top;
    u64 *pdpt; /* NEST_PAE32: its PDPTEs */
};
/* Makes and loads a VMCS for a guest in `mode` starting at `fn` with `arg` in RDI; NULL after test_skip. */
struct nest *nest_new(enum nest_mode mode, void (*fn)(void));
void nest_restart(struct nest *n, void (*fn)(void)); /* same VMCS, RIP and RSP anew, active, nothing pending */
void nest_ept(struct nest *n, struct ept *ept);      /* switches EPT on */
void nest_adopt(struct nest *n);                     /* makes it current here; this CPU becomes its host */
outcome_t nest_run(struct nest *n);                  /* until an exit: VMX_OK and n->reason, or why it did not enter */
bool nest_expect(struct nest *n, u32 reason);        /* runs and checks the reason; false: test failed */
void nest_skip(void);                                /* RIP past the exiting instruction */
bool nest_event(struct nest *n, u32 vector, u32 error); /* runs; expects vector in the nested guest's own IDT */
struct nest_frame {
    ulong vector, error, ip, cs, flags, sp, ss;
};
const struct nest_frame *nest_frame(void);
void nest_control(u32 field, u32 set, u32 clear);    /* controls: current | set & ~clear */
bool nest_need(u32 msr, u32 bits, const char *what); /* false after test_skip when not supported */
void nest_done(void);                                /* nested guest code: VMCALL for ever */
#define NEST_RUN(n, want)                                                                                              \
    do {                                                                                                               \
        if (!nest_expect(n, want))                                                                                     \
            return;                                                                                                    \
    } while (0)

/* ---- EPT (ept.c) ---- */
enum {
    EPT_R = 1,
    EPT_W = 2,
    EPT_X = 4,
    EPT_RWX = 7,
    EPT_WB = 6 << 3,
    EPT_LARGE = 1 << 7,
    EPT_A = 1 << 8,
    EPT_D = 1 << 9
};
struct ept {
    u64 *root;
    u64 eptp;
};
struct ept *ept_new(u64 leaf_size);                    /* 1:1 over 4 GiB; leaf 4 KiB only below 64 MiB */
u64 *ept_entry(struct ept *e, u64 gpa, u64 leaf_size); /* entry of that size, splitting what is larger */
void ept_set(struct ept *e, u64 gpa, u64 leaf_size, u64 v);
bool ept_has(u32 capability_bit);
outcome_t ept_flush(const struct ept *e); /* INVEPT single-context */
void nest_flush(const struct nest *n);    /* the same of n's EPT; must succeed */

#endif
