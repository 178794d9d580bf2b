"""The page: pictures of results, each with its numbers in a table beneath. One file, no network."""

import html
import json
import subprocess

from . import plot
from .export import number, summary, where
from .result import values
from .setup import TOP

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 3rem; max-width: 52rem;
       color: #1b1b1f; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; } .small { color: #55555f; font-size: .85rem; overflow-wrap: anywhere; }
.bad { background: #fde7e7; border-left: 4px solid #c33; padding: .5rem .8rem; }
svg { width: 100%; max-width: 34rem; height: auto; display: block; }
details { margin: .4rem 0; } summary { cursor: pointer; padding: .4rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def page(results, ablations, trends):
    """results [result, ...]; ablations {scenario: {variant: result}}; trends [(revision, result)]."""
    parts = [section(r) for r in results]
    parts += [ablation(scenario, variants) for scenario, variants in ablations.items()]
    parts += [trend(trends)] if len(trends) > 1 else []
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            f"<title>Strata: measurements</title>\n<style>{STYLE}</style></head><body>\n"
            "<h1>Strata: measurements</h1>\n<p>Ticks are instructions (Bochs: one tick, one "
            "instruction of each CPU); counts and ticks are exact. Nothing here is a time on a real "
            "processor.</p>\n" + "\n".join(parts) + "\n</body></html>\n")


def section(result):
    found, units = values(result)
    metrics = {n: summary(v) for n, v in found.items() if n in result["runs"][0]["metrics"]}
    pictures = {"exit-cost": _exit_cost, "linux-boot": _boot, "invept-storm": _boot,
                "grub-keyboard": _keyboard}.get(result["scenario"], lambda *_: [])(result, metrics)
    text = [f"<h2>{html.escape(result['scenario'])}, {result['setup']['levels']} levels, "
            f"{result['setup']['smp']} CPUs</h2>", f"<p class=small>{html.escape(where(result))}</p>"]
    for run in result["runs"]:
        if run["problem"]:
            text.append(f"<p class=bad>Incomplete: {html.escape(run['problem'])}</p>")
    for title, svg in pictures:
        text.append(f"<p>{html.escape(title)}</p>\n{svg}")
    text.append(_table("numbers", ("metric", "value", "unit"),
                       [(n, number(v), units[n][0]) for n, v in metrics.items()]))
    counts = [(n, number(summary(v)), units[n][0]) for n, v in found.items() if n not in metrics]
    if counts:
        text.append(_table("counters", ("phase and counter", "count", "unit"), counts))
    return "\n".join(text)


def _table(title, heads, rows):
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = "\n".join("<tr>" + "".join(
        f"<td{' class=n' if at and at < len(row) - 1 or row[at][:1].isdigit() else ''}>"
        f"{html.escape(str(cell))}</td>" for at, cell in enumerate(row)) + "</tr>" for row in rows)
    return (f"<details><summary>{html.escape(title)} ({len(rows)})</summary><div class=wide><table>"
            f"<tr>{head}</tr>\n{body}</table></div></details>")


def _exit_cost(_result, metrics):
    for kind, title in (("guest.", "A plain guest's instructions: what one more Strata below adds"),
                        ("nested.", "Round trips of a nested guest: what one more Strata below adds"),
                        ("vmx.", "VMX instructions of the guest hypervisor: what one more Strata adds"),
                        ("smp.", "Between two CPUs")):
        chosen = {n[len(kind):-len(".added")]: v for n, v in metrics.items()
                  if n.startswith(kind) and n.endswith(".added") and ".empty." not in n}
        if chosen:
            yield title, plot.bars(list(chosen), list(chosen.values()), "ticks")
    sizes = sorted({int(n.split(".")[1]) for n in metrics if n.startswith("invept.")})
    if sizes:
        kinds = ("nothing", "entry", "table", "many")
        yield ("INVEPT by what changed since the last one, and by how much is mapped",
               plot.bars(kinds, None, "ticks", {
                   f"{s} MiB": [metrics.get(f"invept.{s}.{k}.invept.added",
                                            metrics[f"invept.{s}.{k}.invept.ticks"]) for k in kinds]
                   for s in sizes}, log=True))


def _boot(result, metrics):
    stages = [(n, v) for n, v in metrics.items() if n.startswith(("L", "to-")) and n.count(".") == 0]
    yield "When each stage of the boot was reached", plot.timeline(stages, "ticks")
    rows = {}
    for row in result["runs"][0]["counters"]:
        if "reason" in row:
            bar = f"to L{row['level']} from L{row['from']}, {row['phase']}"
            part = row["reason"] + (" (reflected)" if row["handler"] == "reflected" else "")
            rows.setdefault(bar, {})[part] = rows.get(bar, {}).get(part, 0) + row["count"]
    if rows:
        yield "Exits by level, phase and reason", plot.stacked(rows, "exits")


def _keyboard(result, _metrics):
    series = {n[:-len(".median")]: m["samples"] for n, m in result["runs"][0]["metrics"].items()
              if n.endswith(".median") and "samples" in m}
    if series:
        yield "From the key press: interrupt, GRUB's read, redrawn", plot.distribution(series, "ticks")


def ablation(scenario, variants):
    """Each switch off in turn: the metrics that moved at all."""
    numbers = {v: {n: summary(x) for n, x in values(r)[0].items() if n in r["runs"][0]["metrics"]}
               for v, r in variants.items()}
    base = next(iter(numbers.values()))
    moved = sorted((n for n, v in base.items() if v and n.split(".")[-1] not in ("wall",)),
                   key=lambda n: -max(abs(o.get(n, base[n]) / base[n] - 1) for o in numbers.values()))
    text = [f"<h2>Each optimization off: {html.escape(scenario)}</h2>"]
    for metric in moved[:3]:
        chosen = {v: o[metric] for v, o in numbers.items() if metric in o}
        text.append(f"<p>{html.escape(metric)}</p>\n"
                    + plot.bars(list(chosen), list(chosen.values()), "smaller is better"))
    rows = [(n, *(number(o[n]) if n in o else "-" for o in numbers.values())) for n in moved]
    return "\n".join(text + [_table("numbers", ("metric", *numbers), rows)])


def trend(recorded):
    names = [revision for revision, _ in recorded]
    wanted = ("guest.cpuid.added", "nested.cpuid.added", "nested.violation-4k.added")
    series = {m: [r["runs"][0]["metrics"].get(m, {}).get("value") for _, r in recorded] for m in wanted}
    series = {m: v for m, v in series.items() if any(x is not None for x in v)}
    rows = [(m, *("-" if x is None else number(x) for x in v)) for m, v in series.items()]
    return ("<h2>Over recorded revisions (bench/baseline)</h2>\n" + plot.trend(names, series, "ticks")
            + _table("numbers", ("metric", *names), rows))


def recorded_results(path, load, limit=30):
    """[(short revision, result)] of a baseline file through git's history, oldest first."""
    name = path.relative_to(TOP)
    log = subprocess.run(["git", "-C", TOP, "log", f"-{limit}", "--format=%h", "--", name],
                         capture_output=True, text=True).stdout.split()
    found = []
    for revision in reversed(log):
        text = subprocess.run(["git", "-C", TOP, "show", f"{revision}:{name}"], capture_output=True,
                              text=True).stdout
        try:
            result = json.loads(text)
            load(result)
        except Exception:  # a baseline of an older form is not part of the trend
            continue
        found.append((revision, result))
    return found
