"""exit-cost: bench/guests on top of N Stratas, and on top of N-1 for the difference.

What is subtracted: a round trip at N levels and the same at N-1 levels execute the same
instructions above, and each exiting instruction and each entry counts one tick in both (Bochs: 1
tick = 1 instruction; an instruction that exits counts as executed). With one CPU the difference
("added") is therefore exactly what one more Strata executes, its own VMRESUMEs included:

  nested.*  N=1: instructions in L1 for one round trip of L3 under the small guest hypervisor
  guest.*   N=2: instructions in L1 for one round trip of L3 under an L2 Strata (N-1: that L2
            Strata's own work, done as L1)
"""

import json
import re
import time

from machine import MachineError, watch
from . import guest, trace
from .result import Run, count_rows, l0_rows, metric

NAME = "exit-cost"
LINE = re.compile(r"bench-json: (\{.*\})\s*$")
FAILED = re.compile(r"^(FAIL .*|note lib\..*)$")
OVER = re.compile(r"strata\[L\d+\] \d+: (?:panic|refused): .*")
END = "bench-end: exit-cost"
# Behind each mark of the guest, where KVM inside Bochs is the machine: its counts so far. Interrupts are not the guest's
# doing, and its printing is I/O.
MARK = re.compile(r"^bench-mark: (\S+) (\d+)$")
L0 = re.compile(r"^strata-below: exits=(\d+) irq=(\d+) io=(\d+)$")


def run(setup, out_dir, progress, items="", invept="", traced=""):
    """One measurement: a Run whose metrics hold both runs and their difference."""
    if traced and setup.kind != "bochs":
        raise MachineError("--trace: only Bochs says what it executes")
    guest.build()
    above = _boot(setup, out_dir / f"levels-{setup.levels}", progress, items, invept)
    if not setup.levels or above.problem:
        return above
    fewer = _one_level_less(setup)
    below = _boot(fewer, out_dir / f"levels-{fewer.levels}", progress, items, invept)
    above.wall_s += below.wall_s
    if below.problem:
        above.problem = f"at {fewer.levels} levels: {below.problem}"
        above.last_lines = below.last_lines
        return above
    for name, one in list(above.metrics.items()):
        if name in below.metrics and name.endswith(".ticks"):
            less = below.metrics[name]
            stem = name[:-len(".ticks")]
            above.metrics[stem + ".ticks-below"] = less
            above.metrics[stem + ".added"] = metric(one["value"] - less["value"], one["unit"])
    above.metrics.update(invept_costs(above.metrics))
    for item in filter(None, traced.split(",")):
        progress.phase(f"tracing {item}")
        above.metrics.update(trace.metrics(item, trace.record(setup, out_dir / "trace", item)))
    return above


def invept_costs(metrics):
    """invept.SIZE.KIND.cost: what the Strata below executes for one INVEPT, wherever it does: from INVEPT through the
    next entry until the nested guest has touched everything again, less the same without INVEPT."""
    def added(size, kind):
        parts = [metrics.get(f"invept.{size}.{kind}.{part}.added") for part in ("invept", "entry", "touch")]
        return None if None in parts else sum(part["value"] for part in parts)

    found = {}
    for size, kind in sorted({tuple(name.split(".")[1:3]) for name in metrics if name.startswith("invept.")}):
        cost, less = added(size, kind), added(size, "none")
        if None not in (cost, less) and kind != "none":
            found[f"invept.{size}.{kind}.cost"] = metric(cost - less, "ticks")
    return found


def _one_level_less(setup):
    fewer = type(setup)(**vars(setup))
    fewer.levels = setup.levels - 1
    # The upper levels stay what they were: level N's options become level N-1's.
    fewer.level_options = {n - 1: o for n, o in setup.level_options.items() if n > 1}
    return fewer


def _boot(setup, out_dir, progress, items, invept):
    out_dir.mkdir(parents=True, exist_ok=True)
    words = {"items": items, "invept": invept, "marks": "1" if setup.inside else ""}
    disks = setup.disks(out_dir, guest.program(words), "exit-cost")
    seen = _Watch(setup, progress)
    verdict = setup.run(disks, out_dir, seen.feed, seen.tick)
    return seen.result(verdict)


class _Watch:
    """Takes the guest's lines as they come, so that a run that hangs keeps what it had."""

    def __init__(self, setup, progress):
        self._partial, self._ended, self._over_since = b"", False, None
        self._progress, self._levels = progress, setup.levels
        self.metrics, self.counters, self.errors = {}, [], []
        self._marks = []  # (item, round trips since the mark before, L0's exits or None) of the current item

    def feed(self, data):
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            self._line(line.decode("utf-8", "replace").strip())
        return self._ended

    def tick(self):
        """True when nothing more can come: a Strata gave up, and silence since."""
        self._progress.tick()
        return self._over_since is not None and time.monotonic() - self._over_since > watch.SETTLE_S

    def _line(self, text):
        found = LINE.search(text)
        if MARK.match(text) or L0.match(text):
            self._mark(text)
        elif found:
            try:
                self._item(json.loads(found.group(1)))
            except (ValueError, KeyError) as error:
                self.errors.append(f"unreadable line {text[:120]!r}: {error!r}")
        elif FAILED.match(text):
            self.errors.append(text)
        elif OVER.search(text):
            self.errors.append(OVER.search(text).group())
            self._over_since = time.monotonic()
        self._ended = self._ended or text.startswith(END)

    def _mark(self, text):
        """Three marks an item: from the first to the second is what a mark costs, from there to the third the round trips as well."""
        found = MARK.match(text)
        if found:
            self._marks = [m for m in self._marks if m[0] == found[1]] + [(found[1], int(found[2]), None)]
            return
        exits, irq, io = map(int, L0.match(text).groups())
        if not self._marks:
            return
        name, per, _ = self._marks[-1]
        self._marks[-1] = (name, per, exits - irq - io)
        if per and len(self._marks) == 3:
            first, second, third = (m[2] for m in self._marks)
            if None not in (first, second):
                self.metrics[f"{name}.exits-to-L0"] = metric(round((third - second - (second - first)) / per, 1), "exits")
            self._marks = []

    def _item(self, item):
        name = item["item"]
        self._progress.phase(f"{self._levels} levels: {name}")
        if "skipped" in item:
            return
        samples = item["samples"]
        batch = item.get("batch", 1)
        self.metrics[f"{name}.ticks"] = metric(_per(sorted(samples)[len(samples) // 2], batch), item["unit"],
                                               samples=samples, batch=batch)
        for level, counters in item.get("counters", {}).items():
            self.counters += count_rows(name, int(level[1:]), counters, item["per"])
            exits = sum(n for c, n in counters.items() if c.startswith("exit."))
            self.metrics[f"{name}.exits-to-{level}"] = metric(_per(exits, item["per"]), "exits")

    def result(self, verdict):
        problem = self.errors[0] if self.errors else None
        if not problem and not self._ended:
            problem = f"{verdict.ended}: {verdict.detail}".rstrip(": ")
        if not problem and not self.metrics:
            problem = "the guest measured nothing"
        return Run(problem, self.metrics, self.counters + l0_rows(verdict), verdict.ticks, verdict.wall_s,
                   verdict.last_lines() if problem else [])


def _per(count, per):
    return count // per if count % per == 0 else count / per


def check(setup):
    if setup.memory_mib < 256:
        raise MachineError(f"{NAME} needs 256 MiB of memory")
