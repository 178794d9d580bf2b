"""The life of an emulator: a process group of its own, its serial line followed, and always gone at the end.

Knows nothing of which emulator it is: bochs.py and qemu.py say what to start and what its end means.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.1
PATIENCE_S = 2  # between asking it to end and ending it


@dataclass
class Verdict:
    """How a run ended.

    ended   "power-off"    the guest switched the machine off
            "matched"      the watcher had seen what it wanted
            "stalled"      nothing on the serial line for too long
            "out of time"  the overall limit
            "bochs failed", "qemu failed"  the emulator gave up; `detail` says why
            "escaped"      the user ended an interactive run
    ticks   at the power-off; else the last tick seen in the emulator's log, or None
    l0      what the machine's own hypervisor counted: {"name": count}; empty where there is none
    """

    ended: str
    detail: str
    ticks: int
    wall_s: float
    serial: Path
    log: Path
    l0: dict = field(default_factory=dict)
    l0_marks: list = field(default_factory=list)  # [mark, exits but for interrupts], where it was asked meanwhile

    @property
    def ok(self):
        return self.ended in ("power-off", "matched")

    def serial_text(self):
        return self.serial.read_bytes().decode("utf-8", "replace")

    def last_lines(self, count=20):
        """The end of the serial log, or of the emulator's own log if the guest never spoke."""
        lines = self.serial_text().splitlines()
        if not lines and self.log.is_file():
            lines = self.log.read_text(errors="replace").splitlines()
        return lines[-count:]


class SerialFile:
    """COM1 written to a file: no live input, so that runs repeat exactly."""

    escaped = False

    def __init__(self, path):
        self._path = path
        path.write_bytes(b"")

    def __enter__(self):
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self):
        return self._file.read()

    def wait(self, seconds):
        time.sleep(seconds)


class Child:
    """A process, gone when the `with` block is left, whatever ended the block.

    leftovers  files that it may leave behind when it is killed
    """

    def __init__(self, command, out, leftovers=(), **popen):
        self._command, self._out, self._leftovers, self._popen = command, out, leftovers, popen
        self._handlers = {}
        self.process = None

    def __enter__(self):
        self._catch_signals()
        try:
            with open(self._out, "wb") as out:
                self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=out,
                                                stderr=subprocess.STDOUT, start_new_session=True,
                                                preexec_fn=_die_with_parent, **self._popen)
        except BaseException:
            self._restore_signals()
            raise
        return self

    def __exit__(self, *_):
        try:
            self._kill()
        finally:
            self._restore_signals()

    def alive(self):
        return self.process.poll() is None

    def _kill(self):
        for sig, patience_s in ((signal.SIGTERM, PATIENCE_S), (signal.SIGKILL, None)):
            try:
                os.killpg(self.process.pid, sig)
            except ProcessLookupError:
                pass
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        for path in self._leftovers:
            path.unlink(missing_ok=True)

    def _catch_signals(self):
        """A polite end of this process must unwind through __exit__."""
        def leave(number, _frame):
            raise SystemExit(128 + number)
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's business
        for sig in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(sig) != signal.SIG_IGN:  # nohup
                self._handlers[sig] = signal.signal(sig, leave)

    def _restore_signals(self):
        for sig, handler in self._handlers.items():
            signal.signal(sig, handler)


def _die_with_parent():
    """In the child: not even a SIGKILL of the runner leaves the emulator behind."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def follow(child, line, on_serial=None, on_tick=None, limit_s=None, stall_s=None):
    """Pass serial output on until something ends the run: (how, detail); "exited" if the process did.

    on_serial  called with each piece of serial output (bytes); a true result ends the run
    on_tick    called about ten times a second; a true result ends the run
    stall_s    wall seconds without serial output before giving up
    """
    started = last_output = time.monotonic()
    while True:
        running = child.alive()  # asked first: what it wrote before it ended still counts
        data = line.read()
        now = time.monotonic()
        if data:
            last_output = now
            if on_serial and on_serial(data):
                return "matched", ""
        if on_tick and on_tick():
            return "matched", ""
        if line.escaped:
            return "escaped", ""
        if not running and not data:
            return "exited", ""
        if stall_s and now - last_output > stall_s:
            return "stalled", f"no serial output for {stall_s:.0f} s"
        if limit_s and now - started > limit_s:
            return "out of time", f"not finished after {limit_s:.0f} s"
        if running and not data:
            line.wait(POLL_S)
