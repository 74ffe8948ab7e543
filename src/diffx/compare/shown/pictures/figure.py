"""The pictures of curves: each distance against cost, one panel per metric, on paper-ready axes."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from diffx.compare.shown.pictures.panel import Panel, Trace, look_ahead, make_panel
from diffx.compare.shown.pictures.placing import Name, place_texts
from diffx.compare.shown.pictures.style import BASELINE, PANEL, darken, draw_grid, in_style, set_ticks, write_heading
from diffx.compare.study import Study
from diffx.curves.metric import pick_alignments

FAR = 5.0  # what real images score is drawn as a line when the best value is within this factor of it
SMALL = (2.0, 1.95)  # inches of a panel on the page: letters are then as large beside it as a telephone needs them
GAP = 10.5  # points between names right of a panel
CROWDED = 20.0  # points between rings, with less of which their factors stand behind the names


def draw(study: Study, caption: str, ahead: bool = False) -> Figure:
    """The picture of a study, of what was measured or with what lies `ahead`. Save it as PNG or SVG with `save`."""
    panels = [make_panel(study, result.metric) for result in study.results]
    if ahead:
        panels = [look_ahead(panel, study, one.metric) for panel, one in zip(panels, study.results, strict=True)]
    return draw_panels(panels, caption)


def draw_alignment(study: Study, caption: str) -> Figure:
    """Agreement with prompts against the axis of the study, where it was measured."""
    return draw_panels([make_panel(study, metric) for metric in pick_alignments(study.points.metrics())], caption)


@in_style
def draw_panels(
    panels: Sequence[Panel], caption: str, size: tuple[float, float] = PANEL, scale: str = "log", dpi: int = 200
) -> Figure:
    """Two panels in a row, with the caption below them."""
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    aside = measure_aside(panels)
    width = columns * (size[0] + aside) + 0.55 * columns
    text = textwrap.fill(caption, int(18.2 * width))
    below = 0.135 * (text.count("\n") + 1) + 0.15 if text else 0.0
    height = size[1] * rows + 0.85 * (rows - 1) + 0.45 + 0.5 + below
    figure = Figure(figsize=(width, height), dpi=dpi)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for spare in axes[len(panels) :]:
        spare.remove()
    figure.subplots_adjust(left=0.55 / width, right=1 - aside / width, wspace=(aside + 0.55) / size[0],
                           bottom=(below + 0.5) / height, top=1 - 0.45 / height, hspace=0.85 / size[1])  # fmt: skip
    for axis, panel in zip(axes, panels, strict=False):
        draw_panel(axis, panel, scale)
    figure.text(0.1 / width, 0.08 / height, text, fontsize=7, color="#444444", va="bottom", linespacing=1.3)
    return figure


def draw_alone(panel: Panel, scale: str) -> Figure:
    """One small panel as a figure of its own, at 72 dots an inch: the units of an SVG."""
    size = SMALL[0], max(SMALL[1], GAP * len(panel.traces) / 72)
    return draw_panels([panel], "", size, scale, dpi=72)


def measure_aside(panels: Sequence[Panel]) -> float:
    """Room for the names of lines and their speed-ups, in inches."""
    traces = [trace for panel in panels for trace in panel.traces.values()]
    letters = max(len(one.name) + (len(one.ring.factor) + 2 if one.ring else 0) for one in traces)
    return 0.32 + 0.066 * letters


def draw_panel(axis: Axes, panel: Panel, scale: str) -> None:
    """Curves, seed bands, the floor, the baseline's final value and where each method meets it, and all names."""
    write_heading(axis, panel.title, panel.subtitle)
    positive = not panel.share and all(trace.line.low.max() > 0 for trace in panel.traces.values())
    axis.set(xscale=scale, yscale=scale if positive else "linear")
    axis.set_xlabel(panel.xlabel, gid="xlabel")
    draw_grid(axis)
    for place, trace in panel.traces.items():
        draw_trace(axis, trace, f"curve-{place}")
    for place, fan in panel.fans.items():
        colour = panel.traces[place].look["color"]
        for low, high in fan.bands:  # without a line, since none was measured
            axis.fill_between(fan.x, low, high, color=colour, alpha=0.14, linewidth=0, zorder=1)
    xs = [float(fan.x[-1]) for fan in panel.fans.values()]
    for trace in panel.traces.values():
        xs += [trace.line.x[0], trace.line.x[-1], *(lost.x[-1] for lost in trace.lost)]
    if scale == "log":
        axis.set_xlim(min(xs) * 0.93, max([max(xs) * 1.04, *(mark.x * 1.9 for mark in panel.marks)]))
    drawn = [*(trace.line.mean for trace in panel.traces.values()), *(fan.bands[0][0] for fan in panel.fans.values())]
    lowest = min(float(values.min()) for values in drawn)
    floor = panel.floor if is_near(axis, panel, lowest) else None
    if floor is not None:
        axis.axhline(floor, color="#888888", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    if panel.goal is not None:
        axis.axhline(panel.goal, color=BASELINE, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        draw_rings(axis, panel, panel.goal)
    if panel.marks:
        axis.plot([mark.x for mark in panel.marks], [mark.value for mark in panel.marks], "D", markersize=4,
                  color="#777777", markeredgewidth=0, linestyle="none", zorder=6)  # fmt: skip
    if scale == "log":
        set_ticks(axis)
    if panel.share:
        axis.set_ylim(bottom=0)
    name_everything(axis, panel, floor)


def is_near(axis: Axes, panel: Panel, lowest: float) -> bool:
    """Whether what real images score is near enough to the lines to be one itself."""
    if panel.floor is None:
        return False
    if panel.rises:
        return max(float(trace.line.mean.max()) for trace in panel.traces.values()) >= panel.floor / FAR
    return 0 < lowest <= FAR * panel.floor or axis.get_ylim()[0] <= panel.floor


def draw_trace(axis: Axes, trace: Trace, gid: str) -> None:
    """One method: line, band, a dot at each evaluation, crosses, crossings and its ring."""
    line, colour = trace.line, trace.look["color"]
    single = len(line.x) == 1
    if line.seeds > 1 and not single:
        axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0, gid=f"{gid}-band")
    axis.plot(line.x, line.mean, linewidth=1.7, **trace.look, solid_capstyle="round", gid=f"{gid}-line")
    axis.plot(line.x[line.evaluated], line.mean[line.evaluated], "o", markersize=2.6, color=colour, gid=f"{gid}-dots")
    if line.seeds > 1 and single:
        axis.plot([line.x[0]] * 2, [line.low[0], line.high[0]], linewidth=1.2, color=colour, alpha=0.5,
                  gid=f"{gid}-range")  # fmt: skip
    for one in trace.lost:
        axis.plot(one.x, one.mean, linewidth=0.9, color=colour, alpha=0.7, gid=f"{gid}-broken")
        axis.plot(
            one.x[-1:], one.mean[-1:], "x", color=colour, markersize=6, markeredgewidth=1.6, zorder=6, gid=f"{gid}-lost"
        )
    for met in trace.crossings:
        axis.plot([met.x], [met.y], "s", markersize=4.2, markerfacecolor="white", markeredgewidth=1.1,
                  markeredgecolor=colour, zorder=5, gid=f"{gid}-crossing")  # fmt: skip


def draw_rings(axis: Axes, panel: Panel, goal: float) -> None:
    """A ring where each method meets the baseline's final value, and an arrow from the baseline to the soonest."""
    rings = {place: trace.ring for place, trace in panel.traces.items() if trace.ring and not trace.ring.bound}
    for place, ring in rings.items():
        axis.plot([ring.x], [goal], "o", markersize=5.5, markerfacecolor="white", markeredgewidth=1.4,
                  markeredgecolor=panel.traces[place].look["color"], zorder=6, gid=f"curve-{place}-ring")  # fmt: skip
    soonest = min(rings, key=lambda place: rings[place].x, default=None)
    if soonest is None or panel.start is None or rings[soonest].x >= panel.start:
        return
    style = {"arrowstyle": "-|>", "color": panel.traces[soonest].look["color"], "linewidth": 1.1, "mutation_scale": 9}
    axis.annotate("", (rings[soonest].x, goal), (panel.start, goal), zorder=5,
                  arrowprops={**style, "shrinkA": 0, "shrinkB": 4}, gid=f"curve-{soonest}-arrow")  # fmt: skip


def name_everything(axis: Axes, panel: Panel, floor: float | None) -> None:
    """Names right of the panel, tied to their lines; factors at rings, unless crowded; levels and published numbers."""
    rings = {place: trace.ring for place, trace in panel.traces.items() if trace.ring}
    wide = axis.bbox.width * 72 / axis.figure.dpi
    places = sorted(
        float(to_axes(axis, ring.x, axis.get_ylim()[0])[0]) * wide for ring in rings.values() if not ring.bound
    )
    crowded = any(high - low < CROWDED for low, high in pairwise(places))
    behind = {place: f"  {ring.factor}" for place, ring in rings.items() if crowded or ring.bound}
    name_lines(axis, panel, behind)
    texts = []
    if panel.goal is not None:
        free = {place: ring for place, ring in rings.items() if place not in behind}
        texts = [Name(((ring.x, panel.goal),), ring.factor, darken(panel.traces[place].look["color"]), 8,
                      f"curve-{place}-factor") for place, ring in free.items()]  # fmt: skip
        texts.append(Name(spread_along(axis, panel.goal), panel.goal_name, "#666666", 7.5, "goal-name", False))
    if panel.floor is not None:
        side = "above" if panel.rises else "below"
        text = f"real images {panel.floor:.3g}" + ("" if floor is not None else f", {side} the panel")
        level = spread_along(axis, floor if floor is not None else axis.get_ylim()[int(panel.rises)])
        texts.append(Name(level, text, "#666666", 7.5, "floor-name", False))
    texts += [Name(((mark.x, mark.value),), mark.name, "#707070", 7, "mark-name") for mark in panel.marks]
    lines = [(trace.line.x, trace.line.mean) for trace in panel.traces.values() if len(trace.line.x) > 1]
    ends = np.array(axis.get_xlim())
    lines += [(ends, np.full(2, level)) for level in (panel.goal, floor) if level is not None]
    place_texts(axis, texts, lines)


def spread_along(axis: Axes, height: float) -> tuple[tuple[float, float], ...]:
    """Points of a level where its name may stand, from the left on."""
    across = [axis.transLimits.inverted().transform((share, 0))[0] for share in (0.0, 0.2, 0.4, 0.6)]
    return tuple((float(axis.transScale.inverted().transform((x, 0))[0]), height) for x in across)


def name_lines(axis: Axes, panel: Panel, behind: dict[int, str]) -> None:
    """Names right of the panel in the lines' colours, moved apart where lines end together, each tied to its line."""
    ends = {place: panel.fans[place].end if place in panel.fans else (trace.line.x[-1], trace.line.mean[-1])
            for place, trace in panel.traces.items()}  # fmt: skip
    wanted = {place: float(to_axes(axis, *end)[1]) for place, end in ends.items()}
    heights = spread_heights(wanted, GAP * axis.figure.dpi / 72 / axis.bbox.height)
    for place, trace in panel.traces.items():
        axis.annotate(
            f"{trace.name}{behind.get(place, '')}", ends[place], xytext=(1.03, heights[place]),
            textcoords="axes fraction", fontsize=8, va="center", color=darken(trace.look["color"]),
            annotation_clip=False, gid=f"curve-{place}-name",
            arrowprops={"arrowstyle": "-", "color": trace.look["color"], "linewidth": 0.6, "alpha": 0.7,
                        "shrinkA": 1, "relpos": (0, 0.5), "shrinkB": 2, "gid": f"curve-{place}-tie"},
        )  # fmt: skip


def spread_heights(wanted: dict[int, float], gap: float) -> dict[int, float]:
    """Heights at least `gap` from each other and as near as can be to those wanted; where they fit, between 0 and half
    a gap below 1, above which the title stands."""
    order = sorted(wanted, key=wanted.__getitem__)
    offsets = gap * np.arange(len(order))
    free = isotonic_regression([wanted[place] - offset for place, offset in zip(order, offsets, strict=True)]).x
    placed = np.clip(free, 0, max(0.0, 1 - gap / 2 - offsets[-1])) + offsets
    return dict(zip(order, placed.tolist(), strict=True))


def to_axes(axis: Axes, x: float, y: float) -> np.ndarray:
    """A point in fractions of the panel."""
    axis.get_xlim(), axis.get_ylim()  # settles the limits, which positions depend on
    return axis.transAxes.inverted().transform(axis.transData.transform((x, y)))
