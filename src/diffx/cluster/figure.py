"""The figure of a scaling: efficiency over GPUs, and where a step's time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from diffx.cluster.machine import PER_DEVICE, Machine
from diffx.cluster.simulate import Step
from diffx.cluster.work import Work
from diffx.store.whole_file import replaced

PARTS = {
    "products": ("arithmetic", "#4269d0"),
    "optimizer, average": ("tail", "#9498a0"),
    "links": ("links", "#ff725c"),
    "reading": ("reading", "#efb118"),
}
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6}


def draw(work: Work, machine: Machine, steps: Sequence[Step], path: Path) -> None:
    """Write the PNG. Left: images a second and GPU over those of one GPU. Right: shares of a step."""
    places, names = range(len(steps)), [f"{step.devices:,}" for step in steps]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.2), dpi=200, layout="constrained")
        left, right = figure.subplots(1, 2)
        for batches, marker, name in _alike(steps, work.batch):
            heights = [100 * steps[place].efficiency for place in batches]
            left.plot(batches, heights, color="#4269d0", marker=marker, markersize=4, label=name)
        left.set_ylim(0, max(105, left.get_ylim()[1]))
        left.set_title("efficiency, %: images/s of a GPU over one alone", loc="left", fontsize=8)
        left.legend(frameon=False, fontsize=7, loc="lower left")
        below = [0.0] * len(steps)
        for name, (part, colour) in PARTS.items():
            shares = [100 * getattr(step, part) / step.seconds for step in steps]
            right.bar(places, shares, bottom=below, color=colour, label=name, width=0.8)
            below = [b + share for b, share in zip(below, shares, strict=True)]
        right.set_ylim(0, 100)
        right.set_title("where a step's time goes, %", loc="left", fontsize=8)
        right.legend(frameon=False, fontsize=7, ncol=4, loc="upper center", bbox_to_anchor=(0.5, -0.3))
        for panel in (left, right):
            panel.set_xticks(places, names, rotation=45, ha="right")
            panel.set_xlabel(f"GPUs ({machine.gpu})")
        how = "from a measured step" if machine.step_ms else "predicted, nothing measured"
        figure.suptitle(f"{work.name}, {how}", x=0.01, ha="left", fontsize=9)
        with replaced(path) as partial:
            figure.savefig(partial, format="png")


def _alike(steps: Sequence[Step], batch: int) -> list[tuple[list[int], str, str]]:
    """The places of steps of the settings' batch, and of those whose batch grows with the GPUs."""
    same = [place for place, step in enumerate(steps) if step.batch == batch]
    more = [place for place, step in enumerate(steps) if step.batch != batch]
    named = [(same, "o", f"batch {batch:,}"), (more, "s", f"{PER_DEVICE} images for each GPU")]
    return [kind for kind in named if kind[0]]
