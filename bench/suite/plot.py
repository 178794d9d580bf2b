"""Pictures of results as SVG text, drawn by matplotlib (Debian package python3-matplotlib).

Each function takes numbers and gives one Picture; report.py puts the legend and the numbers under it. All
pictures are equally wide, so that the page scales their letters alike, down to a phone's width.
"""

import io
import re
from dataclasses import dataclass, field

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

WIDTH = 3.7  # inches
BAR = 0.26
COLOURS = [matplotlib.colors.to_hex(c) for c in plt.get_cmap("tab20").colors]  # pairs: strong, pale
OTHERS = "#2e2e38"
# A reason has the same colour in every picture; what was given on to the guest hypervisor is the pale one.
REASONS = ("cpuid", "vmresume", "ept_violation", "rdmsr", "vmwrite", "vmread", "invept", "wrmsr", "vmlaunch",
           "cr_access")
REFLECTED = " (reflected)"

plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "strata", "font.size": 8.5,
                     "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False})


@dataclass
class Picture:
    """svg     an element of a page: no declaration, no fixed size, no time of day
    legend  [(label, colour)]
    """

    svg: str
    legend: list = field(default_factory=list)


def _picture(figure, legend=()):
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg[svg.index("<svg"):], count=1)
    return Picture(svg, list(legend))


def _figure(height):
    return plt.subplots(figsize=(WIDTH, height), layout="constrained")


def _rows(count):
    return _figure(0.55 + BAR * max(count, 2))


def short(value, _position=None):
    """A number for an axis or a bar: 1,234 or 56.7 M."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:,.4g} {letter}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _numbers(axis, unit, label):
    axis.set_major_formatter(FuncFormatter(short))
    label(unit)


def _beside(axes, x, y, text):
    axes.annotate(text, (x, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5)


def bars(names, values, unit, groups=None, log=False):
    """Horizontal bars; groups: {series: [value, ...]} for several bars at each name instead of values."""
    groups = groups or {"": values}
    figure, axes = _rows(len(names) * len(groups))
    height = 0.8 / len(groups)
    for at, (label, series) in enumerate(groups.items()):
        places = [n + at * height for n in range(len(names))]
        drawn = axes.barh(places, series, height=height * 0.9, color=COLOURS[2 * at % 20])
        axes.bar_label(drawn, labels=[short(v) for v in series], padding=3, fontsize=7.5)
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    if log:
        axes.set_xscale("log")
        low = min(v for g in groups.values() for v in g)
        high = max(v for g in groups.values() for v in g)
        axes.set_xlim(max(1, low) / 2, high * 12)
        axes.set_xlabel(unit)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _numbers(axes.xaxis, unit, axes.set_xlabel)
    return _picture(figure, [(g, COLOURS[2 * at % 20]) for at, g in enumerate(groups) if g])


def _colour(part):
    name = part.removesuffix(REFLECTED)
    if name not in REASONS:
        return OTHERS
    return COLOURS[2 * REASONS.index(name) + part.endswith(REFLECTED)]


def stacked(rows, unit):
    """Exits by reason, a bar each: rows {bar: {part: value}}; reasons that have no colour are put together."""
    totals = {}
    for parts in rows.values():
        for part, value in parts.items():
            totals[part] = totals.get(part, 0) + value
    shown = [p for p in sorted(totals, key=lambda p: -totals[p]) if _colour(p) != OTHERS]
    figure, axes = _rows(len(rows) * 1.3)
    left, legend = dict.fromkeys(rows, 0), []
    for part in [*shown, "others"]:
        widths = [sum(v for p, v in parts.items() if (p not in shown if part == "others" else p == part))
                  for parts in rows.values()]
        if not any(widths):
            continue
        colour = _colour(part)
        axes.barh(list(rows), widths, left=[left[r] for r in rows], color=colour)
        legend.append((part, colour))
        for row, width in zip(rows, widths):
            left[row] += width
    for at, total in enumerate(left.values()):
        _beside(axes, total, at, short(total))
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _numbers(axes.xaxis, unit, axes.set_xlabel)
    return _picture(figure, legend)


def timeline(spans, unit):
    """One below the other, each from its begin to its end: [(name, begin, end)]."""
    figure, axes = _rows(len(spans))
    for at, (_, begin, end) in enumerate(spans):
        axes.barh(at, end - begin, left=begin, color=COLOURS[2 * at % 20])
        _beside(axes, end, at, short(end - begin))
    axes.set_yticks(range(len(spans)), [name for name, _, _ in spans])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _numbers(axes.xaxis, unit, axes.set_xlabel)
    return _picture(figure)


def distribution(series, unit):
    """The share of samples up to a value: {name: [sample, ...]}."""
    figure, axes = _figure(2.4)
    for at, samples in enumerate(series.values()):
        ordered = sorted(samples)
        shares = [100 * (n + 1) / len(ordered) for n in range(len(ordered))]
        axes.step([ordered[0], *ordered], [0, *shares], where="post", color=COLOURS[2 * at % 20])
    axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("% of presses")
    return _picture(figure, [(name, COLOURS[2 * at % 20]) for at, name in enumerate(series)])


def trend(names, series, unit):
    """Values over recorded revisions: series {metric: [value or None per revision]}."""
    figure, axes = _figure(2.8)
    places = range(len(names))
    for at, values in enumerate(series.values()):
        known = [(x, v) for x, v in zip(places, values) if v is not None]
        axes.plot(*zip(*known), marker="o", markersize=4, color=COLOURS[2 * at % 20])
    axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_ylim(bottom=0)
    _numbers(axes.yaxis, unit, axes.set_ylabel)
    return _picture(figure, [(name, COLOURS[2 * at % 20]) for at, name in enumerate(series)])
