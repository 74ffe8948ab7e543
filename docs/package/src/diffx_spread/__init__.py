"""Tokens of an image pulled apart before a block: an example of a method in a package of its own."""

from typing import Any

import torch
from torch import Tensor

from diffx.plugin import Plugin


class Spread(Plugin):
    """log Σ exp(−‖a − b‖² / D) over all pairs of an image's tokens before block `depth`."""

    def __init__(self, depth: int = 3, weight: float = 0.25) -> None:
        super().__init__(weight)
        self.reads = (depth,)

    def loss(self, seen: dict[Any, Any], out: Tensor, aux: dict[str, Tensor]) -> Tensor:
        (tokens,) = (read.x.float() for read in seen.values())
        distances = torch.cdist(tokens, tokens).square() / tokens.shape[-1]
        return torch.logsumexp(-distances.flatten(1), dim=1).mean()
