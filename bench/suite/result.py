"""The form of a result file (bench/schema.json): written by the runner, read by everything else.

A file that does not say what it should is refused here, in one line that names what is wrong, so
that nothing behind has to doubt what it reads.
"""

import datetime
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

SCHEMA = "strata-bench/1"
SCHEMA_FILE = Path(__file__).resolve().parents[1] / "schema.json"
WALL_UNITS = {"s", "ms"}


class ResultError(Exception):
    """A result that cannot be used; the text is one complete line."""


@dataclass
class Run:
    """One repetition. problem is None, or why it is only partly there."""

    problem: str
    metrics: dict
    counters: list
    ticks: int
    wall_s: float
    last_lines: list = field(default_factory=list)

    def described(self):
        return {"complete": self.problem is None, "problem": self.problem, "ticks": self.ticks,
                "wall_s": round(self.wall_s, 1), "metrics": self.metrics,
                "counters": self.counters, "last_lines": self.last_lines}


def metric(value, unit, **more):
    """exact: the same in every run of the same thing on Bochs, so that a difference of 1 is a change."""
    return {"value": value, "unit": unit, "exact": unit not in WALL_UNITS, **more}


def inexact(run):
    """The same Run, of a machine that is no emulator: its ticks are time, its counts move with its interrupts."""
    run.metrics = {name: dict(one, exact=False) for name, one in run.metrics.items()}
    return run


def l0_rows(verdict):
    """What the machine's own hypervisor counted, as rows of level 0."""
    return [{"phase": "whole run", "level": 0, "per": 1, "counter": name, "count": count}
            for name, count in sorted(verdict.l0.items())]


def count_rows(phase, level, counters, per=1):
    """Strata's counters as rows that say level, source, reason and handler.

    level   of the Strata that counted; it counts its guest as "l2" and nested guests as "l3"
    per     how many round trips the counts cover
    """
    reflected = {name.partition(".")[2]: n for name, n in counters.items()
                 if name.startswith("reflect.")}
    rows = []
    for name, count in sorted(counters.items()):
        exit_ = re.match(r"^exit\.l(\d+)\.(.+)$", name)
        row = {"phase": phase, "level": level, "per": per}
        if exit_:
            source, reason = level - 1 + int(exit_.group(1)), exit_.group(2)
            given_on = reflected.get(reason, 0) if exit_.group(1) == "3" else 0
            for handler, part in (("own", count - given_on), ("reflected", given_on)):
                if part:
                    rows.append({**row, "from": source, "reason": reason, "handler": handler,
                                 "count": part})
        elif not name.startswith("reflect."):
            rows.append({**row, "counter": name, "count": count})
    return rows


def assemble(scenario, setup, source, machine, host, runs):
    return {"schema": SCHEMA, "scenario": scenario,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "complete": all(r.problem is None for r in runs) and bool(runs),
            "source": source, "setup": setup, "machine": machine, "host": host,
            "runs": [r.described() for r in runs]}


def save(path, result):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(new, path)


def load(path):
    """The checked content of a result file; a ResultError for everything else."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read: {error}") from None
    try:
        result = json.loads(text)
    except ValueError as error:
        raise ResultError(f"{path}: not JSON, or cut off: {error}") from None
    check(result, path)
    return result


def check(result, path="result"):
    if not isinstance(result, dict) or "schema" not in result:
        raise ResultError(f"{path}: not a result of bench/run")
    if result["schema"] != SCHEMA:
        raise ResultError(f"{path}: written as {result['schema']!r}, this program reads {SCHEMA!r}")
    try:
        import jsonschema
    except ImportError:
        raise ResultError("missing Python module jsonschema (Debian package python3-jsonschema)") \
            from None
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA_FILE.read_text()))
    error = jsonschema.exceptions.best_match(validator.iter_errors(result))
    if error:
        where = "/".join(str(p) for p in error.absolute_path) or "top"
        raise ResultError(f"{path}: at {where}: {error.message[:200]}")
    if not result["runs"]:
        raise ResultError(f"{path}: holds no run")


def values(result):
    """{key: [value of each run, ...]} with units: metrics, then counters; keys are readable."""
    found, units = {}, {}
    for run in result["runs"]:
        for name, one in run["metrics"].items():
            found.setdefault(name, []).append(one["value"])
            units[name] = (one["unit"], one["exact"])
        for row in run["counters"]:
            name = counter_key(row)
            found.setdefault(name, []).append(row["count"])
            units[name] = ("count" if row["per"] == 1 else f"count in {row['per']}",
                           result["machine"]["kind"] == "bochs")
    return found, units


def counter_key(row):
    if "counter" in row:
        return f"{row['phase']}: L{row['level']} {row['counter']}"
    handled = "reflected" if row["handler"] == "reflected" else f"handled by L{row['level']}"
    return f"{row['phase']}: L{row['from']} {row['reason']}, {handled}"
