"""What pilot runs say about the seeds to come: their spread, what pairing gains, and where a difference shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import chi2

from diffx.compare.study import Result, Study
from diffx.curves.curve import read_value
from diffx.curves.method import Method


@dataclass(frozen=True)
class Pilot:
    """One metric of pilot runs at one cost: logarithms of its values, by method and seed."""

    metric: str
    cost: float
    logs: dict[str, dict[int, float]]
    baseline: str | None

    @cached_property
    def freedom(self) -> int:
        """Degrees of freedom of the spread: seeds less one, over the methods."""
        return sum(len(one) - 1 for one in self.logs.values())

    @property
    def spread(self) -> float:
        """The standard deviation of a method's seeds in logarithms, pooled over the methods."""
        squares = sum(float(np.var(list(one.values()))) * len(one) for one in self.logs.values())
        return math.sqrt(squares / self.freedom)

    @property
    def ends(self) -> tuple[float, float]:
        """Its 95 % interval, as normal seeds have it."""
        low, high = (self.spread * math.sqrt(self.freedom / chi2.ppf(share, self.freedom)) for share in (0.975, 0.025))
        return float(low), float(high)

    @property
    def correlation(self) -> float | None:
        """Of runs that share a seed: 1 - (variance of the differences from the baseline) / (sum of both variances),
        over the methods. None without a baseline, or with a single shared seed."""
        apart, together = 0.0, 0.0
        for label in self.logs.keys() - {self.baseline}:
            pairs = self.pair(label)
            if len(pairs) > 1:
                apart += float(np.var(pairs[:, 0], ddof=1) + np.var(pairs[:, 1], ddof=1))
                together += float(np.var(pairs[:, 0] - pairs[:, 1], ddof=1))
        return None if apart == 0 else float(np.clip(1 - together / apart, -1, 0.999))

    def pair(self, label: str) -> np.ndarray:
        """(seeds, 2): the baseline and a method at the seeds that both ran."""
        base, own = self.logs.get(self.baseline or "", {}), self.logs[label]
        return np.array([(base[seed], own[seed]) for seed in sorted(base.keys() & own.keys())]).reshape(-1, 2)

    def gap(self, label: str) -> float | None:
        """How far the method is below the baseline, in mean logarithms; None without one of them."""
        sides = [list(self.logs.get(one or "", {}).values()) for one in (self.baseline, label)]
        return float(np.mean(sides[0]) - np.mean(sides[1])) if all(sides) else None


def read_pilot(study: Study, result: Result, cost: float) -> Pilot | None:
    """The pilot at a cost; None where no method has two seeds there, or a value is not above zero."""
    logs: dict[str, dict[int, float]] = {}
    for method in study.methods:
        curves = study.points.curves(method.label, result.metric, sound=True)
        read = {seed: read_value(curve, cost) for seed, curve in curves.items()}
        values = {seed: math.log(one.value) for seed, one in read.items() if one is not None and one.value > 0}
        if values:
            logs[method.label] = values
    pilot = Pilot(result.metric, cost, logs, study.baseline.label if study.baseline else None)
    return pilot if pilot.freedom > 0 else None


def list_costs(study: Study, result: Result) -> list[float]:
    """Where the baseline (else the first method) was evaluated, up to equal cost: the lengths that a run could have."""
    labels = [one.label for one in (study.baseline, *study.methods) if one is not None]
    curve = next(one for label in labels for one in study.points.curves(label, result.metric, sound=True).values())
    return [*(x for x in curve.x if x < 0.97 * result.equal_cost), result.equal_cost]


def count_run_hours(methods: Sequence[Method]) -> float:
    """What a run of these methods costs: the mean over methods of the median seed's hours to its last evaluation."""
    ends = [[run.points[-1].cost for run in one.runs if run.points] for one in methods]
    return float(np.mean([np.median(seeds) for seeds in ends if seeds]))
