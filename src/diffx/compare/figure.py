"""The curves figure: each distance against cost, one panel per metric, on paper-ready axes."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffx.compare.group import Method
from diffx.compare.labels import (
    LINE,
    Box,
    Line,
    Ring,
    apart,
    crowded,
    end_labels,
    inside,
    level_name,
    panel_width,
    points_high,
    ring_boxes,
    ring_labels,
    write,
)
from diffx.compare.metric import network_of, title
from diffx.compare.number import compact
from diffx.compare.published import Mark, marks
from diffx.compare.study import Result, Study, curves, sound_curves
from diffx.compare.target import Curve, Reach, Speedup, value_at
from diffx.store.whole_file import replaced

# Okabe and Ito's colours, told apart with every common colour blindness; their black is left to the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#7A4FB5")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
BASELINE = "#222222"
FAR = 5.0  # what real images score is drawn as a line when the lowest value is within this factor of it
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
    longest = max(len(study.marked(method.label)) for method in study.methods)
    aside = 0.32 + 0.066 * (longest + 6)  # room for the names of lines and their speed-ups, in inches
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
    lines = []
    for method in study.methods:
        diverged(axis, method, study, result, looks[method.label])
        x, y = curve(axis, sound_curves(method, result.metric, study.axis), looks[method.label])
        lines.append(Line(study.marked(method.label), looks[method.label]["color"], x, y))
    xs = [x for m in study.methods for line, _ in curves(m, result.metric, study.axis) for x in line if x > 0]
    axis.set_xlim(min(xs) * 0.93, max(xs) * 1.04)
    lowest = min(float(line.y.min()) for line in lines)
    floor = result.floor
    drawn = floor is not None and 0 < lowest <= FAR * floor
    if floor is not None and drawn:
        axis.axhline(floor, color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    taken = published(axis, marks(study.published, study.methods, result.metric, study.axis))
    ticks(axis)
    axis.set_xlabel(study.unit_name if study.axis != "cost" else f"{study.unit_name} of training")
    factors = goal(axis, study, result, looks, lines, taken)
    if floor is not None:
        name = f"real images {floor:.3g}" + ("" if drawn else ", below the panel")
        height = floor if drawn else axis.get_ylim()[0]
        level = Line("", "", np.geomspace(*axis.get_xlim()), np.full(50, result.targets[result.goal]))
        taken.append(level_name(axis, name, height, [*lines, level], taken))
    end_labels(axis, [line._replace(name=f"{line.name}{factors.get(line.name, '')}") for line in lines], taken)


def curve(axis: Axes, series: Sequence[Curve], look: dict) -> tuple[np.ndarray, np.ndarray]:
    """One method's line: the mean over seeds on the band from least to greatest, as it is interpolated for the tables.

    Returns the line. A dot marks each evaluation where there is one seed, and a line of a single point.
    """
    costs, values = pooled(series)
    x, grid = between(costs), costs.tolist()
    seeds = np.array([[value_at((grid, one.tolist()), cost) for cost in x] for one in values])
    y = seeds.mean(axis=0)
    if len(values) > 1:
        axis.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)
    axis.plot(x, y, linewidth=1.7, **look, solid_capstyle="round")
    if len(values) == 1 or len(costs) == 1:
        axis.plot(costs, values.mean(axis=0), "o", markersize=3, color=look["color"])
    if len(values) > 1 and len(costs) == 1:
        axis.plot([x[0], x[0]], [seeds.min(), seeds.max()], linewidth=1.2, color=look["color"], alpha=0.5)
    return x, y


def between(costs: np.ndarray, steps: int = 8) -> np.ndarray:
    """The costs with more of them in between, so that a drawn line bends as the interpolation does."""
    parts = [np.linspace(left, right, steps, endpoint=False) for left, right in pairwise(costs)]
    return np.concatenate([*parts, costs[-1:]])


def diverged(axis: Axes, method: Method, study: Study, result: Result, look: dict) -> None:
    """A cross on the last finite evaluation of each seed that diverged."""
    lost = [run.series(result.metric, study.axis) for run in method.runs if run.diverged]
    for x, y in lost:
        axis.plot(x[-1:], y[-1:], "x", color=look["color"], markersize=6, markeredgewidth=1.6, zorder=6)


def pooled(series: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Seeds on one grid: all evaluation costs within the range that every seed covers; values (seeds, grid).

    Seeds with one evaluation each share the mean of their costs. Where ranges do not meet, the longest seed stands.
    """
    if all(len(x) == 1 for x, _ in series):
        return np.array([np.mean([x[0] for x, _ in series])]), np.array([y for _, y in series])
    low, high = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
    if low >= high:
        x, y = max(series, key=lambda one: one[0][-1])
        return np.array(x), np.array([y])
    grid = np.array(sorted({value for x, _ in series for value in x if low <= value <= high}))
    return grid, np.array([[value_at(one, float(cost)) for cost in grid] for one in series])


def published(axis: Axes, found: Sequence[Mark]) -> list[Box]:
    """Published numbers as grey diamonds with their names, whose places are returned; the x-axis grows to hold them."""
    if not found:
        return []
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, *(mark.x * 0.93 for mark in found)), max(high, *(mark.x * 1.9 for mark in found)))
    axis.plot([mark.x for mark in found], [mark.value for mark in found], "D", markersize=4, color="#777777",
              markeredgewidth=0, linestyle="none", zorder=6)  # fmt: skip
    axis.get_ylim()  # settles the limits, which the positions below depend on
    boxes = []
    for x in dict.fromkeys(mark.x for mark in found):
        column = [mark for mark in found if mark.x == x]
        wanted = [float(inside(axis, x, mark.value)[1]) for mark in column]
        for mark, height in zip(column, apart(wanted, 0.75 * LINE / points_high(axis)), strict=True):
            left, middle = inside(axis, x, mark.value)[0] * panel_width(axis) + 5, height * points_high(axis)
            boxes.append(Box(left - 9, middle - 5, left + 3.4 * len(mark.name), middle + 5))
            write(axis, boxes[-1]._replace(left=left), mark.name, "#707070", fontsize=6.4)
    return boxes


def goal(
    axis: Axes, study: Study, result: Result, looks: dict[str, dict], lines: Sequence[Line], taken: list[Box]
) -> dict[str, str]:
    """What the baseline ended with as a dotted line, a ring with its speed-up where each method meets it, and an arrow
    from the baseline to the soonest.

    Adds to `taken` where labels stand; returns the speed-ups that belong at the ends of lines: those that found no room
    at their rings, and the bounds of methods that met the value before their first evaluation.
    """
    if study.baseline is None:
        return {}
    target = result.targets[result.goal]
    axis.axhline(target, color=BASELINE, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    gained = {
        study.marked(label): Ring(outcome.reaches[result.goal].cost, factor(gain), looks[label]["color"])
        for label, outcome in result.outcomes.items()
        if (gain := outcome.speedups[result.goal]) is not None and outcome.reaches[result.goal].bound == "="
    }
    rings = list(gained.values())
    for ring in rings:
        axis.plot([ring.x], [target], "o", markersize=5.5, markerfacecolor="white", markeredgewidth=1.4,
                  markeredgecolor=ring.colour, zorder=6)  # fmt: skip
    arrow(axis, result.outcomes[study.baseline.label].reaches[result.goal], rings, target)
    full = crowded(axis, rings, target)
    taken += ring_boxes(axis, rings, target) + ([] if full else ring_labels(axis, rings, target, lines))
    taken.append(level_name(axis, f"{study.baseline.label}'s final {target:.3g}", target, lines, taken))
    return bounds(study, result) | ({label: f"  {ring.text}" for label, ring in gained.items()} if full else {})


def bounds(study: Study, result: Result) -> dict[str, str]:
    """The least speed-up of the methods whose first evaluation was already beyond the baseline's final value."""
    return {
        study.marked(label): f"  > {factor(gain)}"
        for label, outcome in result.outcomes.items()
        if (gain := outcome.speedups[result.goal]) is not None and outcome.reaches[result.goal].bound == "<"
    }


def arrow(axis: Axes, start: Reach, rings: Sequence[Ring], target: float) -> None:
    """From where the baseline met its final value to the method that was soonest, if one was sooner."""
    soonest = min(rings, key=lambda ring: ring.x, default=None)
    if soonest is None or start.bound != "=" or soonest.x >= start.cost:
        return
    style = {"arrowstyle": "-|>", "color": soonest.colour, "linewidth": 1.1, "mutation_scale": 9}
    axis.annotate("", (soonest.x, target), (start.cost, target), zorder=5,
                  arrowprops={**style, "shrinkA": 0, "shrinkB": 4})  # fmt: skip


def factor(gain: Speedup) -> str:
    """A speed-up as its ring shows it: 7.5×, 21×."""
    return f"{gain.ratio:.1f}×" if gain.ratio < 9.95 else f"{gain.ratio:.0f}×"


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
