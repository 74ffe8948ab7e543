"""Breaking off a run that stands too far behind another of its study for seeds to explain it (`sweep_prune=0.1`).

A search has one seed a trial, so its trials cannot tell how far seeds lie apart: that is the user's, from pilot runs
(`python -m diffx.power` prints it). The logarithms of two runs of one method differ with a spread of √2 times that of
one; beyond three such spreads a run is broken off. The best of k equal runs is taken as one to compare with, which
makes the error larger than that of a pair: 0.1 % of an evaluation for two trials, 0.5 % for five, 2 % for twenty
(normal spreads, drawn). What no such rule can see are curves that would have crossed later.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffx.curves.curve import Curve, make_curve, read_value
from diffx.errors import DiffxError
from diffx.run.distances import pick_distances, searched_metric
from diffx.run.folder import RunDir

SPREADS = 3.0
FIRST = 3
"""The evaluation from which on a run is looked at: before, curves are steep, and differ by a step's cost."""


def check_pruning(spread: float | None, metric: str | None) -> None:
    """Raises DiffxError where runs would be broken off by a metric of which more may be better."""
    if spread is not None and metric is not None and not pick_distances([metric]):
        raise DiffxError(
            f"sweep_prune={spread:g} breaks runs off by a distance, of which less is better, and sweep_metric={metric} "
            "is none; type sweep_prune=null, or another sweep_metric."
        )


@dataclass
class Pruning:
    """Looks at a run after each of its evaluations. reason: why it is to be broken off, None as long as it is not.

    Args:
        run: of the trial; it is held against the runs of its study with its seed.
        spread: of the logarithm of the metric between seeds of one method; None never breaks anything off.
        metric: None for the first distance.
        unit: the cost that curves are read at, cpu_hours or gpu_hours.
    """

    run: RunDir
    spread: float | None
    metric: str | None
    unit: str
    reason: str | None = field(default=None, init=False)

    def look(self) -> None:
        """To be called behind an evaluation, when its point is on disk."""
        if self.spread is None:
            return
        own = [*self.run.points()]
        metric = searched_metric(self.metric, own[-1]["values"] if own else ())
        here = read_curve(own[-1:], metric, self.unit) if metric and len(own) >= FIRST else None
        if metric is None or here is None or not here.x:
            return
        value = here.y[0]
        found = [(there.value, run) for run, points in self._others(own[-1].get("protocol"))
                 if (there := read_value(read_curve(points, metric, self.unit), here.end)) is not None]  # fmt: skip
        if not found:
            return
        best, leader = min(found, key=lambda one: one[0])
        if math.log(value / best) > SPREADS * math.sqrt(2) * self.spread:
            self.reason = (
                f"{metric} is {value:.3g} after {own[-1]['step']} steps, where {leader.path} had {best:.3g} at this "
                f"cost: more than {SPREADS:g} times what two seeds differ by (sweep_prune={self.spread:g})"
            )

    def _others(self, protocol: object) -> Iterator[tuple[RunDir, Sequence[Mapping[str, Any]]]]:
        """The other runs of the study with this seed, and what was measured of them under the same protocol."""
        for folder in sorted(self.run.path.parents[1].glob(f"*/{self.run.path.name}")):
            if folder != self.run.path:
                other = RunDir(folder)
                yield other, [point for point in other.points() if point.get("protocol") == protocol]


def read_curve(points: Iterable[Mapping[str, Any]], metric: str, unit: str) -> Curve:
    """A run's evaluations of a metric; those without a cost, or whose value has no logarithm, are left out."""
    pairs = ((point.get(unit, 0.0), point.get("values", {}).get(metric, 0.0)) for point in points)
    return make_curve((x, y) for x, y in pairs if x > 0 and y > 0 and math.isfinite(y))
