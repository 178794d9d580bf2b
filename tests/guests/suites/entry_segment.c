/* SDM 3, "Checks on Guest Segment Registers": exit reason 33, qualification 0. */
#include "entry.h"

// clang-format off
#define SEGMENT(name, ...) { name, PLAIN, BAD_GUEST, { __VA_ARGS__ }, 0, 0 }
#define SEGMENT64(name, ...) { name, PLAIN, BAD_GUEST, { __VA_ARGS__ }, ONLY64, 0 }
#define IN_V86(name, ...) { name, V86, BAD_GUEST, { __VA_ARGS__ }, 0, 0 }
/* Type 0..15 in place of the base's. */
#define TYPE(field, type) { field, CLEAR, 0xf }, { field, OR, type }
/* What is checked alike in each of the data segments. */
#define DATA_SEGMENT(seg, SEG) \
    SEGMENT(seg "-not-accessed", TYPE(GUEST_##SEG##_AR, 2)), \
    SEGMENT(seg "-execute-only", TYPE(GUEST_##SEG##_AR, 9)), \
    SEGMENT(seg "-system", { GUEST_##SEG##_AR, CLEAR, 0x10 }), \
    SEGMENT(seg "-not-present", { GUEST_##SEG##_AR, CLEAR, 0x80 }), \
    SEGMENT(seg "-dpl-below-rpl", { GUEST_##SEG, OR, 3 }), \
    SEGMENT(seg "-reserved-8", { GUEST_##SEG##_AR, OR, 0x100 }), \
    SEGMENT(seg "-reserved-17", { GUEST_##SEG##_AR, OR, 0x20000 }), \
    SEGMENT(seg "-granularity-1", { GUEST_##SEG##_LIMIT, SET, 0xfffffffe }), \
    SEGMENT(seg "-granularity-0", { GUEST_##SEG##_AR, CLEAR, 0x8000 })
#define V86_SEGMENT(seg, SEG) \
    IN_V86("v86-" seg "-base", { GUEST_##SEG##_BASE, OR, 8 }), \
    IN_V86("v86-" seg "-limit", { GUEST_##SEG##_LIMIT, SET, 0xfffff }), \
    IN_V86("v86-" seg "-ar", { GUEST_##SEG##_AR, SET, 0x93 })

const struct entry_row entry_segment_rows[] = {
    SEGMENT("tr-ti", { GUEST_TR, OR, 4 }),
    SEGMENT("ldtr-ti", { GUEST_LDTR, SET, 4 }, { GUEST_LDTR_AR, SET, 0x82 }),
    { "ss-rpl-not-cs-rpl", PLAIN, BAD_GUEST, { { GUEST_SS, OR, 3 } }, 0, 0 },
    SEGMENT64("tr-base", { GUEST_TR_BASE, SET, NOT_CANONICAL }),
    SEGMENT64("fs-base", { GUEST_FS_BASE, SET, NOT_CANONICAL }),
    SEGMENT64("gs-base", { GUEST_GS_BASE, SET, NOT_CANONICAL }),
    SEGMENT64("ldtr-base", { GUEST_LDTR_BASE, SET, NOT_CANONICAL }, { GUEST_LDTR_AR, SET, 0x82 }),
    SEGMENT64("cs-base-high", { GUEST_CS_BASE, SET, 1ull << 32 }),
    SEGMENT64("ss-base-high", { GUEST_SS_BASE, SET, 1ull << 32 }),
    SEGMENT64("ds-base-high", { GUEST_DS_BASE, SET, 1ull << 32 }),
    SEGMENT64("es-base-high", { GUEST_ES_BASE, SET, 1ull << 63 }),

    SEGMENT("cs-data", TYPE(GUEST_CS_AR, 3)), /* only an unrestricted guest may */
    SEGMENT("cs-not-accessed", TYPE(GUEST_CS_AR, 10)),
    SEGMENT("cs-system", { GUEST_CS_AR, CLEAR, 0x10 }),
    SEGMENT("cs-not-present", { GUEST_CS_AR, CLEAR, 0x80 }),
    SEGMENT("cs-unusable", { GUEST_CS_AR, SET, 0x10000 }),
    SEGMENT("cs-dpl-not-ss-dpl", { GUEST_CS_AR, OR, 0x60 }),
    SEGMENT("cs-conforming-dpl-above", TYPE(GUEST_CS_AR, 13), { GUEST_CS_AR, OR, 0x60 }),
    SEGMENT64("cs-l-and-d", { GUEST_CS_AR, OR, 0x4000 }),
    SEGMENT("cs-reserved-8", { GUEST_CS_AR, OR, 0x100 }),
    SEGMENT("cs-reserved-17", { GUEST_CS_AR, OR, 0x20000 }),
    SEGMENT("cs-granularity-1", { GUEST_CS_LIMIT, SET, 0xfffffffe }),
    SEGMENT("cs-granularity-0", { GUEST_CS_AR, CLEAR, 0x8000 }),

    SEGMENT("ss-read-only", TYPE(GUEST_SS_AR, 1)),
    SEGMENT("ss-code", TYPE(GUEST_SS_AR, 11)),
    SEGMENT("ss-system", { GUEST_SS_AR, CLEAR, 0x10 }),
    SEGMENT("ss-not-present", { GUEST_SS_AR, CLEAR, 0x80 }),
    SEGMENT("ss-dpl-not-rpl", { GUEST_SS_AR, OR, 0x60 }),
    SEGMENT("ss-reserved-11", { GUEST_SS_AR, OR, 0x800 }),
    SEGMENT("ss-reserved-31", { GUEST_SS_AR, OR, 1u << 31 }),
    SEGMENT("ss-granularity-1", { GUEST_SS_LIMIT, SET, 0xfffffffe }),
    SEGMENT("ss-granularity-0", { GUEST_SS_AR, CLEAR, 0x8000 }),

    DATA_SEGMENT("ds", DS),
    DATA_SEGMENT("es", ES),
    DATA_SEGMENT("fs", FS),
    DATA_SEGMENT("gs", GS),

    SEGMENT("tr-available", TYPE(GUEST_TR_AR, 9)),
    SEGMENT64("tr-16-bit", TYPE(GUEST_TR_AR, 3)),
    SEGMENT("tr-not-system", { GUEST_TR_AR, OR, 0x10 }),
    SEGMENT("tr-not-present", { GUEST_TR_AR, CLEAR, 0x80 }),
    SEGMENT("tr-unusable", { GUEST_TR_AR, OR, 0x10000 }),
    SEGMENT("tr-reserved-8", { GUEST_TR_AR, OR, 0x100 }),
    SEGMENT("tr-granularity-1", { GUEST_TR_AR, OR, 0x8000 }),
    SEGMENT("tr-granularity-0", { GUEST_TR_LIMIT, SET, 0x100067 }),

    SEGMENT("ldtr-type", { GUEST_LDTR_AR, SET, 0x83 }),
    SEGMENT("ldtr-not-system", { GUEST_LDTR_AR, SET, 0x92 }),
    SEGMENT("ldtr-not-present", { GUEST_LDTR_AR, SET, 0x02 }),
    SEGMENT("ldtr-reserved-8", { GUEST_LDTR_AR, SET, 0x182 }),
    SEGMENT("ldtr-granularity-1", { GUEST_LDTR_AR, SET, 0x8082 }, { GUEST_LDTR_LIMIT, SET, 0x67 }),
    SEGMENT("ldtr-granularity-0", { GUEST_LDTR_AR, SET, 0x82 }, { GUEST_LDTR_LIMIT, SET, 0x100000 }),

    V86_SEGMENT("cs", CS), V86_SEGMENT("ss", SS), V86_SEGMENT("ds", DS),
    V86_SEGMENT("es", ES), V86_SEGMENT("fs", FS), V86_SEGMENT("gs", GS),
    { "real-ss-dpl", REAL, BAD_GUEST, { { GUEST_SS_AR, OR, 0x60 } }, 0, 0 }, /* 0 when CR0.PE is 0 */
    { "ok-v86", V86, ENTERS, { { 0, END, 0 } }, 0, 0 },
    { "ok-real", REAL, ENTERS, { { 0, END, 0 } }, 0, 0 },
    { "ok-cs-data-unrestricted", REAL, ENTERS, { TYPE(GUEST_CS_AR, 3) }, 0, 0 },
    { NULL, 0, 0, { { 0, END, 0 } }, 0, 0 },
};
// clang-format on
