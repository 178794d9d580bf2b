/*
 * The privileged instructions. Only this file and the .S files contain any; everything here is one instruction
 * or what belongs to it, nothing decides anything.
 *
 * Instructions that may be refused have an entry in the fixup table: when the instruction at `where` raises #GP or #UD,
 * trap.c continues at `to`.
 */
#include "core/lib/asm.h"
#include "core/lib/hw.h"
#include "core/lib/panic.h"

#define FIXUP(where, to) ".pushsection .fixup_table, \"a\"\n .quad " where ", " to "\n .popsection\n"

uint64_t hw_vmread(uint32_t field)
{
    uint64_t value;
    __asm__ volatile goto("vmread %1, %0\n jbe %l[fail]" : "=r"(value) : "r"((uint64_t)field) : "cc", "memory" : fail);
    return value;
fail:
    panic("VMREAD of field %04xh failed", field);
}

bool hw_vmread_try(uint32_t field, uint64_t *value)
{
    __asm__ volatile goto("vmread %1, %0\n jbe %l[fail]" : "=r"(*value) : "r"((uint64_t)field) : "cc", "memory" : fail);
    return true;
fail:
    *value = 0;
    return false;
}

void hw_vmwrite(uint32_t field, uint64_t value)
{
    __asm__ volatile goto("vmwrite %1, %0\n jbe %l[fail]" : : "r"((uint64_t)field), "r"(value) : "cc", "memory" : fail);
    return;
fail:
    panic("VMWRITE of field %04xh failed", field);
}

void hw_vmwrite_sure(uint32_t field, uint64_t value)
{
    __asm__ volatile("vmwrite %1, %0" : : "r"((uint64_t)field), "r"(value) : "cc", "memory");
}

bool hw_vmwrite_try(uint32_t field, uint64_t value)
{
    __asm__ volatile goto("vmwrite %1, %0\n jbe %l[fail]" : : "r"((uint64_t)field), "r"(value) : "cc", "memory" : fail);
    return true;
fail:
    return false;
}

void hw_vmread_run(const uint16_t *fields, uint64_t *values, unsigned count)
{
#pragma GCC unroll 8
    for (unsigned i = 0; i < count; i++)
        __asm__ volatile("vmread %1, %0" : "=m"(values[i]) : "r"((uint64_t)fields[i]) : "cc");
}

void hw_vmwrite_run(const uint16_t *fields, const uint64_t *values, unsigned count)
{
#pragma GCC unroll 8
    for (unsigned i = 0; i < count; i++)
        __asm__ volatile("vmwrite %1, %0" : : "r"((uint64_t)fields[i]), "m"(values[i]) : "cc");
}

void hw_vmclear(hpa_t vmcs)
{
    __asm__ volatile goto("vmclear %0\n jbe %l[fail]" : : "m"(vmcs.v) : "cc", "memory" : fail);
    return;
fail:
    panic("VMCLEAR of %llxh failed", (unsigned long long)vmcs.v);
}

void hw_vmptrld(hpa_t vmcs)
{
    __asm__ volatile goto("vmptrld %0\n jbe %l[fail]" : : "m"(vmcs.v) : "cc", "memory" : fail);
    return;
fail:
    panic("VMPTRLD of %llxh failed", (unsigned long long)vmcs.v);
}

bool hw_vmxon(hpa_t region)
{
    __asm__ volatile goto("1: vmxon %0\n jbe %l[fail]\n" FIXUP("1b", "%l[fail]")
                          :
                          : "m"(region.v)
                          : "cc", "memory"
                          : fail);
    return true;
fail:
    return false;
}

void hw_vmxoff(void) { __asm__ volatile("vmxoff" : : : "cc", "memory"); }

void hw_invept(enum invept_type type, uint64_t eptp)
{
    struct invept_descriptor descriptor = { eptp, 0 };
    __asm__ volatile goto("invept %0, %1\n jbe %l[fail]"
                          :
                          : "m"(descriptor), "r"((uint64_t)type)
                          : "cc", "memory"
                          : fail);
    return;
fail:
    panic("INVEPT type %u of EPTP %llxh failed", type, (unsigned long long)eptp);
}

void hw_invvpid(enum invvpid_type type, uint16_t vpid, uint64_t linear)
{
    struct invvpid_descriptor descriptor = { vpid, linear };
    __asm__ volatile goto("invvpid %0, %1\n jbe %l[fail]"
                          :
                          : "m"(descriptor), "r"((uint64_t)type)
                          : "cc", "memory"
                          : fail);
    return;
fail:
    panic("INVVPID type %u of VPID %u failed", type, vpid);
}

uint64_t hw_rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (uint64_t)high << 32 | low;
}

void hw_wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

bool hw_rdmsr_try(uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0, ok = 0;
    __asm__ volatile("1: rdmsr\n mov $1, %2\n 2:\n" FIXUP("1b", "2b")
                     : "+a"(low), "+d"(high), "+r"(ok)
                     : "c"(msr)
                     : "memory");
    *value = (uint64_t)high << 32 | low;
    return ok;
}

bool hw_wrmsr_try(uint32_t msr, uint64_t value)
{
    uint32_t ok = 0;
    __asm__ volatile("1: wrmsr\n mov $1, %0\n 2:\n" FIXUP("1b", "2b")
                     : "+r"(ok)
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return ok;
}

struct cpuid_regs hw_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf) : "memory");
    return r;
}

uint64_t hw_rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

#define READ_REGISTER(name, reg)                                                                                       \
    uint64_t hw_read_##name(void)                                                                                      \
    {                                                                                                                  \
        uint64_t value;                                                                                                \
        __asm__ volatile("mov %%" reg ", %0" : "=r"(value) : : "memory");                                              \
        return value;                                                                                                  \
    }
#define WRITE_REGISTER(name, reg)                                                                                      \
    void hw_write_##name(uint64_t value) { __asm__ volatile("mov %0, %%" reg : : "r"(value) : "memory"); }

READ_REGISTER(cr0, "cr0")
READ_REGISTER(cr2, "cr2")
READ_REGISTER(cr3, "cr3")
READ_REGISTER(cr4, "cr4")
WRITE_REGISTER(cr0, "cr0")
WRITE_REGISTER(cr2, "cr2")
WRITE_REGISTER(cr3, "cr3")
WRITE_REGISTER(cr4, "cr4")

uint64_t hw_read_breakpoint(unsigned number)
{
    uint64_t value;
    switch (number) {
    case 0:
        __asm__ volatile("mov %%dr0, %0" : "=r"(value));
        break;
    case 1:
        __asm__ volatile("mov %%dr1, %0" : "=r"(value));
        break;
    case 2:
        __asm__ volatile("mov %%dr2, %0" : "=r"(value));
        break;
    default:
        __asm__ volatile("mov %%dr3, %0" : "=r"(value));
        break;
    }
    return value;
}

uint64_t hw_xgetbv(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

bool hw_xsetbv_try(uint32_t index, uint64_t value)
{
    uint32_t ok = 0;
    __asm__ volatile("1: xsetbv\n mov $1, %0\n 2:\n" FIXUP("1b", "2b")
                     : "+r"(ok)
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return ok;
}

void hw_wbinvd(void) { __asm__ volatile("wbinvd" : : : "memory"); }
void hw_verw(void)
{
    static const uint16_t selector = SEL_DATA;
    __asm__ volatile("verw %0" : : "m"(selector) : "cc", "memory");
}

void hw_pause(void) { __asm__ volatile("pause"); }

uint8_t hw_inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

void hw_outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }

void hw_halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt" : : : "memory");
}

void hw_lgdt(const struct descriptor_table *table) { __asm__ volatile("lgdt %0" : : "m"(*table) : "memory"); }
void hw_lidt(const struct descriptor_table *table) { __asm__ volatile("lidt %0" : : "m"(*table) : "memory"); }

void hw_load_segments(uint16_t code, uint16_t data, uint16_t task)
{
    __asm__ volatile("push %q0\n lea 1f(%%rip), %%rax\n push %%rax\n lretq\n 1:\n"
                     "mov %1, %%ds\n mov %1, %%es\n mov %1, %%ss\n mov %1, %%fs\n mov %1, %%gs\n ltr %w2"
                     :
                     : "r"((uint64_t)code), "r"((uint32_t)data), "r"(task)
                     : "rax", "memory");
}
