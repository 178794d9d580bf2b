# The small test guests: build/guests/guest64.elf and guest32.elf from the same sources. No other side effects.
GUESTS_DIR := tests/guests
GUESTS_OUT := build/guests
GUESTS_CC ?= gcc
GUESTS_SOURCES := $(sort $(wildcard $(GUESTS_DIR)/lib/*.c $(GUESTS_DIR)/suites/*.c $(GUESTS_DIR)/lib/*.S $(GUESTS_DIR)/suites/*.S))
GUESTS_CFLAGS := -std=gnu11 -O1 -g -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fcf-protection=none -mgeneral-regs-only -fno-strict-aliasing -Wall -Wextra -Wshadow -Wmissing-prototypes -Werror \
	-I$(GUESTS_DIR)/lib -MMD -MP
GUESTS_ARCH64 := -m64 -mno-red-zone
GUESTS_ARCH32 := -m32
GUESTS_LD := -nostdlib -static -no-pie -Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,--no-warn-rwx-segments \
	-T $(GUESTS_DIR)/lib/guests.ld
GUESTS := $(GUESTS_OUT)/guest64.elf $(GUESTS_OUT)/guest32.elf

.PHONY: guests
guests: $(GUESTS)

define GUESTS_RULES
GUESTS_OBJECTS$(1) := $$(patsubst $(GUESTS_DIR)/%,$(GUESTS_OUT)/$(1)/%.o,$(GUESTS_SOURCES))
$(GUESTS_OUT)/$(1)/%.o: $(GUESTS_DIR)/% $(GUESTS_DIR)/guests.mk
	@mkdir -p $$(@D)
	$$(GUESTS_CC) $(GUESTS_CFLAGS) $(GUESTS_ARCH$(1)) -c $$< -o $$@
$(GUESTS_OUT)/guest$(1).elf: $$(GUESTS_OBJECTS$(1)) $(GUESTS_DIR)/lib/guests.ld
	$$(GUESTS_CC) $(GUESTS_ARCH$(1)) $(GUESTS_LD) $$(GUESTS_OBJECTS$(1)) -o $$@
-include $$(GUESTS_OBJECTS$(1):.o=.d)
endef
$(eval $(call GUESTS_RULES,64))
$(eval $(call GUESTS_RULES,32))
