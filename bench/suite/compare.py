"""Two results side by side: what changed, sorted by how much. Knows nothing of how they were made.

Counts and ticks are exact, so every difference is a change. Wall-clock is shown as median and
spread and never decides anything.
"""

import statistics
from dataclasses import dataclass

from .export import number
from .result import ResultError, counter_key, values

ADDS_ONLY = ("traced",)  # a scenario's options that add metrics and change none
MUST_AGREE = ("levels", "smp", "cpu", "memory_mib", "ips", "scenario", "boot")
STANDARD = {"boot": "disks"}  # of results that do not say


@dataclass
class Row:
    name: str
    unit: str
    exact: bool
    old: float
    new: float
    spread: str = ""

    @property
    def difference(self):
        return self.new - self.old

    @property
    def percent(self):
        """Growth in per cent of the old value; from nothing: endless."""
        if self.old == 0:
            return 0.0 if self.new == 0 else float("inf") * (1 if self.new > 0 else -1)
        return 100.0 * self.difference / abs(self.old)


def rows(a, b, names=("A", "B")):
    """All rows, those that moved most first. A ResultError where a comparison would mislead."""
    _comparable(a, b, names)
    old, old_units = _numbers(a, names[0])
    new, new_units = _numbers(b, names[1])
    metrics = set(a["runs"][0]["metrics"])
    missing = sorted(n for n in metrics if n not in new)
    if missing:
        raise ResultError(f"{names[1]} lacks {len(missing)} metrics of {names[0]}: "
                          + ", ".join(missing[:5]))
    gone = added_phases(b, a)
    if gone:
        raise ResultError(f"{names[1]} counts nothing in phases of {names[0]}: " + ", ".join(gone[:5]))
    fresh = {counter_key(row) for row in b["runs"][0]["counters"] if row["phase"] in added_phases(a, b)}
    fresh.update(added(a, b))
    found = []
    for name in {**old, **new}:
        if name not in old and name in fresh:
            continue  # has nothing to be compared with: see notes()
        unit, exact = (old_units | new_units)[name]
        # A counter that is not there counted nothing.
        before, after = old.get(name, [0]), new.get(name, [0])
        spread = "" if exact else f"{_spread(before)} / {_spread(after)}"
        found.append(Row(name, unit, exact, statistics.median(before), statistics.median(after),
                         spread))
    return sorted(found, key=lambda r: (not r.exact, -abs(r.percent), -abs(r.difference), r.name))


def added(a, b):
    """Metrics that only B has."""
    return sorted(set(b["runs"][0]["metrics"]) - set(a["runs"][0]["metrics"]))


def added_phases(a, b):
    """Phases that only B knows. One that A measured without counting anything in it is not among them."""
    counted = {row["phase"] for row in a["runs"][0]["counters"]}
    measured = tuple(a["runs"][0]["metrics"])
    return sorted(phase for phase in {row["phase"] for row in b["runs"][0]["counters"]} - counted
                  if not any(name.startswith(f"{phase}.") for name in measured))


def worse(found, threshold, either_way=False):
    """The rows that are past the threshold (per cent): larger, or with EITHER_WAY other."""
    return [r for r in found if r.exact and
            (abs(r.percent) if either_way else r.percent) > threshold]


def notes(a, b):
    """Differences of the circumstances that explain something and forbid nothing."""
    if a["setup"]["options"] != b["setup"]["options"]:
        yield f"options differ: {a['setup']['options']} / {b['setup']['options']}"
    if a["machine"] != b["machine"]:
        yield f"emulators differ: {a['machine']['version']} / {b['machine']['version']}"
    if a["setup"].get("guest", {}) != b["setup"].get("guest", {}):
        yield f"guests differ: {a['setup'].get('guest')} / {b['setup'].get('guest')}"
    if a["host"]["cpu"] != b["host"]["cpu"] and a["machine"]["kind"] != "bochs":
        yield f"processors differ: {a['host']['cpu']} / {b['host']['cpu']}"
    if added(a, b):
        yield f"new, not compared: {_some(added(a, b))}"
    if added_phases(a, b):
        yield f"counters of new phases, not compared: {_some(added_phases(a, b))}"


def table(found, everything=False, limit=60):
    """Markdown lines. Unchanged rows are only counted."""
    shown = [r for r in found if everything or r.difference or not r.exact]
    same = len(found) - len(shown)
    yield "| metric | old | new | difference | % | unit |"
    yield "|---|---:|---:|---:|---:|---|"
    for r in shown[:limit]:
        percent = f"{r.percent:+.2f}" if abs(r.percent) != float("inf") else "from 0"
        unit = r.unit if r.exact else f"{r.unit} (wall clock, spread {r.spread})"
        yield (f"| {r.name} | {number(r.old)} | {number(r.new)} | {_signed(r.difference)} | "
               f"{percent} | {unit} |")
    if len(shown) > limit:
        yield f"\n{len(shown) - limit} more rows changed less."
    yield f"\n{same} of {len(found)} are unchanged."


def _comparable(a, b, names):
    if a["machine"]["kind"] != b["machine"]["kind"]:
        raise ResultError(f"different machines: {names[0]} is of {a['machine']['kind']}, "
                          f"{names[1]} of {b['machine']['kind']}")
    if a["scenario"] != b["scenario"]:
        raise ResultError(f"different scenarios: {names[0]} is {a['scenario']}, "
                          f"{names[1]} is {b['scenario']}")
    for key in MUST_AGREE:
        values = [one["setup"].get(key, STANDARD.get(key)) for one in (a, b)]
        if _significant(values[0]) != _significant(values[1]):
            raise ResultError(f"different setup: {key} is {values[0]!r} in {names[0]}, {values[1]!r} in {names[1]}")
    for one, name in zip((a, b), names):
        if not one["complete"]:
            problems = [r["problem"] for r in one["runs"] if r["problem"]] or ["runs are missing"]
            raise ResultError(f"{name} is not complete: {problems[0]}")
        if not one["runs"][0]["metrics"]:
            raise ResultError(f"{name} has no metrics")


def _significant(value):
    return {k: v for k, v in value.items() if k not in ADDS_ONLY} if isinstance(value, dict) else value


def _numbers(result, name):
    found, units = values(result)
    for metric, numbers in found.items():
        if units[metric][1] and len(set(numbers)) > 1:
            raise ResultError(f"{name}: {metric} should be exact and is not: "
                              + ", ".join(map(number, numbers[:5])))
    return found, units


def _some(names, limit=8):
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _spread(numbers):
    return f"{max(numbers) - min(numbers):.3g}" if len(numbers) > 1 else "1 run"


def _signed(value):
    return ("+" if value > 0 else "") + number(value)
