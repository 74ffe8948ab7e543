"""Modulation: shift, scale and gate that the conditioning gives, for each sample or for each token."""

import torch
from torch import Tensor, nn


def rows(values: Tensor) -> Tensor:
    """Values of each sample (B, D) as (B, 1, D), to go with tokens (B, N, D); those of each token are so already."""
    return values if values.ndim == 3 else values.unsqueeze(1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled by 1 + scale and shifted by shift, each (B, D) or (B, N, D)."""
    return torch.addcmul(rows(shift), x, 1 + rows(scale))


class SharedModulation(nn.Module):
    """adaLN-single: the layer that all blocks share (PixArt-α, Chen et al. 2023, arXiv 2310.00426): the conditioning
    c (..., D) -> (..., 7D), c beside six modulations."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, c: Tensor) -> Tensor:
        return torch.cat([c, self.linear(nn.functional.silu(c))], dim=-1)


class BlockTable(nn.Module):
    """A block's own offsets, added to the shared modulations: (..., 7D) -> (..., 6D). They start at zero, as all adaLN
    here does; PixArt starts them at random."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6 * dim))

    def forward(self, shared: Tensor) -> Tensor:
        return shared[..., -len(self.scale_shift_table) :] + self.scale_shift_table


class HeadTable(nn.Module):
    """The head's shift and scale, which are c plus an offset each: (..., 7D) -> (..., 2D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2 * dim))

    def forward(self, shared: Tensor) -> Tensor:
        c = shared[..., : len(self.scale_shift_table) // 2]
        return torch.cat([c, c], dim=-1) + self.scale_shift_table
