"""What the serial line says: stages, the guest's own words, Strata's counters.

Owns the protocol of the serial line (all levels and Linux share it, so a line may start in the
middle of another) and the progress line. Decides nothing about the emulator: bochs.py asks it
with every piece of output whether it has seen enough.
"""

import json
import re
import sys
import time
from dataclasses import dataclass

STRATA_LINE = re.compile(r"strata\[L(\d+)\] (\d+): (.*)")
STRATA_JSON = re.compile(r"strata-json: (\{.*)")
GUEST_LINE = re.compile(r"strata-guest: (.*)")
SETTLE_S = 3  # after a fatal line: wait for the rest of what is being said

# Strata's texts that are stages, and what a table calls them.
STRATA_STAGES = (
    (re.compile(r"started\b"), "started"),
    (re.compile(r"continuing boot from drive (\w+)"), "boots drive {0}"),
    (re.compile(r"booting module 1\b"), "boots module"),
    (re.compile(r"all CPUs started"), "all CPUs started"),
)
STRATA_WARNING = re.compile(r"warning: (.*)")
STRATA_ERRORS = re.compile(r"(refused|panic): .*")


@dataclass
class Stage:
    name: str
    ticks: int  # None where the line carries no time stamp
    wall_s: float


class Watch:
    """Collects what a boot of LEVELS Stratas with Linux on top says.

    stages   [Stage, ...] in the order of appearance
    guest    the guest's words: {"stage": last, "cpus": "2", ...}
    reports  Strata's counter lines, as parsed JSON
    errors   complete lines that mean failure
    strata_warnings  what Strata warned of: {text: [level, ...]}
    """

    def __init__(self, levels, progress=None):
        self.stages, self.guest, self.reports, self.errors = [], {}, [], []
        self.levels_seen, self.strata_warnings = set(), {}
        self.guest_stages = set()
        self._linux = f"L{levels + 1} Linux"
        self._progress = progress
        self._started = time.monotonic()
        self._partial = b""
        self._fatal_since = None

    def feed(self, data):
        """Take a piece of serial output (bytes). Never ends the run by itself."""
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            self.line(line.decode("utf-8", "replace").rstrip("\r"))
        if data and self._fatal_since:
            self._fatal_since = time.monotonic()
        return False

    def tick(self):
        """True when nothing more can come: a fatal line, and silence since."""
        if self._progress:
            self._progress.tick()
        return bool(self._fatal_since) and time.monotonic() - self._fatal_since > SETTLE_S

    def line(self, text):
        for pattern, take in ((STRATA_LINE, self._strata_line), (STRATA_JSON, self._strata_json),
                              (GUEST_LINE, self._guest_line)):
            found = pattern.search(text)
            if found:
                take(text, *found.groups())
                return
        if "Kernel panic - not syncing" in text:
            self._fatal(text)

    def stage(self, name, ticks):
        stage = Stage(name, ticks, time.monotonic() - self._started)
        self.stages.append(stage)
        if self._progress:
            self._progress.stage(stage)

    def _strata_line(self, _line, level, tsc, text):
        self.levels_seen.add(int(level))
        for pattern, name in STRATA_STAGES:
            found = pattern.match(text)
            if found:
                self.stage(f"L{level} Strata: {name.format(*found.groups())}", int(tsc))
        if found := STRATA_WARNING.match(text):
            self.strata_warnings.setdefault(found[1], []).append(int(level))
        if STRATA_ERRORS.match(text):
            self._fatal(f"L{level} {text}")

    def _strata_json(self, line, text):
        try:
            report, _ = json.JSONDecoder().raw_decode(text)
        except ValueError:
            self.errors.append(f"unreadable counters: {line}")
            return
        self.reports.append(report)

    def _guest_line(self, _line, text):
        words = dict(w.split("=", 1) for w in text.split() if "=" in w)
        ticks = words.pop("tsc", None)
        self.guest.update(words)
        stage = words.get("stage")
        if stage:
            self.guest_stages.add(stage)
            # QEMU's own emulation reads MSR 10h as 0: no stamp.
            self.stage(f"{self._linux}: {stage}", ticks and int(ticks, 0) or None)

    def _fatal(self, text):
        self.errors.append(text)
        self._fatal_since = time.monotonic()


class Progress:
    """One line that says the stage and the time: rewritten on a terminal, else one per stage."""

    def __init__(self, out=sys.stderr):
        self._out = out
        self._tty = out.isatty()
        self._started = time.monotonic()
        self._stage = "GRUB"
        self._shown = None

    def stage(self, stage):
        self._stage = stage.name
        if not self._tty:
            print(f"{stage.wall_s:7.1f} s  {stage.name}", file=self._out, flush=True)

    def tick(self):
        seconds = int(time.monotonic() - self._started)
        if self._tty and (seconds, self._stage) != self._shown:
            self._shown = seconds, self._stage
            print(f"\r\033[K{seconds:4d} s  {self._stage}", end="", file=self._out, flush=True)

    def close(self):
        if self._tty and self._shown:
            print("\r\033[K", end="", file=self._out, flush=True)
