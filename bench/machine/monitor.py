"""Bochs's own debugger, driven by a program: a run that stops where one says, and what it then knows.

Debian's Bochs has the debugger compiled in, and no stub for gdb. It talks on its terminal: here a pseudo terminal.
"""

import os
import pty
import re
import select
import signal
import subprocess
import time
import tty

from . import MachineError, bochs

PROMPT = re.compile(rb"<bochs:\d+> $")
VALUE = re.compile(r"^0x[0-9a-f]+ <[^>]*>:((?:[\t ]+0x[0-9a-f]+)+)", re.M)
REGISTER = re.compile(r"^(r[a-z0-9]+)\s*: ([0-9a-f]{8})_([0-9a-f]{8})", re.M)
CONTROL = re.compile(r"\b(CR[0234]|EFER)\s*=\s*0x([0-9a-f_]+)")
SEGMENT = re.compile(r"^([cdefgs]s):0x([0-9a-f]{4})", re.M)
NEXT = re.compile(r"^\((\d)\) \[0x", re.M)
QUAD = 8
QUADS_MAX = 512  # read by one command


class Monitor:
    """A machine held by its debugger, from before its first instruction. Use it as a context."""

    def __init__(self, machine, out_dir):
        self.machine, self.out_dir = machine, out_dir
        self.breakpoints = {}  # linear address: number

    def __enter__(self):
        self.machine.check()
        self.out_dir.mkdir(parents=True, exist_ok=True)
        rc = self.out_dir / "bochsrc"
        serial = self.out_dir / "serial.log"
        rc.write_text(self.machine.bochsrc(f"mode=file, dev={serial}", self.out_dir / "bochs.log"))
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self._process = subprocess.Popen([bochs.bochs_path(), "-q", "-unlock", "-f", rc], stdin=slave, stdout=slave,
                                         stderr=slave, cwd=self.out_dir, start_new_session=True,
                                         env=dict(os.environ, TERM="dumb"))
        os.close(slave)
        self.wait()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        for disk in self.machine.disks:
            self.out_dir.joinpath(f"{disk}.lock").unlink(missing_ok=True)

    def alive(self):
        return self._process.poll() is None

    def send(self, command):
        os.write(self._master, command.encode() + b"\n")

    def wait(self, seconds=None, wake=None):
        """What the debugger says up to its next prompt; None after SECONDS, or once the file WAKE can be read."""
        said, end = b"", None if seconds is None else time.monotonic() + seconds
        while not PROMPT.search(said):
            left = None if end is None else max(0, end - time.monotonic())
            ready = select.select([self._master] + ([wake] if wake is not None else []), [], [], left)[0]
            if self._master not in ready:
                return None
            try:
                said += os.read(self._master, 65536)
            except OSError:  # the machine was switched off, or Bochs gave up
                self._process.wait()
                raise MachineError(f"the machine is gone; see {self.out_dir / 'bochs.log'}") from None
        return PROMPT.sub(b"", said).decode(errors="replace").replace("\r", "")

    def ask(self, command):
        self.send(command)
        said = self.wait()
        return said.partition("\n")[2] if said.startswith(command) else said  # readline echoes

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def select(self, cpu):
        self.ask(f"set $cpu = {cpu}")

    def registers(self):
        """Of the CPU selected: {"rax": value, ..., "rip", "eflags", "cr0", ..., "efer", "cs", ...}."""
        said = self.ask("r")
        found = {name: int(high + low, 16) for name, high, low in REGISTER.findall(said)}
        found["eflags"] = int(re.search(r"eflags 0x([0-9a-f]+)", said)[1], 16)
        found.update({name.lower(): int(value.replace("_", ""), 16)
                      for name, value in CONTROL.findall(self.ask("creg"))})
        found.update({name: int(value, 16) for name, value in SEGMENT.findall(self.ask("sreg"))})
        return found

    def read(self, address, size, how="xp"):
        """Bytes of memory: physical, or linear on the CPU selected (how="x"). MachineError: there is none."""
        start = address & ~(QUAD - 1)
        quads = -(-(address + size - start) // QUAD)
        found = []
        while len(found) < quads:
            n = min(QUADS_MAX, quads - len(found))
            said = self.ask(f"{how} /{n}gx 0x{start + QUAD * len(found):x}")
            values = [int(value, 16) for line in VALUE.findall(said) for value in line.split()]
            if len(values) != n:
                raise MachineError(f"no memory at {start:x}")
            found += values
        data = b"".join(value.to_bytes(QUAD, "little") for value in found)
        return data[address - start:address - start + size]

    def stop_at(self, address):
        if address not in self.breakpoints:
            self.ask(f"lb 0x{address:x}")
            self._renumber()

    def pass_at(self, address):
        if address in self.breakpoints:
            self.ask(f"d {self.breakpoints.pop(address)}")

    def _renumber(self):
        listed = re.findall(r"^\s*(\d+)\s+lbreakpoint\s+keep\s+\w\s+0x([0-9a-f]+)", self.ask("info break"), re.M)
        self.breakpoints = {int(address, 16): int(number) for number, address in listed}
