"""The page: pictures of results, each with its numbers in a table beneath. One file, no network."""

import html
import json
import re
import subprocess

from . import cost_model, plot
from .export import number, plural, summary, where
from .result import values
from .setup import TOP

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 3rem; max-width: 44rem;
       color: #1b1b1f; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { margin: .3rem 0; } .small { color: #55555f; font-size: .85rem; overflow-wrap: anywhere; }
.bad { background: #fde7e7; border-left: 4px solid #c33; padding: .5rem .8rem; }
.estimate { background: #fff6dd; border-left: 4px solid #c90; padding: .5rem .8rem; }
svg { width: 100%; max-width: 36rem; height: auto; display: block; }
ul.legend { list-style: none; margin: .1rem 0 .5rem; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem;
            font-size: .85rem; }
ul.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
nav ul { margin: .5rem 0; padding-left: 1.2rem; } nav li { margin: .15rem 0; } a { color: #14508c; }
details { margin: .4rem 0; } summary { cursor: pointer; padding: .4rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { min-width: 7rem; } td:last-child:not(.n) { min-width: 5rem; }
"""
STAGES = {"grub-boot": "GRUB loads Linux", "kernel": "GRUB's boot", "init": "kernel", "shutdown": "user space"}
EXACT = "Ticks are instructions (Bochs: one tick, one instruction of each CPU); counts and ticks are exact."
TIMED = "On QEMU ticks are those of the TSC: this host's time, different in each run, as are counts."


# The figures that say most, where a result has them: (metric as a pattern, what it is).
HEADLINES = (
    (r"(kernel-to-init|linux-alone)\.ratio", r"\1, against the same without Strata"),
    (r"kernel-to-init", "ticks of the kernel, first instruction to init"),
    (r"exits-to-(L\d)", r"exits to \1 in the whole boot"),
    (r"repairs-per-invept-(L\d)", r"violations that \1 repairs per INVEPT"),
    (r"(.*)\.(L\d)\.instructions", r"instructions of \2 in one round trip of \1"),
    (r"invept\.1024\.(nothing|table)\.cost", r"L1's instructions for an INVEPT over 1 GiB: \1 changed"),
    (r"(menu|line)\.redrawn\.(median|p95)", r"\1: key press until redrawn, \2"),
    (r"(menu|line)\.exits-to-(L\d)", r"\1: exits to \2 for a key press"),
)


def page(results, ablations, trends, model):
    """results [result, ...]; ablations {scenario: {variant: result}}; trends [(revision, result)]; model: a
    cost_model.Model."""
    headlines = in_short(results)
    parts = [("In short", headlines)] if headlines else []
    parts += [(heading(r), section(r)) for r in results]
    estimated = estimates(results, model)
    parts += [("Estimated cycles", estimated)] if estimated else []
    parts += [(f"Each optimization off: {scenario}", ablation(variants)) for scenario, variants in ablations.items()]
    parts += [("Over recorded revisions", trend(trends))] if len(trends) > 1 else []
    contents = "".join(f'<li><a href="#s{at}">{html.escape(title)}</a></li>' for at, (title, _) in enumerate(parts))
    body = "\n".join(f'<h2 id="s{at}">{html.escape(title)}</h2>\n{text}' for at, (title, text) in enumerate(parts))
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            f"<title>Strata: measurements</title>\n<style>{STYLE}</style></head><body>\n"
            f"<h1>Strata: measurements</h1>\n<p>{_how_exact(results)} L0 is the machine, L1 the Strata nearest to it, "
            f"and so on upwards.</p>\n<nav><ul>{contents}</ul></nav>\n{body}\n</body></html>\n")


def _how_exact(results):
    kinds = {r["machine"]["kind"] for r in results}
    said = [EXACT + " Nothing of them is a time on a real processor."] if "bochs" in kinds else []
    return " ".join(said + ([TIMED] if kinds - {"bochs"} else []))


def heading(result):
    s = result["setup"]
    what = [s["scenario"]["arch"]] if s["scenario"].get("arch") else []
    return ", ".join([f"{result['scenario']}: {plural(s['levels'], 'level')}", plural(s["smp"], "CPU"), *what,
                      s["cpu"].removeprefix("corei7_")])


def in_short(results):
    rows = []
    for r in results:
        found = [(what, number(m["value"]), m["unit"]) for pattern, text in HEADLINES
                 for name, m in (r["runs"][0]["metrics"] if r["complete"] else {}).items()
                 for match in [re.fullmatch(pattern, name)] if match for what in [match.expand(text)]]
        rows += [(heading(r) if not at else "", *one) for at, one in enumerate(found)]
    return _table("", ("measurement", "figure", "value", "unit"), rows, unfolded=True) if rows else None


def section(result):
    found, units = values(result)
    metrics = {n: summary(v) for n, v in found.items() if n in result["runs"][0]["metrics"]}
    pictures = {"exit-cost": _exit_cost, "linux-boot": _boot, "invept-storm": _boot, "grub-keyboard": _keyboard,
                "grub-keyboard-outside": _keyboard}.get(result["scenario"], lambda *_: [])(result, metrics)
    text = [f"<p class=small>{html.escape(where(result))}; {html.escape(result['date'])}</p>"]
    for run in result["runs"]:
        if run["problem"]:
            text.append(f"<p class=bad>Incomplete: {html.escape(run['problem'])}</p>")
    text += [_shown(title, picture) for title, picture in pictures]
    text.append(_table("numbers", ("metric", "value", "unit"),
                       [(n, number(v), units[n][0]) for n, v in metrics.items()]))
    counts = [(n, number(summary(v)), units[n][0]) for n, v in found.items() if n not in metrics]
    if counts:
        text.append(_table("counters", ("phase and counter", "count", "unit"), counts))
    return "\n".join(text)


def _shown(title, picture):
    legend = "".join(f'<li><i style="background:{colour}"></i>{html.escape(label)}</li>'
                     for label, colour in picture.legend)
    return (f"<h3>{html.escape(title)}</h3>\n{picture.svg}"
            + (f"\n<ul class=legend>{legend}</ul>" if legend else ""))


def _table(title, heads, rows, unfolded=False):
    """Rows of text; columns of numbers are to the right."""
    right = [all(row[at][:1].isdigit() or row[at][:1] in ("-", "") for row in rows) for at in range(len(heads))]
    kind = [" class=n" if r else "" for r in right]
    head = "".join(f"<th{kind[at]}>{html.escape(h)}</th>" for at, h in enumerate(heads))
    body = "\n".join("<tr>" + "".join(f"<td{kind[at]}>{html.escape(cell)}</td>" for at, cell in enumerate(row))
                     + "</tr>" for row in rows)
    inner = f"<div class=wide><table><tr>{head}</tr>\n{body}</table></div>"
    if unfolded:
        return inner
    return f"<details><summary>{html.escape(title)} ({len(rows)})</summary>{inner}</details>"


def _exit_cost(_result, metrics):
    for kind, title in (("guest.", "A plain guest's instructions: what one more Strata below adds"),
                        ("nested.", "Round trips of a nested guest: what one more Strata below adds"),
                        ("vmx.", "VMX instructions of the guest hypervisor: what one more Strata below adds"),
                        ("smp.", "Between two CPUs: what one more Strata below adds"),
                        ("x2apic.", "The nested guest's x2APIC: what one more Strata below adds")):
        chosen = {n[len(kind):-len(".added")]: v for n, v in metrics.items()
                  if n.startswith(kind) and n.endswith(".added") and ".empty." not in n}
        if any(chosen.values()):
            yield title, plot.bars(list(chosen), list(chosen.values()), "ticks")
    sizes = sorted({int(n.split(".")[1]) for n in metrics if n.startswith("invept.")})
    if sizes:
        kinds = ("nothing", "entry", "table", "many")
        yield ("INVEPT by what changed since the last one, and by how much is mapped",
               plot.bars(kinds, None, "ticks", {
                   f"{s} MiB": [metrics.get(f"invept.{s}.{k}.cost",
                                            metrics[f"invept.{s}.{k}.invept.ticks"]) for k in kinds]
                   for s in sizes}, log=True))


def _boot(result, metrics):
    spans, before = [], 0
    for name, at in metrics.items():
        stage = name[len("to-"):] if name.startswith("to-") and "." not in name else None
        if stage or name.startswith("L") and name.endswith(":-started"):
            label = STAGES.get(stage, stage) if stage else f"GRUB loads {name.partition('-')[0]}"
            spans.append((label, before, at))
            before = at
    if spans:
        yield "When: each phase of the boot", plot.timeline(spans, "ticks")
    rows = _exits(result)
    if rows:
        yield "Exits by phase, level and reason", plot.stacked(rows, "exits")


def _exits(result):
    """{bar: {reason: exits}}, one bar for each phase and pair of levels, in the order of the phases."""
    rows, phases = {}, []
    for row in result["runs"][0]["counters"]:
        if "reason" not in row:
            continue
        if row["phase"] not in phases:
            phases.append(row["phase"])
        bar = phases.index(row["phase"]), f"{row['phase']}: L{row['from']} to L{row['level']}"
        part = row["reason"] + (plot.REFLECTED if row["handler"] == "reflected" else "")
        parts = rows.setdefault(bar, {})
        parts[part] = parts.get(part, 0) + row["count"] / row["per"]
    return {name: rows[at, name] for at, name in sorted(rows)}


def _keyboard(result, _metrics):
    found = result["runs"][0]["metrics"]
    series = {n[:-len(".median")]: m["samples"] for n, m in found.items() if n.endswith(".median") and "samples" in m}
    if series:
        unit = next(m["unit"] for m in found.values() if "samples" in m)
        yield "From the key press until GRUB has redrawn", plot.distribution(series, unit)
    rows = _exits(result)
    if rows:
        yield "Exits for one key press, GRUB's waiting included", plot.stacked(rows, "exits")


def estimates(results, model):
    """Counts times the cost model's constants; None if no result has what it takes."""
    rows = [(f"{item}, {plural(r['setup']['levels'], 'level')}", counts, low, high)
            for r in results if r["complete"] for item, counts, low, high in cost_model.traced(r, model)]
    phases = [(f"{r['scenario']}, {plural(r['setup']['levels'], 'level')}: {phase}", counts, low, high)
              for r in results if r["complete"] and r["scenario"] in ("linux-boot", "invept-storm")
              for phase, counts, low, high in cost_model.transitions(r, model)]
    if not rows and not phases:
        return None
    unit = html.escape(model.unit)
    text = [f"<p class=estimate>Estimates, not measurements: exact counts times the constants of a cost model "
            f"(<b>{html.escape(model.name)}</b>), in {unit}. Each constant is a range; the table at the end says where "
            "it is from. bench/calibrate measures them on a machine of yours.</p>"]
    if rows:
        text += ["<h3>One round trip, all that L1 and above execute</h3>", _estimate_table(rows)]
    if phases:
        text += ["<h3>A boot: exits to L1 and L1's INVEPTs alone, without the instructions in between</h3>",
                 _estimate_table(phases)]
    text.append(_table("constants", ("constant", "low", "high", "basis", "source"),
                       [(n, number(c["low"]), number(c["high"]), c["basis"],
                         " — ".join(filter(None, (c["source"], c.get("url"), c.get("note")))))
                        for n, c in model.constants.items()]))
    return "\n".join(text)


def _estimate_table(rows):
    names = [n for n in cost_model.CONSTANTS if any(n in counts for _, counts, _, _ in rows)]
    return _table("", ("what", "from", "to", *(n.replace("_", " ") for n in names)),
                  [(what, plot.short(round(low)), plot.short(round(high)), *(number(counts.get(n, 0)) for n in names))
                   for what, counts, low, high in rows], unfolded=True)


def ablation(variants):
    """Each switch off in turn: the metrics that moved at all."""
    numbers = {v: {n: summary(x) for n, x in values(r)[0].items() if n in r["runs"][0]["metrics"]}
               for v, r in variants.items()}
    units = next(iter(variants.values()))["runs"][0]["metrics"]
    base = next(iter(numbers.values()))
    moved = sorted((n for n, v in base.items() if v and units[n]["exact"]),
                   key=lambda n: -max(abs(o.get(n, base[n]) / base[n] - 1) for o in numbers.values()))
    text = []
    for metric in moved[:3]:
        chosen = {v: o[metric] for v, o in numbers.items() if metric in o}
        text.append(_shown(f"{metric} (smaller is better)",
                           plot.bars(list(chosen), list(chosen.values()), units[metric]["unit"])))
    rows = [(n, *(number(o[n]) if n in o else "-" for o in numbers.values())) for n in moved]
    return "\n".join(text + [_table("numbers", ("metric", *numbers), rows)])


def trend(recorded):
    names = [revision for revision, _ in recorded]
    wanted = ("guest.cpuid.added", "nested.cpuid.added", "nested.violation-4k.added")
    series = {m: [r["runs"][0]["metrics"].get(m, {}).get("value") for _, r in recorded] for m in wanted}
    series = {m: v for m, v in series.items() if any(x is not None for x in v)}
    rows = [(m, *("-" if x is None else number(x) for x in v)) for m, v in series.items()]
    return (_shown("exit-cost, 1 level, as bench/baseline has it", plot.trend(names, series, "ticks"))
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
