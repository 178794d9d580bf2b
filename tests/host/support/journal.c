/*
 * The journal of writes; see journal.h. x86-64 Linux only.
 */
#define _GNU_SOURCE
#include "tests/host/support/journal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "core/memory/mem.h"
#include "core/lib/x86.h"
#include "tests/host/support/support.h"

static journal_check current_check;
static const char *complaint;
static unsigned write_count;
static uint64_t written_page;  /* the last page that this store faulted on, */
static uint64_t written_first; /* and the first: a store may lie across two */
static bool stepping;
static struct sigaction old_segv, old_trap;

static void pages_protect(uint64_t start, uint64_t size, int protection)
{
    if (mprotect((uint8_t *)hpa_ptr(hpa(0)) + start, size, protection))
        abort();
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    uint8_t *start = hpa_ptr(hpa(0)), *at = info->si_addr;
    (void)signal;
    if (at < start || at >= start + test_memory_size()) {
        sigaction(SIGSEGV, &old_segv, NULL); /* not ours: happens again, unhandled */
        return;
    }
    written_page = (uint64_t)(at - start) & PAGE_MASK;
    written_first = stepping ? written_first : written_page;
    stepping = true;
    pages_protect(written_page, PAGE_SIZE, PROT_READ | PROT_WRITE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= (greg_t)RFLAGS_TF;
}

static void on_step(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)RFLAGS_TF;
    stepping = false;
    pages_protect(written_first, PAGE_SIZE, PROT_READ);
    pages_protect(written_page, PAGE_SIZE, PROT_READ);
    write_count++;
    if (!complaint)
        complaint = current_check(written_page);
}

void journal_begin(journal_check check)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_flags = SA_SIGINFO;
    current_check = check;
    complaint = NULL;
    write_count = 0;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, &old_segv);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, &old_trap);
    pages_protect(0, test_memory_size(), PROT_READ);
}

const char *journal_end(unsigned *writes)
{
    pages_protect(0, test_memory_size(), PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGTRAP, &old_trap, NULL);
    *writes = write_count;
    return complaint;
}
