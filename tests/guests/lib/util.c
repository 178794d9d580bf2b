/*
 * Memory, strings, serial output and the end of the machine. Owns the page pool.
 * Output is polled on COM1; only the first CPU may print.
 */
#include "cpu.h"

enum { COM1 = 0x3f8, POOL_PAGES = 1024, BOCHS_POWER = 0x8900 };

static u8 pool[POOL_PAGES * PAGE] __attribute__((aligned(4096)));
static u32 pool_used;

void *memset(void *d, int c, size_t n)
{
    for (u8 *p = d; n--;)
        *p++ = (u8)c;
    return d;
}

void *memcpy(void *d, const void *s, size_t n)
{
    const u8 *from = s;
    for (u8 *p = d; n--;)
        *p++ = *from++;
    return d;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *p = a, *q = b;
    for (; n--; p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

void *page_alloc(u32 pages)
{
    u32 at = __atomic_fetch_add(&pool_used, pages, __ATOMIC_RELAXED);
    if (at + pages > POOL_PAGES) {
        put("FAIL lib.page_alloc: pool used up\n");
        machine_off();
    }
    return memset(pool + (size_t)at * PAGE, 0, (size_t)pages * PAGE);
}

void page_reset(void) { pool_used = 0; }

void serial_init(void)
{
    static const u8 words[][2] = {
        { 1, 0 }, { 3, 0x80 }, { 0, 1 }, { 1, 0 }, { 3, 3 }, { 2, 7 }, { 4, 3 }
    }; /* 115200 8n1 */
    for (u32 i = 0; i < COUNT(words); i++)
        outb((u16)(COM1 + words[i][0]), words[i][1]);
}

static void put_char(char c)
{
    for (u32 tries = 100000; tries && !(inb(COM1 + 5) & 0x20); tries--)
        pause();
    outb(COM1, (u8)c);
}

void put(const char *s)
{
    for (; *s; s++) {
        if (*s == '\n')
            put_char('\r');
        put_char(*s);
    }
}

static char *put_number(char *p, const char *end, u64 v, u32 base, u32 width)
{
    char digits[24];
    u32 n = 0;
    do {
        u32 digit;
        if (base == 16) {
            digit = (u32)v & 15;
            v >>= 4;
        } else { /* decimal stays within 32 bits: no 64-bit division in the 32-bit build */
            digit = (u32)v % 10;
            v = (u32)v / 10;
        }
        digits[n++] = "0123456789abcdef"[digit];
    } while (v);
    while (n < width && n < sizeof digits)
        digits[n++] = '0';
    while (n && p < end)
        *p++ = digits[--n];
    return p;
}

void vformat(char *out, size_t size, const char *fmt, __builtin_va_list ap)
{
    char *p = out;
    const char *end = out + size - 1;
    for (; *fmt && p < end; fmt++) {
        if (*fmt != '%') {
            *p++ = *fmt;
            continue;
        }
        u32 width = 0, longs = 0;
        for (fmt++; *fmt >= '0' && *fmt <= '9'; fmt++)
            width = width * 10 + (u32)(*fmt - '0');
        for (; *fmt == 'l'; fmt++)
            longs++;
        u64 v = 0;
        if (*fmt == 's') {
            for (const char *s = __builtin_va_arg(ap, const char *); *s && p < end; s++)
                *p++ = *s;
            continue;
        }
        if (*fmt == 'c') {
            *p++ = (char)__builtin_va_arg(ap, int);
            continue;
        }
        if (*fmt == 'd' && !longs) {
            int i = __builtin_va_arg(ap, int);
            if (i < 0)
                *p++ = '-';
            v = (u32)(i < 0 ? -i : i);
        } else if (longs == 2) {
            v = __builtin_va_arg(ap, u64);
        } else {
            v = longs ? __builtin_va_arg(ap, ulong) : __builtin_va_arg(ap, u32);
        }
        p = put_number(p, end, v, *fmt == 'x' ? 16 : 10, width);
    }
    *p = 0;
}

void format(char *out, size_t size, const char *fmt, ...)
{
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vformat(out, size, fmt, ap);
    __builtin_va_end(ap);
}

void print(const char *fmt, ...)
{
    char line[400];
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vformat(line, sizeof line, fmt, ap);
    __builtin_va_end(ap);
    put(line);
}

void machine_off(void)
{
    for (const char *s = "Shutdown"; *s; s++)
        outb(BOCHS_POWER, (u8)*s);
    for (;;)
        asm volatile("cli\nhlt");
}
