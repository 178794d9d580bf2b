"""One round trip, instruction by instruction, out of Bochs's own trace.

The guest marks begin and end with a magic break ("xchg bx,bx"); the debugger traces between them.
A Strata's code has the same linear addresses at every level; the physical ones say which it is:
each level takes the top of what the one below left it.
"""

import bisect
import re
import subprocess
from collections import Counter
from dataclasses import dataclass

from machine import MachineError, bochs
from . import guest
from .result import metric

STEP = re.compile(r"^\(0\)\.\[\d+\] \[0x([0-9a-f]+)\] [0-9a-f]+:([0-9a-f]+) \(.*?\): (.*?)\s*; [0-9a-f]+$",
                  re.M)
VMX = ("vmread", "vmwrite", "vmptrld", "vmclear", "vmlaunch", "vmresume", "invept", "invvpid")
KERNEL = 0xFFFFFFFF80000000  # where Strata is linked
COMMANDS = "c\ntrace on\nc\ntrace off\nc\n"


@dataclass
class Step:
    level: int  # of the Strata that executed it; 0: a guest
    function: str
    instruction: str

    @property
    def mnemonic(self):
        return self.instruction.split()[0]


def record(setup, out_dir, item):
    guest.build()
    out_dir.mkdir(parents=True, exist_ok=True)
    program = guest.program({"items": item.partition(".")[0], "trace": item})
    machine = setup.machine(setup.disks(out_dir, program, "exit-cost"))
    machine.extra, machine.debugger = ["magic_break: enabled=1"], COMMANDS
    verdict = bochs.run(machine, out_dir, limit_s=setup.limit_s, stall_s=setup.stall_s)
    found = STEP.findall((out_dir / "bochs.out").read_text(errors="replace"))
    if not found:
        raise MachineError(f"{item} was not traced: {verdict.ended} {verdict.detail}".rstrip())
    return _steps(found, _Symbols(setup.strata))


def _steps(found, symbols):
    where = [(int(physical, 16), int(linear, 16), text) for physical, linear, text in found]
    moved = {linear - physical for physical, linear, _ in where if linear >= KERNEL}
    level_of = {offset: n for n, offset in enumerate(sorted(moved), 1)}  # highest memory first
    return [Step(level_of[linear - physical], symbols.name(linear), text) if linear >= KERNEL
            else Step(0, "guest", text) for physical, linear, text in where]


class _Symbols:
    def __init__(self, strata):
        full = strata.with_name(strata.name + ".full")
        if not full.is_file():
            raise MachineError(f"no symbols: missing {full}")
        said = subprocess.run(["nm", "-n", full], capture_output=True, text=True, check=True).stdout
        found = [line.split() for line in said.splitlines() if line.split()[1] in "tT"]
        self._starts = [int(words[0], 16) for words in found]
        self._names = [words[2] for words in found]

    def name(self, address):
        at = bisect.bisect_right(self._starts, address) - 1
        return self._names[at] if at >= 0 else "?"


def metrics(item, steps):
    """Of each Strata: its instructions in the round trip, and those of VMX among them by name."""
    found = {}
    for level in sorted({s.level for s in steps} - {0}):
        own = [s for s in steps if s.level == level]
        vmx = Counter(s.mnemonic for s in own if s.mnemonic in VMX)
        found[f"{item}.L{level}.instructions"] = metric(len(own), "count")
        found.update({f"{item}.L{level}.{name}": metric(vmx[name], "count") for name in VMX if vmx[name]})
    return found


def listing(steps):
    for step in steps:
        who = f"L{step.level}" if step.level else "guest"
        yield f"{who:<6}{step.function:<32}{step.instruction}"


def table(steps):
    """Instructions by level, what of them touches a VMCS, and by function."""
    for level in sorted({s.level for s in steps}):
        own = [s for s in steps if s.level == level]
        vmx = Counter(s.mnemonic for s in own if s.mnemonic in VMX)
        said = ", ".join(f"{n} {name}" for name, n in sorted(vmx.items(), key=lambda v: -v[1]))
        yield f"{f'Strata L{level}' if level else 'guests'}: {len(own)} instructions ({said})"
        if level:
            for name, n in Counter(s.function for s in own).most_common():
                yield f"  {n:>7}  {name}"
