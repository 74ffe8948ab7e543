"""MM-DiT, the network of Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206): image and text tokens in one
attention, each with weights of its own.

The image's tokens are the stream; the text's lie in memory.other["text"] and change from block to block. What 3.5 adds
are options: RMSNorm on queries and keys, and a second attention of the image alone in the first blocks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.dit import TINY, check_sizes
from diffx.backbone.layers.attention import Attention, attend
from diffx.backbone.layers.block import FinalLayer, initialise_linears, make_norm, modulation, zero
from diffx.backbone.layers.embedding import (
    PatchEmbed,
    TimestepEmbedder,
    initialise_patches,
    initialise_times,
    join_patches,
)
from diffx.backbone.layers.mlp import Mlp
from diffx.backbone.layers.modulation import modulate, rows
from diffx.backbone.layers.position import sincos_table
from diffx.backbone.protocol import Backbone, Memory
from diffx.backbone.text import Text, TextShape, check_text_sizes
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class JointBlock(nn.Module):
    """Image tokens x (B, N, D) and text tokens c (B, L, D) attend to both, and each has its MLP.

    cond (B, D) gives shift, scale and gate of attention and MLP, of the image and of the text. dual: the image attends
    to itself a second time, in parallel. last: nothing reads the text behind this block, which then has queries, keys
    and values of it and no more.
    """

    def __init__(
        self, dim: int, heads: int, side: int, mlp_ratio: float, qk_norm: bool, dual: bool = False, last: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm("layernorm", dim), make_norm("layernorm", dim)
        self.attn = Attention(dim, heads, side, qk_norm, rotary=False)
        self.attn2 = Attention(dim, heads, side, qk_norm, rotary=False) if dual else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = modulation(dim, (9 if dual else 6) * dim)
        self.text_norm1 = make_norm("layernorm", dim)
        self.text_attn = Attention(dim, heads, side, qk_norm, rotary=False)
        self.text_adaLN_modulation = modulation(dim, (2 if last else 6) * dim)
        self.text_norm2 = None if last else make_norm("layernorm", dim)
        self.text_mlp = None if last else Mlp(dim, int(dim * mlp_ratio))
        if last:
            self.text_attn.proj = nn.Identity()  # type: ignore[assignment]

    def forward(
        self, x: Tensor, c: Tensor, cond: Tensor, mask: Tensor | None = None, attention: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """mask (B, N + L): true for what may be attended to. The image's queries and keys are appended to `attention`
        where one is given."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m, *second = self.adaLN_modulation(cond).chunk(
            9 if self.attn2 is not None else 6, dim=-1
        )
        shift_c, scale_c, *of_text = self.text_adaLN_modulation(cond).chunk(2 if self.text_mlp is None else 6, dim=-1)
        normed = self.norm1(x)
        image = self.attn.project(modulate(normed, shift_a, scale_a))
        text = self.text_attn.project(modulate(self.text_norm1(c), shift_c, scale_c))
        if attention is not None:
            attention += image[:2]
        q, k, v = (torch.cat(both, dim=2) for both in zip(image, text, strict=True))
        joined = attend(q, k, v, None if mask is None else mask[:, None, None]).transpose(1, 2).flatten(2)
        x_out, c_out = joined.split([x.shape[1], c.shape[1]], dim=1)
        after = x + rows(gate_a) * self.attn.proj(x_out)
        if self.attn2 is not None:
            shift, scale, gate = second
            after = after + rows(gate) * self.attn2(modulate(normed, shift, scale), None)
        x = after + rows(gate_m) * self.mlp(modulate(self.norm2(after), shift_m, scale_m))
        if self.text_mlp is None or self.text_norm2 is None:
            return x, c
        gate_c, shift_m, scale_m, gate_m = of_text
        c = c + rows(gate_c) * self.text_attn.proj(c_out)
        return x, c + rows(gate_m) * self.text_mlp(modulate(self.text_norm2(c), shift_m, scale_m))


class MMDiT(Backbone):
    """Text tokens and time condition an image on a square grid.

    text_length, text_channels, pooled_channels: of the encoded text; time and the pooled vector make the modulations.
    qk_norm: RMSNorm on queries and keys, of image and text. dual_blocks: so many blocks, from the first on, have a
    second attention. position_size: side of the position table, of which the grid takes the centre, so that images of
    several sizes share one; None is the grid's own. position_spacing: between neighbours in it. mask_text: padding is
    not attended to; Stable Diffusion's is. times: "interval", times in [0, 1], or "steps", times counted to 1000.

    "No text" is zeros, without padding: the paper drops each encoder's output. A released network is guided against
    the embedding of the empty prompt, which is a text like any other.
    How weights start is not published; they start as DiT's, each block as the identity.

    Raises DiffxError when sizes do not fit each other.
    """

    reads_samples = True
    starts_as_identity = True

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 16,
        hidden_size: int = 1536,
        depth: int = 24,
        num_heads: int = 24,
        mlp_ratio: float = 4.0,
        text_length: int = 154,
        text_channels: int = 4096,
        pooled_channels: int = 2048,
        qk_norm: bool = False,
        dual_blocks: int = 0,
        position_size: int | None = None,
        position_spacing: float = 1.0,
        mask_text: bool = False,
        times: str = "interval",
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_text_sizes(text_length, text_channels, pooled_channels)
        self.shape = (in_channels, input_size, input_size)
        self.text = TextShape(text_length, text_channels, pooled_channels)
        self.patch_size, self.side, self.hidden_size = patch_size, input_size // patch_size, hidden_size
        self.mask_text, self.times = mask_text, times
        table = self._check(depth, dual_blocks, position_size, pooled_channels)

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        where = torch.empty(0).device
        positions = sincos_table(hidden_size, table, position_spacing).view(1, table, table, -1)
        self.pos_embed = nn.Parameter(positions.to(where), requires_grad=False)
        self.t_embedder = TimestepEmbedder(hidden_size)
        layers = (nn.Linear(pooled_channels, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.pooled_embedder = nn.Sequential(*layers)
        self.y_embedder = nn.Linear(text_channels, hidden_size)
        self.blocks = nn.ModuleList(
            JointBlock(hidden_size, num_heads, self.side, mlp_ratio, qk_norm, d < dual_blocks, last=d == depth - 1)
            for d in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels, "layernorm", shared_modulation=False)
        self._initialise()

    def _check(self, depth: int, dual_blocks: int, position_size: int | None, pooled: int) -> int:
        """The side of the position table. Raises DiffxError for options that do not fit."""
        table = self.side if position_size is None else position_size
        if table < self.side:
            raise DiffxError(
                f"backbone.position_size={table} is less than the grid of {self.side}x{self.side}; type "
                f"backbone.position_size={self.side} or more, or null."
            )
        if not 0 <= dual_blocks <= depth:
            raise DiffxError(f"backbone.dual_blocks={dual_blocks} must lie between 0 and backbone.depth={depth}.")
        if self.times not in ("interval", "steps"):
            raise DiffxError(f"backbone.times={self.times} is not known; type backbone.times= one of interval, steps.")
        if pooled < 1:
            raise DiffxError(
                "backbone.pooled_channels=0: MM-DiT's modulations read a pooled vector; take an encoder that has one, "
                "or backbone=pixart_xl."
            )
        return table

    def _initialise(self) -> None:
        initialise_linears(self)
        initialise_patches(self.x_embedder)
        initialise_times(self.t_embedder)
        for block in self.blocks:
            zero(block.adaLN_modulation)  # type: ignore[arg-type]
            zero(block.text_adaLN_modulation)  # type: ignore[arg-type]
        zero(self.final_layer.adaLN_modulation)
        zero(self.final_layer.linear)

    def embed(self, x: Tensor, t: Tensor, y: Text, memory: Memory) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,), y a Text -> the image's tokens (B, N, D) and the conditioning (B, D) of time and
        pooled text; the text's tokens (B, L, D) go into memory."""
        first = (self.pos_embed.shape[1] - self.side) // 2
        there = slice(first, first + self.side)
        tokens = self.x_embedder(x) + self.pos_embed[:, there, there].flatten(1, 2)
        cond = self.t_embedder(1000 * t if self.times == "interval" else t) + self.pooled_embedder(y.pooled)
        memory.other["text"] = self.y_embedder(y.tokens).to(tokens.dtype)
        if self.mask_text:
            memory.other["mask"] = y.mask
        return Tokens(tokens), cond

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        attention: list[Tensor] | None = [] if depth in memory.attends else None
        mask = memory.other.get("mask")
        if mask is not None:
            mask = torch.cat([mask.new_ones(tokens.x.shape[:2]), mask], dim=1)
        x, memory.other["text"] = self.blocks[depth](tokens.x, memory.other["text"], cond, mask, attention)
        if attention is not None:
            memory.attention[depth] = (attention[0], attention[1])
        return Tokens(x, tokens.ids, tokens.cond)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        return join_patches(self.final_layer(tokens.x, cond), self.side, self.patch_size)

    def null_condition(self, y: Text) -> Text:
        """Zeros, none of which is padding."""
        return Text(torch.zeros_like(y.tokens), torch.ones_like(y.mask), torch.zeros_like(y.pooled))

    @classmethod
    def tiny(cls, **options: Any) -> "MMDiT":
        """Six blocks on sixteen tokens and five of a text, for tests."""
        sizes = {key: value for key, value in TINY.items() if key != "num_classes"}
        text = {"in_channels": 4, "text_length": 5, "text_channels": 6, "pooled_channels": 3}
        return cls(**{**sizes, **text, **options})
