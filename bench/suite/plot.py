"""Pictures of results as SVG text, drawn by matplotlib (Debian package python3-matplotlib).

Each function takes checked results and gives one picture; report.py puts the numbers under it.
"""

import io
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

WIDTH = 3.6  # inches; the page scales it to a phone's width
BAR = 0.28
COLOURS = plt.get_cmap("tab20").colors

plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "strata", "font.size": 9,
                     "font.family": "sans-serif", "axes.spines.top": False,
                     "axes.spines.right": False})


def _svg(figure):
    """The picture as an element of a page: no declaration, no fixed size, no time of day."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg"):]
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)


def _figure(rows):
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + BAR * max(rows, 2)))
    return figure, axes


def _legend(axes):
    """Below the picture, where it hides nothing."""
    axes.figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, ncols=2,
                       loc="upper left", bbox_to_anchor=(0, 0))


def bars(names, values, unit, bars_of=None, log=False):
    """Horizontal bars; bars_of: {series: [value, ...]} for groups of bars instead of values."""
    groups = bars_of or {"": values}
    figure, axes = _figure(len(names) * len(groups))
    height = 0.8 / len(groups)
    for at, (label, series) in enumerate(groups.items()):
        places = [n + at * height for n in range(len(names))]
        drawn = axes.barh(places, series, height=height * 0.9, label=label or None,
                          color=COLOURS[2 * at % 20])
        axes.bar_label(drawn, labels=[f"{v:,.10g}" for v in series], padding=3, fontsize=8)
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.25)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(left=max(1, min(v for g in groups.values() for v in g)) / 2)
    else:
        axes.locator_params(axis="x", nbins=4)
    if bars_of:
        _legend(axes)
    return _svg(figure)


def stacked(rows, unit):
    """Exits by reason, a bar per level: rows {bar: {part: value}}; small parts are put together."""
    totals = {}
    for parts in rows.values():
        for part, value in parts.items():
            totals[part] = totals.get(part, 0) + value
    shown = sorted(totals, key=lambda p: -totals[p])[:12]
    figure, axes = _figure(len(rows) * 2)
    left = dict.fromkeys(rows, 0)
    for at, part in enumerate(shown + ["others"]):
        widths = [sum(v for p, v in parts.items() if (p not in shown if part == "others" else p == part))
                  for parts in rows.values()]
        if not any(widths):
            continue
        axes.barh(list(rows), widths, left=[left[r] for r in rows], label=part, color=COLOURS[at % 20])
        for row, width in zip(rows, widths):
            left[row] += width
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.locator_params(axis="x", nbins=4)
    _legend(axes)
    return _svg(figure)


def timeline(stages, unit):
    """When each stage of a boot was reached: [(name, ticks)]."""
    figure, axes = _figure(len(stages))
    before = 0
    for at, (name, ticks) in enumerate(stages):
        axes.barh(at, ticks - before, left=before, color=COLOURS[2 * at % 20])
        before = ticks
    axes.set_yticks(range(len(stages)), [name for name, _ in stages])
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    return _svg(figure)


def distribution(series, unit):
    """The share of samples up to a value: {name: [sample, ...]}."""
    figure, axes = _figure(8)
    for at, (name, samples) in enumerate(series.items()):
        ordered = sorted(samples)
        shares = [100 * (n + 1) / len(ordered) for n in range(len(ordered))]
        axes.step(ordered, shares, where="post", label=name, color=COLOURS[2 * at % 20])
    axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("% of presses")
    _legend(axes)
    return _svg(figure)


def trend(names, series, unit):
    """Values over recorded revisions: series {metric: [value or None per revision]}."""
    figure, axes = _figure(9)
    for at, (name, values) in enumerate(series.items()):
        axes.plot(names, values, marker="o", label=name, color=COLOURS[2 * at % 20])
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=60)
    _legend(axes)
    return _svg(figure)
