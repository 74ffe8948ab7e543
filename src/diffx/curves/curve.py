"""Curves of a distance (lower is better), and what is read between their evaluations.

Between two evaluations the logarithm of the distance is a monotone cubic (PCHIP) of the logarithm of the cost. How far
that can be off is read from the curve itself: each evaluation is left out in turn and read from the others. Leaving one
out doubles the gap, and the error of a smooth curve falls at least with the square of the gap: a quarter is counted,
a third in the first and the last gap, where the cubic knows its slope from one side alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.interpolate import PchipInterpolator

Bound = Literal["=", ">", "<"]
NEAR = 0.02  # relative: costs that count as equal; runs of one budget end up to a step apart
SHRINK, SHRINK_AT_ENDS = 4.0, 3.0  # how many times larger the error is when an evaluation is left out
FLAT = 1e-9  # slopes below this are flat
GROWS = 1e-9  # relative: positions that are nearer than this are the same in logarithms
READING = {"between": "pchip log-log", "near": NEAR, "shrink": [SHRINK, SHRINK_AT_ENDS], "reached": "first crossing"}
"""How curves are read, as facts that a hash can hold; a change of the rule changes them."""


@dataclass(frozen=True)
class Curve:
    """One seed's evaluations of one metric: ascending positions on an axis, and values."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def end(self) -> float:
        return self.x[-1]


def make_curve(points: Iterable[tuple[float, float]]) -> Curve:
    """From positions and values. A count that does not grow from one evaluation to the next costs the later one."""
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if not kept or x > kept[-1][0] * (1 + GROWS):
            kept.append((float(x), y))
    return Curve(tuple(x for x, _ in kept), tuple(y for _, y in kept))


@dataclass(frozen=True)
class Reach:
    """Cost of a target: exactly `cost`, more (">", not reached) or at most it ("<", met at the first evaluation).

    `errors`: what the interpolation may be off by in the logarithm of the cost, judged by each evaluation nearby.
    """

    cost: float
    bound: Bound = "="
    errors: tuple[float, ...] = ()

    @property
    def least(self) -> float:
        """The smallest cost that it can be: nothing when the target was met at the first evaluation."""
        return 0.0 if self.bound == "<" else self.cost

    @property
    def most(self) -> float:
        """The largest cost that it can be: infinite when the target was not reached."""
        return math.inf if self.bound == ">" else self.cost


@dataclass(frozen=True)
class Value:
    """A value at a cost; `errors`: what the interpolation may be off by in its logarithm, by each evaluation nearby."""

    value: float
    errors: tuple[float, ...] = ()


class Fit:
    """The interpolant of a curve. Distances at or below zero have no logarithm: such a curve is cubic as it stands."""

    def __init__(self, x: tuple[float, ...], y: tuple[float, ...]) -> None:
        self.logs = min(y) > 0
        self.x = np.log(x)
        self.y = np.log(y) if self.logs else np.array(y)
        self.cubic = PchipInterpolator(self.x, self.y, extrapolate=False)

    def read(self, cost: float) -> float:
        value = float(self.cubic(min(max(math.log(cost), self.x[0]), self.x[-1])))
        return math.exp(value) if self.logs else value

    def find(self, place: int, target: float) -> float:
        """The logarithm of the cost at which the cubic right of the evaluation `place` falls to the target."""
        a, b, c, d = self.cubic.c[:, place]
        low, high = 0.0, float(self.x[place + 1] - self.x[place])
        for _ in range(60):  # the cubic is monotone, so halving finds the one crossing
            middle = (low + high) / 2
            above = ((a * middle + b) * middle + c) * middle + d > target
            low, high = (middle, high) if above else (low, middle)
        return float(self.x[place]) + high


@lru_cache(maxsize=4096)
def fit(curve: Curve) -> Fit:
    return Fit(curve.x, curve.y)


@lru_cache(maxsize=4096)
def leave_out(curve: Curve) -> tuple[float, ...]:
    """What the interpolation misses each inner evaluation by when that one is left out, with its sign."""
    missed = []
    for place in range(1, len(curve.x) - 1):
        rest = Fit(*(part[:place] + part[place + 1 :] for part in (curve.x, curve.y)))
        told, value = float(rest.cubic(math.log(curve.x[place]))), curve.y[place]
        missed.append(told - (value if not rest.logs else math.log(value) if value > 0 else told))
    return tuple(missed)


def find_errors(curve: Curve, gap: int) -> tuple[float, ...]:
    """What a value right of the evaluation `gap` may be off by, as the two nearest inner evaluations say."""
    missed, last = leave_out(curve), len(curve.x) - 2
    if not missed:  # two evaluations: all that is known is that the value lies between them
        both = fit(curve).y[gap : gap + 2]
        return (float(both[1] - both[0]) / 2,)
    first = min(max(gap - 1, 0), max(len(missed) - 2, 0))
    shrink = SHRINK_AT_ENDS if gap in (0, last) else SHRINK
    return tuple(one / shrink for one in missed[first : first + 2])


def read_value(curve: Curve, cost: float) -> Value | None:
    """The value at a cost; None outside the curve.

    Within 2 % of its ends a curve is read at the end: runs of one budget end up to a step apart, and an evaluation
    after training is a curve of one point.
    """
    if not curve.x or not curve.x[0] <= cost * (1 + NEAR) or not cost <= curve.end * (1 + NEAR):
        return None
    if len(curve.x) == 1:
        return Value(curve.y[0])
    value = fit(curve).read(cost)
    if cost >= curve.end * (1 - NEAR) or cost <= curve.x[0]:
        return Value(value)
    gap = min(int(np.searchsorted(curve.x, cost, side="right")) - 1, len(curve.x) - 2)
    return Value(value, find_errors(curve, gap) if value > 0 else ())


def find_cost(curve: Curve, target: float) -> Reach:
    """The cost at which a curve first meets a target."""
    if not curve.x:
        return Reach(0.0, ">")
    if curve.y[0] <= target:
        return Reach(curve.x[0], "<")
    place = next((place for place, value in enumerate(curve.y) if value <= target), None)
    if place is None:
        return Reach(curve.end, ">")
    found = fit(curve)
    level = math.log(target) if found.logs and target > 0 else target
    at = found.find(place - 1, level)
    return Reach(math.exp(at), "=", find_cost_errors(curve, place - 1, at))


def find_cost_errors(curve: Curve, gap: int, at: float) -> tuple[float, ...]:
    """The errors of a value over the slope there, at most half the gap: the crossing lies between two evaluations."""
    found = fit(curve)
    slope = abs(float(found.cubic(at, 1)))
    half = float(found.x[gap + 1] - found.x[gap]) / 2
    return tuple(math.copysign(min(half, abs(e) / max(slope, FLAT)), e) for e in find_errors(curve, gap))
