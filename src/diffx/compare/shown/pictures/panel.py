"""One panel of a picture: a metric against an axis, as data; the figure and the page draw the same panels."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffx.compare.card import MARK
from diffx.compare.lines import Crossing, Line, pool
from diffx.compare.shown.cell import write_interval
from diffx.compare.shown.pictures.style import choose_looks
from diffx.compare.shown.published import Mark, place_published
from diffx.compare.study import Result, Study
from diffx.curves.metric import find_network, name_metric, pick_alignments
from diffx.plain import shorten
from diffx.run.distances import pick_distances

FAN = (0.025, 0.25)  # a forecast's bands hold 95 % and 50 % of its draws
LONGEST = 42  # letters of a name in a picture
LONGEST_ON_PAGE = 16  # there the pointer says the whole name


@dataclass(frozen=True)
class Ring:
    """Where a method meets the baseline's final value, and how much sooner.

    A `bound` is a method whose first evaluation was beyond that value: it has no place, only a least factor.
    """

    x: float
    factor: str
    interval: str
    bound: bool


@dataclass(frozen=True)
class Trace:
    """One method in a panel: its name and look, its line, its ring, its crossings, and where its seeds diverged."""

    name: str
    look: dict[str, Any]
    line: Line
    ring: Ring | None
    crossings: tuple[Crossing, ...]
    lost: tuple[Line, ...]  # each seed that diverged, up to its break


@dataclass(frozen=True)
class Fan:
    """A forecast beyond a line's end: costs, and pairs of least and greatest, the wider one first."""

    x: np.ndarray
    bands: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def end(self) -> tuple[float, float]:
        """The middle of the narrow band at the horizon, where a name is tied."""
        low, high = self.bands[-1]
        return float(self.x[-1]), float(np.sqrt(low[-1] * high[-1]))


@dataclass(frozen=True)
class Panel:
    """A metric against an axis. `goal` is the baseline's final value; traces stand by the place of their method."""

    title: str
    subtitle: str
    xlabel: str
    traces: dict[int, Trace]
    floor: float | None
    goal: float | None
    goal_name: str
    start: float | None  # where the baseline met its final value
    marks: tuple[Mark, ...]
    fans: dict[int, Fan] = field(default_factory=dict)
    rises: bool = False  # whether more is better
    share: bool = False  # whether it lies between 0 and 1, and is often 0


def write_label(study: Study, label: str, longest: int = LONGEST) -> str:
    """A method's name in a picture: of at most so many letters, then the mark of being measured unlike the rest."""
    return shorten(label, longest) + (MARK if label in study.odd else "")


def make_panel(study: Study, metric: str, longest: int = LONGEST) -> Panel:
    """The panel of a metric in a study as it is counted, with names of at most so many letters; what is no distance
    has a line alone."""
    result = study.result(metric)
    base = study.baseline if result else None
    met = result.at_goal(base.label)[0] if result and base else None
    return Panel(
        title=name_metric(metric),
        subtitle=describe_ruler(study, metric),
        xlabel=study.unit_name if study.axis != "cost" else f"{study.unit_name} of training",
        traces=make_traces(study, metric, result, longest),
        floor=study.floor(metric),
        goal=result.targets[result.goal] if result and base else None,
        goal_name=f"{base.label}'s final {result.targets[result.goal]:.3g}" if result and base else "",
        start=met.cost if met and met.bound == "=" else None,
        marks=tuple(place_published(study, metric)),
        rises=bool(pick_alignments([metric])),
        share=metric.startswith("align_"),
    )


def describe_ruler(study: Study, metric: str) -> str:
    """What a metric measures, and which way is better."""
    if pick_alignments([metric]):
        return "agreement of samples with their prompts · higher is better"
    if not pick_distances([metric]):
        return "no distance to real images"
    network = find_network(metric, study.networks)
    features = f"{network.get('training', '')} features of {network['name']}".strip() if network else ""
    return f"{features or 'feature network not named'} · lower is better"


def look_ahead(panel: Panel, study: Study, metric: str) -> Panel:
    """The panel with the forecasts as fans, and without rings, which belong to what was measured."""
    labels, ahead = [method.label for method in study.methods], study.forecast(metric)
    known = {place: ahead[labels[place]] for place in panel.traces if labels[place] in ahead}
    fans = {place: Fan(one.costs, tuple((one.read(low), one.read(1 - low)) for low in FAN))
            for place, one in known.items()}  # fmt: skip
    bare = {place: replace(trace, ring=None, crossings=()) for place, trace in panel.traces.items()}
    return replace(panel, traces=bare, fans=fans, goal=None, goal_name="", marks=())


def make_traces(study: Study, metric: str, result: Result | None, longest: int) -> dict[int, Trace]:
    looks = choose_looks(study.methods, study.baseline)
    traces = {}
    for place, method in enumerate(study.methods):
        curves = study.curves(method.label, metric)
        if not curves:
            continue
        lost = [curves[run.seed] for run in method.runs if run.diverged and run.seed in curves]
        traces[place] = Trace(
            name=write_label(study, method.label, longest),
            look=looks[method.label],
            line=pool(list(study.curves(method.label, metric, sound=True).values())),
            ring=make_ring(result, method.label) if result else None,
            crossings=result.outcomes[method.label].crossings if result else (),
            lost=tuple(pool([curve]) for curve in lost),
        )
    return traces


def make_ring(result: Result, label: str) -> Ring | None:
    """None for the baseline, and for a method that did not meet its final value."""
    met, gain = result.at_goal(label)
    if gain is None or met.bound == ">":
        return None
    bound = met.bound == "<"
    factor = f"{gain.ratio:.1f}×" if gain.ratio < 9.95 else f"{gain.ratio:.0f}×"
    return Ring(met.cost, f"> {factor}" if bound else factor, write_interval(gain.interval), bound)
