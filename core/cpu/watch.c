/*
 * See watch.h and watch_log.h. A watched page has a 4-KiB leaf in ept01 whose dirty flag is clear; every other leaf's is set. The
 * first write after that sets the flag and, with page-modification logging, enters the page's address into the writing CPU's log.
 * Whoever finds either clears the flag again and tells all clients through one ring of addresses.
 *
 * A CPU that has the page's translation cached as dirty sets no flag: after clearing one, all CPUs must invalidate before silence
 * means anything (memory01.flush_epoch). Until then the page is "hot": reported whenever a client asks. The CPU that cleared it
 * invalidates before its guest runs again, and so does one that starts, so hot pages cost only while another CPU that was running has not
 * exited since.
 */
#include "core/cpu/watch.h"

#include "core/cpu/machine.h"
#include "core/cpu/vmcs01.h"
#include "core/cpu/watch_log.h"

#define PAGES 3072
#define HASH 4096
#define RING 4096 /* addresses; a client that falls further behind is told WATCH_UNKNOWN */
#define CLIENTS MAX_CPUS
#define LOG_ENTRIES 512
#define LOG_EMPTY 1ull /* an address that no processor logs */

/*
 * A watched page. Its leaf stays where it is for good (ept01_leaf), so the pointer is good without ept01's lock. The version grows with
 * each write that comes to notice; it is never 0, which stands for "unknown" with those who compare versions.
 */
struct watch_page {
    uint64_t gpa;
    uint64_t *leaf; /* NULL: free */
    uint64_t epoch; /* hot until every CPU has invalidated at this epoch */
    uint32_t refs, version;
    uint16_t next; /* with the same hash, index + 1 */
    bool hot;
    uint16_t hot_index; /* in hot_pages[] */
};

/* Who asks: everything in the ring from its cursor on is news to it. Only its own CPU uses it. */
struct watch_client {
    const struct cpu *cpu; /* that asks */
    uint64_t cursor;
    bool more; /* its last question was answered in part */
};

struct watch_log {
    uint64_t *entries;
    int next; /* the entry that the processor fills next; -1: full */
};

static struct watch_page pages[PAGES];
static uint16_t hash[HASH]; /* index + 1 */
static unsigned page_count, pages_end;
static uint16_t free_pages;       /* index + 1 of one that was watched, linked by next */
static uint16_t hot_pages[PAGES]; /* indexes of those that are hot, in any order */
static unsigned hot_count;
static uint64_t ring[RING], ring_head;
static struct watch_client clients[CLIENTS];
static unsigned client_count;
static bool logging, unlogged;
static uint32_t locked;

static void lock(void)
{
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
        hw_pause();
}

static void unlock(void) { __atomic_store_n(&locked, 0, __ATOMIC_RELEASE); }

/*
 * Processors without dirty flags have the page write-protected instead: the first write is an exit (watch_write_fault), so this is only for
 * pages that are written rarely, asked about one by one.
 */
static bool has_flags(void) { return memory01.ept01.config.accessed_dirty; }
static uint64_t dirty_bit(void) { return has_flags() ? EPT_DIRTY : EPT_W; }

static uint16_t *bucket_of(uint64_t gpa) { return &hash[(gpa >> PAGE_SHIFT) % HASH]; }

static struct watch_page *find(uint64_t gpa)
{
    for (unsigned i = *bucket_of(gpa); i; i = pages[i - 1].next)
        if (pages[i - 1].gpa == gpa)
            return &pages[i - 1];
    return NULL;
}

static bool leaf_dirty(const struct watch_page *p) { return __atomic_load_n(p->leaf, __ATOMIC_RELAXED) & dirty_bit(); }

/* The CPU may be executing guest instructions. One that waits for a SIPI invalidates before it does. */
static bool runs(const struct cpu *cpu)
{
    return cpu_state(cpu) == CPU_STARTED && !__atomic_load_n(&cpu->waits_in_nested, __ATOMIC_ACQUIRE);
}

/* Without another CPU at work nothing is cached that the INVEPT at the end of this exit does not drop. */
static bool others_run(void)
{
    unsigned running = 0;
    for (unsigned i = 0; i < cpu_count; i++)
        running += runs(cpus[i]);
    return running > 1;
}

/* No CPU has the page cached as dirty. */
static bool settled(const struct watch_page *p)
{
    for (unsigned i = 0; i < cpu_count; i++)
        if (runs(cpus[i]) && __atomic_load_n(&cpus[i]->flush_epoch, __ATOMIC_ACQUIRE) < p->epoch)
            return false;
    return true;
}

/* A new version, and all clients are told. Locked. */
static void tell(struct watch_page *p)
{
    p->version++;
    p->version += p->version == 0;
    ring[ring_head % RING] = p->gpa;
    __atomic_store_n(&ring_head, ring_head + 1, __ATOMIC_RELEASE);
}

/* hot_pages[] has no order and no gaps: the last one moves to where one is taken out. */
static void heat(struct watch_page *p)
{
    if (p->hot)
        return;
    p->hot = true;
    p->hot_index = (uint16_t)hot_count;
    hot_pages[hot_count++] = (uint16_t)(p - pages);
}

static void unheat(struct watch_page *p)
{
    if (!p->hot)
        return;
    p->hot = false;
    uint16_t last = hot_pages[--hot_count];
    hot_pages[p->hot_index] = last;
    pages[last].hot_index = p->hot_index;
}

/*
 * Clears the flag; the page is hot until all other CPUs have invalidated. Locked. In this order: a CPU that invalidates at the new epoch
 * has seen the flag clear, so its next write sets it again. With the epoch first it could invalidate between the two, keep the
 * translation as dirty, and write in silence.
 */
static void arm(struct watch_page *p)
{
    __atomic_and_fetch(p->leaf, ~dirty_bit(), __ATOMIC_ACQ_REL);
    p->epoch = __atomic_add_fetch(&memory01.flush_epoch, 1, __ATOMIC_ACQ_REL);
    if (others_run())
        heat(p);
}

static void written(struct watch_page *p)
{
    tell(p);
    arm(p);
}

/* Takes what one CPU's log has. Locked. The processor fills entries from the last one downwards; an address in them may have no page any more. */
static void drain_log(struct watch_log *log)
{
    while (log->next >= 0) {
        uint64_t *entry = &log->entries[log->next];
        uint64_t logged = __atomic_load_n(entry, __ATOMIC_ACQUIRE);
        if (logged == LOG_EMPTY)
            return;
        *entry = LOG_EMPTY;
        log->next--;
        struct watch_page *p = find(logged & PAGE_MASK);
        if (p)
            written(p);
    }
}

/* A hot page is told again, once more when it has settled. Locked. */
static void cool_page(struct watch_page *p)
{
    bool is_settled = settled(p);
    tell(p);
    if (is_settled)
        unheat(p);
}

static void cool(void)
{
    for (unsigned i = hot_count; i-- > 0;) /* from the end: the one that takes a cooled one's place was asked already */
        cool_page(&pages[hot_pages[i]]);
}

/*
 * Whether all writes of the past are in logs, as far as this client's CPU can see. No order is promised between another CPU's log entry and
 * its later stores. Its dirty flags are in time: they are set by locked accesses before the store (SDM 3, "Automatic Locking"). One that runs
 * a nested guest under its ept02 has exited since it last wrote through ept01, and what it logged until then is there.
 */
static bool logs_suffice(const struct watch_client *client)
{
    if (!logging || unlogged)
        return false;
    for (unsigned i = 0; cpu_count > 1 && i < cpu_count; i++)
        if (cpus[i] != client->cpu && runs(cpus[i]) && !__atomic_load_n(&cpus[i]->in_nested, __ATOMIC_ACQUIRE))
            return false;
    return true;
}

static void drain(const struct watch_client *client)
{
    for (unsigned i = 0; logging && i < cpu_count; i++)
        drain_log(cpus[i]->watch_log);
    if (logs_suffice(client))
        return;
    for (unsigned i = 0; i < pages_end; i++)
        if (pages[i].leaf && leaf_dirty(&pages[i]))
            written(&pages[i]);
}

static bool any_dirty(void)
{
    for (const struct watch_page *p = pages; p < pages + pages_end; p++) {
        const uint64_t *leaf = __atomic_load_n(&p->leaf, __ATOMIC_RELAXED);
        if (leaf && (__atomic_load_n(leaf, __ATOMIC_RELAXED) & EPT_DIRTY))
            return true;
    }
    return false;
}

/* Nothing written, nothing hot: the usual answer, without the lock. */
static bool silent(const struct watch_client *client)
{
    if (hot_count || !logging || unlogged)
        return false;
    for (unsigned i = 0; i < cpu_count; i++) {
        const struct watch_log *log = cpus[i]->watch_log;
        if (log->next < 0 || __atomic_load_n(&log->entries[log->next], __ATOMIC_ACQUIRE) != LOG_EMPTY)
            return false;
    }
    return logs_suffice(client) || !any_dirty();
}

/* A page's structure with one more reference; NULL when the table is full or ept01 cannot be split there. Locked. */
static struct watch_page *reference(uint64_t gpa)
{
    struct watch_page *p = find(gpa);
    if (p) {
        p->refs++;
        return p;
    }
    if (!free_pages && pages_end == PAGES)
        return NULL;
    memory_lock();
    uint64_t *leaf = ept01_leaf(&memory01.ept01, gpa1(gpa), PAGE_SIZE);
    memory_unlock();
    if (!leaf)
        return NULL;
    unsigned i = free_pages ? free_pages - 1u : pages_end++;
    if (free_pages)
        free_pages = pages[i].next;
    uint16_t *bucket = bucket_of(gpa);
    pages[i] = (struct watch_page){ .gpa = gpa, .leaf = leaf, .refs = 1, .version = 1, .next = *bucket };
    *bucket = (uint16_t)(i + 1);
    page_count++;
    arm(&pages[i]);
    return &pages[i];
}

/* Watched no more: the flag is set for good, as every other leaf's, and no write through it is logged any longer. */
static void unreference(struct watch_page *p)
{
    if (--p->refs)
        return;
    __atomic_or_fetch(p->leaf, dirty_bit(), __ATOMIC_RELAXED);
    unheat(p);
    uint16_t self = (uint16_t)(p - pages + 1), *link = bucket_of(p->gpa);
    while (*link != self)
        link = &pages[*link - 1].next;
    *link = p->next;
    p->leaf = NULL;
    p->next = free_pages;
    free_pages = self;
    page_count--;
}

struct watch_client *watch_client_new(const struct cpu *cpu)
{
    if (!has_flags() || client_count == CLIENTS)
        return NULL;
    clients[client_count].cpu = cpu;
    return &clients[client_count++];
}

bool watch_add(struct watch_client *client, gpa1_t page)
{
    (void)client;
    if (!memmap_is_ram(&memory01.memmap, page.v))
        return false;
    lock();
    struct watch_page *p = reference(page.v & PAGE_MASK);
    unlock();
    return p;
}

void watch_remove(struct watch_client *client, gpa1_t page)
{
    (void)client;
    lock();
    struct watch_page *p = find(page.v & PAGE_MASK);
    if (p)
        unreference(p);
    unlock();
}

unsigned watch_take(struct watch_client *client, gpa1_t *out, unsigned max)
{
    if (client->cursor == __atomic_load_n(&ring_head, __ATOMIC_ACQUIRE) && silent(client))
        return 0;
    lock();
    if (!client->more) /* hot pages are told once a question, not with each part of the answer */
        cool();
    if (!client->more || ring_head - client->cursor < max) /* what is behind comes when the rest has been taken */
        drain(client);
    unsigned n = 0;
    if (ring_head - client->cursor > RING) {
        client->cursor = ring_head;
        n = WATCH_UNKNOWN;
    }
    for (; n != WATCH_UNKNOWN && n < max && client->cursor != ring_head; n++)
        out[n] = gpa1(ring[client->cursor++ % RING]);
    client->more = n == max;
    unlock();
    return n;
}

void watch_note_write(gpa1_t addr)
{
    if (!__atomic_load_n(&page_count, __ATOMIC_RELAXED))
        return;
    lock();
    struct watch_page *p = find(addr.v & PAGE_MASK);
    if (p)
        written(p);
    unlock();
}

struct watch_page *watch_page_get(gpa1_t page)
{
    if (!memmap_is_ram(&memory01.memmap, page.v))
        return NULL;
    lock();
    struct watch_page *p = reference(page.v & PAGE_MASK);
    unlock();
    return p;
}

void watch_page_put(struct watch_page *page)
{
    lock();
    unreference(page);
    unlock();
}

bool watch_page_quiet(const struct watch_page *page, uint32_t version)
{
    return __atomic_load_n(&page->version, __ATOMIC_ACQUIRE) == version && !page->hot && !leaf_dirty(page);
}

uint32_t watch_page_version(struct watch_page *page)
{
    lock();
    if (page->hot && settled(page))
        cool_page(page);
    if (leaf_dirty(page))
        written(page);
    uint32_t version = page->hot ? 0 : page->version;
    unlock();
    return version;
}

bool watch_write_fault(gpa1_t addr)
{
    if (has_flags())
        return false;
    lock();
    struct watch_page *p = find(addr.v & PAGE_MASK);
    if (p)
        __atomic_or_fetch(p->leaf, EPT_W, __ATOMIC_RELAXED);
    unlock();
    return p;
}

void watch_unlogged(void) { unlogged = true; }

static void log_restart(struct watch_log *log)
{
    for (unsigned i = 0; i < LOG_ENTRIES; i++)
        log->entries[i] = LOG_EMPTY;
    log->next = LOG_ENTRIES - 1;
    vmwrite(GUEST_PML_INDEX, LOG_ENTRIES - 1);
}

void watch_cpu_init(struct cpu *cpu)
{
    uint32_t proc2 = vmx_adjust(vmread(PROC2_CONTROLS) | PROC2_PML, MSR_VMX_PROC2);
    if (!has_flags() || !(proc2 & PROC2_PML))
        return;
    hpa_t log = pool_alloc(&cpu->pool), entries = pool_alloc(&cpu->pool);
    if (!log.v || !entries.v)
        panic("a CPU's memory does not hold its page-modification log");
    cpu->watch_log = hpa_ptr(log);
    cpu->watch_log->entries = hpa_ptr(entries);
    log_restart(cpu->watch_log);
    vmwrite(PML_ADDR, entries.v);
    vmwrite(PROC2_CONTROLS, proc2);
    logging = true;
}

void watch_log_full(struct cpu *cpu)
{
    if (!cpu->watch_log)
        return;
    lock();
    drain_log(cpu->watch_log);
    log_restart(cpu->watch_log);
    unlock();
}
