"""The two MLPs of a block."""

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two layers with a GELU between them, by default the tanh approximation."""

    def __init__(self, dim: int, hidden: int, bias: bool = True, approximate: str = "tanh") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class SwiGLU(nn.Module):
    """Gated MLP w3(SiLU(w1 x) · w2 x), 2/3 as wide, which keeps the plain MLP's parameters (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        hidden = int(2 * hidden / 3)
        self.w12 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def make_mlp(name: str, dim: int, ratio: float, bias: bool = True) -> nn.Module:
    """ "gelu" or "swiglu", `ratio` times as wide inside."""
    return (SwiGLU if name == "swiglu" else Mlp)(dim, int(dim * ratio), bias)
