"""The plugin protocol: where a method reads the token stream, where it narrows it, and what it adds to the loss."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.schedule import Schedule, is_schedule, make_schedule
from diffx.tokens import Tokens, keep, scatter

Batch = dict[str, Any]
"""What prepare() sees, by key: tensors with a row for each sample, and services that are called (see DRAWN)."""
Aux = dict[str, Tensor]
Seen = dict[Any, Any]
"""What loss() sees: depth -> Tokens, for `reads`; ("attention", block) -> (queries, keys), for `attends`."""

DRAWN = {
    "t": "times (B,) of this pass, or (B, N) where a plugin gives each token its own",
    "noise": "the noise, shaped as x",
    "label": "the condition after dropping, as the network is fed",
    "noisy": "the noised state that the network is fed, before the objective's scaling",
    "target": "what the network's output is compared with (Objective.target)",
}
"""What a plugin's own pass has drawn, which `needs` may name."""


@dataclass(frozen=True)
class Span:
    """Blocks [start, stop) see (1 - rate) of the tokens; the rest rejoin from their state at depth `save`.

    `save` is `start` unless given. The number kept is int((1 - rate) N), as in MDT. A tuple of rates: one of
    them is drawn each step, alike for all samples and ranks (MDTv2 draws from an interval; a few values keep the number
    of compiled shapes small). N counts the grid's tokens: extra tokens, which stand behind them, always stay.
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
    """One training-time change to a backbone. Depth d means "before block d"; len(blocks) is before the head.

    Declared (read once, before step 0; may be set in __init__ or in setup()):
        reads: depths whose tokens loss() wants, those of the grid. whole: they need the full grid, so no span may lie
            around them, nor around the blocks in `wraps`. joins: they are compared with one another token by token
            (diffx.tokens.at_common_places), so that of two reads one must have all places of the other. reads_extra:
            they have the tokens that stand behind the grid too.
        span: where the token set shrinks.
        attends: blocks whose queries and keys loss() wants; every other block keeps its fast kernel.
        wraps: blocks that run inside around(). A block has one plugin around it.
        view: the pass over the batch that it belongs to. "main" is the ordinary one; any other name adds a pass with
            the same times, fresh noise and fresh label dropout, whose denoising loss is added 1:1.
        needs: batch keys ("image"), services ("features/dinov2_vitb14", "ema"), and what the pass has drawn (DRAWN).
        streams: of the state beside the image that it brings and trains, and the batch key of each: {"class": KEY}.
        weight: λ, the factor of loss(): a number, or a schedule of the step (diffx/schedule.py). A dict of them when
            loss() returns a dict.
        across_samples: its loss or its draws go across the samples of a rank's batch, so two ranks give the mean of
            two small batches and not one large one.
        brings_backbone: it works on a network of its own, which its file in conf/plugins sets, at sampling too.
        stop: from this step on the plugin is not there: no teacher, no reads, no loss. None: never.
    """

    reads: tuple[int, ...] = ()
    reads_extra: bool = False
    whole: bool = False
    joins: bool = False
    span: Span | None = None
    attends: tuple[int, ...] = ()
    wraps: tuple[int, ...] = ()
    view: str = "main"
    needs: tuple[str, ...] = ()
    streams: Mapping[str, str] = {}
    across_samples: bool = False
    brings_backbone: bool = False
    stop: int | None = None
    objective: Objective  # set before setup()

    def __init__(self, weight: "float | Schedule | Mapping[str, float | Schedule]" = 0.0) -> None:
        super().__init__()
        self._schedules: dict[str, Schedule] = {}
        self.initial_weights: dict[str, float] = {}  # λ at step 0 by loss name, "" for a single unnamed loss
        for name, value in _named(weight).items():
            if is_schedule(value):
                value = make_schedule(type(self).__name__, value)
                check_weight(type(self).__name__, value.last)
            if callable(value):
                self._schedules[name] = value
                value = value(0)
            check_weight(type(self).__name__, value)
            self.initial_weights[name] = float(value)
            # A buffer, so that a new λ is new data and not a new graph; not saved, since the configuration says it.
            self.register_buffer(f"weight_{name}", torch.tensor(float(value)), persistent=False)

    # Implemented by a method, called in this order, every one optional.

    def setup(self, backbone: Backbone) -> None:
        """Build modules from the backbone's sizes; refuse, with a DiffxError, what cannot work."""

    def couple(self, x: Tensor, noise: Tensor, rng: torch.Generator) -> Tensor:
        """The noise of each sample, shaped as x, in place of that which was drawn for it: the same in another order, or
        more of it from `rng`. Before retime() and prepare(); eager, without gradient."""
        return noise

    def retime(self, t: Tensor, rng: torch.Generator) -> Aux:
        """Times of each token in place of the sample's t (B,): {"times": (B, N)}, and what else prepare() is to find in
        the batch and the other hooks in aux, such as which of two times a token has."""
        return {}

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        """Eager, without gradient, once a step: draw masks, fetch targets. The other hooks get the tensors as `aux`.

        batch["x"] is what is trained on, after the draw from the autoencoder's posterior. A plugin with a span gets
        aux["keep"] (B, kept), the positions that stay among the tokens present at its start, drawn uniformly, unless it
        returns its own here; of extra tokens it then has to speak itself.
        """
        return {}

    def drop(self, tokens: Tokens, aux: Aux) -> Tokens:
        """Entering the span."""
        return keep(tokens, aux["keep"])

    def restore(self, tokens: Tokens, outer: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        """Leaving the span: `tokens` come out of it, `outer` is what was saved, `cond` (B, C) conditions the blocks."""
        return Tokens(scatter(outer.x, aux["keep"], tokens.x), outer.ids, outer.cond)

    def around(
        self, depth: int, run: Callable[[Tokens, Tensor], Tokens], tokens: Tokens, cond: Tensor, aux: Aux
    ) -> Tokens:
        """One of the blocks in `wraps`: run(tokens, cond) runs it, on these or on fewer samples."""
        return run(tokens, cond)

    def visible(self, aux: Aux) -> Tensor | None:
        """Weights (B, 1, H, W) of the denoising error, whose weighted mean takes the place of the mean."""
        return None

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> "Tensor | dict[str, Tensor] | None":
        """The unweighted scalar, or a dict of them, from the tokens read at each depth and the network's output."""
        return None

    # Called by the framework.

    def implements(self, hook: str) -> bool:
        """Whether the method has a hook of its own."""
        return getattr(type(self), hook) is not getattr(Plugin, hook)

    @property
    def has_loss(self) -> bool:
        return self.implements("loss")

    def weights(self) -> dict[str, Tensor]:
        """λ by loss name, as scalar tensors."""
        return {name: getattr(self, f"weight_{name}") for name in self.initial_weights}

    @property
    def is_weighted(self) -> bool:
        """Whether some λ is or will be more than 0."""
        return any(self.initial_weights.values()) or bool(self._schedules)

    def set_weight(self, value: float, name: str = "") -> None:
        """Change λ in place: no recompilation, on the device it lives on."""
        check_weight(type(self).__name__, value)
        getattr(self, f"weight_{name}").fill_(float(value))

    def follow_schedule(self, step: int) -> None:
        """Set every scheduled λ to its value at optimizer step `step`."""
        for name, schedule in self._schedules.items():
            self.set_weight(schedule(step), name)


def _named(weight: Any) -> Mapping[str, Any]:
    """λ by loss name."""
    return weight if isinstance(weight, Mapping) and not is_schedule(weight) else {"": weight}


def check_weight(owner: str, value: Any) -> None:
    """Refuse a λ that is negative or not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DiffxError(f"{owner}: weight={value} is not a finite number >= 0; type for instance weight=0.5.")
