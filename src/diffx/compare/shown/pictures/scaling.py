"""The picture of a scaling law: networks coloured by patch size, the line, and the band of its interval."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffx.compare.ahead.scaling import Scaling
from diffx.compare.shown.pictures.colours import BASELINE, COLOURS
from diffx.compare.shown.pictures.figure import STYLE, set_ticks
from diffx.curves.metric import name_metric


def draw_scaling(laws: Sequence[Scaling]) -> Figure:
    """A panel a metric, both axes logarithmic."""
    width = 4.1 * len(laws)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.7), dpi=200)
        axes = figure.subplots(1, len(laws), squeeze=False).flatten()
        figure.subplots_adjust(left=0.6 / width, right=1 - 0.15 / width, bottom=0.21, top=0.84, wspace=0.24)
        for axis, law in zip(axes, laws, strict=True):
            draw_law(axis, law)
        said = "Point: a network's last evaluation, the mean of its seeds; bar: least to greatest. Band: 95 %."
        figure.text(0.1 / width, 0.025, said, fontsize=6.5, color="#444444")
    return figure


def draw_law(axis: Axes, law: Scaling) -> None:
    low, high = law.interval
    axis.set_title(name_metric(law.metric), loc="left", fontsize=10, fontweight="bold", pad=14)
    axis.text(0, 1.02, f"(training FLOPs)^−{law.exponent:.2f} [{low:.2f} – {high:.2f}] · lower is better",
              transform=axis.transAxes, fontsize=7.5, color="#666666")  # fmt: skip
    axis.set(xscale="log", yscale="log")
    flops = [one.flops for one in law.networks]
    grid = np.geomspace(min(flops) / 1.3, max(flops) * 1.3, 100)
    axis.fill_between(grid, *law.band(grid), color=BASELINE, alpha=0.1, linewidth=0)
    axis.plot(grid, law.value(grid), color=BASELINE, linewidth=1.3)
    groups = list(dict.fromkeys(one.group for one in law.networks))
    for group, colour in zip(groups, COLOURS * len(groups), strict=False):
        own = [one for one in law.networks if one.group == group]
        axis.plot([one.flops for one in own], [one.middle for one in own], "o", color=colour, markersize=5, label=group)
        for one in own:
            axis.plot([one.flops] * 2, [min(one.values), max(one.values)], color=colour, linewidth=1)
    axis.legend(fontsize=7.5, frameon=False, loc="best")
    axis.set_xlabel("training FLOPs")
    axis.grid(True, color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)
    set_ticks(axis)
