"""Seeds as the one line that they are drawn as, and where two lines cross."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from diffx.curves.curve import Curve, fit

BETWEEN = 8  # places between two evaluations at which a line is drawn
APART = 0.02  # relative: lines of one seed that are nearer than this do not count as one above the other


@dataclass(frozen=True)
class Line:
    """A method's seeds as one line: the mean on the band from least to greatest, and which places were evaluated."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    evaluated: np.ndarray
    seeds: int


class Crossing(NamedTuple):
    """Where two lines cross, and whether the first one is below the second from there on."""

    x: float
    y: float
    below: bool


def pool(curves: Sequence[Curve]) -> Line:
    """Seeds as one line over the range that every seed covers, bent between evaluations as the tables are read.

    Seeds with one evaluation each share the mean of their costs. Where ranges do not meet, the longest seed stands.
    """
    if all(len(curve.x) == 1 for curve in curves):
        values = np.array([curve.y for curve in curves])
        x = np.array([np.mean([curve.x[0] for curve in curves])])
        return Line(x, values.mean(0), values.min(0), values.max(0), np.array([True]), len(curves))
    low, high = max(curve.x[0] for curve in curves), min(curve.end for curve in curves)
    if low >= high:
        curves = [max(curves, key=lambda curve: curve.end)]
        low, high = curves[0].x[0], curves[0].end
    grid = np.array(sorted({x for curve in curves for x in curve.x if low <= x <= high}))
    x = np.unique(np.concatenate([*(np.geomspace(a, b, BETWEEN) for a, b in pairwise(grid)), grid]))
    x = x[(x >= low) & (x <= high)]
    values = np.array([[fit(curve).read(place) for place in x] if len(curve.x) > 1 else [curve.y[0]] * len(x)
                       for curve in curves])  # fmt: skip
    return Line(x, values.mean(0), values.min(0), values.max(0), np.isin(x, grid), len(curves))


def cross(one: Line, other: Line, places: int = 200) -> list[Crossing]:
    """Where one line passes another for good: before and after, they are further apart than their seeds are.

    Returns the crossings in order, each with the side on which the first line is afterwards.
    """
    low, high = max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])
    if low >= high or min(one.mean.min(), other.mean.min()) <= 0:
        return []
    x = np.geomspace(low, high, places)
    logs = [np.interp(np.log(x), np.log(line.x), np.log(line.mean)) for line in (one, other)]
    halves = [np.interp(x, line.x, (line.high - line.low) / 2 / line.mean) for line in (one, other)]
    gap = logs[0] - logs[1]
    clear = np.flatnonzero(np.abs(gap) > np.maximum(APART, np.maximum(*halves)))
    sides = np.sign(gap[clear])
    found = []
    for turn in np.flatnonzero(sides[1:] != sides[:-1]):
        first, last = clear[turn], clear[turn + 1]
        at = first + int(np.flatnonzero(gap[first : last + 1] * sides[turn] <= 0)[0])
        found.append(Crossing(float(x[at]), float(np.exp(logs[1][at])), bool(sides[turn + 1] < 0)))
    return found
