"""adaLN-single: one modulation for all blocks (PixArt-α, Chen et al. 2023, arXiv 2310.00426)."""

import torch
from torch import Tensor, nn


class SharedModulation(nn.Module):
    """The layer that all blocks share: the conditioning c (B, D) -> (B, 7D), c beside six modulations."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, c: Tensor) -> Tensor:
        return torch.cat([c, self.linear(nn.functional.silu(c))], dim=1)


class BlockTable(nn.Module):
    """A block's own offsets, added to the shared modulations: (B, 7D) -> (B, 6D). They start at zero, as all adaLN
    here does; PixArt starts them at random."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6 * dim))

    def forward(self, shared: Tensor) -> Tensor:
        return shared[:, -len(self.scale_shift_table) :] + self.scale_shift_table


class HeadTable(nn.Module):
    """The head's shift and scale, which are c plus an offset each: (B, 7D) -> (B, 2D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2 * dim))

    def forward(self, shared: Tensor) -> Tensor:
        c = shared[:, : len(self.scale_shift_table) // 2]
        return torch.cat([c, c], dim=1) + self.scale_shift_table
