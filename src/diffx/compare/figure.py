"""The curves figure: each distance against cost, one panel per metric, on paper-ready axes."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffx.compare.card import MARK
from diffx.compare.group import Method
from diffx.compare.metric import network_of, title
from diffx.compare.number import compact
from diffx.compare.published import Mark, marks
from diffx.compare.study import Outcome, Result, Study, curves
from diffx.compare.target import Curve, value_at
from diffx.compare.write import replaced

# Okabe and Ito's colours, told apart with every common colour blindness; their black is left to the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#7A4FB5")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
BASELINE = "#222222"
LINE = 10.5  # points between labels
PANEL = (3.5, 2.95)  # inches, without what stands around it
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffx",
}


def draw(study: Study, caption: str) -> Figure:
    """The figure of a study. Save it as PNG or SVG with `Figure.savefig`."""
    count = len(study.results)
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    labels = [tag(label, one, result, study) for result in study.results for label, one in result.outcomes.items()]
    aside = 0.3 + 0.062 * max(map(len, labels))  # room for the labels at line ends, in inches
    width = columns * (PANEL[0] + aside) + 0.55 * columns
    text = textwrap.fill(caption, int(18.2 * width))
    below = 0.135 * (text.count("\n") + 1) + 0.15
    height = PANEL[1] * rows + 0.85 * (rows - 1) + 0.45 + 0.5 + below
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=200)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for spare in axes[count:]:
            spare.remove()
        figure.subplots_adjust(left=0.55 / width, right=1 - aside / width, wspace=(aside + 0.55) / PANEL[0])
        figure.subplots_adjust(bottom=(below + 0.5) / height, top=1 - 0.45 / height, hspace=0.85 / PANEL[1])
        looks = styles(study.methods, study.baseline)
        for axis, result in zip(axes, study.results, strict=False):
            panel(axis, study, result, looks)
        figure.text(0.1 / width, 0.08 / height, text, fontsize=7, color="#444444", va="bottom", linespacing=1.3)
    return figure


def styles(methods: Sequence[Method], baseline: Method | None) -> dict[str, dict]:
    """Colour and dashes of each label: the baseline is black, the others keep one order in every figure of a study."""
    looks: dict[str, dict] = {}
    place = 0
    for method in methods:
        if baseline is not None and method.label == baseline.label:
            looks[method.label] = {"color": BASELINE, "linestyle": "-"}
        else:
            looks[method.label] = {
                "color": COLOURS[place % len(COLOURS)],
                "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
            }
            place += 1
    return looks


def panel(axis: Axes, study: Study, result: Result, looks: dict[str, dict]) -> None:
    """One metric: curves, seed bands, the floor, the baseline's final value and where each method meets it."""
    networks = study.methods[0].facts.get("feature_networks") or []
    network = network_of(result.metric, networks) or {}
    axis.set_title(title(result.metric), loc="left", fontsize=10, fontweight="bold", pad=14)
    features = (
        f"{network.get('training', '')} features of {network['name']}" if network else "feature network not named"
    )
    axis.text(0, 1.02, f"{features.strip()} · lower is better", transform=axis.transAxes, fontsize=7.5, color="#666666")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(True, which="major", color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)
    ends = []
    for method in study.methods:
        diverged(axis, method, study, result, looks[method.label])
        x, y = curve(axis, drawn(method, result.metric, study.axis), looks[method.label])
        ends.append((method.label, x, y))
    xs = [x for m in study.methods for line, _ in curves(m, result.metric, study.axis) for x in line if x > 0]
    axis.set_xlim(min(xs) * 0.93, max(xs) * 1.04)
    if result.floor is not None and result.floor > 0:
        floor(axis, result.floor, "real images")
    goal(axis, study, result, looks)
    published(
        axis,
        marks(study.published, study.methods, result.metric, study.axis),
    )
    ticks(axis)
    axis.set_xlabel(study.unit_name if study.axis != "cost" else f"{study.unit_name} of training")
    end_labels(axis, ends, looks, {label: tag(label, one, result, study) for label, one in result.outcomes.items()})


def curve(axis: Axes, series: Sequence[Curve], look: dict) -> tuple[float, float]:
    """One method's line (the mean over seeds, with the band from least to greatest); returns where it ends."""
    if len(series) == 1:
        x, y = series[0]
        axis.plot(x, y, linewidth=1.7, marker="o", markersize=3, **look, solid_capstyle="round")
        return x[-1], y[-1]
    grid, values = pooled(series)
    axis.fill_between(grid, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.16, linewidth=0)
    axis.plot(grid, values.mean(axis=0), linewidth=1.7, **look, solid_capstyle="round")
    return float(grid[-1]), float(values.mean(axis=0)[-1])


def drawn(method: Method, metric: str, axis: str) -> list[Curve]:
    """The curves that make a method's line: its seeds without those that diverged, unless all did."""
    sound = replace(method, runs=tuple(run for run in method.runs if not run.diverged))
    return curves(sound, metric, axis) or curves(method, metric, axis)


def diverged(axis: Axes, method: Method, study: Study, result: Result, look: dict) -> None:
    """A cross on the last finite evaluation of each seed that diverged."""
    lost = [run.series(result.metric, study.axis) for run in method.runs if run.diverged]
    for x, y in lost:
        axis.plot(x[-1:], y[-1:], "x", color=look["color"], markersize=6, markeredgewidth=1.6, zorder=6)


def pooled(series: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Seeds on one grid: all evaluation costs within the range that every seed covers; values (seeds, grid)."""
    low, high = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
    if low >= high:  # nothing in common: show the seed that went furthest
        x, y = max(series, key=lambda one: one[0][-1])
        return np.array(x), np.array([y])
    grid = np.array(sorted({value for x, _ in series for value in x if low <= value <= high}))
    return grid, np.array([[value_at(one, float(cost)) for cost in grid] for one in series])


def floor(axis: Axes, value: float, name: str) -> None:
    axis.axhline(value, color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.annotate(
        f"{name} {value:.3g}", (0.005, value), xycoords=("axes fraction", "data"), xytext=(0, 2.5),
        textcoords="offset points", fontsize=7, color="#777777",
    )  # fmt: skip


def published(axis: Axes, found: Sequence[Mark]) -> None:
    """Published numbers as grey diamonds with their names; the x-axis grows to hold them."""
    if not found:
        return
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, *(mark.x * 0.93 for mark in found)), max(high, *(mark.x * 1.9 for mark in found)))
    axis.plot([mark.x for mark in found], [mark.value for mark in found], "D", markersize=4, color="#999999",
              markeredgewidth=0, linestyle="none", zorder=2)  # fmt: skip
    axis.get_ylim()  # settles the limits, which the positions below depend on
    for x in dict.fromkeys(mark.x for mark in found):
        column = [mark for mark in found if mark.x == x]
        wanted = [float(inside(axis, x, mark.value)[1]) for mark in column]
        for mark, height in zip(column, apart(wanted, 0.75 * LINE / points_high(axis)), strict=True):
            place = (float(inside(axis, x, mark.value)[0]), height)
            axis.annotate(mark.name, place, xytext=(5, 0), xycoords="axes fraction", textcoords="offset points",
                          va="center", fontsize=6.2, color="#808080")  # fmt: skip


def inside(axis: Axes, x: float, y: float) -> np.ndarray:
    """A point in fractions of the panel."""
    return axis.transAxes.inverted().transform(axis.transData.transform((x, y)))


def points_high(axis: Axes) -> float:
    """The panel's height in points (1/72 inch)."""
    return axis.bbox.height * 72 / axis.figure.dpi


def goal(axis: Axes, study: Study, result: Result, looks: dict[str, dict]) -> None:
    """A dotted line at the baseline's final value, and a ring where each method's median seed meets it."""
    if study.baseline is None:
        return
    target = result.targets[result.goal]
    axis.axhline(target, color=BASELINE, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    for label, outcome in result.outcomes.items():
        met = outcome.reaches[result.goal]
        if met.bound == "=" and label != study.baseline.label:
            axis.plot([met.cost], [target], "o", markersize=5.5, markerfacecolor="white", markeredgewidth=1.4,
                      markeredgecolor=looks[label]["color"], zorder=5)  # fmt: skip


def tag(label: str, outcome: Outcome, result: Result, study: Study) -> str:
    """The label at a line's end: the method, and its speed-up to the baseline's final value where it was reached."""
    gained = outcome.speedups[result.goal]
    mark = MARK if label in study.odd else ""
    if gained is None or gained.bound != "=":
        return label + mark
    return f"{label}{mark}  {gained.ratio:.1f}×"


def end_labels(
    axis: Axes, ends: Sequence[tuple[str, float, float]], looks: dict[str, dict], texts: dict[str, str]
) -> None:
    """Labels right of the panel in the lines' colours, moved apart where lines end together, each tied to its line."""
    heights = apart([float(inside(axis, x, y)[1]) for _, x, y in ends], LINE / points_high(axis))
    for (label, x, y), at in zip(ends, heights, strict=True):
        axis.annotate(
            texts[label], (x, y), xytext=(1.04, at), textcoords="axes fraction", fontsize=8, va="center",
            color=looks[label]["color"], annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": looks[label]["color"], "linewidth": 0.6, "alpha": 0.7,
                        "shrinkA": 1, "relpos": (0, 0.5), "shrinkB": 2},
        )  # fmt: skip


def apart(wanted: Sequence[float], gap: float, limits: tuple[float, float] = (0.0, 1.0)) -> list[float]:
    """Moves heights apart so that neighbours are at least `gap` away; groups stay around their mean, within limits."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    blocks: list[list[int]] = []

    def bottom(block: Sequence[int]) -> float:
        high = gap * (len(block) - 1)
        centred = sum(wanted[place] for place in block) / len(block) - high / 2
        return max(limits[0], min(centred, limits[1] - high))

    for place in order:
        blocks.append([place])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    placed = list(wanted)
    for block in blocks:
        for rank, place in enumerate(block):
            placed[place] = bottom(block) + rank * gap
    return placed


def ticks(axis: Axes) -> None:
    """Plain numbers on both log axes, with more of them when the range is short."""
    for side, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        decades = math.log10(limits[1] / limits[0])
        digits = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else tuple(map(float, range(1, 10)))
        side.set_major_locator(LogLocator(base=10, subs=digits, numticks=12))
        side.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        side.set_minor_formatter(NullFormatter())


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png and NAME.svg, each complete or not at all."""
    written = []
    for suffix in ("png", "svg"):
        path = folder / f"{name}.{suffix}"
        with replaced(path) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
        written.append(path)
    return written
