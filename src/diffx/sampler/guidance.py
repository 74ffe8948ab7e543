"""Guidance: classifier-free (Ho & Salimans 2022), with the choices that differ between the field's repositories."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition, Shape, pack, unpack
from diffx.errors import DiffxError
from diffx.objective import Objective

Network = Callable[[Tensor, Tensor, Condition], Tensor]  # x_t (B, C, H, W), t (B,), y -> output


class AnyGuidance(Protocol):
    """The network's guided output at one time for all samples; y conditions them, `null` stands for no condition.

    t: what the network is fed, a number, a scalar tensor, or two times as a tensor (2,). position: where that is
    between data (0) and noise (1), if it is not t itself.
    """

    def __call__(
        self,
        network: Network,
        x: Tensor,
        t: float | Tensor,
        y: Condition,
        null: Condition,
        position: float | None = None,
    ) -> Tensor: ...


@runtime_checkable
class FitsBackbone(Protocol):
    """A guidance that does not go with every backbone."""

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises DiffxError for a backbone that it does not go with."""


@runtime_checkable
class FitsObjective(Protocol):
    """A guidance that does not go with every objective."""

    def check_objective(self, objective: Objective) -> None:
        """Raises DiffxError for an objective that it does not go with."""


@dataclass(frozen=True)
class Guidance:
    """u + scale (c − u) where c and u are the outputs with and without the label.

    scale: 1 is no guidance and costs one forward instead of two. low, high: the interval of times in which it acts,
    both ends included; t = 1 is noise, so high < 1 switches it off at the noisy end (Kynkäänniemi et al. 2024).
    channels: how many leading channels of the image are guided, None for all; DiT, SiT and MDT guide 3 of 4, REPA and
    TREAD all.
    power: MDT's power-cosine schedule, 1 + (scale − 1) (1 − cos(π (1 − t)^power)) / 2, which is `scale` at the data's
    end and 1 at the noise's; None for a constant scale. MDT's command has scale 3.8 and power 4.
    streams: constant scales of streams of the state beside the image, such as {class: 1.5} of REG, where `scale` acts;
    others have `scale`.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    channels: int | None = None
    power: float | None = None
    streams: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise DiffxError(f"guidance.scale={self.scale} must be >= 0; type guidance.scale=1 for no guidance.")
        if not 0 <= self.low <= self.high <= 1:
            raise DiffxError(
                f"guidance acts on [{self.low}, {self.high}], which is no interval inside [0, 1]; "
                "type for instance guidance.low=0 guidance.high=0.7."
            )
        if self.power is not None and not self.power > 0:
            raise DiffxError(f"guidance.power={self.power} must be positive; type 4, or null for a constant scale.")

    def scale_at(self, position: float) -> float:
        """The scale at a place between data (0) and noise (1); 1 outside the interval."""
        if not self.low <= position <= self.high:
            return 1.0
        if self.power is None:
            return self.scale
        return 1 + (self.scale - 1) * (1 - math.cos(math.pi * (1 - position) ** self.power)) / 2

    def acts(self, position: float) -> bool:
        return self.scale_at(position) != 1

    def __call__(
        self,
        network: Network,
        x: Tensor,
        t: float | Tensor,
        y: Condition,
        null: Condition,
        position: float | None = None,
    ) -> Tensor:
        """The network's guided output at one time for all samples; `t` is fed to it, `position` defaults to t."""
        scale = self.scale_at(float(t) if position is None else position)
        if scale == 1:
            return network(x, times_of(t, x), y)
        conditions = tree_map(lambda given, instead: torch.cat([given, instead]), y, null)
        both = torch.cat([x, x])
        conditional, unconditional = network(both, times_of(t, both), conditions).chunk(2)
        shapes: Mapping[str, Shape] = getattr(network, "streams", {"image": x.shape[1:]})
        if unknown := [name for name in self.streams or {} if name not in shapes]:
            raise DiffxError(
                f"guidance.streams.{unknown[0]} is no stream of this backbone; there are {', '.join(shapes)}."
            )
        with_label, without = unpack(conditional, shapes), unpack(unconditional, shapes)
        scales = dict.fromkeys(shapes, scale) | dict(self.streams or {})
        guided = {name: without[name] + scales[name] * (with_label[name] - without[name]) for name in shapes}
        if self.channels is not None:
            image = [guided["image"][:, : self.channels], with_label["image"][:, self.channels :]]
            guided["image"] = torch.cat(image, dim=1)
        return pack(guided)


def times_of(t: float | Tensor, x: Tensor) -> Tensor:
    """t, or a pair of times, for every row of x, in the type of x."""
    fed = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    return fed.expand(len(x), *fed.shape)
