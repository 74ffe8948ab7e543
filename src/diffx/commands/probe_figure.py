"""The figure of a run's probes: accuracy and CKNNA by depth."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffx.compare.shown.pictures.style import BASELINE, COLOURS, STYLE
from diffx.store.whole_file import replaced

NOTE = "#777777"


def draw(facts: dict[str, Any], path: Path) -> None:
    """Write the PNG of what probe_blocks found."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.5), dpi=200)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.08, right=0.98, bottom=0.29, top=0.86, wspace=0.26)
        _panel(left, facts, "linear_probe", 100.0, "Linear probe, % right")
        _panel(right, facts, "cknna", 1.0, f"CKNNA with {facts['encoder']}, k = {facts['neighbours']}")
        ceiling = 100 * facts["encoder_linear_probe"]
        left.axhline(ceiling, color=NOTE, linewidth=0.9, linestyle=(0, (1.5, 1.2)), zorder=0)
        name, place = f"encoder {facts['encoder']}", (0.99, ceiling)
        below = {"ha": "right", "va": "top", "fontsize": 7, "color": NOTE}
        left.annotate(name, place, (0, -2), ("axes fraction", "data"), "offset points", **below)
        left.set_ylim(0, 104)
        right.set_ylim(min(0.0, *(block["cknna"] for block in facts["blocks"])), right.get_ylim()[1])
        if len(_times_of(facts)) > 1:
            right.legend(frameon=False, fontsize=7.5, handlelength=1.6)
        figure.text(0.012, 0.03, _caption(facts), fontsize=7, color="#444444", va="bottom", linespacing=1.3)
        with replaced(path) as partial:
            figure.savefig(partial, format="png")


def _times_of(facts: dict[str, Any]) -> list[float]:
    return sorted({block["t"] for block in facts["blocks"]})


def _panel(axis: Axes, facts: dict[str, Any], key: str, unit: float, title: str) -> None:
    """One measure by depth, a line for every noise level, and where plugins read."""
    axis.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=14)
    times = _times_of(facts)
    for place, t in enumerate(times):
        depths, values = zip(*((b["depth"], unit * b[key]) for b in facts["blocks"] if b["t"] == t), strict=True)
        colour = BASELINE if len(times) == 1 else COLOURS[place % len(COLOURS)]
        axis.plot(depths, values, color=colour, marker="o", markersize=3, linewidth=1.4, label=f"t = {t:g}")
    for name, depths in facts["reads"].items():
        for depth in depths:
            axis.axvline(depth, color=NOTE, linewidth=0.9, linestyle=(0, (5, 1.5)), zorder=0)
            where, offset = ("data", "axes fraction"), (0, 2)
            said = f"{name} reads"
            axis.annotate(said, (depth, 1.0), offset, where, "offset points", fontsize=7, color=NOTE, ha="center")
    axis.set_xlabel("after block")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)


def _caption(facts: dict[str, Any]) -> str:
    images, times = facts["images"], ", ".join(f"{t:g}" for t in _times_of(facts))
    text = (
        f"{facts['label']}, EMA {facts['ema_decay']:g}, noise level t = {times} (0 is data), null label. "
        f"Probe: ridge regression on the mean tokens of {images['fit']:,} training images. "
        f"Measured on {images['test']:,} {images['tested_on']}."
    )
    return textwrap.fill(text, 140)
