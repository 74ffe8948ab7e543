"""The stream: what walks through the blocks of a diffusion transformer."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A set of tokens and where they stand in the full grid.

    x: (B, N, D), the tokens that are present.
    ids: (B, N), their places in the full grid; None means all of them, in order.
    """

    x: Tensor
    ids: Tensor | None = None


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, K) of x (B, N, ...): (B, K, ...)."""
    trailing = x.shape[2:]
    index = index.reshape(*index.shape, *(1 for _ in trailing)).expand(*index.shape, *trailing)
    return x.gather(1, index)


def scatter(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """A copy of x (B, N, D) whose rows `index` (B, K) are `rows` (B, K, D), in the type of x."""
    index = index.unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.scatter(1, index, rows.to(x.dtype))


def keep(tokens: Tokens, index: Tensor) -> Tokens:
    """The tokens at positions `index` (B, K) of those present, knowing their places in the full grid."""
    ids = index if tokens.ids is None else tokens.ids.gather(1, index)
    return Tokens(gather(tokens.x, index), ids)


def random_subset(batch: int, present: int, kept: int, rng: torch.Generator) -> Tensor:
    """Positions (batch, kept) drawn uniformly without replacement from `present`, each row sorted.

    The official MDT and TREAD keep the first `kept` of an argsort of uniform noise, in shuffled order. The set has the
    same law; sorting it makes gathers walk forward in memory, and no block depends on the order.
    """
    noise = torch.rand(batch, present, generator=rng, device=rng.device)
    return noise.argsort(dim=1)[:, :kept].sort(dim=1).values
