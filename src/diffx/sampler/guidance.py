"""Classifier-free guidance (Ho & Salimans 2022), with the choices that differ between the field's repositories."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffx.errors import DiffxError

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t (B, C, H, W), t (B,), y (B,) -> output


@dataclass(frozen=True)
class Guidance:
    """u + scale (c − u) where c and u are the outputs with and without the label.

    scale: 1 is no guidance and costs one forward instead of two. low, high: the interval of times in which it acts,
    both ends included; t = 1 is noise, so high < 1 switches it off at the noisy end (Kynkäänniemi et al. 2024).
    channels: how many leading channels are guided, None for all; DiT, SiT and MDT guide 3 of 4, REPA and TREAD all.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    channels: int | None = None

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise DiffxError(f"sampler.guidance.scale={self.scale} must be >= 0; type 1 for no guidance.")
        if not 0 <= self.low <= self.high <= 1:
            raise DiffxError(
                f"sampler.guidance acts on [{self.low}, {self.high}], which is no interval inside [0, 1]; "
                "type for instance sampler.guidance.low=0 sampler.guidance.high=0.7."
            )

    def acts(self, t: float) -> bool:
        return self.scale != 1 and self.low <= t <= self.high

    def __call__(self, network: Network, x: Tensor, t: float, y: Tensor, null_label: int) -> Tensor:
        """The network's guided output at one time t for all samples."""
        if not self.acts(t):
            return network(x, x.new_full((len(x),), t), y)
        labels = torch.cat([y, torch.full_like(y, null_label)])
        conditional, unconditional = network(torch.cat([x, x]), x.new_full((2 * len(x),), t), labels).chunk(2)
        guided = unconditional + self.scale * (conditional - unconditional)
        if self.channels is None:
            return guided
        return torch.cat([guided[:, : self.channels], conditional[:, self.channels :]], dim=1)
