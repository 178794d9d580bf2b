"""The end of a run, for people (a table) and for programs (summary.json).

Owns the meaning of counter names: a Strata counts as if it were L1, so its "exit.l2.cpuid" is
an exit from the level just above it; here the absolute level is said. Knows no counter by name.
"""

import json
import re

RELATIVE_LEVEL = re.compile(r"^exit\.l(\d+)\.(.+)$")


def exits(report):
    """{(source level, reason): count} of one counter report, levels absolute."""
    found = {}
    for name, count in report.get("counters", {}).items():
        match = RELATIVE_LEVEL.match(name)
        if match and count:
            found[report["level"] - 1 + int(match.group(1)), match.group(2)] = count
    return found


def last_reports(reports):
    """The newest counter report of each level, L1 first."""
    newest = {r["level"]: r for r in reports if "level" in r}
    return [newest[level] for level in sorted(newest)]


def summary(verdict, watch, setup, problem):
    """What summary.json holds. Only the keys named wall_s differ between equal runs."""
    stages = [{"stage": s.name, "ticks": s.ticks, "wall_s": round(s.wall_s, 1)}
              for s in watch.stages]
    taken = [{"by": r["level"], "from": source, "reason": reason, "count": count}
             for r in last_reports(watch.reports)
             for (source, reason), count in sorted(exits(r).items())]
    return {"ok": problem is None, "problem": problem, **setup, "ended": verdict.ended,
            "ticks": verdict.ticks, "wall_s": round(verdict.wall_s, 1), "guest": watch.guest,
            "stages": stages, "exits": taken, "reports": watch.reports}


def write(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n")


def table(verdict, watch):
    """The lines of the table that ends a run."""
    yield f"{'stage':<36}{'ticks':>16}{'wall s':>9}"
    for s in watch.stages:
        yield f"{s.name:<36}{_number(s.ticks):>16}{s.wall_s:>9.1f}"
    yield f"{verdict.ended:<36}{_number(verdict.ticks):>16}{verdict.wall_s:>9.1f}"
    if "cpus" in watch.guest:
        mode = {"1": ", x2APIC", "0": ", xAPIC"}.get(watch.guest.get("x2apic"), "")  # not every guest says
        yield f"CPUs online in Linux: {watch.guest['cpus']} of {watch.guest.get('possible', '?')}{mode}"
    for text, levels in watch.strata_warnings.items():
        yield f"Strata {'/'.join(f'L{n}' for n in sorted(set(levels)))} warns: {text}"
    yield from _machine(verdict.l0)
    for report in last_reports(watch.reports):
        yield from _level(report)


def _machine(l0):
    """What a hypervisor that is the machine itself counted (names as machine/perf.py has them)."""
    taken = {name.removeprefix("vmexit."): n for name, n in l0.items() if name.startswith("vmexit.")}
    if taken:
        yield ""
        yield f"L0 KVM: {_number(sum(taken.values()))} exits of the whole run"
    for reason, count in sorted(taken.items(), key=lambda row: (-row[1], row[0])):
        yield f"    {reason.lower():<36}{_number(count):>16}"


def _level(report):
    taken = exits(report)
    yield ""
    yield (f"Strata L{report['level']}: {_number(sum(taken.values()))} exits "
           f"up to marker {report.get('marker', '?')}")
    for source in sorted({s for s, _ in taken}):
        rows = {reason: n for (s, reason), n in taken.items() if s == source}
        yield f"  from L{source:<33}{_number(sum(rows.values())):>16}"
        for reason, count in sorted(rows.items(), key=lambda row: (-row[1], row[0])):
            yield f"    {reason:<36}{_number(count):>16}"
    others = {name: n for name, n in report.get("counters", {}).items()
              if n and not RELATIVE_LEVEL.match(name)}
    if others:
        yield "  other counters"
    for name, count in sorted(others.items()):
        yield f"    {name:<36}{_number(count):>16}"


def _number(value):
    return "-" if value is None else f"{value:,}"
