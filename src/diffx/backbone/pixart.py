"""PixArt-α (Chen et al. 2023, arXiv 2310.00426): a DiT whose blocks attend to the text between attention and MLP, and
whose modulations are of time alone, made by one layer that all blocks share."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.dit import TINY, check_sizes, run
from diffx.backbone.layers.attention import Attention, CrossAttention
from diffx.backbone.layers.block import FinalLayer, initialise_linears, make_norm, zero
from diffx.backbone.layers.embedding import (
    PatchEmbed,
    TimestepEmbedder,
    initialise_patches,
    initialise_times,
    join_patches,
)
from diffx.backbone.layers.mlp import Mlp
from diffx.backbone.layers.modulation import BlockTable, SharedModulation, modulate, rows
from diffx.backbone.layers.position import sincos_table
from diffx.backbone.protocol import Backbone, Memory
from diffx.backbone.text import Text, TextShape, check_text_sizes
from diffx.tokens import Tokens


class PixArtBlock(nn.Module):
    """cond (B, 7D), shared by all blocks, plus the block's own table gives shift, scale and gate of attention and MLP;
    what goes into the attention to the text is neither normed nor modulated, and what comes out has no gate."""

    def __init__(self, dim: int, heads: int, side: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm("layernorm", dim), make_norm("layernorm", dim)
        self.attn = Attention(dim, heads, side, qk_norm=False, rotary=False)
        self.cross_attn = CrossAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = BlockTable(dim)

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        ids: Tensor | None = None,
        attention: list[Tensor] | None = None,
        *,
        text: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """x (B, N, D), text (B, L, D) of which mask (B, L) says what is no padding."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(cond).chunk(6, dim=-1)
        x = x + rows(gate_a) * self.attn(modulate(self.norm1(x), shift_a, scale_a), ids, attention)
        x = x + self.cross_attn(x, text, mask)
        return x + rows(gate_m) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class PixArt(Backbone):
    """Text tokens and time condition an image on a square grid.

    text_length, text_channels: of the encoded text; its pooled vector, pooled_channels wide, is not read.
    learn_sigma: 2C output channels, as published for DDPM. position_spacing: between neighbours in the position table;
    the published networks halve it at 1024 pixels.

    "No text" is a fixed caption of noise, drawn once with standard deviation 1/√C and not trained, as published; files
    in diffusers' layout do not have it, so here it comes from a seed.
    Weights start as DiT's. The output of the attention to the text starts at zero, as published.

    Raises DiffxError when sizes do not fit each other.
    """

    null_tokens: Tensor
    reads_samples = True

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        text_length: int = 120,
        text_channels: int = 4096,
        pooled_channels: int = 0,
        learn_sigma: bool = False,
        position_spacing: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_text_sizes(text_length, text_channels, pooled_channels)
        self.shape = (in_channels, input_size, input_size)
        self.text = TextShape(text_length, text_channels, pooled_channels)
        self.patch_size, self.side, self.hidden_size = patch_size, input_size // patch_size, hidden_size

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        where = torch.empty(0).device
        table = sincos_table(hidden_size, self.side, position_spacing)[None]
        self.register_buffer("pos_embed", table.to(where), persistent=False)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.shared_modulation = SharedModulation(hidden_size)
        layers = (nn.Linear(text_channels, hidden_size), nn.GELU("tanh"), nn.Linear(hidden_size, hidden_size))
        self.y_embedder = nn.Sequential(*layers)
        null = torch.randn(text_length, text_channels, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("null_tokens", (null / math.sqrt(text_channels)).to(where), persistent=False)
        self.blocks = nn.ModuleList(PixArtBlock(hidden_size, num_heads, self.side, mlp_ratio) for _ in range(depth))
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.final_layer = FinalLayer(hidden_size, patch_size, out_channels, "layernorm", shared_modulation=True)
        self._initialise()

    def _initialise(self) -> None:
        initialise_linears(self)
        initialise_patches(self.x_embedder)
        initialise_times(self.t_embedder)
        for layer in (self.y_embedder[0], self.y_embedder[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.shared_modulation.linear.weight, std=0.02)
        for block in self.blocks:
            zero(block.cross_attn.proj)  # type: ignore[union-attr,arg-type]
        zero(self.final_layer.linear)

    def embed(self, x: Tensor, t: Tensor, y: Text, memory: Memory) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,), y a Text -> tokens (B, N, D) and the conditioning (B, 7D) of time; the text's tokens
        (B, L, D) and their mask go into memory."""
        memory.other |= {"text": self.y_embedder(y.tokens), "mask": y.mask}
        return Tokens(self.x_embedder(x) + self.pos_embed), self.shared_modulation(self.t_embedder(t))

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        text, mask = memory.other["text"], memory.other["mask"]
        return run(self.blocks[depth], depth, tokens, cond, memory, text=text, mask=mask)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        return join_patches(self.final_layer(tokens.x, cond), self.side, self.patch_size)

    def null_condition(self, y: Text) -> Text:
        """The fixed caption of noise, as long as the longest text."""
        null = self.null_tokens
        if null.is_meta:  # a network without storage, whose step is counted on texts of zeros
            null = y.tokens.new_zeros(null.shape)
        return Text(null.to(y.tokens).expand_as(y.tokens), torch.ones_like(y.mask), torch.zeros_like(y.pooled))

    @classmethod
    def tiny(cls, **options: Any) -> "PixArt":
        """Six blocks on sixteen tokens that read five of a text, for tests."""
        sizes = {key: value for key, value in TINY.items() if key != "num_classes"}
        return cls(**{**sizes, "text_length": 5, "text_channels": 6, "pooled_channels": 3, **options})
