"""The stream: what walks through the blocks of a diffusion transformer."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A set of tokens, where they stand in the full grid, and what conditions each of them.

    x: (B, N, D), the tokens that are present. Extra tokens, which have no place in the grid (time, label, class), stand
    last.
    ids: (B, N), their places in the full grid, counted row by row; extra tokens are numbered behind it. None means all
    of them, in order.
    cond: (B, N, C), a conditioning for each token, where a backbone or a plugin has one; None: the sample's own.
    """

    x: Tensor
    ids: Tensor | None = None
    cond: Tensor | None = None


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, K) of x (B, N, ...): (B, K, ...)."""
    return x.flatten(0, 1).index_select(0, _row_numbers(index, x.shape[1])).unflatten(0, index.shape)


def scatter(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """A copy of x (B, N, D) whose rows `index` (B, K) are `rows` (B, K, D), in the type of x."""
    numbers = _row_numbers(index, x.shape[1])
    return x.flatten(0, 1).index_copy(0, numbers, rows.to(x.dtype).flatten(0, 1)).unflatten(0, x.shape[:2])


def _row_numbers(index: Tensor, present: int) -> Tensor:
    """Positions (B, K) in each sample as rows of all samples' tokens. Whole rows are moved at once, where an index
    spread over the width, as torch.gather takes it, moves numbers one by one: three times slower on a CPU."""
    samples = torch.arange(len(index), device=index.device).unsqueeze(1)
    return (index + present * samples).flatten()


def keep(tokens: Tokens, index: Tensor) -> Tokens:
    """The tokens at positions `index` (B, K) of those present, knowing their places in the full grid."""
    ids = index if tokens.ids is None else tokens.ids.gather(1, index)
    return Tokens(gather(tokens.x, index), ids, None if tokens.cond is None else gather(tokens.cond, index))


def at_places(tokens: Tokens, ids: Tensor | None) -> Tensor:
    """The rows (B, K, D) of `tokens` at the places `ids` (B, K), all of which must be present; None: at every place."""
    if ids is None:
        return tokens.x
    if tokens.ids is None:
        return gather(tokens.x, ids)
    # Each wanted place is looked up among those present: a comparison of all pairs, which has a fixed shape.
    positions = (tokens.ids.unsqueeze(2) == ids.unsqueeze(1)).byte().argmax(1)
    return gather(tokens.x, positions)


def at_common_places(a: Tokens, b: Tokens) -> tuple[Tensor, Tensor]:
    """Rows of two reads of one pass at the places that both have: (B, K, D) each, in the order of the smaller set.

    One set must hold the other, as it does wherever one span lies inside the other. A plugin that joins its reads says
    so (`joins`), and the planner refuses sets that do not hold each other.
    """
    if a.x.shape[1] <= b.x.shape[1]:
        return a.x, at_places(b, a.ids)
    return at_places(a, b.ids), b.x


def without_extra(tokens: Tokens, extra: int) -> Tokens:
    """The tokens of the grid, without the `extra` that stand behind them."""
    if not extra:
        return tokens
    x, ids, cond = tokens
    return Tokens(x[:, :-extra], None if ids is None else ids[:, :-extra], None if cond is None else cond[:, :-extra])


def random_subset(batch: int, present: int, kept: int, rng: torch.Generator) -> Tensor:
    """Positions (batch, kept) drawn uniformly without replacement from `present`, each row sorted.

    The official MDT and TREAD keep the first `kept` of an argsort of uniform noise, in shuffled order. The set has the
    same law; sorting it makes gathers walk forward in memory, and no block depends on the order.
    """
    noise = torch.rand(batch, present, generator=rng, device=rng.device)
    return noise.argsort(dim=1)[:, :kept].sort(dim=1).values


def with_extra(keep: Tensor, grid: int, extra: int) -> Tensor:
    """Positions `keep` (B, K) among `grid` tokens, and behind them those of the `extra` tokens that stand last."""
    if not extra:
        return keep
    last = torch.arange(grid, grid + extra, device=keep.device).expand(len(keep), -1)
    return torch.cat([keep, last], dim=1)
