"""The one table of points that all tables, words and pictures are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from diffx.curves.curve import Curve, make_curve
from diffx.curves.method import Method
from diffx.plain import group

AXES = ("cost", "step", "images", "train_flops")  # columns that a curve can be drawn against


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
        found = group((row, (row.label, row.metric)) for row in self.rows)
        return {key: group((row, row.seed) for row in rows) for key, rows in found.items()}

    def curves(self, label: str, metric: str, axis: str = "cost", sound: bool = False) -> dict[int, Curve]:
        """The curves of a method by seed. `sound` leaves out the seeds that diverged, unless all did."""
        seeds = self.index.get((label, metric), {})
        if sound and not all(rows[0].diverged for rows in seeds.values()):
            seeds = {seed: rows for seed, rows in seeds.items() if not rows[0].diverged}
        return {
            seed: make_curve((float(getattr(row, axis)), row.value) for row in rows) for seed, rows in seeds.items()
        }

    def metrics(self) -> list[str]:
        """Everything that was measured, in the order in which it first stands."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def axes(self) -> list[str]:
        """What every point counts, so that all curves can be drawn against it."""
        return [axis for axis in AXES if all(getattr(row, axis) > 0 for row in self.rows)]


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
