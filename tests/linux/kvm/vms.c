/*
 * Makes short-lived virtual machines through /dev/kvm, one after another: a page of 16-bit code that executes CPUID,
 * writes a page not mapped before, says through a port what it found, and halts. Each is created, run and destroyed on
 * processors in turn, so that a VMCS moves while it is launched. Says how many ended as they should.
 * usage: vms COUNT
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_MEMORY 0x40000
#define CODE_AT 0x1000
#define TOUCHED_AT 0x20000
#define PORT 0x80
#define TSS_AT 0xfffbd000u /* where KVM keeps what it needs without unrestricted guest */
#define IDENTITY_MAP_AT 0xfffbc000ull

static const uint8_t code[] = {
    0x31, 0xc0,                   /* xor ax, ax */
    0x31, 0xc9,                   /* xor cx, cx */
    0x0f, 0xa2,                   /* cpuid */
    0x68, 0x00, 0x20,             /* push 2000h */
    0x1f,                         /* pop ds */
    0xc6, 0x06, 0x00, 0x00, 0xa5, /* mov byte [0], a5h */
    0xa0, 0x00, 0x00,             /* mov al, [0] */
    0xe6, PORT,                   /* out PORT, al */
    0xf4,                         /* hlt */
};

/* Binds this thread, and with it the VMCS, to the next processor. */
static void move_on(void)
{
    static int next;
    int count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)(next++ % count), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static int must(const char *what, int result)
{
    if (result < 0) {
        perror(what);
        exit(2);
    }
    return result;
}

static void vcpu_prepare(int vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = CODE_AT, .rsp = CODE_AT, .rflags = 2 };

    must("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    must("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs));
    must("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs));
}

/* 1: it said the byte that it had written, and halted. */
static int vcpu_run(int vcpu, struct kvm_run *run)
{
    int said = 0;

    for (;;) {
        must("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
        if (run->exit_reason == KVM_EXIT_HLT)
            return said;
        if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT) {
            fprintf(stderr, "vms: unexpected exit reason %u\n", run->exit_reason);
            return 0;
        }
        said = *((uint8_t *)run + run->io.data_offset) == 0xa5;
        move_on();
    }
}

static int vm_run(int kvm, uint8_t *memory, int run_size)
{
    uint64_t identity_map = IDENTITY_MAP_AT;
    struct kvm_userspace_memory_region region = { .memory_size = GUEST_MEMORY, .userspace_addr = (uintptr_t)memory };
    int vm = must("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));

    must("KVM_SET_IDENTITY_MAP_ADDR", ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map));
    must("KVM_SET_TSS_ADDR", ioctl(vm, KVM_SET_TSS_ADDR, TSS_AT));
    must("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));

    int vcpu = must("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
    struct kvm_run *run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        must("mmap", -1);
    vcpu_prepare(vcpu);
    memory[TOUCHED_AT] = 0;
    int good = vcpu_run(vcpu, run);
    munmap(run, (size_t)run_size);
    close(vcpu);
    close(vm);
    move_on();
    return good && memory[TOUCHED_AT] == 0xa5;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 1;
    int good = 0;
    int kvm = must("/dev/kvm", open("/dev/kvm", O_RDWR));
    int run_size = must("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    uint8_t *memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        must("mmap", -1);
    memcpy(memory + CODE_AT, code, sizeof(code));
    for (int i = 0; i < count; i++)
        good += vm_run(kvm, memory, run_size);
    printf("%d\n", good);
    return good == count ? 0 : 1;
}
