"""One run of QEMU, with KVM and nested VMX where the host has them, or with QEMU's own emulation (no VMX: no Strata).

A machine for what Bochs cannot say: seconds, and what a real processor's hypervisor sees. Its times are the host's, so
nothing measured here is exact, and nothing of it is ever a reason to fail.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import MachineError, perf
from .process import Child, SerialFile, Verdict, follow
from .qmp import Monitor

PROGRAM = "qemu-system-x86_64"
DISKS_MAX = 4
NESTED = "sys/module/kvm_intel/parameters/nested"
POWER_OFF = "guest-shutdown"
OVMF = Path("/usr/share/ovmf/OVMF.fd")  # UEFI


# What makes KVM offer the enlightened VMCS of Hyper-V's interface.
HYPERV = ("hv-relaxed", "hv-vapic", "hv-vpindex", "hv-time", "hv-evmcs")


@dataclass
class Machine:
    """A PC. `disks` are image paths in the order of BIOS drives 80h, 81h, ..."""

    disks: list
    accel: str = "kvm"  # or "tcg"
    cpus: int = 1
    memory_mib: int = 1024
    perf: bool = True  # record L0's view, with KVM
    data: list = field(default_factory=list)  # disks that the BIOS does not boot
    firmware: str = "bios"  # or uefi
    hyperv: bool = False  # KVM looks like Hyper-V, which has another kind of VMCS

    @property
    def model(self):
        if self.accel != "kvm":
            return "max"
        return ",".join(("host", *HYPERV)) if self.hyperv else "host"

    def check(self):
        if not 1 <= len(self.disks) <= DISKS_MAX:
            raise MachineError(f"{len(self.disks)} disks: the machine has 1 to {DISKS_MAX}")
        for disk in map(Path, [*self.disks, *self.data]):
            if not disk.is_file():
                raise MachineError(f"missing disk image {disk}")
        if self.firmware == "uefi" and not OVMF.is_file():
            raise MachineError(f"missing {OVMF} (Debian package ovmf)")

    def words(self, place=lambda disk: Path(disk).resolve()):
        """What QEMU is told of the machine: the README shows it to people who start QEMU themselves.

        smm=off: SeaBIOS enters SMM for each access to a virtio disk, and KVM's RSM back into a nested guest ends the machine.
        place  gives the path of a disk where QEMU runs
        """
        words = ["-nodefaults", "-machine", f"pc,smm=off,accel={self.accel}", "-cpu", self.model, "-smp", str(self.cpus),
                 "-m", str(self.memory_mib), "-display", "none", "-vga", "std",
                 "-rtc", "base=2023-11-14T22:13:20,clock=vm", "-no-reboot"]
        if self.firmware == "uefi":
            words += ["-bios", str(OVMF)]
        for i, disk in enumerate(self.disks):
            words += ["-drive", f"file={_escaped(place(disk))},format=raw,if=none,id=disk{i}",
                      "-device", f"virtio-blk-pci,drive=disk{i},bootindex={i}"]
        for i, disk in enumerate(self.data):
            words += ["-drive", f"file={_escaped(place(disk))},format=raw,if=ide,index={i},media=disk"]
        return words

    def command(self, serial, monitor_fd):
        """QEMU's command line. It starts stopped: what records it is there from the first instruction."""
        return [PROGRAM, *self.words(), "-S", "-chardev", f"socket,id=monitor,fd={monitor_fd}",
                "-mon", "chardev=monitor,mode=control", "-serial", f"file:{serial}"]


def _escaped(path):
    """A comma in an option's value is said twice."""
    return str(path).replace(",", ",,")


def missing(accel, with_perf=True, root=Path("/"), which=shutil.which, usable=None):
    """What this host lacks for such a machine and how it is had, in one line; None if nothing.

    root, which, usable  stand for the host's file system, its programs, and whether a device may be opened
    """
    if not which(PROGRAM):
        return f"no {PROGRAM} (Debian package qemu-system-x86; bench/setup.sh --for perf)"
    if accel != "kvm":
        return None
    device = root / "dev/kvm"
    cpuinfo = root / "proc/cpuinfo"
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    if not device.exists():
        if not re.search(r"^flags\s*:.*\bvmx\b", flags, re.M):
            return ("no /dev/kvm: the processor shows no VMX (not an Intel one, switched off in its firmware, or "
                    "this is a virtual machine without nesting)")
        return "no /dev/kvm: modprobe kvm_intel nested=1"
    if not (usable or (lambda path: os.access(path, os.R_OK | os.W_OK)))(device):
        return "/dev/kvm may not be opened: be root, or join its group (adduser USER kvm)"
    try:
        nested = (root / NESTED).read_text().strip()
    except OSError:
        return "no module kvm_intel: Strata needs an Intel processor (modprobe kvm_intel nested=1)"
    if nested not in ("Y", "1"):
        return "kvm_intel has nesting switched off: modprobe -r kvm_intel && modprobe kvm_intel nested=1"
    return perf.missing(root, which) if with_perf else None


def version():
    """For example "QEMU 7.2.22"."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\S+)", said)
    return f"QEMU {found.group(1)}" if found else "QEMU"


@contextmanager
def session(machine, out_dir):
    """MACHINE, stopped before its first instruction: (child, monitor); gone when the block is left."""
    machine.check()
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = machine.command(out_dir / "serial.log", theirs.fileno())
        with Child(command, out_dir / "qemu.log", cwd=out_dir, pass_fds=[theirs.fileno()]) as child:
            theirs.close()
            monitor = Monitor(ours)
            try:
                monitor.open()
            except MachineError:
                child.process.wait(10)
                raise MachineError(f"QEMU does not start: {_last_line(out_dir / 'qemu.log')}") from None
            yield child, monitor


def run(machine, out_dir, on_serial=None, on_tick=None, limit_s=1800, stall_s=240):
    """Run MACHINE to its end; always returns with QEMU gone. Gives a Verdict.

    out_dir    takes serial.log, qemu.log and what perf recorded
    on_serial, on_tick, limit_s, stall_s  as process.follow has them
    """
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    serial, log, l0 = out_dir / "serial.log", out_dir / "qemu.log", {}
    with SerialFile(serial) as line, session(machine, out_dir) as (child, monitor):
        with ExitStack() as recording:
            recorder = None
            if machine.accel == "kvm" and machine.perf:
                recorder = recording.enter_context(perf.Recorder(child.process.pid, out_dir))
            started = time.monotonic()
            monitor.execute("cont")
            ended, detail = follow(child, line, on_serial, on_tick, limit_s, stall_s)
            wall_s = time.monotonic() - started
        if recorder:
            l0 = recorder.counts()
        reason = monitor.shutdown_reason()
    if ended == "exited":
        ended = "power-off" if reason == POWER_OFF else "qemu failed"
        detail = "" if reason == POWER_OFF else f"{reason or 'ended'}: {_last_line(log)}"
    return Verdict(ended, detail, None, wall_s, serial, log, l0)


def _last_line(log):
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else f"see {log}"
