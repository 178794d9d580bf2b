/*
 * Taking a page of conventional memory, filling it (lowpage.h) and, when Strata cannot run, leaving through it.
 */
#include "core/boot/lowpage.h"

#include "core/lib/asm.h"
#include "core/lib/format.h"
#include "core/cpu/machine.h"
#include "core/memory/mem.h"

#define BDA_MEMORY_KIB 0x413 /* BIOS data area 40:13h: KiB of conventional memory */
#define BDA_COLUMNS 0x44a    /* of the text screen */
#define BDA_CURSOR 0x450     /* column, and in the high byte row */
#define BDA_ROWS 0x484       /* less one */
#define VGA_TEXT 0xb8000
#define INT15_VECTOR (0x15 * 4)
#define CONVENTIONAL_MIN_KIB 64
#define CONVENTIONAL_MAX_KIB 640

#define E820_SPLITS 2 /* what the end of conventional memory can add to the map */

static struct low_page *low_page(void) { return hpa_ptr(hpa(machine.low_page)); }

/* The BIOS data area lies in page 0: through a pointer that the compiler does not take for NULL. */
static volatile uint16_t *low_word(uint32_t address)
{
    uint64_t a = address;
    __asm__("" : "+r"(a));
    return (volatile uint16_t *)a;
}

static void fill_page(uint64_t page)
{
    machine.low_page = (uint32_t)page;
    struct low_page *low = low_page();
    memcpy(low, realmode_blob, (size_t)(realmode_blob_end - realmode_blob));
    low->gdt_base = machine.low_page + low->gdt_offset;
    low->ap_jump_offset = machine.low_page + low->ap_long_offset;
    low->real_jump[1] = (uint16_t)(machine.low_page >> 4);
    low->boot_drive = machine.boot_drive;
    uint64_t *gdt = (uint64_t *)((uint8_t *)low + low->gdt_offset);
    gdt[LOW_GDT_REAL_CODE] |= (uint64_t)machine.low_page << 16;
}

bool lowpage_take(void)
{
    uint32_t kib = *low_word(BDA_MEMORY_KIB);
    if (kib < CONVENTIONAL_MIN_KIB || kib > CONVENTIONAL_MAX_KIB)
        return false;
    uint64_t code = (uint64_t)(realmode_blob_end - realmode_blob);
    uint64_t list = (memory01.memmap.count + E820_SPLITS) * E820_ENTRY_OLD_SIZE;
    fill_page(align_down(kib * KIB - align_up(code + list, LOW_PAGE_SIZE), LOW_PAGE_SIZE));
    return true;
}

bool lowpage_borrow(const struct memmap_range *avoid, unsigned avoid_count)
{
    uint64_t page = memmap_place_low(&memory01.memmap, LOW_PAGE_SIZE, avoid, avoid_count);
    if (page)
        fill_page(page);
    return page;
}

bool lowpage_screen(struct screen *screen)
{
    unsigned columns = *low_word(BDA_COLUMNS), rows = (*low_word(BDA_ROWS) & 0xffu) + 1;
    unsigned row = (*low_word(BDA_CURSOR) >> 8) + 1u;
    uint64_t cells = VGA_TEXT;
    __asm__("" : "+r"(cells));
    *screen = (struct screen){ (uint16_t *)cells, columns, rows, row < rows ? row : rows };
    return columns >= 40 && columns <= 132 && rows >= 25 && rows <= 60;
}

void lowpage_screen_done(const struct screen *screen)
{
    *low_word(BDA_CURSOR) = (uint16_t)((screen->row < screen->rows ? screen->row : screen->rows - 1) << 8);
}

void lowpage_message(const char *text)
{
    struct low_page *low = low_page();
    size_t used = 0;
    while (low->message[used])
        used++;
    format(low->message + used, LOW_MESSAGE_SIZE - used, "%s\r\n", text);
}

bool lowpage_describe_memory(void)
{
    struct low_page *low = low_page();
    static struct e820_entry list[MEMMAP_ENTRIES + E820_SPLITS];
    unsigned n = memmap_e820(&memory01.memmap, machine.low_page, list, ARRAY_SIZE(list));
    if (!n)
        return false;
    for (unsigned i = 0; i < n; i++)
        memcpy((uint8_t *)low + low->e820_offset + i * E820_ENTRY_OLD_SIZE, &list[i], E820_ENTRY_OLD_SIZE);
    low->e820_count = (uint16_t)n;
    struct int15_memory answers = memmap_int15(&memory01.memmap);
    low->e801_low_kib = answers.e801_low;
    low->e801_high_64k = answers.e801_high;
    low->ah88_kib = answers.h88;
    return true;
}

void lowpage_hook_int15(void)
{
    struct low_page *low = low_page();
    volatile uint16_t *vector = low_word(INT15_VECTOR);
    low->old_int15[0] = vector[0];
    low->old_int15[1] = vector[1];
    vector[0] = low->int15_entry;
    vector[1] = (uint16_t)(machine.low_page >> 4);
    *low_word(BDA_MEMORY_KIB) = (uint16_t)(machine.low_page / KIB);
}

void lowpage_boot_without(void)
{
    void (*to_real)(void) = (void (*)(void))((uint64_t)machine.low_page + low_page()->to_real_offset);
    to_real();
    __builtin_unreachable();
}
