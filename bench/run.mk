# The runner's targets: setup, run, and the guest's program strata-stat; the benchmarks: bench, bench-test.
# Variables of `make run`: MACHINE LEVELS BOOT FIRMWARE SMP CPU ARCH KERNEL INITRD INTERACTIVE OPTIONS GUEST MEMORY.
# GUEST=kvm: the guest hypervisor is Linux with KVM (tests/linux/kvm-init has the words that may follow); GUEST=xen: Xen (xen-init).
# Included by the top Makefile; touches nothing outside build/.

.PHONY: setup run debug

# Quotes one value for the shell.
shell_word = '$(subst ','\'',$(1))'

RUN_ARGUMENTS = \
    $(if $(MACHINE),--machine $(call shell_word,$(MACHINE))) \
    $(if $(LEVELS),--levels $(call shell_word,$(LEVELS))) \
    $(if $(BOOT),--boot $(call shell_word,$(BOOT))) \
    $(if $(FIRMWARE),--firmware $(call shell_word,$(FIRMWARE))) \
    $(if $(SMP),--smp $(call shell_word,$(SMP))) \
    $(if $(CPU),--cpu $(call shell_word,$(CPU))) \
    $(if $(ARCH),--arch $(call shell_word,$(ARCH))) \
    $(if $(KERNEL),--kernel $(call shell_word,$(KERNEL))) \
    $(if $(INITRD),--initrd $(call shell_word,$(INITRD))) \
    $(if $(MEMORY),--memory $(call shell_word,$(MEMORY))) \
    $(if $(OPTIONS),--set $(call shell_word,$(OPTIONS))) \
    $(if $(GUEST),--guest=$(call shell_word,$(GUEST))) \
    $(if $(filter-out 0 no,$(INTERACTIVE)),--interactive)

setup: ## install what is missing from Debian's packages
	@bench/setup.sh --for $(or $(filter kvm xen,$(firstword $(GUEST)) $(MACHINE)),run) $(if $(ARCH),--arch $(call shell_word,$(ARCH)))

# A make of its own after setup: on a fresh machine it is setup that brings the compiler.
run: setup ## boot Linux under Strata under Strata (LEVELS=2 BOOT=modules|disks SMP=2 CPU=model ARCH=amd64|i386 KERNEL= INITRD= INTERACTIVE=1 OPTIONS= GUEST=words|kvm|xen)
	@$(MAKE) --no-print-directory $(if $(filter 0,$(LEVELS)),,build/strata.elf) build/strata-stat$(if $(filter i386,$(ARCH)),-i386)
	@bench/boot $(RUN_ARGUMENTS)

# As `make run`, with the same variables.
debug: setup ## make run, held at Strata's first entry for gdb, with commands that show levels, vmcs12 and walks
	@bench/setup.sh --for debug
	@$(MAKE) --no-print-directory build/strata.elf build/strata-stat
	@bench/boot --debug --out build/debug $(RUN_ARGUMENTS)

STRATA_STAT_FLAGS = -Os -static -s
STRATA_STAT = tests/linux/strata-stat.c tests/linux/strata-watch.c
build/strata-stat build/strata-stat-i386: $(STRATA_STAT) tests/linux/strata-stat.h
	@mkdir -p $(@D)
	gcc $(if $(filter %-i386,$@),-m32) -I. -std=gnu11 -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -Werror $(STRATA_STAT_FLAGS) -o $@ $(STRATA_STAT)

include bench/guests/guests.mk

.PHONY: bench bars bench-test bench-setup
bench-setup:
	@bench/setup.sh --for bench $(if $(ARCH),--arch $(call shell_word,$(ARCH)))

# JOBS emulators side by side.
bench: bench-setup ## run the short set of benchmarks and compare it with bench/baseline (JOBS=2)
	@$(MAKE) --no-print-directory build/strata.elf build/strata-stat $(EXIT_COST)
	@bench/short --jobs $(or $(JOBS),2)

bars: bench-setup ## what Strata promises of its own cost, measured (bench/bars)
	@$(MAKE) --no-print-directory build/strata.elf build/strata-stat $(EXIT_COST)
	@bench/bars

bench-test: bench-setup ## test the benchmarks' own programs (EMULATOR=1: and that two runs are the same)
	@$(if $(filter-out 0 no,$(EMULATOR)),$(MAKE) --no-print-directory build/strata.elf $(EXIT_COST))
	@BENCH_EMULATOR=$(filter-out 0 no,$(EMULATOR)) python3 -m unittest discover -s bench/tests -t bench/tests

.PHONY: test-full-kvm
test-full-kvm: ## KVM as the guest hypervisor in all its ways: bench/kvm/full (long; says how long)
	@bench/setup.sh --for kvm
	@$(MAKE) --no-print-directory build/strata.elf build/strata-stat
	@bench/kvm/full

.PHONY: test-full-xen
test-full-xen: ## Xen as the guest hypervisor: bench/xen/full (long; says how long)
	@bench/setup.sh --for xen
	@$(MAKE) --no-print-directory build/strata.elf build/strata-stat
	@bench/xen/full
