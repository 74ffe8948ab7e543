"""How long a run will still take. Steps and evaluations are foreseen apart, since evaluations come a doubling of the
steps apart: spread evenly, the time left would jump at each of them."""

import statistics
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, inf


@dataclass(frozen=True)
class Left:
    """Seconds of wall-clock time to go, and so many evaluations on top while none has been timed; seconds is None
    before the pace of steps is known."""

    seconds: float | None
    untimed: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return "starting"
        more = f" + {self.untimed} evaluation{'s' if self.untimed > 1 else ''}" if self.untimed else ""
        return f"{timedelta(seconds=round(self.seconds))}{more} left"


class Forecast:
    """When a run ends, at the pace of this start.

    Args:
        max_steps, budget: it ends with the first of both; the budget is in hours of the meter.
        evaluations: the steps of evaluations; one more follows the last step.
    """

    def __init__(self, max_steps: int, budget: float | None, evaluations: Collection[int]) -> None:
        self.max_steps, self.budget, self.evaluations = max_steps, budget, sorted(evaluations)
        self._took: list[float] = []  # seconds of wall-clock time, of each evaluation of this start
        self._measured = -1  # the step of the last one
        self._first: tuple[int, float, float] | None = None
        self._step, self._hours, self._seconds = 0, 0.0, 0.0

    def after_step(self, step: int, hours: float, now: float) -> None:
        """A step has ended at `now` (seconds), when training had cost `hours`. The first one, in which much is made
        ready and compiled, sets the marks that later ones are counted from."""
        self._step, self._hours, self._seconds = step, hours, now - sum(self._took)
        self._first = self._first or (step, hours, self._seconds)

    def after_evaluation(self, step: int, seconds: float) -> None:
        self._took.append(seconds)
        self._measured = step

    def hours(self) -> float | None:
        """What training will have cost in all; None before there is a pace."""
        pace = self._pace()
        if pace is None:
            return None
        return min(self._hours + (self._end(pace[0]) - self._step) * pace[0], self.budget or inf)

    def left(self, measured: float = 0.0) -> Left:
        """What is left after the last step; measured: the share of an evaluation that is under way."""
        pace = self._pace()
        if pace is None:
            return Left(None)
        end = self._end(pace[0])
        due = [step for step in self.evaluations if self._step <= step < end and step != self._measured]
        count = len(due) + (self._measured != end)
        seconds = pace[1] * (end - self._step)
        if not self._took:
            return Left(seconds, count)
        usual = statistics.mean(self._took[1:] or self._took)  # networks are made ready in the first
        return Left(seconds + usual * max(0.0, count - measured))

    def _pace(self) -> tuple[float, float] | None:
        """Hours of the meter and seconds of wall-clock time for a step."""
        if self._first is None or self._step == self._first[0]:
            return None
        step, hours, seconds = self._first
        steps = self._step - step
        return (self._hours - hours) / steps, (self._seconds - seconds) / steps

    def _end(self, hours: float) -> int:
        """The last step, at so many hours for each."""
        if self.budget is None or hours <= 0:
            return self.max_steps
        return min(self.max_steps, self._step + ceil(max(0.0, self.budget - self._hours) / hours))
