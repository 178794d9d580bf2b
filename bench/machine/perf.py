"""L0's view of a run under KVM: what `perf` counted of QEMU's process (Debian package linux-perf).

Two recordings side by side: `perf kvm stat` has the exits by reason, `perf stat` the totals of all of KVM's
tracepoints, those of nested guests among them. Numbers of a real machine: they differ a little from run to run.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import MachineError

BEGIN_S = 1  # perf has no way to say that it has begun
END_S = 120
PARANOID = "proc/sys/kernel/perf_event_paranoid"
TRACEPOINTS = ("sys/kernel/tracing/events/kvm", "sys/kernel/debug/tracing/events/kvm")
EXIT_ROW = re.compile(r"^\s*([A-Z][A-Z0-9_/ ]*?)\s+(\d+)\s+[\d.]+%\s+[\d.]+%\s+[\d.]+us\s+[\d.]+us\s+([\d.]+)us", re.M)
TOTAL_ROW = re.compile(r"^(\d+),[^,]*,(kvm:\w+),", re.M)


def missing(root=Path("/"), which=shutil.which, user=None):
    """What this machine lacks for it, and what helps, in one line; None if nothing."""
    if not which("perf"):
        return "no perf (Debian package linux-perf), or say --no-perf"
    if (os.geteuid() if user is None else user) != 0:
        try:
            paranoid = int((root / PARANOID).read_text())
        except (OSError, ValueError):
            paranoid = 4
        if paranoid > -1:
            return "perf may not see KVM's tracepoints: as root, or sysctl kernel.perf_event_paranoid=-1; or --no-perf"
    if not any((root / path).is_dir() for path in TRACEPOINTS):
        return "the kernel shows no KVM tracepoints: mount -t tracefs nodev /sys/kernel/tracing; or --no-perf"
    return None


class Recorder:
    """Records the process PID from entering the `with` block to leaving it; then counts() tells."""

    def __init__(self, pid, out_dir):
        self._pid, self._out = str(pid), Path(out_dir)
        self._exits, self._totals = self._out / "perf.kvm", self._out / "perf.stat"
        self._running = []

    def __enter__(self):
        for path in (self._exits, self._totals):
            path.unlink(missing_ok=True)
        self._start("kvm", "stat", "record", "-o", self._exits, "-p", self._pid)
        self._start("stat", "-x,", "-e", "kvm:*", "-o", self._totals, "-p", self._pid)
        time.sleep(BEGIN_S)
        for name, process in self._running:
            if process.poll() is not None:
                self.__exit__()  # a `with` block that is not entered is not left
                said = self._log(name).read_text(errors="replace").strip().splitlines()
                raise MachineError(f"perf {name} does not record: {said[-1] if said else 'no reason given'}")
        return self

    def _start(self, *words):
        name = words[0]
        with open(self._log(name), "wb") as log:
            self._running.append((name, subprocess.Popen(["perf", *words], stdin=subprocess.DEVNULL, stdout=log,
                                                         stderr=subprocess.STDOUT)))

    def _log(self, name):
        return self._out / f"perf.{name}.log"

    def __exit__(self, *_):
        for _, process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # write what there is, then end
        for _, process in self._running:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def counts(self):
        """{"vmexit.CPUID": 12, "kvm:kvm_nested_vmexit": 3, ...}"""
        done = subprocess.run(["perf", "kvm", "-i", self._exits, "stat", "report", "--event=vmexit"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise MachineError(f"perf kvm stat report failed: {' '.join(done.stderr.split())[:200]}")
        totals = self._totals.read_text(errors="replace") if self._totals.is_file() else ""
        return {**exits(done.stdout), **tracepoints(totals)}


def exits(text):
    """The rows of `perf kvm stat report`."""
    return {f"vmexit.{name.replace(' ', '_')}": int(count) for name, count, _ in EXIT_ROW.findall(text)}


def tracepoints(text):
    """The rows of `perf stat -x,` that counted something."""
    return {name: int(count) for count, name in TOTAL_ROW.findall(text) if int(count)}
