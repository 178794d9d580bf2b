"""One run of Debian's Bochs: its configuration and what its end means.

Input comes only from disk images and fixed time, so two runs of the same machine give the same
ticks; a terminal (interactive runs) is the one exception.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
import tty
from dataclasses import dataclass, field
from pathlib import Path

from . import MachineError
from .image import CYLINDER, HEADS, SECTORS_PER_TRACK
from .process import Child, SerialFile, Verdict, follow

# For every Strata on an emulated processor, in front of other options: none has the erratum that coalesce=auto goes by.
STRATA_OPTIONS = "coalesce=on"
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
VGA_BIOS = Path("/usr/share/bochs/VGABIOS-lgpl-latest")
SEED_SOURCE = Path(__file__).with_name("fixed-seed.c")
SEED_LIBRARY = Path(__file__).resolve().parents[2] / "build/fixed-seed.so"
DISKS_MAX = 4
CPUS_MAX = 8
MEMORY_MIN, MEMORY_MAX = 32, 8192  # MiB
HOST_MEMORY_MAX = 2048  # MiB; Bochs allocates no more, a larger guest is swapped to a file
ESCAPE = 0x1D  # Ctrl-] ends an interactive run

# What Bochs's log says when a run is over, other than by the watcher's wish.
# Both regular ways to switch off are "panics" in its words.
POWERED_OFF = re.compile(r"^(\d+)[a-z]\[[^\]]*\] .*(ACPI control: soft power off|Shutdown port)",
                         re.M)
LAST_TICK = re.compile(r"^(\d{6,})[a-z]\[", re.M)
PANIC = re.compile(r"^\d+p\[.*", re.M)


DISPLAY = re.compile(r"listening for connections on port")
DISPLAY_S = 5  # a Bochs that has not said so by then looks for no port

USUAL_IPS = 10_000_000
SLOW_IPS = 100_000_000


def usual_ips(options):
    """Ticks per emulated second that suit Stratas with these boot options.

    Under a guest hypervisor of the old kind an interrupt from Linux's timer takes longer than the
    time between two of them by the usual clock: Linux would never get further.
    """
    return SLOW_IPS if "compat=xmhf" in options else USUAL_IPS


@dataclass
class Machine:
    """A PC. `disks` are image paths in the order of BIOS drives 80h, 81h, ..."""

    disks: list
    model: str = "corei7_skylake_x"
    cpus: int = 1
    ips: int = USUAL_IPS  # ticks per emulated second
    memory_mib: int = 1024
    ignore_bad_msrs: bool = True
    extra: list = field(default_factory=list)  # further bochsrc lines, verbatim
    debugger: str = "c\n"  # commands for the debugger that is compiled in

    def check(self):
        """Raise a MachineError, one line, for what Bochs would refuse less clearly."""
        self.check_cpu()
        if not MEMORY_MIN <= self.memory_mib <= MEMORY_MAX:
            raise MachineError(f"memory of {self.memory_mib} MiB: "
                               f"the machine has {MEMORY_MIN} to {MEMORY_MAX} MiB")
        if not 1 <= len(self.disks) <= DISKS_MAX:
            raise MachineError(f"{len(self.disks)} disks: the machine has 1 to {DISKS_MAX}")
        for disk in map(Path, self.disks):
            if not disk.is_file():
                raise MachineError(f"missing disk image {disk}")
            if disk.stat().st_size < CYLINDER:
                raise MachineError(f"disk image {disk} is too small: {disk.stat().st_size} bytes, "
                                   f"one cylinder is {CYLINDER}")
        for rom, package in ((BIOS, "bochsbios"), (VGA_BIOS, "vgabios")):
            if not rom.is_file():
                raise MachineError(f"missing ROM file {rom} (Debian package {package})")

    def check_cpu(self):
        if not 1 <= self.cpus <= CPUS_MAX:
            raise MachineError(f"{self.cpus} CPUs: the machine has 1 to {CPUS_MAX}")
        models = cpu_models()
        if self.model not in models:
            raise MachineError(f"unknown CPU model {self.model}; Bochs has: {' '.join(models)}")

    def bochsrc(self, com1, log):
        """The configuration file's text; COM1 is the `mode=` part of the serial port."""
        host = min(self.memory_mib, HOST_MEMORY_MAX)
        lines = [
            'display_library: rfb, options="timeout=0"',
            "config_interface: textconfig",
            f"cpu: model={self.model}, count={self.cpus}:1:1, ips={self.ips}, "
            f"reset_on_triple_fault=0, ignore_bad_msrs={int(self.ignore_bad_msrs)}",
            f"memory: guest={self.memory_mib}, host={host}",
            f"romimage: file={BIOS}",
            f"vgaromimage: file={VGA_BIOS}",
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
            "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15",
        ]
        for i, disk in enumerate(map(Path, self.disks)):
            lines.append(f"ata{i // 2}-{('master', 'slave')[i % 2]}: type=disk, mode=flat, "
                         f"path={disk.resolve()}, cylinders={disk.stat().st_size // CYLINDER}, "
                         f"heads={HEADS}, spt={SECTORS_PER_TRACK}")
        lines += [
            "boot: disk",
            f"com1: enabled=1, {com1}",
            "sound: driver=dummy",  # a host without sound would end Bochs 2.7
            "clock: sync=none, time0=1700000000",
            "vga: extension=vbe, update_freq=5, realtime=0",  # else retrace follows the host's clock
            "panic: action=fatal",
            "error: action=report",
            "info: action=report",
            "debug: action=ignore",
            f"log: {log}",
        ]
        return "\n".join(lines + self.extra) + "\n"


def bochs_path():
    path = shutil.which("bochs")
    if not path:
        raise MachineError("missing tool bochs (Debian package bochs)")
    return path


def cpu_models():
    """The CPU models that the installed Bochs knows, in its order."""
    said = _help("cpu")
    listed = said.partition("Supported CPU models:")[2]
    return re.findall(r"^([a-z][a-z0-9_]*)$", listed, re.M)


def version():
    """For example "Bochs 2.7"."""
    found = re.search(r"Bochs x86 Emulator (\S+)", _help("cpu"))
    return f"Bochs {found.group(1)}" if found else "Bochs"


def _help(topic):
    done = subprocess.run([bochs_path(), "-q", "--help", topic], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def run(machine, out_dir, on_serial=None, on_tick=None, limit_s=1800, stall_s=240,
        terminal=False):
    """Run MACHINE to its end; always returns with Bochs gone. Gives a Verdict.

    out_dir    takes bochsrc, bochs.log, bochs.out and serial.log
    on_serial, on_tick, limit_s, stall_s  as process.follow has them
    terminal   the serial port is this process's terminal; no limits then
    """
    machine.check()
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    serial, log = out_dir / "serial.log", out_dir / "bochs.log"
    log.unlink(missing_ok=True)
    line = _Terminal(serial) if terminal else SerialFile(serial)
    with line, _process(machine, out_dir, line.com1 if terminal else f"mode=file, dev={serial}", log) as child:
        _await_display(child, log)
        started = time.monotonic()
        limits = (None, None) if terminal else (limit_s, stall_s)
        ended, detail = follow(child, line, on_serial, on_tick, *limits)
        wall_s = time.monotonic() - started
    return _verdict(ended, detail, wall_s, serial, log)


def _verdict(ended, detail, wall_s, serial, log):
    said = log.read_text(errors="replace") if log.is_file() else ""
    off = POWERED_OFF.search(said)
    stamps = LAST_TICK.findall(said)
    ticks = int(off.group(1)) if off else int(stamps[-1]) if stamps else None
    if ended == "exited":
        panics = PANIC.findall(said)
        ended = "power-off" if off else "bochs failed"
        if not off:
            detail = panics[-1].strip() if panics else f"see {log} and {log.with_suffix('.out')}"
    return Verdict(ended, detail, ticks, wall_s, serial, log)


def _await_display(child, log):
    """Ends the turn of this emulator to look for a port of its display."""
    end = time.monotonic() + DISPLAY_S
    while child.alive() and time.monotonic() < end and not (log.is_file() and DISPLAY.search(log.read_text(errors="replace"))):
        time.sleep(0.01)
    child.started()


class _InTurn(Child):
    """Two emulators that look for a port at the same moment take the same one, and one of them then gives up: one after the other."""

    def __enter__(self):
        self._turn = open(Path(tempfile.gettempdir()) / f"strata-bochs-{os.getuid()}.lock", "w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        return super().__enter__()

    def started(self):
        self._turn.close()

    def __exit__(self, *what):
        self._turn.close()
        return super().__exit__(*what)


def _process(machine, out_dir, com1, log):
    rc, commands = out_dir / "bochsrc", out_dir / "bochs.commands"
    rc.write_text(machine.bochsrc(com1, log))
    commands.write_text(machine.debugger)
    return _InTurn([bochs_path(), "-q", "-unlock", "-f", rc, "-rc", commands], out_dir / "bochs.out",
                    [Path(f"{disk}.lock") for disk in machine.disks], cwd=out_dir,
                    env=dict(os.environ, LD_PRELOAD=str(_seed_library())))


def _seed_library():
    """The library that makes RDRAND repeat (see its source), built on first use."""
    if not (SEED_LIBRARY.is_file()
            and SEED_LIBRARY.stat().st_mtime >= SEED_SOURCE.stat().st_mtime):
        if not shutil.which("gcc"):
            raise MachineError("missing tool gcc (Debian package gcc)")
        SEED_LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        new = SEED_LIBRARY.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", new, SEED_SOURCE], check=True)
        os.replace(new, SEED_LIBRARY)
    return SEED_LIBRARY


class WithoutReports:
    """What a person wants to see of the serial line: Strata's counters, screens of them, are for the log."""

    MARK = b"strata-json:"

    def __init__(self):
        self._held = b""  # may be the beginning of the mark
        self._skipping = False

    def pass_on(self, data):
        data, out = self._held + data, b""
        self._held = b""
        while data:
            if self._skipping:
                _, newline, data = data.partition(b"\n")
                self._skipping = not newline
                continue
            before, mark, data = data.partition(self.MARK)
            self._skipping = bool(mark)
            out += before
        if not self._skipping:
            held = next((n for n in range(len(self.MARK) - 1, 0, -1) if out.endswith(self.MARK[:n])), 0)
            out, self._held = out[:len(out) - held], out[len(out) - held:]
        return out

    def rest(self):
        """Nothing came behind what is held: it is no mark (an echoed key, say)."""
        out, self._held = self._held, b""
        return out


class _Terminal:
    """COM1 on a pseudo terminal, joined to this process's own terminal; logged as well."""

    def __init__(self, serial):
        self._serial = serial
        self.escaped = False
        self._saved = None
        self._for_people = WithoutReports()

    def __enter__(self):
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.com1 = f"mode=term, dev={os.ttyname(self._slave)}"
        self._log = open(self._serial, "wb", buffering=0)
        self._stdin = sys.stdin.fileno() if sys.stdin.isatty() else None
        if self._stdin is not None:
            self._saved = termios.tcgetattr(self._stdin)
            tty.setraw(self._stdin)
        return self

    def __exit__(self, *_):
        if self._saved:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)
        self._log.close()
        os.close(self._master)
        os.close(self._slave)

    def read(self):
        """Moves bytes both ways; returns what the guest wrote."""
        self._pass_keys()
        try:
            data = os.read(self._master, 65536)
        except (BlockingIOError, OSError):
            data = b""
        self._log.write(data)
        sys.stdout.buffer.write(self._for_people.pass_on(data) if data else self._for_people.rest())
        sys.stdout.buffer.flush()
        return data

    def _pass_keys(self):
        if self._stdin is None or not select.select([self._stdin], [], [], 0)[0]:
            return
        keys = os.read(self._stdin, 1024)
        if ESCAPE in keys or not keys:
            self.escaped = True
        else:
            os.write(self._master, keys)

    def wait(self, seconds):
        sources = [self._master] + ([self._stdin] if self._stdin is not None else [])
        select.select(sources, [], [], seconds)
