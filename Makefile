# Strata: builds build/strata.elf; the other targets are in bench/run.mk and tests/tests.mk.

CC = gcc
BUILD = build
FOLDERS = core shadow-vmcs ept-cache x2apic nested

WARNINGS = -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -Werror
CFLAGS = -std=gnu11 -O2 -g -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
	-mcmodel=kernel -mno-red-zone -mgeneral-regs-only -mindirect-branch=thunk-inline -mindirect-branch-register -fno-jump-tables \
	-flto=1 -ffat-lto-objects $(WARNINGS) -I.
LDFLAGS = -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096,-z,noexecstack,--no-warn-rwx-segments -Wl,-T,core/boot/strata.lds

C_FILES = $(sort $(foreach f,$(FOLDERS),$(wildcard $(f)/*.c $(f)/*/*.c)))
S_FILES = $(sort $(wildcard core/*/*.S))
OBJECTS = $(C_FILES:%.c=$(BUILD)/%.o) $(S_FILES:%.S=$(BUILD)/%.S.o)

.PHONY: all help clean
all: $(BUILD)/strata.elf ## build build/strata.elf

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

clean: ## remove what was built (keeps downloaded packages in build/cache)
	rm -rf $(filter-out $(BUILD)/cache,$(wildcard $(BUILD)/*))

$(BUILD)/strata.elf: $(OBJECTS) core/boot/strata.lds
	@echo "  LINK  $@"
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@.full $(OBJECTS)
	@strip -g -o $@ $@.full

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS) -MMD -c -o $@ $<

$(BUILD)/%.S.o: %.S Makefile
	@mkdir -p $(@D)
	@echo "  AS    $<"
	@$(CC) -I. -g -MMD -c -o $@ $<

# A header that is gone has its users built again.
%.h %.def: ;
-include $(OBJECTS:.o=.d)
-include install/install.mk
-include bench/run.mk
-include tests/tests.mk
