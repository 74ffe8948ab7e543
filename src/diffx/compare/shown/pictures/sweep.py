"""Pictures of sweeps: response curves with the flat region marked, and heat maps of two settings."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffx.compare.design import Response
from diffx.compare.shown.pictures.style import BASELINE, COLOURS, darken, draw_grid, in_style, write_heading
from diffx.compare.study import Study
from diffx.curves.metric import name_metric
from diffx.plain import write_number


@in_style
def draw_sweep(study: Study, found: Sequence[Response]) -> Figure:
    """One panel per metric of one sweep."""
    width = 3.9 * len(found)
    figure = Figure(figsize=(width, 3.6), dpi=200)
    axes = figure.subplots(1, len(found), squeeze=False).flatten()
    figure.subplots_adjust(left=0.62 / width, right=1 - 0.5 / width, bottom=0.24, top=0.86, wspace=0.36)
    for axis, one in zip(axes, found, strict=True):
        at = f"{one.plugins} at {write_number(one.equal_cost)} {study.unit_name} · lower is better"
        write_heading(axis, name_metric(one.metric), at)
        (draw_response if len(one.names) == 1 else draw_heat)(axis, one, study)
    several = any(value.count > 1 for one in found for value in one.values)
    rule = (
        "not above the worst seed of the best value. Points: mean over seeds, bars: least to greatest"
        if several
        else "within 5 % of the best value. One seed a value: their order cannot be told from chance"
    )
    figure.text(0.1 / width, 0.025, f"Flat region: {rule}.", fontsize=7, color="#444444")
    return figure


def draw_response(axis: Axes, one: Response, study: Study) -> None:
    """Distance at equal cost against one swept setting, the baseline as a line across."""
    x = np.array([point[0] for point in one.points])
    mean = np.array([value.mean for value in one.values])
    bars = [[value.mean - value.low for value in one.values], [value.high - value.mean for value in one.values]]
    if x.min() > 0 and x.max() / x.min() >= 8:
        axis.set_xscale("log")
    axis.errorbar(x, mean, yerr=np.array(bars), color=COLOURS[0], marker="o", markersize=4, linewidth=1.6, elinewidth=1,
                  capsize=2)  # fmt: skip
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    inside = x[list(one.flat)]
    if len(inside) > 1:
        axis.axvspan(inside.min(), inside.max(), color=COLOURS[2], alpha=0.13, linewidth=0, zorder=0)
    axis.plot(inside, mean[list(one.flat)], "o", markersize=4.5, color=COLOURS[2], zorder=4)
    axis.text(0.02, 0.03, f"flat: {one.describe_flat()}", transform=axis.transAxes, fontsize=7.5,
              color=darken(COLOURS[2]))  # fmt: skip
    if (plain := read_baseline(one, study)) is not None and study.baseline is not None:
        axis.axhline(plain, color=BASELINE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axis.annotate(study.baseline.label, (1.015, plain), xycoords=("axes fraction", "data"), xytext=(0, 0),
                      textcoords="offset points", va="center", fontsize=7.5, color=BASELINE)  # fmt: skip
    axis.margins(y=0.18)
    draw_grid(axis)
    axis.set_xlabel(one.names[0])


def draw_heat(axis: Axes, one: Response, study: Study) -> None:
    """Distance at equal cost over two swept settings, numbers in the cells, the flat region framed."""
    first, second = (sorted({point[place] for point in one.points}) for place in (0, 1))
    grid = np.full((len(second), len(first)), np.nan)
    for point, value in zip(one.points, one.values, strict=True):
        grid[second.index(point[1]), first.index(point[0])] = value.mean
    axis.imshow(grid, origin="lower", aspect="auto", cmap="cividis_r")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for place, (point, value) in enumerate(zip(one.points, one.values, strict=True)):
        column, row = first.index(point[0]), second.index(point[1])
        bright = "black" if value.mean <= middle else "white"
        axis.text(column, row, f"{value.mean:.3g}", ha="center", va="center", fontsize=8, color=bright)
        if place in one.flat:
            frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=COLOURS[1], linewidth=1.8)
            axis.add_patch(frame)
    axis.set_xticks(range(len(first)), [f"{value:g}" for value in first])
    axis.set_yticks(range(len(second)), [f"{value:g}" for value in second])
    axis.set_xlabel(one.names[0])
    axis.set_ylabel(one.names[1])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if (plain := read_baseline(one, study)) is not None and study.baseline is not None:
        axis.text(1, -0.1, f"{study.baseline.label}: {plain:.3g}", transform=axis.transAxes, ha="right", va="top",
                  fontsize=8)  # fmt: skip


def read_baseline(one: Response, study: Study) -> float | None:
    """The baseline's value at equal cost, unless it is one of the swept methods."""
    if study.baseline is None or study.baseline.label in one.labels:
        return None
    result = study.result(one.metric)
    equal = result.outcomes[study.baseline.label].equal if result else None
    return equal.mean if equal else None
