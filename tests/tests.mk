# Everything that tests Strata. Included by the top Makefile, whose CC, CFLAGS, BUILD and object rules it uses.
#
# tests/host has the rooms and folders of the hypervisor; machine/ is the fake machine, support/ is what all tests use.
# A test program names the files under test in its first comment, "/* sources: a.c b.c */" ("/* sources: */" for none; a word
# without ".c" is a set, see below), and is built twice: linked with the image's own objects as they are, and with the same
# files built again with AddressSanitizer and UndefinedBehaviorSanitizer. A fuzz target says its sources the same way. What the
# other files of tests/host define (test doubles, fake hardware) is linked where it is needed; where two of them define the
# same function, a test names the one that it means among its sources.

include tests/guests/guests.mk

.PHONY: test test-full test-host test-fuzz test-source test-setup test-soak test-hostile coverage format host-programs fuzz-programs cover-programs

test: test-setup ## run all tests
	@tests/run

test-full: test-setup ## all tests, the long ones too (an hour and more; says how long)
	@tests/run --full

test-setup:
	@bench/setup.sh --for test

test-host: ## run the unit tests, plain and sanitized
	@$(MAKE) --no-print-directory -s -k $(TEST_JOBS) host-programs; tests/host/run --build $(BUILD) --built $$?

FUZZ_SECONDS = 0
test-fuzz: ## replay the fuzzers' seeds and try some new inputs: FUZZ=fuzz_hypervisor, FUZZ_SECONDS=3600
	@$(MAKE) --no-print-directory -s -k $(TEST_JOBS) fuzz-programs; \
	tests/fuzz/run --build $(BUILD) --built $$? --seconds $(FUZZ_SECONDS) --seed $(SEED) $(FUZZ)

test-source: ## check the sources: layers, privileged instructions, warnings, format
	@tests/source/run --build $(BUILD) --cflags="$(SOURCE_CFLAGS)"

SEED = 1
STEPS = 10000
test-soak: test-setup $(BUILD)/strata.elf guests ## random EPT edits and accesses under every switch: SEED=, STEPS=
	@tests/guests/soak --strata $(BUILD)/strata.elf --seed $(SEED) --steps $(STEPS)

test-hostile: test-setup $(BUILD)/strata.elf guests ## guests that do what no guest should, bare and under Strata: SEED=, STEPS=
	@tests/guests/hostile --strata $(BUILD)/strata.elf --seed $(SEED) --steps $(STEPS)

coverage: ## lines of nested/, shadow-vmcs/ and ept-cache/ that tests and fuzzers reach, by file
	@bench/setup.sh --for coverage
	@$(MAKE) --no-print-directory -s -k $(TEST_JOBS) cover-programs fuzz-programs && tests/coverage/run --build $(BUILD)

format: ## rewrite the C files as .clang-format has it
	@tests/source/run --format

# Jobs as make was told, or one a processor.
TEST_JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
# Link-time optimization has no place in objects that are looked into.
SOURCE_CFLAGS = $(filter-out -flto%,$(filter-out -ffat-lto-objects,$(CFLAGS)))

FUZZ_CC = clang
# A fuzzer puts the variables of what it tests, and of the fake machine, back for each input: they have sections of their own.
FUZZ_RENAME = objcopy --rename-section .data=strata_data --rename-section .bss=strata_bss
COVER = -fprofile-instr-generate -fcoverage-mapping
# gcc has warned.
COVER_CFLAGS = $(filter-out $(WARNINGS),$(TEST_CFLAGS))
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TEST_CFLAGS = -std=gnu11 -O1 -g -fno-pie -MMD -MP $(WARNINGS) -I.

ifneq ($(filter host-programs fuzz-programs cover-programs,$(MAKECMDGOALS)),)

HOST_FILES := $(basename $(wildcard tests/host/*/*.c))
# Of each test its path; programs are named by the last part alone.
HOST_TESTS := $(foreach f,$(HOST_FILES),$(if $(filter test_%,$(notdir $(f))),$(f)))
FUZZ_TARGETS := $(basename $(notdir $(wildcard tests/fuzz/fuzz_*.c)))
# Memory at the addresses of pointers stands in place of the arena where a test says so.
HOST_DOUBLES := $(filter-out $(HOST_TESTS) tests/host/machine/memory,$(HOST_FILES))
# The two ways to panic exclude each other.
FUZZ_DOUBLES := $(filter-out %_cmocka,$(HOST_DOUBLES))

# Sets of sources. machine: all of Strata that a fake machine can run; what ends in hardware or in text has doubles.
SET_machine := tests/host/machine/fake_hw tests/host/machine/memory \
	$(filter-out core/boot/% core/lib/% core/cpu/cpu core/cpu/panic_page core/cpu/trap core/cpu/vmxon \
	core/guest/counter_report core/guest/cpuid core/guest/reset core/guest/task% core/memory/paging,$(C_FILES:.c=))
SET_machine-but-region := $(filter-out shadow-vmcs/region,$(SET_machine))
SET_ept-cache := $(basename $(wildcard ept-cache/*.c)) core/memory/ept01 core/memory/mtrr core/memory/page_pool
SET_checks := $(basename $(wildcard nested/checks*.c)) core/cpu/vmx_caps core/cpu/vmcs_fields

# What the first comment of a file names, and the sources that it means, without ".c".
words_of = $(shell sed -n '0,/\*\//{s|^/\* sources:||;s|\*/.*||;s|^ \*||;p}' $(1))
sources_of = $(sort $(foreach w,$(words_of),$(if $(filter %.c,$(w)),$(w:.c=),$(call set_of,$(w),$(1)))))
set_of = $(or $(SET_$(1)),$(error $(2): no set of sources "$(1)"))

host-programs: $(foreach t,$(notdir $(HOST_TESTS)),$(BUILD)/host/$(t) $(BUILD)/host-asan/$(t))
fuzz-programs: $(FUZZ_TARGETS:%=$(BUILD)/fuzz/%)
cover-programs: $(foreach t,$(notdir $(HOST_TESTS)) $(FUZZ_TARGETS),$(BUILD)/cover/$(t))

# Sources under test, built again: sanitized, and sanitized with the fuzzer's coverage.
$(BUILD)/host-asan/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -ffreestanding $(SANITIZE) -c -o $@ $<
$(BUILD)/fuzz/%.o: %.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(TEST_CFLAGS) -ffreestanding $(SANITIZE) -fsanitize=fuzzer-no-link -c -o $@ $<
	$(FUZZ_RENAME) $@

# Test programs and doubles.
$(BUILD)/host/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -c -o $@ $<
$(BUILD)/host-asan/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) $(SANITIZE) -c -o $@ $<
# The same with counters of lines, for both kinds of program.
$(BUILD)/cover/%.o: %.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(COVER_CFLAGS) -ffreestanding $(COVER) -c -o $@ $<
	$(FUZZ_RENAME) $@

# Not what is tested: the fuzzer's feedback does not come from it.
$(BUILD)/fuzz/tests/host/%.o: tests/host/%.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(TEST_CFLAGS) $(SANITIZE) -c -o $@ $<
	$(FUZZ_RENAME) $@
$(BUILD)/fuzz/tests/fuzz/%.o: tests/fuzz/%.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(TEST_CFLAGS) $(SANITIZE) -c -o $@ $<

$(BUILD)/cover/tests/host/%.o: tests/host/%.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(COVER_CFLAGS) -c -o $@ $<
	$(FUZZ_RENAME) $@
$(BUILD)/cover/tests/fuzz/%.o: tests/fuzz/%.c tests/tests.mk
	@mkdir -p $(@D)
	$(FUZZ_CC) $(COVER_CFLAGS) -c -o $@ $<

$(BUILD)/host/doubles.a: $(HOST_DOUBLES:%=$(BUILD)/host/%.o)
$(BUILD)/host-asan/doubles.a: $(HOST_DOUBLES:%=$(BUILD)/host-asan/%.o)
$(BUILD)/fuzz/doubles.a: $(FUZZ_DOUBLES:%=$(BUILD)/fuzz/%.o) $(BUILD)/fuzz/tests/fuzz/panic_abort.o
$(BUILD)/cover/doubles.a: $(HOST_DOUBLES:%=$(BUILD)/cover/%.o)
$(BUILD)/cover/fuzz/doubles.a: $(FUZZ_DOUBLES:%=$(BUILD)/cover/%.o) $(BUILD)/cover/tests/fuzz/panic_abort.o
%/doubles.a:
	@mkdir -p $(@D)
	@rm -f $@
	ar rcs $@ $^

# The image's objects have fixed addresses below 2 GiB or in the highest 2 GiB: no position-independent executable. Their
# machine code is linked, not what they hold for link-time optimization.
define HOST_RULES
$(BUILD)/host/$(notdir $(1)): $(BUILD)/host/$(1).o $(patsubst $(BUILD)/tests/%,$(BUILD)/host/tests/%,$(2:%=$(BUILD)/%.o)) \
		$(BUILD)/host/doubles.a
	$(CC) -no-pie -fno-lto -o $$@ $$^ -lcmocka
$(BUILD)/host-asan/$(notdir $(1)): $(BUILD)/host-asan/$(1).o $(2:%=$(BUILD)/host-asan/%.o) $(BUILD)/host-asan/doubles.a
	$(CC) -no-pie $(SANITIZE) -o $$@ $$^ -lcmocka
$(BUILD)/cover/$(notdir $(1)): $(BUILD)/cover/$(1).o $(2:%=$(BUILD)/cover/%.o) $(BUILD)/cover/doubles.a
	$(FUZZ_CC) -no-pie $(COVER) -o $$@ $$^ -lcmocka
endef
define FUZZ_RULES
$(BUILD)/fuzz/$(1): $(BUILD)/fuzz/tests/fuzz/$(1).o $(2:%=$(BUILD)/fuzz/%.o) $(BUILD)/fuzz/doubles.a
	$(FUZZ_CC) -no-pie $(SANITIZE) -fsanitize=fuzzer -o $$@ $$^
$(BUILD)/cover/$(1): $(BUILD)/cover/tests/fuzz/$(1).o $(2:%=$(BUILD)/cover/%.o) $(BUILD)/cover/fuzz/doubles.a
	$(FUZZ_CC) -no-pie $(COVER) -fsanitize=fuzzer -o $$@ $$^
endef
$(foreach t,$(HOST_TESTS),$(eval $(call HOST_RULES,$(t),$(call sources_of,$(t).c))))
$(foreach t,$(FUZZ_TARGETS),$(eval $(call FUZZ_RULES,$(t),$(call sources_of,tests/fuzz/$(t).c))))

.SECONDARY:
-include $(shell find $(BUILD)/host $(BUILD)/host-asan $(BUILD)/fuzz $(BUILD)/cover -name '*.d' 2>/dev/null)

endif
