#!/usr/bin/env python3
"""Writes the seeds of fuzz_hypervisor: small guest hypervisors, by name. Arguments: the directory to write them to, or --show and
the file of an input, to read what it does.

A step is (operation, how, which, value), as in struct step of tests/fuzz/hypervisor/l2.h; names of operations and of VMCS
fields are read from the sources, so that seeds go on meaning the same when either list changes.
"""

import re
import struct
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
OPS = re.findall(r"\bop_(\w+)", re.search(r"\bops\[\]\)[^{]*\{(.*?)\};",
                                          (TOP / "tests/fuzz/fuzz_hypervisor.c").read_text(), re.DOTALL)[1])
FIELDS = re.findall(r"^\s*F\((\w+),", (TOP / "core/cpu/vmcs_fields.def").read_text(), re.MULTILINE)
START = int(re.search(r"#define NESTED_MACHINE_START (0x\w+?)u",
                      (TOP / "tests/host/machine/nested_machine.h").read_text())[1], 16)
HIDDEN = int(re.search(r"#define GUEST_END (0x\w+?)u",
                       (TOP / "tests/host/machine/nested_machine.h").read_text())[1], 16)
MMIO = 0xe0000000
CPU1, AS_IT_IS, USER = 0x80, 0x40, 0x20
PREPARED, LEGACY = 1, 2
WORD_PAGES = 112
# Kinds of addresses: l2_address.
REGION, REGION_INSIDE, VMXON_REGION, TABLE, STRATA, VMCS01, DEVICE, BEYOND, WIDE, VALUE = range(10)
# How op_field writes.
PUT, FROM_SAMPLE, FLIP_BIT, ADDRESS, PUT_HIGH, ANY_FIELD, READ_ANY, READ = range(8)
# Machines: enum snapshot_machine.
TWO_CPUS, SHADOW_OFF, NO_WRITE_INFO, NO_PML, NO_FLAGS, NO_APIC, SMALL_POOL, PLAIN = (1 << i for i in range(8))
# op_pointer's instructions.
VMPTRLD, VMCLEAR, _, VMXON = range(4)
# op_fill's kinds: word_of.
FILL_VALUE, FILL_RANDOM, FILL_TABLE, FILL_RUN, FILL_RUN_LARGE, FILL_MSRS, FILL_BITS, FILL_REGION = range(8)
REASONS = {name: int(number) for name, number in
           re.findall(r"X\((\w+), (\d+)\)", (TOP / "core/lib/vmx.h").read_text())}
MSR_AREAS = 12  # guest page: entry load, exit store at +400h, exit load at +800h
LONG, PAE, FLAT, V86, REAL = range(5)


def page(n):
    return START + n * 4096


def step(op, how=0, which=0, value=0):
    return struct.pack("<BBHQ", OPS.index(op), how, which, value & (1 << 64) - 1)


def field(name, value, mode=PUT, how=0):
    return step("field", mode | how, FIELDS.index(name), value)


def word(number, offset, value):
    return step("word", 0, number + WORD_PAGES * (offset // 8), value)


def exit_for(reason, value=0, how=0):
    return step("l3_exit", how, REASONS[reason], value)


def touch(access, value, kind=VALUE, how=0):
    return step("l3_touch", kind | how, "rwx".index(access), value)


ENTER = step("enter")
CPUID = exit_for("cpuid")
FLUSH = step("invalidate", 0, 2)
NMI = step("event")


def machine(*steps, flags=0, off=0, missing=0, prepared=1):
    return struct.pack("<BBBB", flags, off, missing, prepared) + b"".join(steps)


def near_border(kind, how, seeds, flags=0):
    """VMCSs of one kind, entered, left, entered again; each rounded to valid, then flips bits."""
    steps = []
    for seed in seeds:
        steps += [step("vmcs", how, kind, seed), ENTER, CPUID, step("enter", 1), ENTER, exit_for("hlt")]
    return machine(*steps, flags=flags)


def on_cpu1(steps):
    out = b""
    for at in range(0, len(steps), 12):
        out += steps[at:at + 1] + bytes([steps[at + 1] | CPU1]) + steps[at + 2:at + 12]
    return out


def ept12_programs():
    """Tables of every kind under which L3 touches memory, edits and INVEPTs in between."""
    map_self = [step("entry", TABLE, 0 + 32 * 2, 0 | 7 << 52), step("entry", TABLE, 0 + 32 * 3, 5 | 7 << 52)]
    tables = [step("fill", FILL_RUN, 0x100 | 5, page(0x200)), step("fill", FILL_RUN_LARGE, 0x100 | 6, 1 << 30),
              step("fill", FILL_TABLE, 0x100 | 7, 77)]
    link = [word(17, 8, page(20) | 7), word(20, 8 * 128, page(21) | 7), word(20, 8 * 129, page(23) | 7)]
    touches = [touch(a, page(n)) for n in (0x200, 0x201, 16, 17) for a in "rwx"]
    yield "ept-self-naming", machine(*map_self, FLUSH, ENTER, *[touch("r", n << 30) for n in range(4)],
                                     *[touch("w", n << 39) for n in range(4)])
    yield "ept-runs", machine(*tables, *link, FLUSH, ENTER, *touches, FLUSH, ENTER, *touches,
                              word(21, 8, 0), FLUSH, ENTER, *touches)
    # An entry taken away, moved, made smaller; by the guest hypervisor and by L3 itself, through a page that maps the table.
    at, own = page(0x300), page(0x310)
    mapped = [word(17, 8, page(20) | 7), word(20, 8 * 129, page(21) | 7), word(21, 8 * 0x100, at | 0x37), word(21, 8 * 0x110, page(21) | 0x37)]
    edits = [word(21, 8 * 0x100, value) for value in (0, (at + 4096) | 0x37, at | 0x31, MMIO | 0x37, HIDDEN | 0x37)]
    for flags, off, name in ((0, 0, ""), (NO_FLAGS, 0, "-no-flags"), (NO_PML, 0, "-no-pml"), (0, 4, "-no-history"), (0, 15, "-all-off"),
                             (SMALL_POOL, 0, "-small-pool"), (TWO_CPUS, 0, "-two-cpus")):
        yield f"ept-edits{name}", machine(*mapped, FLUSH, *[s for edit in edits for s in (
            word(21, 8 * 0x100, at | 0x37), FLUSH, ENTER, *[touch(a, at) for a in "rwx"], CPUID, edit, FLUSH, ENTER,
            *[touch(a, at) for a in "rwx"])], word(21, 8 * 0x100, at | 0x37), FLUSH, ENTER, touch("r", at), touch("w", own + 8 * 0x100),
            touch("w", own), CPUID, FLUSH, ENTER, touch("r", at), flags=flags, off=off)
    yield "ept-small-pool", machine(*tables, *link, FLUSH, ENTER, *[
        s for n in range(24) for s in (field("EPTP", page(16 + n % 8) | 0x1e), ENTER, *touches[:4], FLUSH)],
        flags=SMALL_POOL)
    yield "ept-more-roots-than-kept", machine(
        ENTER, CPUID, word(65, 0, 0x12), step("pointer", REGION, VMPTRLD, 1), step("vmcs", 5, LONG, 1),
        *[s for n in range(70) for s in (field("EPTP", page(16 + n) | 0x1e), ENTER)], step("pointer", REGION, VMPTRLD, 0), ENTER)
    yield "ept-strata", machine(word(17, 8, HIDDEN | 0xb7), word(17, 16, MMIO | 0xb7), FLUSH, ENTER,
                                touch("r", 1 << 30), touch("w", (1 << 30) + 0x2000000), touch("x", HIDDEN), touch("w", 2 << 30))
    yield "ept-off", machine(field("PROC2_CONTROLS", 0x82, FROM_SAMPLE), ENTER, *touches, touch("w", HIDDEN),
                             exit_for("ept_misconfig"), ENTER, touch("r", 1 << 37))


def vmcs12_programs():
    for kind, name in enumerate(("long", "pae", "flat", "v86", "real")):
        yield f"near-{name}", near_border(kind, 7 | 1 << 3, range(1, 12))
        yield f"valid-{name}", near_border(kind, 5, [1])
        yield f"near-{name}-no-shadow", near_border(kind, 7 | 2 << 3, range(20, 28), SHADOW_OFF)
    yield "near-plain", near_border(LONG, 7 | 1 << 3, range(40, 50), PLAIN)
    yield "near-thin", struct.pack("<BBBB", 0, 0, 4, 1) + near_border(LONG, 7 | 1 << 3, range(60, 70))[4:]
    yield "controls", machine(field("PIN_CONTROLS", 0x60, FROM_SAMPLE), field("EXIT_CONTROLS", 0x400000, FROM_SAMPLE),
                              field("PROC_CONTROLS", 0x28c00000, FROM_SAMPLE), ENTER, exit_for("preemption_timer"), ENTER,
                              touch("r", page(600)))
    yield "addresses", machine(
        field("PROC_CONTROLS", 0x2200000, FROM_SAMPLE), field("PROC2_CONTROLS", 1, FROM_SAMPLE),
        *[field(name, HIDDEN + i * 0x101000) for i, name in enumerate(
            ("IO_BITMAP_A", "IO_BITMAP_B", "VIRTUAL_APIC_ADDR", "APIC_ACCESS_ADDR", "MSR_BITMAP"), 1)], ENTER, CPUID,
        field("MSR_BITMAP", MMIO), ENTER, step("l3_msr", 0, 7), step("l3_msr", 1, 9))
    yield "wrong", machine(step("enter", 1), field("HOST_RIP", 1 << 50, FROM_SAMPLE), ENTER, field("HOST_RIP", 0, FROM_SAMPLE),
                           field("EPTP", 0x800, FROM_SAMPLE), ENTER, field("EPTP", 0, FROM_SAMPLE),
                           field("GUEST_RFLAGS", 2, FROM_SAMPLE), ENTER)
    yield "no-vpid", machine(field("PROC2_CONTROLS", 0x20, FROM_SAMPLE), ENTER, CPUID, ENTER,
                             *[step("invalidate", 0, 0x100 | kind, 5) for kind in range(5)])
    yield "no-ept-pae", machine(
        field("PROC2_CONTROLS", 0x82, FROM_SAMPLE), field("ENTRY_CONTROLS", 0x200, FROM_SAMPLE), field("GUEST_EFER", 0),
        field("GUEST_CS_AR", 0xc09b), field("GUEST_CR3", page(30)), word(30, 0, page(31) | 1), word(30, 8, page(32) | 1),
        ENTER, CPUID, word(30, 0, 3), ENTER)
    yield "long-mode", machine(
        field("ENTRY_CONTROLS", 0x8200, FROM_SAMPLE), field("EXIT_CONTROLS", 0x100000, FROM_SAMPLE),
        field("GUEST_CS_AR", 0xc09b), field("GUEST_CR0", 0x21), ENTER, step("l3_state", 0, FIELDS.index("GUEST_CR0"), 0x80000021),
        CPUID, ENTER)
    yield "keep", machine(field("ENTRY_CONTROLS", 0xc004, FROM_SAMPLE), field("EXIT_CONTROLS", 0x140004, FROM_SAMPLE), ENTER,
                          step("l3_state", 0, FIELDS.index("GUEST_PAT"), 0), CPUID, ENTER)
    # A guest hypervisor in 32-bit mode: 32-bit operands.
    for kind, name in ((PAE, "pae"), (REAL, "real")):
        yield f"legacy-{name}", machine(step("vmcs", 5, kind, 1), *[ENTER, CPUID] * 2, step("pointer", REGION, VMCLEAR, 3),
                                        *[step("odd", n, n, 0x9e3779b97f4a7c15 * n) for n in range(1, 30)],
                                        step("vmcs", 7 | 1 << 3, kind, 5), ENTER, CPUID, prepared=PREPARED | LEGACY)


def memory_programs():
    load = [word(MSR_AREAS, offset, value) for offset, value in (
        (0, 0xc0000102), (8, 0x1111), (16, 0x176), (24, 0x7fffffffffff), (0x400, 0xc0000102), (0x410, 0xc0000080),
        (0x800, 0x174), (0x808, 8), (0x810, 0xc0000080), (0x818, 0xd01))]
    counts = [field(name, 2) for name in ("ENTRY_MSR_LOAD_COUNT", "EXIT_MSR_STORE_COUNT", "EXIT_MSR_LOAD_COUNT")]
    yield "msr-areas", machine(*counts, *load, ENTER, CPUID, ENTER, CPUID)
    yield "msr-store-tsc", machine(field("EXIT_MSR_STORE_COUNT", 1), word(MSR_AREAS, 0x400, 0x10), ENTER, CPUID)
    yield "msr-area-long", machine(field("ENTRY_MSR_LOAD_COUNT", 600), step("fill", FILL_MSRS, 4, 5), ENTER,
                                   field("ENTRY_MSR_LOAD_COUNT", 0), field("EXIT_MSR_STORE_COUNT", 600), ENTER, CPUID)
    for name, msr, value in (("sysenter", 0x176, 1 << 50), ("debugctl", 0x1d9, 1 << 40)):
        yield f"msr-abort-{name}", machine(field("EXIT_MSR_LOAD_COUNT", 1), word(MSR_AREAS, 0x800, msr),
                                           word(MSR_AREAS, 0x808, value), ENTER, CPUID)
    yield "msr-bitmap", machine(ENTER, step("l3_msr", 0, 7), step("l3_msr", 1, 9), step("fill", FILL_BITS, 0, 9), ENTER,
                                step("l3_msr", 1, 11), word(8, 0x800, 1 << 63), ENTER, step("l3_msr", 1, 2),
                                field("MSR_BITMAP", page(40)), ENTER)
    yield "region-of-garbage", machine(step("fill", FILL_RANDOM, 58, 12), word(66, 0, 0x12), step("pointer", REGION, VMPTRLD, 2),
                                       step("enter", 1), ENTER, step("pointer", REGION, VMCLEAR, 2))
    many = [s for n in range(11) for s in (word(64 + n, 0, 0x12), step("pointer", REGION, VMPTRLD, n),
                                           step("vmcs", 5, LONG, n), ENTER)]
    yield "many-vmcs", machine(*many, step("vmxoff", 0, 1), step("pointer", REGION, VMPTRLD, 1), ENTER,
                               step("pointer", REGION, VMCLEAR, 1))
    copy = [step("pointer", REGION, VMCLEAR, 0), step("copy", REGION, 4, 0), step("pointer", REGION, VMPTRLD, 4), ENTER, CPUID,
            step("pointer", REGION, VMPTRLD, 0), ENTER, CPUID, step("pointer", REGION, VMCLEAR, 0)]
    yield "copied-region", machine(ENTER, CPUID, *copy, *copy)
    yield "reused-region", machine(ENTER, CPUID, step("pointer", REGION, VMCLEAR, 0), step("fill", FILL_REGION, 56, 0),
                                   step("pointer", REGION, VMPTRLD, 0), step("vmcs", 5, LONG, 3), ENTER)
    yield "more-vmcs-than-slots", machine(*[s for n in range(40) for s in (
        word(64 + n, 0, 0x12), step("pointer", REGION, VMPTRLD, n), field("GUEST_RIP", n), ENTER)],
        *[step("pointer", REGION, VMCLEAR, n) for n in range(40)])
    shadow = [word(65, 0, 0x80000012), step("pointer", REGION, VMCLEAR, 1), field("PROC2_CONTROLS", 0x4000, FROM_SAMPLE),
              field("VMCS_LINK_POINTER", page(65)), field("VMREAD_BITMAP", page(13)), field("VMWRITE_BITMAP", page(14))]
    uses = [step("l3_vmx", how, n * 7, 0x1234) for n in range(20) for how in (0, 1)]
    yield "shadow-vmcs", machine(*shadow, ENTER, *uses, CPUID, ENTER, *uses, step("fill", FILL_BITS, 5, 3), ENTER, *uses)
    soft = [step("l3_vmx", how, FIELDS.index(name), 0x5000) for name in ("EPTP", "HOST_RIP", "PROC_CONTROLS") for how in (0, 1)]
    flat = [step("l3_vmx", 4, FIELDS.index("EPTP"), at << 32 | 3 << 28 | 1 << 27 | 1 << 22 | 3 << 15 | 1 << 7)
            for at in (page(0x300), HIDDEN, MMIO, 0x10)]
    yield "shadow-vmcs-soft-fields", machine(*shadow, ENTER, *soft, step("l3_vmx", 3, 0x6fff, 1), step("l3_vmx", 3, 0x4402, 1),
                                             step("l3_state", 0, FIELDS.index("GUEST_SS_AR"), 0xc0f3), *soft,
                                             flags=NO_WRITE_INFO)
    yield "shadow-vmcs-memory", machine(step("vmcs", 5, FLAT, 1), *shadow, ENTER, *flat, touch("w", page(0x300)), *flat)
    yield "shadow-vmcs-changes", machine(
        *shadow, ENTER, *soft, field("VMCS_LINK_POINTER", -1), ENTER, *soft, field("VMCS_LINK_POINTER", page(65)), ENTER,
        *soft, field("PROC2_CONTROLS", 0, FROM_SAMPLE), field("VMCS_LINK_POINTER", -1), ENTER, *soft,
        field("PROC2_CONTROLS", 0x4000, FROM_SAMPLE), field("VMCS_LINK_POINTER", page(64)), ENTER, *soft)
    yield "shadow-vmcs-off", machine(*shadow, ENTER, *uses, CPUID, step("pointer", REGION, VMPTRLD, 1), flags=NO_WRITE_INFO)
    yield "link-pointer", machine(field("VMCS_LINK_POINTER", page(50)), ENTER, field("VMCS_LINK_POINTER", page(65)), ENTER,
                                  field("VMCS_LINK_POINTER", 0, FROM_SAMPLE), ENTER)


def event_programs():
    yield "nmi-at-launch", machine(NMI, ENTER, ENTER, CPUID)
    yield "nmi-no-exiting", machine(field("PIN_CONTROLS", 8, FROM_SAMPLE), NMI, field("ENTRY_INTR_INFO", 0x80000b0d, FROM_SAMPLE),
                                    ENTER, exit_for("nmi_window"), NMI, field("CR3_TARGET_COUNT", 9, FROM_SAMPLE), ENTER)
    yield "nmi-waits", machine(field("PIN_CONTROLS", 8, FROM_SAMPLE), field("ENTRY_INTR_INFO", 0x80000b0d), NMI, ENTER,
                               exit_for("exception_nmi", 0x30e, 1), ENTER, exit_for("nmi_window"))
    yield "nmi-behind-sti", machine(NMI, step("event", 1, 2, 0), NMI, step("event", 1, 2, 1), ENTER, NMI, CPUID)
    yield "machine-check", machine(step("event", 0, 1), ENTER, step("event", 0, 1), CPUID,
                                   field("EXCEPTION_BITMAP", 1 << 18), step("event", 0, 1), ENTER)
    yield "init", machine(ENTER, step("event", 0, 3), ENTER, step("event", 0, 3), step("vmxoff"), ENTER)
    yield "reinjection", machine(ENTER, touch("r", page(0x300)), exit_for("exception_nmi", 0x30e, 1), ENTER,
                                 exit_for("task_switch", 0x202 << 8, 2), ENTER)
    for first in range(0, 128, 32):
        yield f"reasons-{first}", machine(*[s for reason in range(first, first + 32) for s in (
            ENTER, step("l3_exit", 3, reason, 0x80b0e), ENTER, step("l3_exit", 0x40, reason | 0x3000, 1))])


def instruction_programs():
    yield "pointers", machine(*[step("pointer", kind, which, n) for kind in range(16) for which in range(4) for n in (0, 3)],
                              prepared=0)
    yield "pointers-in-vmx", machine(*[step("pointer", kind, which, n) for kind in range(16) for which in (0, 1, 3) for n in (0, 3)])
    yield "odd-operands", machine(*[step("odd", n, n, 0x9e3779b97f4a7c15 * n) for n in range(1, 120)])
    yield "odd-operands-user", machine(*[step("odd", USER | n % 8, n, 0x9e3779b97f4a7c15 * n) for n in range(1, 20)],
                                       step("enter", USER))
    yield "operands-in-small-pages", machine(
        word(5, 128 * 8, page(0) | 0xe3), word(2, 8, page(5) | 0x23), step("pointer", REGION, VMCLEAR, 3),
        word(6, 3 * 8, page(3) | 0x63), word(5, 128 * 8, page(6) | 0x23), step("pointer", REGION, VMPTRLD, 0), FLUSH,
        word(6, 3 * 8, 0), step("pointer", REGION, VMPTRLD, 0), word(2, 8, page(0) | 0x40e3), step("pointer", REGION, VMPTRLD, 0))
    yield "odd-operands-as-is", machine(ENTER, CPUID, *[step("odd", AS_IT_IS | n, n, 0x9e3779b97f4a7c15 * n) for n in range(1, 60)])
    yield "fields", machine(*[step("field", how, n, 0x8765432112345678) for n in range(len(FIELDS)) for how in (0, 7)][:230])
    yield "other-exits", machine(*[step("l2_exit", n % 16, n, 0x1234567800000000 + n) for n in range(200)])
    yield "outside-vmx", machine(ENTER, step("vmxoff"), step("invalidate", 0, 2), step("field"), CPUID, prepared=0)


def two_cpu_programs():
    one = b"".join([ENTER, touch("w", page(0x300)), CPUID, FLUSH, ENTER, step("pointer", REGION, VMCLEAR, 0)])
    other = b"".join([step("pointer", REGION, VMPTRLD, 5), step("vmcs", 5, LONG, 2), ENTER, touch("w", page(0x300)), CPUID])
    yield "two-cpus", machine(one, on_cpu1(one), on_cpu1(other), other, flags=TWO_CPUS)
    yield "two-cpus-no-shadow", machine(one, on_cpu1(other), one, flags=TWO_CPUS | SHADOW_OFF)
    yield "two-cpus-no-flags", machine(one, on_cpu1(other), one, flags=TWO_CPUS | NO_FLAGS | NO_APIC)
    move = b"".join([step("pointer", REGION, VMPTRLD, 3), step("vmcs", 5, LONG, 2), ENTER, CPUID, step("pointer", REGION, VMCLEAR, 3)])
    yield "moving-vmcs", machine(word(67, 0, 0x12), move, on_cpu1(move), move, on_cpu1(move), flags=TWO_CPUS)


def split(data):
    """The header of an input, and its steps."""
    return data[:4], [data[at:at + 12] for at in range(4, len(data) - 11, 12)]


def show(data):
    """An input as lines of text."""
    head, steps = split(data)
    yield "machine {:#x} off {:#x} missing {:#x} prepared {}".format(*head)
    for number, one in enumerate(steps):
        op, how, which, value = struct.unpack("<BBHQ", one)
        op = OPS[op % len(OPS)]
        field_name = FIELDS[which % len(FIELDS)] if op in ("field", "l3_state") else ""
        yield f"{number:4} {op:11} how {how:#04x} which {which:#06x} {field_name:20} value {value:#x}"


def main():
    if sys.argv[1] == "--show":
        print("\n".join(show(Path(sys.argv[2]).read_bytes())))
        return
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for programs in (ept12_programs, vmcs12_programs, memory_programs, event_programs, instruction_programs, two_cpu_programs):
        for name, data in programs():
            (out / name).write_bytes(data)


if __name__ == "__main__":
    main()
