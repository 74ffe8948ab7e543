"""The plugin protocol: where a method reads the token stream, where it narrows it, and what it adds to the loss."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.tokens import Tokens, keep, scatter

if TYPE_CHECKING:
    from diffx.backbone.dit import DiT

Schedule = Callable[[int], float]  # optimizer step -> λ
Batch = dict[str, Tensor]
Aux = dict[str, Tensor]


@dataclass(frozen=True)
class Span:
    """Blocks [start, stop) see (1 - rate) of the tokens; the rest rejoin from their state at depth `save`.

    `save` is `start` unless given. The number kept is int((1 - rate) N), as in MDT. A tuple of rates: one of
    them is drawn each step, alike for all samples and ranks (MDTv2 draws from an interval; a few values keep the number
    of compiled shapes small).
    """

    start: int
    stop: int
    rate: float | tuple[float, ...]
    save: int | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        return self.rate if isinstance(self.rate, tuple) else (self.rate,)

    @property
    def saved_at(self) -> int:
        return self.start if self.save is None else self.save

    def kept(self, present: int) -> tuple[int, ...]:
        """How many of `present` tokens walk through the span, for each rate."""
        return tuple(int(present * (1 - rate) + 1e-9) for rate in self.rates)  # 10 × (1 - 0.7) is 2.9999… in binary


class Plugin(nn.Module):
    """One training-time change to a DiT. Depth d means "before block d"; depth == len(blocks) is before the head.

    Declared (read once, before step 0; may be set in __init__ or in setup()):
        reads: depths whose tokens loss() wants.
        span: where the token set shrinks.
        view: the pass over the batch that it belongs to. "main" is the ordinary one; any other name adds a pass with
            the same times, fresh noise and fresh label dropout, whose denoising loss is added 1:1.
        needs: batch keys and services: "image", "features/dinov2_vitb14".
        weight: λ, the factor of loss(): a number, or a schedule of the step. A dict of them when loss() returns a dict.
    """

    reads: tuple[int, ...] = ()
    span: Span | None = None
    view: str = "main"
    needs: tuple[str, ...] = ()

    def __init__(self, weight: "float | Schedule | Mapping[str, float | Schedule]" = 0.0) -> None:
        super().__init__()
        self._schedules: dict[str, Schedule] = {}
        self.initial_weights: dict[str, float] = {}  # λ at step 0 by loss name, "" for a single unnamed loss
        for name, value in weight.items() if isinstance(weight, Mapping) else [("", weight)]:
            if callable(value):
                self._schedules[name] = value
                value = value(0)
            check_weight(type(self).__name__, value)
            self.initial_weights[name] = float(value)
            # A buffer, so that a new λ is new data and not a new graph; not saved, since the configuration says it.
            self.register_buffer(f"weight_{name}", torch.tensor(float(value)), persistent=False)

    # Implemented by a method, called in this order, every one optional.

    def setup(self, backbone: "DiT") -> None:
        """Build modules from the backbone's sizes; refuse, with a DiffxError, what cannot work."""

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        """Eager, without gradient, once a step: draw masks, fetch targets. The other hooks get the tensors as `aux`.

        A plugin with a span gets aux["keep"] (B, kept), the positions that stay among the tokens present at its start,
        drawn uniformly, unless it returns its own here.
        """
        return {}

    def drop(self, tokens: Tokens, aux: Aux) -> Tokens:
        """Entering the span."""
        return keep(tokens, aux["keep"])

    def restore(self, tokens: Tokens, outer: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        """Leaving the span: `tokens` come out of it, `outer` is what was saved, `cond` (B, D) conditions the blocks."""
        return Tokens(scatter(outer.x, aux["keep"], tokens.x), outer.ids)

    def loss(self, seen: dict[int, Tokens], out: Tensor, aux: Aux) -> "Tensor | dict[str, Tensor] | None":
        """The unweighted scalar, or a dict of them, from the tokens read at each depth and the network's output."""
        return None

    # Called by the framework.

    @property
    def has_loss(self) -> bool:
        return type(self).loss is not Plugin.loss

    def weights(self) -> dict[str, Tensor]:
        """λ by loss name, as scalar tensors."""
        return {name: getattr(self, f"weight_{name}") for name in self.initial_weights}

    def set_weight(self, value: float, name: str = "") -> None:
        """Change λ in place: no recompilation, on the device it lives on."""
        check_weight(type(self).__name__, value)
        getattr(self, f"weight_{name}").fill_(float(value))

    def follow_schedule(self, step: int) -> None:
        """Set every scheduled λ to its value at optimizer step `step`."""
        for name, schedule in self._schedules.items():
            self.set_weight(schedule(step), name)


def check_weight(owner: str, value: Any) -> None:
    """Refuse a λ that is negative or not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DiffxError(f"{owner}: weight={value} is not a finite number >= 0; type for instance weight=0.5.")
