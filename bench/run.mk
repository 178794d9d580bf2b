# The runner's targets: setup, run, and the guest's program strata-stat.
# Variables of `make run`: LEVELS SMP CPU KERNEL INITRD INTERACTIVE OPTIONS GUEST MEMORY.
# GUEST=kvm: the guest hypervisor is Linux with KVM (tests/linux/kvm-init has the words that may follow).
# Included by the top Makefile; touches nothing outside build/.

.PHONY: setup run

# Quotes one value for the shell.
shell_word = '$(subst ','\'',$(1))'

RUN_ARGUMENTS = \
    $(if $(LEVELS),--levels $(call shell_word,$(LEVELS))) \
    $(if $(SMP),--smp $(call shell_word,$(SMP))) \
    $(if $(CPU),--cpu $(call shell_word,$(CPU))) \
    $(if $(KERNEL),--kernel $(call shell_word,$(KERNEL))) \
    $(if $(INITRD),--initrd $(call shell_word,$(INITRD))) \
    $(if $(MEMORY),--memory $(call shell_word,$(MEMORY))) \
    $(if $(OPTIONS),--set $(call shell_word,$(OPTIONS))) \
    $(if $(GUEST),--guest=$(call shell_word,$(GUEST))) \
    $(if $(filter-out 0 no,$(INTERACTIVE)),--interactive)

setup: ## install what is missing from Debian's packages
	@bench/setup.sh --for $(if $(filter kvm,$(firstword $(GUEST))),kvm,run)

# A make of its own after setup: on a fresh machine it is setup that brings the compiler.
run: setup ## boot Linux under Strata under Strata (LEVELS=2 SMP=2 CPU=model KERNEL= INITRD= INTERACTIVE=1 OPTIONS= GUEST=words|kvm)
	@$(MAKE) --no-print-directory $(if $(filter 0,$(LEVELS)),,build/strata.elf) build/strata-stat
	@bench/boot $(RUN_ARGUMENTS)

build/strata-stat: tests/linux/strata-stat.c
	@mkdir -p $(@D)
	gcc -std=c11 -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -Werror -Os -static -s -o $@ $<
