/*
 * See snapshot.h. The build puts the variables of everything under test, and of the fake machine, into sections of their own.
 */
#define _GNU_SOURCE
#include "tests/fuzz/hypervisor/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/cpu/machine.h"
#include "core/cpu/vmx_require.h"
#include "core/upcall.h"
#include "tests/fuzz/fuzz.h"
#include "tests/host/machine/nested_machine.h"
#include "tests/host/support/support.h"

#define KEPT 64 /* snapshots; the one used least recently is given up for another */
#define SECTIONS 2
#define HEAPS 1
#define POOL 320u       /* pages of a CPU */
#define SMALL_POOL 144u /* its VMCSs and bitmaps, its log, and little more than EPT02_PAGES_MIN */
#define MEMORY_SIZE (NESTED_MACHINE_END - NESTED_MACHINE_START)

extern uint8_t __start_strata_data[], __stop_strata_data[], __start_strata_bss[], __stop_strata_bss[];

/* So that there is such a section, whether or not anything else is initialized. */
static uint8_t something __attribute__((section("strata_data"), used)) = 1;

/* Behind the pools of four CPUs, before the VMXON regions: see nested_machine.c. */
const uint64_t snapshot_forbidden = HIDDEN_START + 24 * MIB, snapshot_forbidden_end = NESTED_MACHINE_END - MIB;

struct piece {
    uint8_t *place, *copy;
    size_t size;
};

struct snapshot {
    struct snapshot_key key;
    uint64_t used; /* 0: free */
    int memory;    /* a file */
    struct piece pieces[SECTIONS + HEAPS];
    uint64_t vmcs01[2][FIELD_COUNT];
};

static struct snapshot kept[KEPT];
static struct piece booted[SECTIONS]; /* before anything ran */
static uint64_t clock_now;
static uint32_t caps_seed;
uint64_t snapshot_vmcs01[2][FIELD_COUNT];

/* Poisoned bytes between variables are copied, too: not by anything that a sanitizer sees. */
static void copy_raw(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void piece_save(struct piece *piece, void *place, size_t size)
{
    *piece = (struct piece){ place, malloc(size), size };
    copy_raw(piece->copy, place, size);
}

static void sections_save(struct piece *pieces)
{
    piece_save(&pieces[0], __start_strata_data, (size_t)(__stop_strata_data - __start_strata_data));
    piece_save(&pieces[1], __start_strata_bss, (size_t)(__stop_strata_bss - __start_strata_bss));
}

static void pieces_restore(const struct piece *pieces, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        copy_raw(pieces[i].place, pieces[i].copy, pieces[i].size);
}

/* --- the machines --- */

/* Takes away some allowed 1-settings (and the same in the TRUE MSR) and other capability bits, as long as Strata can still run. */
static void caps_thin(struct vmx_caps *caps)
{
    static const uint32_t msrs[] = { MSR_VMX_PIN,   MSR_VMX_PROC, MSR_VMX_EXIT,     MSR_VMX_ENTRY,
                                     MSR_VMX_PROC2, MSR_VMX_MISC, MSR_VMX_EPT_VPID, MSR_VMX_PROC2 };
    struct test_random random = { caps_seed };
    for (unsigned i = 0; caps_seed && i < 12; i++) {
        struct vmx_caps less = *caps;
        uint32_t msr = msrs[test_random_below(&random, ARRAY_SIZE(msrs))];
        uint64_t bit = BIT(test_random_below(&random, 32));
        bool controls = msr != MSR_VMX_MISC && msr != MSR_VMX_EPT_VPID;
        uint64_t *value = &less.msr[msr - MSR_VMX_FIRST];
        if (controls && (*value & bit)) /* must be 1 */
            continue;
        *value &= ~(controls ? bit << 32 : bit);
        if (controls && msr != MSR_VMX_PROC2)
            less.msr[msr - MSR_VMX_PIN + MSR_VMX_TRUE_PIN - MSR_VMX_FIRST] &= ~(bit << 32);
        vmx_caps_derive(&less);
        if (!vmx_require(&less))
            *caps = less;
    }
}

static void caps_plain(struct vmx_caps *caps)
{
    fake_caps_plain(caps);
    caps_thin(caps);
}

static void machine_make(struct snapshot_key key)
{
    const struct nested_machine_config config = {
        .cpus = key.machine & SNAPSHOT_TWO_CPUS ? 2 : 1,
        .shadow_off = key.machine & SNAPSHOT_SHADOW_OFF,
        .no_write_info = key.machine & SNAPSHOT_NO_WRITE_INFO,
        .no_pml = key.machine & SNAPSHOT_NO_PML,
        .no_flags = key.machine & SNAPSHOT_NO_FLAGS,
        .no_apic = key.machine & SNAPSHOT_NO_APIC,
        .large_off = key.off & SNAPSHOT_LARGE,
        .coalesce_off = key.off & SNAPSHOT_COALESCE,
        .history_off = key.off & SNAPSHOT_HISTORY,
        .prefill_off = key.off & SNAPSHOT_PREFILL,
        .pool_pages = key.machine & SNAPSHOT_SMALL_POOL ? SMALL_POOL : POOL,
        .change = key.machine & SNAPSHOT_PLAIN ? caps_plain : caps_thin,
    };
    caps_seed = key.capsless;
    nested_machine_start(&config);
    fake_msr_refuse(MSR_APIC_BASE); /* the fake machine has no xAPIC page */
}

static void memory_save(struct snapshot *snapshot)
{
    static unsigned char resident[MEMORY_SIZE / PAGE_SIZE];
    snapshot->memory = memfd_create("strata", 0);
    fuzz_check(snapshot->memory >= 0 && !ftruncate(snapshot->memory, MEMORY_SIZE));
    fuzz_check(!mincore((void *)NESTED_MACHINE_START, MEMORY_SIZE, resident));
    for (uint64_t i = 0; i < ARRAY_SIZE(resident); i++)
        if (resident[i] & 1)
            fuzz_check(pwrite(snapshot->memory, (void *)(NESTED_MACHINE_START + i * PAGE_SIZE), PAGE_SIZE,
                              (off_t)(i * PAGE_SIZE)) == PAGE_SIZE);
}

static void snapshot_take(struct snapshot *snapshot, struct snapshot_key key)
{
    const uint8_t *of_strata = (const uint8_t *)&machine;
    fuzz_check(of_strata >= __start_strata_bss && of_strata < __stop_strata_bss);
    if (booted[0].copy) {
        munmap((void *)NESTED_MACHINE_START, MEMORY_SIZE);
        pieces_restore(booted, SECTIONS);
    } else {
        sections_save(booted);
    }
    machine_make(key);
    fake_journal_clear();
    snapshot->key = key;
    memory_save(snapshot);
    sections_save(snapshot->pieces);
    piece_save(&snapshot->pieces[SECTIONS], nested_ept_shared, nested_shared_size());
    for (unsigned i = 0; i < cpu_count; i++)
        memcpy(snapshot->vmcs01[i], fake_vmcs_values(cpus[i]->vmcs01.region), sizeof(snapshot->vmcs01[i]));
}

static void snapshot_give_up(struct snapshot *snapshot)
{
    for (unsigned i = 0; i < SECTIONS + HEAPS; i++)
        free(snapshot->pieces[i].copy);
    for (unsigned i = SECTIONS; i < SECTIONS + HEAPS; i++)
        free(snapshot->pieces[i].place);
    close(snapshot->memory);
    memset(snapshot, 0, sizeof(*snapshot));
}

static struct snapshot *snapshot_find(struct snapshot_key key)
{
    struct snapshot *oldest = &kept[0];
    for (unsigned i = 0; i < KEPT; i++) {
        if (kept[i].used && !memcmp(&kept[i].key, &key, sizeof(key)))
            return &kept[i];
        if (kept[i].used < oldest->used)
            oldest = &kept[i];
    }
    if (oldest->used)
        snapshot_give_up(oldest);
    snapshot_take(oldest, key);
    return oldest;
}

void snapshot_start(struct snapshot_key key)
{
    if (booted[0].copy)
        fake_journal_clear(); /* on the heap, and of no snapshot */
    struct snapshot *snapshot = snapshot_find(key);
    snapshot->used = ++clock_now;
    pieces_restore(snapshot->pieces, SECTIONS + HEAPS);
    void *start = (void *)NESTED_MACHINE_START;
    fuzz_check(mmap(start, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, snapshot->memory, 0) == start);
    fuzz_check(!mprotect((void *)snapshot_forbidden, snapshot_forbidden_end - snapshot_forbidden, PROT_NONE));
    memcpy(snapshot_vmcs01, snapshot->vmcs01, sizeof(snapshot_vmcs01));
    nested_machine_select(0);
}
