"""SPRINT: sparse-dense residual fusion (Park et al. 2025, arXiv 2510.21986); with its options, SR-DiT's variant."""

import torch
from torch import Tensor

from diffx.backbone import Backbone, SparseMiddle
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Span
from diffx.tokens import Tokens, random_subset, scatter, with_extra
from diffx_plugins.sprint.guidance import PathDropGuidance

__all__ = ["SPRINT", "PathDropGuidance"]

MASKS, DROPPED_BY = ("structured", "random"), ("sample", "batch")


class SPRINT(Plugin):
    """The middle blocks of a backbone made for it see a share of the tokens; the rest is mask tokens where both paths
    are joined, and of some samples all of them are.

    drop_ratio: the share that is left out. mask: "structured", of each group of 2 x 2 places equally many stay (of
    2 x 4 where the ratio is no multiple of a quarter), drawn anew in each group; "random", of the grid as a whole.
    path_drop: the probability that nothing of the middle blocks arrives, drawn for each "sample" or for the "batch" of
    a rank (path_drop_by). drop_extra: with a random mask, tokens behind the grid, such as a class token, may be left
    out like any other; else they stay. No loss, and no parameter of its own.
    """

    brings_backbone = True

    def __init__(
        self,
        drop_ratio: float = 0.75,
        mask: str = "structured",
        path_drop: float = 0.1,
        path_drop_by: str = "sample",
        drop_extra: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= drop_ratio < 1:
            raise DiffxError(
                f"plugins.sprint.drop_ratio={drop_ratio} is the share of tokens that the middle blocks do not see; "
                "type a number in [0, 1), for instance 0.75."
            )
        if not 0 <= path_drop < 1:
            raise DiffxError(
                f"plugins.sprint.path_drop={path_drop} is a probability; type a number in [0, 1), for instance 0.1."
            )
        for setting, value, known in (("mask", mask, MASKS), ("path_drop_by", path_drop_by, DROPPED_BY)):
            if value not in known:
                raise DiffxError(f"plugins.sprint.{setting}={value} is not known; type one of {', '.join(known)}.")
        if drop_extra and mask != "random":
            raise DiffxError("plugins.sprint.drop_extra=true goes with a random mask; type plugins.sprint.mask=random.")
        self.drop_ratio, self.mask, self.drop_extra = drop_ratio, mask, drop_extra
        self.path_drop, self.path_drop_by = path_drop, path_drop_by

    def setup(self, backbone: Backbone) -> None:
        if not isinstance(backbone, SparseMiddle):
            raise DiffxError(
                f"plugins.sprint needs a backbone that joins a sparse and a dense path, and this is a "
                f"{type(backbone).__name__}; type backbone._target_=diffx.backbone.SprintBackbone, as "
                "conf/plugins/sprint.yaml does."
            )
        if self.mask == "structured":
            group_of(self.drop_ratio, backbone.side)
        self.side, self.extra = backbone.side, backbone.extra_tokens
        self.span = Span(*backbone.middle, self.drop_ratio)
        self._backbone = [backbone]  # in a list, so that its mask token is not this module's too

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        count = len(batch["x"])
        draws = count if self.path_drop_by == "sample" else 1
        dropped = torch.rand(draws, generator=rng, device=rng.device) < self.path_drop
        return {"keep": self._kept(count, rng), "path_dropped": dropped.expand(count)}

    def _kept(self, count: int, rng: torch.Generator) -> Tensor:
        """Positions (B, K) that the middle blocks see."""
        assert self.span is not None
        grid, rate = self.side**2, self.span.rates[0]
        if self.mask == "structured":
            (rows, columns), stay = group_of(rate, self.side)
            groups = (count, self.side // rows, self.side // columns, rows * columns)
            noise = torch.rand(groups, generator=rng, device=rng.device)
            return with_extra(places_in_groups(noise, columns, stay), grid, self.extra)
        present = grid + self.extra if self.drop_extra else grid
        (kept,) = self.span.kept(present)
        chosen = random_subset(count, present, kept, rng)
        return chosen if self.drop_extra else with_extra(chosen, grid, self.extra)

    def restore(self, tokens: Tokens, outer: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        mask = self._backbone[0].mask_token.to(outer.x.dtype).expand_as(outer.x)
        padded = scatter(mask, aux["keep"], tokens.x)
        return Tokens(torch.where(aux["path_dropped"].view(-1, 1, 1), mask, padded), outer.ids, outer.cond)


def group_of(rate: float, side: int) -> tuple[tuple[int, int], int]:
    """Rows and columns of the groups of a structured mask, and how many of each group stay. Raises DiffxError where
    the grid has no such groups."""
    for rows, columns in ((2, 2), (2, 4)):
        stay = rows * columns * (1 - rate)
        if stay == round(stay) and side % columns == 0:
            return (rows, columns), round(stay)
    raise DiffxError(
        f"plugins.sprint.drop_ratio={rate} leaves no whole number of tokens in groups of 2 x 2 or 2 x 4 on a grid of "
        f"{side} x {side}; type 0.5, 0.75 or, on a side that 4 divides, 0.625 or 0.875, or plugins.sprint.mask=random."
    )


def places_in_groups(noise: Tensor, columns: int, stay: int) -> Tensor:
    """Places (B, K), in ascending order, of the `stay` greatest values of each group, from noise (B, rows of groups,
    groups of a row, places of a group), whose groups are so many columns wide."""
    _, down, across, size = noise.shape
    inside = noise.argsort(-1, descending=True)[..., :stay]
    row = torch.arange(down, device=noise.device).view(-1, 1, 1) * (size // columns) + inside // columns
    column = torch.arange(across, device=noise.device).view(1, -1, 1) * columns + inside % columns
    return (row * (across * columns) + column).flatten(1).sort(1).values
