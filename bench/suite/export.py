"""A result in other forms: github-action-benchmark's customSmallerIsBetter, and Markdown."""

import statistics

from .result import values


def summary(numbers):
    """The one value that stands for all runs: the median."""
    return statistics.median(numbers)


def github(result):
    """For benchmark-action/github-action-benchmark, tool "customSmallerIsBetter"."""
    found, units = values(result)
    return [{"name": f"{result['scenario']}: {name}", "unit": units[name][0],
             "value": summary(numbers), "range": str(max(numbers) - min(numbers)),
             "extra": where(result)}
            for name, numbers in found.items()]


def markdown(result, only_metrics=True):
    """A table of the metrics, or of everything."""
    found, units = values(result)
    names = [n for n in found if not only_metrics or n in result["runs"][0]["metrics"]]
    lines = [f"**{result['scenario']}** — {where(result)}", "",
             "| metric | value | unit |", "|---|---:|---|"]
    lines += [f"| {n} | {number(summary(found[n]))} | {units[n][0]} |" for n in names]
    if not result["complete"]:
        lines += ["", "INCOMPLETE: " + "; ".join(
            r["problem"] for r in result["runs"] if r["problem"])]
    return "\n".join(lines)


def number(value):
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.10g}"


def plural(count, word):
    return f"{count} {word}" + ("" if count == 1 else "s")


def where(result):
    s, m = result["setup"], result["machine"]
    options = "; ".join(f"{level}: {o}" for level, o in s["options"].items() if o)
    commit = (result["source"]["commit"] or "no commit")[:10]
    processor = s["cpu"] if m["kind"] == "bochs" else f"{s['cpu']} ({result['host']['cpu']})"
    return (f"{commit}{' (changed)' if result['source']['changed'] else ''}, {m['version']} "
            f"{processor}, {plural(s['levels'], 'level')}, {plural(s['smp'], 'CPU')}"
            + (f", {options}" if options else ""))
