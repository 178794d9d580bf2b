"""What a measurement runs on: levels, CPUs, model, options; and the disks that follow from it."""

import contextlib
import fcntl
import hashlib
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kvm import below
from machine import MachineError, bochs, qemu, stack

KINDS = ("bochs", "kvm", "tcg")  # of machines; tcg: QEMU without KVM, which has no VMX
TOP = Path(__file__).resolve().parents[2]
LEVELS_MAX = 3
GRUB_SYNTAX = re.compile(r"[\"'\\;$|&<>{}\n\s]")
OPTION = re.compile(r"^[a-z0-9]+=\S+$")


@dataclass
class Setup:
    """One machine with `levels` Stratas; what a scenario needs besides is its own affair."""

    kind: str = "bochs"
    levels: int = 1
    smp: int = 1
    cpu: str = "corei7_skylake_x"  # of Bochs
    options: str = ""  # for every level, blank separated
    level_options: dict = field(default_factory=dict)  # {level: options}, after `options`
    memory_mib: int = 512
    ips: int = None  # None: what suits the options
    strata: Path = TOP / "build/strata.elf"
    limit_s: int = 1800
    stall_s: int = 300
    perf: bool = True  # on KVM: record what it counts
    hyperv: bool = False  # on KVM: it offers the enlightened VMCS
    boot: str = "disks"  # or modules: how Stratas are stacked (machine/stack.py)
    below: str = ""  # on KVM inside Bochs: more for L0's command line

    def __post_init__(self):
        if self.ips is None and self.kind == "kvm":
            self.ips = below.IPS
        elif self.ips is None:
            self.ips = bochs.usual_ips(" ".join([self.options, *self.level_options.values()]))

    @property
    def emulated_ips(self):
        """Ticks per emulated second; None on a machine with a clock of its own."""
        return self.ips if self.exact else None

    @property
    def inside(self):
        """KVM, but inside Bochs, for the host has none."""
        return self.kind == "kvm" and bool(below.lacking())

    @property
    def exact(self):
        """Ticks are Bochs's: equal runs give equal numbers."""
        return self.kind == "bochs" or self.inside

    def check(self):
        if self.hyperv and self.kind != "kvm":
            raise MachineError("--hyperv: only with --machine kvm")
        if not self.exact:
            lacking = qemu.missing(self.kind, self.perf)
            if lacking:
                raise MachineError(f"--machine {self.kind}: {lacking}")
        if self.kind == "tcg" and self.levels:
            raise MachineError("--machine tcg: has no VMX, so only --levels 0")
        if self.exact:
            bochs.Machine([], self.cpu, self.smp).check_cpu()
        if not 0 <= self.levels <= LEVELS_MAX:
            raise MachineError(f"{self.levels} levels: 0 to {LEVELS_MAX}")
        if not 1 <= self.smp <= 4:
            raise MachineError(f"{self.smp} CPUs: 1 to 4")
        for level in self.level_options:
            if not 1 <= level <= self.levels:
                raise MachineError(f"options for level {level} of {self.levels}")
        if self.levels and not self.strata.is_file():
            raise MachineError(f"no Strata image at {self.strata}; run make")

    def options_of(self, level):
        return " ".join(filter(None, (self.options, self.level_options.get(level, ""))))

    def strata_disks(self, out_dir):
        """Disks of Stratas that boot the next disk."""
        return stack.strata_disks(self.boot, out_dir, self.strata, self._all_options())

    def disks(self, out_dir, program, name):
        """Disks of Stratas and of the PROGRAM on them."""
        return stack.disks(self.boot, out_dir, self.strata, self._all_options(), program, name)

    def _all_options(self):
        usual = bochs.STRATA_OPTIONS if self.kind == "bochs" else ""
        return [" ".join(f"mark=any {usual} {self.options_of(level)}".split()) for level in range(1, self.levels + 1)]

    def machine(self, disks):
        if self.kind == "bochs":
            return bochs.Machine(disks, self.cpu, self.smp, self.ips, self.memory_mib)
        return qemu.Machine(disks, self.kind, self.smp, self.memory_mib, self.perf, hyperv=self.hyperv)

    def run(self, disks, out_dir, on_serial, on_tick):
        """The machine with DISKS until it ends, or ON_SERIAL or ON_TICK say so: a process.Verdict."""
        if self.inside:
            return below.run(self.machine(disks), out_dir, on_serial, on_tick, self.limit_s, self.stall_s, self.ips, self.cpu,
                             words=self.below)
        how = bochs.run if self.kind == "bochs" else qemu.run
        return how(self.machine(disks), out_dir, on_serial, on_tick, self.limit_s, self.stall_s)

    def machine_described(self):
        version = bochs.version() if self.kind == "bochs" else qemu.version()
        return {"kind": self.kind, "version": f"{version} in {bochs.version()}" if self.inside else version}

    def described(self):
        """For the result file: everything that decides what a run does, but the scenario's own."""
        return {"levels": self.levels, "smp": self.smp,
                "cpu": self.cpu if self.kind == "bochs" else self.machine([]).model,
                "options": {f"L{n}": self.options_of(n) for n in range(1, self.levels + 1)},
                "memory_mib": self.memory_mib, "ips": self.emulated_ips, "boot": self.boot}


@contextlib.contextmanager
def only_one(work):
    """Holds the folder of images and logs: a second run in it waits, or both would be nonsense."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another run uses {work}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def parse_options(words):
    """The user's "shadow=off,history=off" as Strata wants it on its command line."""
    options = [w for w in words.split(",") if w]
    for option in options:
        if not OPTION.match(option) or GRUB_SYNTAX.search(option):
            raise MachineError(f"{option!r} is not an option of the form name=value")
    return " ".join(options)


def parse_level_options(arguments):
    """["2:lapic=trap", ...] as {2: "lapic=trap"}."""
    found = {}
    for argument in arguments:
        level, colon, words = argument.partition(":")
        if not colon or not level.isdigit():
            raise MachineError(f"{argument!r} is not of the form LEVEL:name=value,...")
        found[int(level)] = " ".join(filter(None, (found.get(int(level)), parse_options(words))))
    return found


def source_of(strata, top=TOP):
    """What the image was built from, as far as git and the file can tell."""
    def git(*words):
        done = subprocess.run(["git", "-C", top, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    changed = git("status", "--porcelain", "--untracked-files=no")
    sha = hashlib.sha256(strata.read_bytes()).hexdigest() if strata.is_file() else None
    return {"commit": git("rev-parse", "HEAD"), "subject": git("log", "-1", "--format=%s"),
            "changed": bool(changed), "strata_sha256": sha}


def host():
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "kernel": platform.release(), "python": platform.python_version()}
