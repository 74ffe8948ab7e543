"""Breaking off a run that stands too far behind another of its study for seeds to explain it (`sweep_prune=0.1`).

A search has one seed a trial, so its trials cannot tell how far seeds lie apart: that is the user's, from pilot runs
(`python -m diffx.power` prints it). The logarithms of two runs of one method differ with a spread of √2 times that of
one; beyond three such spreads a run is broken off. The best of k equal runs is taken as one to compare with, which
makes the error larger than that of a pair: 0.1 % of an evaluation for two trials, 0.5 % for five, 2 % for twenty
(normal spreads, drawn). What no such rule can see are curves that would have crossed later.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffx.run.distances import pick_distances
from diffx.run.folder import RunDir

SPREADS = 3.0
FIRST = 3
"""The evaluation from which on a run is looked at: before, curves are steep, and differ by a step's cost."""


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
        metric = self.metric or next(iter(pick_distances(own[-1]["values"] if own else ())), None)
        if metric is None or len(own) < FIRST or not self._has(own[-1], metric):
            return
        cost, value = own[-1][self.unit], own[-1]["values"][metric]
        found = [(there, run) for run, points in self._others(own[-1].get("protocol"))
                 if (there := read_at(points, metric, self.unit, cost)) is not None]  # fmt: skip
        if not found or not value > 0:
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

    def _has(self, point: Mapping[str, Any], metric: str) -> bool:
        return self.unit in point and metric in point.get("values", {})


def read_at(points: Sequence[Mapping[str, Any]], metric: str, unit: str, cost: float) -> float | None:
    """A curve's value at a cost, on the line through its neighbours in logarithms; None where it does not reach so far,
    has no such metric, or its values have no logarithm."""
    pairs = [(point[unit], point["values"][metric]) for point in points
             if unit in point and metric in point.get("values", {})]  # fmt: skip
    pairs = [(x, y) for x, y in pairs if x > 0 and y > 0 and math.isfinite(y)]
    if not pairs or cost > pairs[-1][0] or cost < pairs[0][0]:
        return None
    x, y = np.log(np.array(pairs)).T
    return math.exp(np.interp(math.log(cost), x, y))
