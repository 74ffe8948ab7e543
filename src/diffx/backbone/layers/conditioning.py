"""How time and label reach a DiT, a block for each way: the ablation of Peebles & Xie (arXiv 2212.09748, §3.2).

adaln_zero       shift, scale and gate from the sum of both embeddings, starting at zero: Block
adaln_single     the same from one layer that all blocks share (PixArt-α): Block with a table
adaln            shift and scale, and no gate
post_norm        adaln_zero whose norms stand behind the sums, as in Vaswani et al. 2017; a control, not of the paper
cross_attention  an attention to both embeddings after the self-attention, in plain blocks
in_context       both embeddings are tokens of the stream, and blocks are plain

facebookresearch/DiT has adaLN-Zero alone. Where the paper says nothing, this is ours: norms of plain blocks have a
scale and a shift of their own, one stands before the attention to the embeddings, tokens of the embeddings have no
position, and adaln's modulations start as other layers do.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from diffx.backbone.layers.attention import Attention, CrossAttention
from diffx.backbone.layers.block import Block, FinalLayer, make_norm, modulation, zero
from diffx.backbone.layers.mlp import make_mlp
from diffx.backbone.layers.modulation import modulate, rows


class AdaLNBlock(nn.Module):
    """cond (B, D) or (B, N, D) gives shift and scale behind both norms."""

    def __init__(
        self, dim: int, heads: int, side: int, *, mlp_ratio: float, norm: str, mlp: str, qk_norm: bool, rotary: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(norm, dim), make_norm(norm, dim)
        self.attn = Attention(dim, heads, side, qk_norm, rotary)
        self.mlp = make_mlp(mlp, dim, mlp_ratio)
        self.adaLN_modulation = modulation(dim, 4 * dim)

    def forward(
        self, x: Tensor, cond: Tensor, ids: Tensor | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        shift_a, scale_a, shift_m, scale_m = self.adaLN_modulation(cond).chunk(4, dim=-1)
        x = x + self.attn(modulate(self.norm1(x), shift_a, scale_a), ids, attention)
        return x + self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class PostNormBlock(nn.Module):
    """cond (B, D) or (B, N, D) gives the gates of attention and MLP, and shift and scale of the normalised sums."""

    def __init__(
        self, dim: int, heads: int, side: int, *, mlp_ratio: float, norm: str, mlp: str, qk_norm: bool, rotary: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(norm, dim), make_norm(norm, dim)
        self.attn = Attention(dim, heads, side, qk_norm, rotary)
        self.mlp = make_mlp(mlp, dim, mlp_ratio)
        self.adaLN_modulation = modulation(dim, 6 * dim)

    def forward(
        self, x: Tensor, cond: Tensor, ids: Tensor | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(cond).chunk(6, dim=-1)
        x = modulate(self.norm1(x + rows(gate_a) * self.attn(x, ids, attention)), shift_a, scale_a)
        return modulate(self.norm2(x + rows(gate_m) * self.mlp(x)), shift_m, scale_m)


class PlainBlock(nn.Module):
    """A pre-norm block that nothing conditions. extra: tokens behind the grid."""

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        *,
        mlp_ratio: float,
        norm: str,
        mlp: str,
        qk_norm: bool,
        rotary: bool,
        extra: int = 0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(norm, dim, scaled=True), make_norm(norm, dim, scaled=True)
        self.attn = Attention(dim, heads, side, qk_norm, rotary, extra=extra)
        self.mlp = make_mlp(mlp, dim, mlp_ratio)

    def forward(
        self, x: Tensor, cond: Tensor, ids: Tensor | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), ids, attention)
        return x + self.mlp(self.norm2(x))


class CrossAttentionBlock(nn.Module):
    """A pre-norm block that attends to cond (B, 2D), the embeddings of time and label side by side."""

    def __init__(
        self, dim: int, heads: int, side: int, *, mlp_ratio: float, norm: str, mlp: str, qk_norm: bool, rotary: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (make_norm(norm, dim, scaled=True) for _ in range(3))
        self.attn = Attention(dim, heads, side, qk_norm, rotary)
        self.cross_attn = CrossAttention(dim, heads, qk_norm)
        self.mlp = make_mlp(mlp, dim, mlp_ratio)

    def forward(
        self, x: Tensor, cond: Tensor, ids: Tensor | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), ids, attention)
        x = x + self.cross_attn(self.norm2(x), cond.unflatten(-1, (2, -1)))
        return x + self.mlp(self.norm3(x))


class PlainHead(nn.Module):
    """Tokens (B, N, D) -> patches (B, N, p·p·C) as of FinalLayer, without a modulation."""

    def __init__(self, dim: int, patch_size: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.norm_final = make_norm(norm, dim, scaled=True)
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.linear(self.norm_final(x))


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "adaln_zero": Block,
    "adaln_single": partial(Block, shared_modulation=True),
    "adaln": AdaLNBlock,
    "post_norm": PostNormBlock,
    "cross_attention": CrossAttentionBlock,
    "in_context": PlainBlock,
}


def make_head(conditioning: str, dim: int, patch_size: int, out_channels: int, norm: str) -> nn.Module:
    """The head that goes with the blocks: adaptive where they are."""
    if conditioning in ("cross_attention", "in_context"):
        return PlainHead(dim, patch_size, out_channels, norm)
    return FinalLayer(dim, patch_size, out_channels, norm, conditioning == "adaln_single")


def zero_modulation(module: nn.Module) -> None:
    """Modulations start at zero, in blocks of adaLN-Zero and in every adaptive head."""
    if isinstance(module, Block | PostNormBlock | FinalLayer):
        zero(module.adaLN_modulation)
