"""Positions: the fixed sin-cos table, rotary tables and the relative position bias, each aware of missing tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.tokens import gather

ROTARY = ("rope", "sincos_rope")
"""The positions by which queries and keys turn; "sincos_rope" has the table beside."""


def sincos_table(dim: int, side: int, spacing: float = 1.0) -> Tensor:
    """DiT's fixed 2-D table (side², dim): the first half of the channels encodes the column, the second the row.

    spacing: between neighbours. Each half is [sin | cos] over dim/4 frequencies 10000^(-i/(dim/4)), computed in float64
    as in facebookresearch/DiT.
    """
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim // 4))
    angle = spacing * torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, dim/2)
    columns = axis.repeat(side, 1)
    rows = axis.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()


class Rotary(nn.Module):
    """Axial rotary embedding of queries and keys (B, H, N, d): half of d turns with the row, half with the column.

    Frequencies 10000^(-i/(d/4)), pairs interleaved, positions counted in patches (Su et al. 2021, axial as in EVA-02),
    or from 0 to `extent` whatever the grid.
    extra: tokens behind the grid, which do not turn.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, side: int, head_dim: int, extra: int = 0, extent: float | None = None) -> None:
        super().__init__()
        omega = 10000.0 ** (-torch.arange(head_dim // 4, dtype=torch.float64, device="cpu") / (head_dim // 4))
        last = side - 1 if extent is None else extent
        angle = torch.linspace(0, last, side, dtype=torch.float64, device="cpu")[:, None] * omega
        grid = torch.cat([angle.repeat_interleave(side, dim=0), angle.repeat(side, 1)], dim=1)  # (N, d/2)
        grid = torch.cat([grid, grid.new_zeros(extra, grid.shape[1])])
        default = torch.empty(0).device  # where the network is built, which may be meta
        self.register_buffer("cos", grid.cos().float().to(default), persistent=False)
        self.register_buffer("sin", grid.sin().float().to(default), persistent=False)

    def forward(self, x: Tensor, ids: Tensor | None) -> Tensor:
        cos, sin = (self.cos, self.sin) if ids is None else (self.cos[ids][:, None], self.sin[ids][:, None])
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return turned.flatten(-2).to(x.dtype)


class RelativePositionBias(nn.Module):
    """A learned attention bias per offset and head, as in MDT: (H, N, N), or (B, H, n, n) for the tokens `ids`.

    The table has (2·side-1)² + 3 rows; the last three are never read and exist so that MDT's files load (sail-sg/MDT).
    """

    relative_position_index: Tensor

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, heads))
        place = torch.arange(side * side, device="cpu")
        row, column = place // side, place % side
        offset_rows = row[:, None] - row[None, :] + side - 1
        offset_columns = column[:, None] - column[None, :] + side - 1
        self.register_buffer("relative_position_index", offset_rows * (2 * side - 1) + offset_columns)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, ids: Tensor | None) -> Tensor:
        """The whole bias comes first and tokens take their rows of it: read from the table itself, each of its few rows
        would get the gradients of thousands of pairs of tokens, which a GPU adds one after the other."""
        whole = self.relative_position_bias_table[self.relative_position_index]  # (N, N, H)
        if ids is None:
            return whole.movedim(-1, -3)
        rows = F.embedding(ids, whole.transpose(1, 2).flatten(1)).unflatten(-1, (whole.shape[2], -1))  # (B, n, H, N)
        columns = ids[:, None, None, :].expand(-1, ids.shape[1], rows.shape[2], -1)
        return rows.gather(3, columns).transpose(1, 2)


def add_position(x: Tensor, table: Tensor, ids: Tensor | None) -> Tensor:
    """x (B, N, D) plus the rows of table (1, N, D) that belong to the tokens present, `ids` (B, N) or all in order."""
    return x + (table if ids is None else gather(table.expand(x.shape[0], -1, -1), ids))
