/*
 * A nested guest of one page of code: CPUID in a loop, timed by the TSC, the times on COM1, the end through QEMU's
 * isa-debug-exit. Multiboot, so that QEMU loads it with -kernel. Never touches an interrupt.
 */
#include <stdint.h>

#define MULTIBOOT_MAGIC 0x1badb002u
#define MULTIBOOT_CMDLINE 4u /* flag: the command line is valid; index of its address: 4 */
#define COM1 0x3f8
#define COM1_STATUS (COM1 + 5)
#define STATUS_EMPTY 0x20
#define DEBUG_EXIT 0x501
#define SLOWEST 131071 /* ticks; what takes longer is counted as this */

__attribute__((section(".multiboot"), used)) static const uint32_t multiboot[] = { MULTIBOOT_MAGIC, 0,
                                                                                   -MULTIBOOT_MAGIC };

void start_c(const uint32_t *info);

static void out8(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t rdtsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return low;
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(in8(COM1_STATUS) & STATUS_EMPTY))
            ;
        out8(COM1, (uint8_t)*text);
    }
}

static void print_number(const char *name, uint32_t value)
{
    char text[12];
    char *at = text + sizeof(text) - 1;

    *at = '\0';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(name);
    print(at);
}

/* The number after "cpuid=" on the command line, 1000 if there is none. */
static uint32_t wanted(const char *text)
{
    static const char word[] = "cpuid=";
    uint32_t value = 0;

    for (; *text; text++) {
        uint32_t i = 0;

        while (word[i] && text[i] == word[i])
            i++;
        if (word[i])
            continue;
        for (text += i; *text >= '0' && *text <= '9'; text++)
            value = value * 10 + (uint32_t)(*text - '0');
        return value;
    }
    return 1000;
}

/* Ticks of one CPUID, with the RDTSC after it. */
static uint32_t cpuid_ticks(void)
{
    uint32_t from = rdtsc();
    uint32_t a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return rdtsc() - from;
}

/* How many CPUIDs took so many ticks. */
static uint32_t took[SLOWEST + 1];

/* The ticks that half of COUNT CPUIDs took at most. */
static uint32_t median(uint32_t count)
{
    uint32_t ticks = 0;

    for (uint32_t seen = took[0]; seen * 2 < count && ticks < SLOWEST; seen += took[ticks])
        ticks++;
    return ticks;
}

/* The median is what a CPUID costs; the mean has the hypervisors' timer interrupts in it. */
void start_c(const uint32_t *info)
{
    uint32_t count = wanted(info[0] & MULTIBOOT_CMDLINE ? (const char *)(uintptr_t)info[4] : "");
    uint32_t total = 0, least = UINT32_MAX;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t ticks = cpuid_ticks();

        total += ticks;
        least = ticks < least ? ticks : least;
        took[ticks < SLOWEST ? ticks : SLOWEST]++;
    }
    print_number("strata-l3: stage=cpuid cpuids=", count);
    print_number(" mean=", count ? total / count : 0);
    print_number(" median=", median(count));
    print_number(" least=", count ? least : 0);
    print("\r\n");
    out8(DEBUG_EXIT, 0);
    for (;;)
        __asm__ volatile("hlt");
}

__asm__(".globl start\n"
        "start: movl $stack_end, %esp\n"
        "	pushl %ebx\n"
        "	call start_c\n"
        ".bss\n"
        "	.skip 4096\n"
        "stack_end:\n"
        ".text\n");
