"""The block with adaLN, the head, and how both start."""

import torch
from torch import Tensor, nn

from diffx.backbone.layers.attention import Attention
from diffx.backbone.layers.mlp import make_mlp
from diffx.backbone.layers.modulation import BlockTable, HeadTable, modulate, rows


def make_norm(name: str, dim: int, scaled: bool = False) -> nn.Module:
    """ "layernorm", "rmsnorm" or "scaled_rmsnorm". The first two have a learned scale of their own where nothing else
    supplies one (scaled), as adaLN does."""
    if name == "layernorm":
        return nn.LayerNorm(dim, eps=1e-6, elementwise_affine=scaled)
    return nn.RMSNorm(dim, eps=1e-6, elementwise_affine=scaled or name == "scaled_rmsnorm")


class Block(nn.Module):
    """A transformer block with adaLN: cond gives shift, scale and gate of attention and of the MLP.

    cond is (B, C), or (B, N, C) for each token, of which the block makes them with a layer of its own; or 7 D wide with
    shared_modulation.

    cond_dim: the width C of cond, D unless given. norm: as of make_norm. bias: of queries, keys, values and the
    MLP. extra, extent, value_residual: as of Attention.

    With `skip`, the block first merges a remembered state: x <- Linear([x, remembered]) (U-ViT's skip, as in MDTv2).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        *,
        mlp_ratio: float = 4.0,
        norm: str = "layernorm",
        mlp: str = "gelu",
        qk_norm: bool = False,
        rotary: bool = False,
        relative_bias: bool = False,
        shared_modulation: bool = False,
        skip: bool = False,
        bias: bool = True,
        extra: int = 0,
        extent: float | None = None,
        value_residual: bool = False,
        cond_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, dim)
        self.attn = Attention(dim, heads, side, qk_norm, rotary, relative_bias, extra, extent, bias, value_residual)
        self.norm2 = make_norm(norm, dim)
        self.mlp = make_mlp(mlp, dim, mlp_ratio, bias)
        own = BlockTable(dim) if shared_modulation else modulation(cond_dim or dim, 6 * dim)
        self.adaLN_modulation: nn.Module = own
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        ids: Tensor | None = None,
        remembered: Tensor | None = None,
        attention: list[Tensor] | None = None,
        values: list[Tensor] | None = None,
    ) -> Tensor:
        x, (shift_a, scale_a, gate_a, shift_m, scale_m, gate_m) = self.begin(x, cond, remembered)
        # Not addcmul: on a GPU in autocast it would keep a float32 copy of each branch for the backward pass.
        x = x + rows(gate_a) * self.attn(modulate(self.norm1(x), shift_a, scale_a), ids, attention, values)
        return x + rows(gate_m) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))

    def begin(self, x: Tensor, cond: Tensor, remembered: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The tokens, joined with those that a long skip brings, and shift, scale and gate of attention and of MLP."""
        if self.skip_linear is not None:
            assert remembered is not None
            x = self.skip_linear(torch.cat([x, remembered], dim=-1))
        return x, self.adaLN_modulation(cond).chunk(6, dim=-1)


def modulation(cond_dim: int, out: int) -> nn.Sequential:
    """The layer that makes shifts, scales and gates (..., out) of a conditioning (..., cond_dim)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(cond_dim, out))


class FinalLayer(nn.Module):
    """Tokens (B, N, D) -> patches (B, N, p·p·C), each in the order row, column, channel. cond_dim: as of Block."""

    def __init__(
        self,
        dim: int,
        patch_size: int,
        out_channels: int,
        norm: str,
        shared_modulation: bool,
        cond_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm_final = make_norm(norm, dim)
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)
        own = HeadTable(dim) if shared_modulation else modulation(cond_dim or dim, 2 * dim)
        self.adaLN_modulation: nn.Module = own

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.linear(self.modulated(x, cond))

    def modulated(self, x: Tensor, cond: Tensor) -> Tensor:
        """What the output layer reads: the tokens (B, N, D), normalised, shifted and scaled."""
        shift, scale = self.adaLN_modulation(cond).chunk(2, dim=-1)
        return modulate(self.norm_final(x), shift, scale)


def initialise_linears(module: nn.Module) -> None:
    """Xavier's weights and no bias, in every linear layer (facebookresearch/DiT)."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)


def zero(module: nn.Module) -> None:
    """Set all parameters to zero: a block whose modulation is zero is the identity (adaLN-zero)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
