"""The scaling law of a study: which networks it is fitted to, the table, the sentence and the picture."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffx.compare.ahead.scaling import FEWEST, Network, Scaling, fit_scaling
from diffx.compare.shown.cell import Table
from diffx.compare.shown.pictures.style import BASELINE, COLOURS, draw_grid, in_style, set_ticks, write_heading
from diffx.compare.study import Study
from diffx.curves.metric import name_metric
from diffx.errors import DiffxError
from diffx.plain import NONE, write_number, write_value

PATCH = "backbone.patch_size"


def scale_study(study: Study) -> Study:
    """The study with a power law of every metric in training FLOPs, over the methods' last evaluations.

    Raises DiffxError where fewer than FEWEST methods counted different FLOPs.
    """
    laws = []
    for result in study.results:
        networks = list_networks(study, result.metric)
        if len({round(one.flops, -3) for one in networks}) < FEWEST:
            raise DiffxError(
                f"--scaling fits a line to networks of at least {FEWEST} training costs, and these runs have "
                f"{len({one.flops for one in networks})} in {name_metric(result.metric)}; a study of them is: python "
                "-m diffx -m +experiment=scaling"
            )
        laws.append(fit_scaling(result.metric, networks))
    return replace(study, scalings=tuple(laws))


def list_networks(study: Study, metric: str) -> list[Network]:
    """The end of every method that has counted its FLOPs, by patch size. Seeds are taken where all of them ended."""
    found = []
    for method in study.methods:
        curves = study.points.curves(method.label, metric, "train_flops", sound=True).values()
        ends = [(curve.end, curve.y[-1]) for curve in curves if curve.end > 0 and curve.y[-1] > 0]
        if ends:
            flops = sum(end for end, _ in ends) / len(ends)
            patch = method.settings.get(PATCH)
            group = NONE if patch is None else f"patch {write_value(patch)}"
            found.append(Network(method.label, group, flops, tuple(value for _, value in ends)))
    return found


def tabulate_scaling(law: Scaling) -> Table:
    """Every network beside the law."""
    rows = [
        (one.label, one.group, write_number(one.flops), f"{one.middle:.3g}", f"{law.value(one.flops):.3g}",
         f"{one.middle / float(law.value(one.flops)):.2f}×")
        for one in sorted(law.networks, key=lambda one: one.flops)
    ]  # fmt: skip
    header = ("network", "patch", "training FLOPs", "measured", "law", "off by")
    return Table(f"Scaling: {name_metric(law.metric)}", header, tuple(rows), write_scaling(law))


def write_scaling(law: Scaling) -> str:
    """The exponent within its interval, and what it says for ten times the compute."""
    low, high = law.interval
    told = "" if low > 0 else " The interval holds zero: these networks do not show that compute helps."
    return (
        f"{name_metric(law.metric)} ∝ (training FLOPs)^−{law.exponent:.2f} [95 %: {low:.2f} – {high:.2f}] over "
        f"{len(law.networks)} networks: {10**law.exponent:.2f} times lower for ten times the FLOPs. Networks are off "
        f"it by a factor of {law.scatter:.2f} (root mean square).{told}"
    )


@in_style
def draw_scaling(laws: Sequence[Scaling]) -> Figure:
    """A panel a metric, both axes logarithmic."""
    width = 4.1 * len(laws)
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
    fitted = f"(training FLOPs)^−{law.exponent:.2f} [{low:.2f} – {high:.2f}] · lower is better"
    write_heading(axis, name_metric(law.metric), fitted)
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
    draw_grid(axis)
    set_ticks(axis)
