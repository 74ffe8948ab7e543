"""Steps whose gradient is not finite: skipped, counted, and explained when there are too many in a row."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import lightning as L
import torch
from torch import Tensor

from diffx import ranks
from diffx.errors import Diverged


class Guard:
    """Counts on the device of the gradients, so that no step waits for it; `check` is what reads the counts.

    bad: whether the last step was. skipped: steps skipped in all. row: how many of them are the last ones.
    limit: so many in a row end the run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bad = torch.zeros((), dtype=torch.bool)
        self.skipped = torch.zeros((), dtype=torch.int64)
        self.row = torch.zeros((), dtype=torch.int64)
        self._parameters: tuple[Sequence[str], Tensor] = ((), torch.zeros(0, dtype=torch.bool))
        self._terms: tuple[Sequence[str], Tensor] = ((), torch.zeros(0, dtype=torch.bool))

    def see(self, names: Sequence[str], norms: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Whether this step has to be skipped, as a boolean scalar on the device.

        names, norms: of the gradients, (P,). terms: the step's losses.
        """
        broken = ~norms.isfinite()
        bad = broken.any()
        self.skipped = self.skipped.to(bad.device) + bad
        self.row = (self.row.to(bad.device) + 1) * bad
        self.bad = bad
        self._parameters = (names, broken)
        self._terms = (list(terms), ~torch.stack(list(terms.values())).isfinite())
        return bad

    def check(self, step: int) -> None:
        """Read the counts; every rank has to. Raises Diverged if the last `limit` steps were skipped."""
        row = int(self.row)
        if row < self.limit:
            return
        # A loss is a rank's own, where gradients are everyone's.
        terms = list(dict.fromkeys(name for names in ranks.everyones(_chosen(self._terms)) for name in names))
        where = (
            f"the loss {', '.join(term for term in terms if term != 'total')} is not finite"
            if terms
            else "the losses are finite, but not their gradients"
        )
        raise Diverged(
            f"The last {row} steps up to step {step} were skipped: {where}; gradients that are not finite: "
            f"{_summary(_chosen(self._parameters))}. The last checkpoint is kept. Type a lower optimizer.lr, "
            "trainer.precision=32-true, or a smaller weight of the plugin that is named.",
            step,
        )


class Guarded(Protocol):
    """A module with a guard."""

    guard: Guard


class GuardCheck:
    """Reads the guard's counts, for which a GPU is waited for, once in `every` steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def after_step(self, trainer: L.Trainer, module: Guarded) -> None:
        if trainer.global_step % self.every == 0:
            module.guard.check(trainer.global_step)


def _chosen(marked: tuple[Sequence[str], Tensor]) -> list[str]:
    names, marks = marked
    return [name for name, mark in zip(names, marks.tolist(), strict=True) if mark]


def _summary(parameters: list[str]) -> str:
    """backbone (all 12), plugins.repa (projector.0.weight)."""
    owners: dict[str, list[str]] = {}
    for name in parameters:
        owner = ".".join(name.split(".")[: 2 if name.startswith("plugins.") else 1])
        owners.setdefault(owner, []).append(name.removeprefix(f"{owner}."))
    return ", ".join(f"{owner} ({len(names)} tensors, first {names[0]})" for owner, names in owners.items()) or "none"
