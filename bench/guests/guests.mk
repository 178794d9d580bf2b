# exit-cost: the library of the small test guests with the files of this folder. Included by bench/run.mk.
EXIT_COST := build/bench/exit-cost.elf
EXIT_COST_SOURCES := $(wildcard bench/guests/*.c bench/guests/*.S tests/guests/lib/*.c tests/guests/lib/*.S)
EXIT_COST_OBJECTS := $(EXIT_COST_SOURCES:%=build/bench/%.o)
# As the test guests are built (tests/guests/guests.mk); the optimization level is part of what is measured.
EXIT_COST_CFLAGS := -std=gnu11 -O1 -g -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fcf-protection=none -mgeneral-regs-only -fno-strict-aliasing -m64 -mno-red-zone -Wall -Wextra -Wshadow \
	-Wmissing-prototypes -Werror -Itests/guests/lib -MMD -MP
EXIT_COST_LD := -m64 -nostdlib -static -no-pie -Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,--no-warn-rwx-segments \
	-T tests/guests/lib/guests.ld

build/bench/%.o: % bench/guests/guests.mk
	@mkdir -p $(@D)
	@gcc $(EXIT_COST_CFLAGS) -c $< -o $@
$(EXIT_COST): $(EXIT_COST_OBJECTS) tests/guests/lib/guests.ld
	@echo "  LINK  $@"
	@gcc $(EXIT_COST_LD) $(EXIT_COST_OBJECTS) -o $@
# UEFI firmware keeps memory of its own where the other lies.
build/bench/exit-cost-16m.elf: $(EXIT_COST_OBJECTS) tests/guests/lib/guests.ld
	@echo "  LINK  $@"
	@gcc $(EXIT_COST_LD) -Wl,--defsym=LINK_AT=0x1000000 $(EXIT_COST_OBJECTS) -o $@
-include $(EXIT_COST_OBJECTS:.o=.d)
