"""The answer as a picture: what each method needs to reach what the baseline ended with, a dot with a whisker each."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from diffx.compare.shown.cell import write_bound, write_interval
from diffx.compare.shown.pictures.panel import LONGEST, LONGEST_ON_PAGE, write_label
from diffx.compare.shown.pictures.style import BASELINE, choose_looks, darken, in_style, set_ticks
from diffx.compare.study import Result, Study
from diffx.curves.metric import name_metric
from diffx.curves.seeds import Speedup
from diffx.plain import NONE, write_number

ROW = 0.27  # inches a method
WIDE, NARROW = 2.4, 1.6  # inches of a panel, without its names and factors; on the page
BEYOND = 1.25  # times the largest cost: where a whisker without an end is cut


def can_answer(study: Study) -> bool:
    """Whether there is a baseline, and another method to hold against it."""
    return study.baseline is not None and bool(study.others)


def draw_answer(study: Study) -> Figure:
    """A panel a metric; methods from the soonest to the latest of the first metric, by their median seeds."""
    return draw_panels(study, study.results, WIDE, LONGEST, dpi=200)


def draw_answer_alone(study: Study, result: Result) -> Figure:
    """The panel of one metric as a small figure of its own, at 72 dots an inch: the units of an SVG."""
    return draw_panels(study, [result], NARROW, LONGEST_ON_PAGE, dpi=72)


@in_style
def draw_panels(study: Study, results: Sequence[Result], wide: float, longest: int, dpi: int) -> Figure:
    first = study.results[0]
    labels = sorted((one.label for one in study.others), key=lambda label: rank(first, label))
    names = 0.15 + 0.066 * max(len(write_label(study, label, longest)) for label in labels)
    factors, count = 1.35, len(results)
    width = names + count * (wide + factors) + 0.1
    height = ROW * len(labels) + 1.2
    figure = Figure(figsize=(width, height), dpi=dpi)
    axes = figure.subplots(1, count, squeeze=False).flatten()
    figure.subplots_adjust(left=names / width, right=1 - factors / width, wspace=factors / wide,
                           bottom=0.55 / height, top=1 - 0.55 / height)  # fmt: skip
    for axis, result in zip(axes, results, strict=True):
        draw_panel(axis, study, result, labels)
        axis.set_yticks(range(len(labels)), [])
    axes[0].set_yticks(range(len(labels)), [write_label(study, label, longest) for label in labels])
    return figure


def rank(result: Result, label: str) -> tuple[bool, float]:
    """Methods that met the goal in the order of their costs, then those that did not."""
    met, _ = result.at_goal(label)
    return met.bound == ">", met.cost


def draw_panel(axis: Axes, study: Study, result: Result, labels: list[str]) -> None:
    """One metric: the baseline as a line across, each method's cost with the interval of its speed-up."""
    assert study.baseline is not None
    start, _ = result.at_goal(study.baseline.label)
    base = start.cost
    looks = choose_looks(study.methods, study.baseline)
    axis.set_xscale("log")
    ends = [base]
    for row, label in enumerate(labels):
        met, gain = result.at_goal(label)
        colour = looks[label]["color"]
        low, high = find_whisker(base, met.cost, gain)
        ends += [met.cost, *(end for end in (low, high) if 0 < end < math.inf)]
        draw_whisker(axis, row, met.cost, met.bound, low, high, colour)
        said = "not reached" if met.bound == ">" else NONE
        said = f"{write_bound(gain.bound)}{gain.ratio:.2f}×{write_interval(gain.interval)}" if gain else said
        side = blended_transform_factory(axis.transAxes, axis.transData)
        axis.text(1.03, row, said, transform=side, va="center", fontsize=7.5, color=darken(colour))
    axis.axvline(base, color=BASELINE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axis.annotate(f"{study.baseline.label}: {write_bound(start.bound)}{write_number(base)}", (base, 1),
                  xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points", ha="center",
                  fontsize=7.5, color=BASELINE)  # fmt: skip
    ends = [end for end in ends if end > 0]  # a method that diverged before its first evaluation is at no cost
    axis.set_xlim(min(ends) / BEYOND, max(ends) * BEYOND)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(True, axis="x", color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_title(f"{name_metric(result.metric)} ≤ {result.targets[result.goal]:.3g}", loc="left", fontsize=9.5,
                   fontweight="bold", pad=16)  # fmt: skip
    axis.set_xlabel(f"{study.unit_name} to reach it, left is cheaper", fontsize=8.5)
    set_ticks(axis)


def find_whisker(base: float, cost: float, gain: Speedup | None) -> tuple[float, float]:
    """The interval of a speed-up as costs of the method, the baseline's median held; the cost itself without one."""
    if gain is None or gain.interval is None:
        return cost, cost
    low, high = gain.interval
    return (0.0 if math.isinf(high) else base / high), (math.inf if low <= 0 else base / low)


def draw_whisker(axis: Axes, row: int, cost: float, bound: str, low: float, high: float, colour: Any) -> None:
    """A dot where the median seed met the goal; an arrowhead where it is a bound, and a whisker cut at the panel."""
    left, right = (low if low > 0 else cost / 100), (high if math.isfinite(high) else cost * 100)
    axis.plot([left, right], [row, row], color=colour, linewidth=1.8, alpha=0.55, solid_capstyle="butt")
    marker = {"=": "o", ">": ">", "<": "<"}[bound]
    face = colour if bound == "=" else "white"
    axis.plot([cost], [row], marker, markersize=6, color=colour, markerfacecolor=face, markeredgewidth=1.4, zorder=5)
