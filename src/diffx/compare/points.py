"""The one table of points that all tables, words and pictures are made from, and the lines that it is drawn as."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from diffx.compare.curve import Curve, fit
from diffx.compare.runs.method import Method

AXES = ("cost", "step", "images", "train_flops")  # columns that a curve can be drawn against
BETWEEN = 8  # places between two evaluations at which a line is drawn
GROWS = 1e-9  # relative: positions that are nearer than this are the same in logarithms
APART = 0.02  # relative: lines of one seed that are nearer than this do not count as one above the other


class Row(NamedTuple):
    """One value of one evaluation."""

    label: str
    seed: int
    metric: str
    step: int
    images: int
    cost: float
    train_flops: float
    value: float
    diverged: bool  # whether the seed diverged later


@dataclass(frozen=True)
class Points:
    """The table: a row for every value, seeds and evaluations in order."""

    rows: tuple[Row, ...]

    @cached_property
    def index(self) -> dict[tuple[str, str], dict[int, list[Row]]]:
        """The rows by method and metric, then by seed."""
        found: dict[tuple[str, str], dict[int, list[Row]]] = {}
        for row in self.rows:
            found.setdefault((row.label, row.metric), {}).setdefault(row.seed, []).append(row)
        return found

    def curves(self, label: str, metric: str, axis: str = "cost", sound: bool = False) -> dict[int, Curve]:
        """The curves of a method by seed. `sound` leaves out the seeds that diverged, unless all did."""
        seeds = self.index.get((label, metric), {})
        if sound and not all(rows[0].diverged for rows in seeds.values()):
            seeds = {seed: rows for seed, rows in seeds.items() if not rows[0].diverged}
        return {seed: make_curve(rows, axis) for seed, rows in seeds.items()}

    def metrics(self) -> list[str]:
        """Everything that was measured, in the order in which it first stands."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def axes(self) -> list[str]:
        """What every point counts, so that all curves can be drawn against it."""
        return [axis for axis in AXES if all(getattr(row, axis) > 0 for row in self.rows)]


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


def make_curve(rows: Sequence[Row], axis: str) -> Curve:
    """One seed against an axis. A count that does not grow from one evaluation to the next costs the later one."""
    kept: list[tuple[float, float]] = []
    for row in rows:
        x = float(getattr(row, axis))
        if not kept or x > kept[-1][0] * (1 + GROWS):
            kept.append((x, row.value))
    return Curve(tuple(x for x, _ in kept), tuple(y for _, y in kept))


def tabulate(methods: Sequence[Method]) -> Points:
    return Points(
        tuple(
            Row(method.label, run.seed, metric, point.step, point.images, point.cost, point.train_flops, value,
                run.diverged)
            for method in methods
            for run in method.runs
            for point in run.points
            for metric, value in point.values.items()
        )
    )  # fmt: skip


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
