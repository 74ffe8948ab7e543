"""A number that changes over the steps of a run: what a setting such as a plugin's λ may be in place of one number."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffx.errors import DiffxError, unknown_key

Schedule = Callable[[int], float]  # optimizer step -> value

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
    "jump": lambda share: float(share >= 1),
}
"""By name, how much of the way is done after a share of the time."""


@dataclass(frozen=True)
class Ramp:
    """From `first` to `last` between the steps `start` and `end`, and constant before and after.

    schedule: linear; cosine, half a period of it; jump, `first` until `end` and `last` from there on. A warm-up is
    {schedule: linear, last: 0.5, end: 10000}, a late phase that fades {schedule: cosine, first: 0.5, end: 100000}.
    """

    schedule: str
    end: int
    first: float = 0.0
    last: float = 0.0
    start: int = 0

    def __call__(self, step: int) -> float:
        share = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)
        return self.first + (self.last - self.first) * SHAPES[self.schedule](share)


@dataclass(frozen=True)
class LearningRate:
    """The share of its learning rate that an optimizer has at a step.

    A linear warm-up over the first steps, then by `name`:
        constant: 1.
        cosine: half a period down to `final` at `steps` (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts).
        wsd: warm-up, stable, decay: 1, and over the last `decay` of the steps 1 − (1 − final) √share, the shape that
            Hägele et al. 2024 (arXiv 2405.18392) found best.
        linear: as wsd, in a straight line (RAE, RAEv2).

    steps: the length, after which it stays at `final`; not max_steps, since a run may go on beyond that.
    """

    name: str = "constant"
    warmup: int = 0
    steps: int | None = None
    final: float = 0.0
    decay: float = 0.2

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "constant" or self.steps is None:
            return 1.0
        if self.name == "cosine":
            share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2
        length = max(1, round(self.decay * self.steps))
        share = min(max((step - (self.steps - length)) / length, 0.0), 1.0)
        return 1 - (1 - self.final) * (share if self.name == "linear" else math.sqrt(share))


def is_schedule(value: Any) -> bool:
    """Whether a setting describes a Ramp."""
    return isinstance(value, Mapping) and "schedule" in value


def make_schedule(owner: str, given: Mapping[str, Any]) -> Ramp:
    """The ramp that settings describe.

    Raises:
        DiffxError: an unknown shape or key, steps that are none, or a ramp that changes nothing.
    """
    names = [entry.name for entry in fields(Ramp)]
    if unknown := [key for key in given if key not in names]:
        raise DiffxError(f"{owner}: {unknown_key(f'weight.{unknown[0]}', [f'weight.{name}' for name in names])}")
    if given["schedule"] not in SHAPES:
        raise DiffxError(f"{owner}: weight.schedule={given['schedule']} is not known; type {' or '.join(SHAPES)}.")
    start, end = given.get("start", 0), given.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise DiffxError(
            f"{owner}: a weight that changes from step {start} to step {end}: type whole numbers, weight.end above "
            "weight.start."
        )
    ends = given.get("first", 0.0), given.get("last", 0.0)
    if ends[0] == ends[1]:
        raise DiffxError(f"{owner}: a weight from {ends[0]} to {ends[1]} does not change; type one number.")
    return Ramp(**given)
